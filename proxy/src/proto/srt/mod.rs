//! SRT (draft-sharabayko-srt-01), as libsrt speaks it: packet headers, the handshake, the stream
//! id, and the reasons with which a caller is rejected.

pub mod handshake;
pub mod packet;
pub mod rejection;
pub mod stream_id;
