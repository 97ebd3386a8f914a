//! What one process leaves to the next of a session that the kernel carries.

use std::net::SocketAddr;

use proxy_ebpf::maps;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Protocol, Role};
use crate::origin::KeptOrigin;
use crate::plane::datagram::{FlowEnds, FlowKey};

/// All that is needed to go on with a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// What its client does.
    pub role: Role,
    /// The text of the stream's key.
    pub stream: String,
    /// Who serves it.
    pub origin: KeptOrigin,
    /// Where the client was admitted from, and where it came to.
    pub admitted: [SocketAddr; 2],
    /// Where its datagrams come from, and where to.
    pub client: [SocketAddr; 2],
    /// The session's own address towards the origin, and the origin's.
    pub ends: [SocketAddr; 2],
    /// When it was admitted, in seconds of the Unix epoch.
    pub started: u64,
    /// What its protocol has to know.
    pub matter: Matter,
}

/// What is particular to a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matter {
    /// Of WebRTC.
    Webrtc {
        /// The name in the session's URL.
        name: String,
        /// The names by which checks come, and their passwords, the latest last.
        passwords: Vec<(String, String)>,
    },
    /// Of SRT.
    Srt {
        /// The socket to which the origin sends.
        client: u32,
        /// The socket to which the client sends.
        origin: u32,
        /// Packets that may be in flight.
        window: u32,
    },
}

/// Why there is no memo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadMemo {
    /// Of a session with long names.
    #[error("it takes more than {} bytes", Memo::MAX)]
    TooLong,
    /// Of a process that has written them in another way.
    #[error("of another version")]
    Version,
    /// Cut short, or not one at all.
    #[error("malformed")]
    Malformed,
}

/// To be raised with every change of what is written: postcard has no names of members.
const VERSION: u8 = 1;

impl Memo {
    /// Bytes of one, at most.
    pub const MAX: usize = maps::Memo::MAX;

    /// Writes it: the version, one byte, and the members as postcard has them.
    pub fn encode(&self) -> Result<Vec<u8>, BadMemo> {
        let bytes = postcard::to_extend(self, vec![VERSION]).map_err(|_| BadMemo::TooLong)?;
        if bytes.len() > Self::MAX { Err(BadMemo::TooLong) } else { Ok(bytes) }
    }

    /// Reads one that is whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMemo> {
        match bytes.split_first() {
            _ if bytes.len() > Self::MAX => Err(BadMemo::TooLong),
            Some((&VERSION, written)) => match postcard::take_from_bytes(written) {
                Ok((memo, [])) => Ok(memo),
                Ok(_) | Err(_) => Err(BadMemo::Malformed),
            },
            Some(_) => Err(BadMemo::Version),
            None => Err(BadMemo::Malformed),
        }
    }

    /// The protocol of the session.
    pub const fn protocol(&self) -> Protocol {
        match self.matter {
            Matter::Webrtc { .. } => Protocol::Webrtc,
            Matter::Srt { .. } => Protocol::Srt,
        }
    }

    /// By what the client's datagrams are found.
    pub const fn key(&self) -> FlowKey {
        let [client, local] = self.client;
        let socket_id = match self.matter {
            Matter::Webrtc { .. } => None,
            Matter::Srt { origin, .. } => Some(origin),
        };
        FlowKey { is_tcp: false, client, local, socket_id }
    }

    /// The ends of the session.
    pub const fn flow_ends(&self) -> FlowEnds {
        let [near, origin] = self.ends;
        let client_socket_id = match self.matter {
            Matter::Webrtc { .. } => None,
            Matter::Srt { client, .. } => Some(client),
        };
        FlowEnds { near, origin, client_socket_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Listener, Origin};

    fn memo(matter: Matter) -> Memo {
        let endpoints =
            [(Listener::Api, "1985"), (Listener::Rtc, "8000"), (Listener::Srt, "10080")];
        let origin = Origin::fixed("2001:db8::3", &endpoints).unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        Memo {
            role: Role::Publish,
            stream: "__defaultVhost__/live/show".into(),
            origin: KeptOrigin::of(&origin),
            admitted: [address("192.0.2.1:5000"), address("198.51.100.1:1985")],
            client: [address("[::ffff:192.0.2.1]:6000"), address("[::ffff:198.51.100.1]:8000")],
            ends: [address("[2001:db8::1]:7000"), address("[2001:db8::3]:8000")],
            started: 1_800_000_000,
            matter,
        }
    }

    fn webrtc(passwords: usize) -> Memo {
        let passwords = (0..passwords).map(|n| (format!("answer{n}:offer"), "p".repeat(32)));
        memo(Matter::Webrtc { name: "answer:offer".into(), passwords: passwords.collect() })
    }

    fn srt() -> Memo {
        memo(Matter::Srt { client: 7, origin: 0x3fff_ffff, window: 8192 })
    }

    #[test]
    fn what_is_written_is_read_and_is_short() {
        for memo in [webrtc(1), webrtc(4), srt()] {
            let bytes = memo.encode().unwrap();
            assert!(bytes.len() < 440, "{} bytes", bytes.len());
            assert_eq!(Memo::decode(&bytes), Ok(memo));
        }
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let stream = "a".repeat(Memo::MAX);
        assert_eq!(Memo { stream, ..srt() }.encode(), Err(BadMemo::TooLong));
        assert_eq!(webrtc(20).encode(), Err(BadMemo::TooLong));
    }

    #[test]
    fn what_is_cut_or_goes_on_or_is_of_another_version_is_not_read() {
        for memo in [webrtc(2), srt()] {
            let bytes = memo.encode().unwrap();
            for length in 1..bytes.len() {
                let cut = Memo::decode(&bytes[..length]);
                assert_eq!(cut, Err(BadMemo::Malformed), "{length} bytes");
            }
            assert_eq!(Memo::decode(&[&bytes[..], &[0]].concat()), Err(BadMemo::Malformed));
            assert_eq!(Memo::decode(&[&[2], &bytes[1..]].concat()), Err(BadMemo::Version));
        }
        assert_eq!(Memo::decode(&[]), Err(BadMemo::Malformed));
        assert_eq!(Memo::decode(&[1; Memo::MAX + 1]), Err(BadMemo::TooLong));
    }

    #[test]
    fn a_memo_leads_to_the_same_flow() {
        let memo = srt();
        let (key, ends) = (memo.key(), memo.flow_ends());
        assert_eq!((key.client, key.local), (memo.client[0], memo.client[1]));
        assert_eq!((key.socket_id, ends.client_socket_id), (Some(0x3fff_ffff), Some(7)));
        assert_eq!((webrtc(1).key().socket_id, memo.protocol()), (None, Protocol::Srt));
    }
}
