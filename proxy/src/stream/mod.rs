//! What the client wants: one [`StreamKey`] for all spellings that SRS takes for one stream.

mod ask;
mod key;
pub mod token;
mod vhosts;

pub use ask::Ask;
pub use key::{BadStream, StreamKey};
pub use vhosts::Vhosts;
