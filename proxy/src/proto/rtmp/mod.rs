//! RTMP 1.0 (Adobe, December 2012), as FFmpeg, OBS, GStreamer, SRS and nginx-rtmp speak it.

pub mod amf;
pub mod chunk;
pub mod command;
pub mod handshake;
pub mod message;

mod digest;
