//! One client, both legs, until its [`End`].
//!
//! [`Sessions`] admits clients within the limits and knows every live [`Session`]; a [`Live`] is
//! the owner of one, and its drop is the session's end.

mod adopt;
mod close;
mod dial;
#[cfg(test)]
mod dice;
mod end;
mod ending;
pub mod flow;
pub mod http;
pub mod memo;
mod record;
pub mod rtmp;
mod serve;
pub mod srt;
mod table;
pub mod webrtc;

use serde::{Deserialize, Serialize};

pub use self::adopt::{Estate, NotAdopted};
pub use self::dial::{DialError, Dialer};
pub use self::end::End;
use self::ending::Ending;
pub use self::record::{Carriage, Progress, Session, SessionId, SessionView};
pub use self::serve::{Serve, serve};
pub use self::table::{Live, SessionLimits, Sessions, Totals};

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
    /// HTTP over TCP.
    Http,
    /// WebRTC, signalled by WHIP or WHEP.
    Webrtc,
    /// SRT over UDP.
    Srt,
}

impl Protocol {
    /// Every protocol, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Rtmp, Self::Http, Self::Webrtc, Self::Srt];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Http => "http",
            Self::Webrtc => "webrtc",
            Self::Srt => "srt",
        }
    }
}

/// What a client does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Sends media to the origin.
    Publish,
    /// Receives media from the origin.
    Play,
}

impl Role {
    /// Both roles, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::Publish, Self::Play];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}
