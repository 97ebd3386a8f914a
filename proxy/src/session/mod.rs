//! One client, both legs, until its [`End`].
//!
//! [`Sessions`] admits clients within the limits and knows every live [`Session`]; a [`Live`] is
//! the owner of one, and its drop is the session's end.

mod dial;
mod end;
mod record;
pub mod rtmp;
mod table;

pub use self::dial::{DialError, Dialer};
pub use self::end::End;
pub use self::record::{Progress, Session, SessionId, SessionView};
pub use self::table::{Live, SessionLimits, Sessions, Totals};

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
}

impl Protocol {
    /// Every protocol, in the order in which they are counted.
    pub const ALL: [Self; 1] = [Self::Rtmp];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
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
