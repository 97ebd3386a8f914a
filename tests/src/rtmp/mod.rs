//! Scripted RTMP peers: a client and an origin, on an implementation that is not the proxy's.

mod client;
mod origin;
mod peer;

pub use self::client::{Client, Status};
pub use self::origin::{Feed, Origin, Player, STREAM, Script, is_key_frame, key_frame};
pub use self::peer::Peer;

/// The only application there is.
pub const APP: &str = "live";
