//! What the client wants: one [`StreamKey`] for all spellings that SRS takes for one stream.

mod ask;
mod http;
mod key;
mod path;
mod token;
mod vhosts;

pub use ask::{Ask, in_query};
pub use http::{Candidates, Kind};
pub use key::{BadStream, StreamKey};
pub use path::is_plain_path;
pub use token::{BadToken, Claim, SessionClaim, Tokens};
pub use vhosts::Vhosts;
