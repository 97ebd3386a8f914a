//! The rig: real peers and scripted doubles around a running proxy.
//!
//! The proxy is a child process, seen from outside only: sockets, its API, its log, its exit.
//! Everything listens on loopback, lives in one temporary folder, and is gone when dropped.

pub mod aiortc;
pub mod bench;
pub mod browser;
pub mod calls;
pub mod cluster;
pub mod counter;
pub mod echo;
pub mod engine;
pub mod ffmpeg;
pub mod fleet;
pub mod flood;
pub mod flv;
pub mod hands;
pub mod heartbeat;
pub mod http;
pub mod ice;
pub mod ice_client;
pub mod lossy;
pub mod netns;
pub mod nginx;
pub mod nms;
pub mod packets;
pub mod pins;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod rtc;
pub mod rtmp;
mod skip;
pub mod srt;
pub mod srt_call;
pub mod srt_room;
pub mod ss;
pub mod story;
pub mod strace;
pub mod stun;
pub mod usage;
pub mod wait;
pub mod whip;

pub use self::skip::skip;
pub use self::story::story;
