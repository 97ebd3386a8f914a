//! One client, both legs, until its [`End`].
//!
//! [`Sessions`] admits clients within the limits and knows every live [`Session`]; a [`Live`] is
//! the owner of one, and its drop is the session's end.

mod close;
mod dial;
#[cfg(test)]
mod dice;
mod end;
pub mod http;
mod record;
pub mod rtmp;
mod serve;
pub mod srt;
mod table;

pub use self::dial::{DialError, Dialer};
pub use self::end::End;
pub use self::record::{Progress, Session, SessionId, SessionView};
pub use self::serve::{Serve, serve};
pub use self::table::{Live, SessionLimits, Sessions, Totals};

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
    /// HTTP over TCP.
    Http,
}

impl Protocol {
    /// Every protocol, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::Rtmp, Self::Http];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Http => "http",
        }
    }
}

/// What a client does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
