//! What the bytes mean: parsers and writers that do no I/O, read no clock, and import nothing of
//! ours.

pub mod addition;
pub mod dash;
pub mod datagram;
pub mod framing;
pub mod hls;
pub mod http;
pub mod proxy_protocol;
pub mod rtmp;
pub mod sdp;
pub mod srt;
pub mod stun;
