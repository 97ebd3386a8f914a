//! Why an SRT caller is rejected: the handshake type of the answer (draft-sharabayko-srt 4.3,
//! table 7), and libsrt's codes for access control beside those of the text.

use std::fmt;

use super::handshake::{Extensions, Handshake, Step};

/// A reason as on the wire, from 1000 on: the draft's below 2000, those of libsrt's
/// `access_control.h` from 2000, an application's own from 3000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rejection(u32);

impl Rejection {
    /// The peer does not want to.
    pub const PEER: Self = Self(1002);
    /// Resources could not be had.
    pub const RESOURCE: Self = Self(1003);
    /// The handshake is wrong.
    pub const ROGUE: Self = Self(1004);
    /// More pending handshakes than the listener takes.
    pub const BACKLOG: Self = Self(1005);
    /// The listener is closing.
    pub const CLOSE: Self = Self(1007);
    /// The caller's version is too old.
    pub const VERSION: Self = Self(1008);
    /// One side has a passphrase, the other has none.
    pub const UNSECURE: Self = Self(1011);
    /// Nobody answered in time.
    pub const TIMEOUT: Self = Self(1016);
    /// The stream id makes no sense.
    pub const BAD_REQUEST: Self = Self(2400);
    /// Too many sessions, of all or of this client.
    pub const OVERLOAD: Self = Self(2402);
    /// There is no such stream.
    pub const NOT_FOUND: Self = Self(2404);
    /// The stream id's mode is none.
    pub const BAD_MODE: Self = Self(2405);
    /// The proxy failed.
    pub const INTERNAL: Self = Self(2500);
    /// The origin behind the proxy could not be reached.
    pub const GATEWAY: Self = Self(2502);
    /// The service is not there at the moment.
    pub const DOWN: Self = Self(2503);

    /// None for what is another type of handshake. libsrt reads the type as a signed number.
    pub const fn new(code: u32) -> Option<Self> {
        match code {
            1000..=0x7fff_ffff => Some(Self(code)),
            _ => None,
        }
    }

    /// As on the wire.
    pub const fn code(self) -> u32 {
        self.0
    }

    /// The word used in logs.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            1001 => "system",
            1002 => "peer",
            1003 => "resource",
            1004 => "rogue",
            1005 => "backlog",
            1006 => "internal_program_error",
            1007 => "close",
            1008 => "version",
            1009 => "cookie_collision",
            1010 => "bad_secret",
            1011 => "unsecure",
            1012 => "message_api",
            1013 => "congestion_control",
            1014 => "filter",
            1015 => "group",
            1016 => "timeout",
            1017 => "crypto",
            2400 => "bad_request",
            2401 => "unauthorized",
            2402 => "overload",
            2403 => "forbidden",
            2404 => "not_found",
            2405 => "bad_mode",
            2406 => "unacceptable",
            2409 => "conflict",
            2415 => "media_not_supported",
            2423 => "locked",
            2424 => "failed_dependency",
            2500 => "internal",
            2501 => "unimplemented",
            2502 => "gateway",
            2503 => "down",
            2505 => "version_not_supported",
            2507 => "no_room",
            3000.. => "of_the_application",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.as_str(), self.0)
    }
}

/// The answer that rejects `request`: its fixed part, sent back with another type, as libsrt does.
/// A listener that makes no socket has no timestamp of its own.
pub fn reject<'a>(request: &Handshake<'a>, why: Rejection) -> Handshake<'a> {
    Handshake {
        destination: request.socket_id,
        step: Step::Rejection(why),
        extensions: Extensions::default(),
        ..*request
    }
}
