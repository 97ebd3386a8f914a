//! What to do with a handshake that is for no socket yet. Nothing is kept, whatever comes.

use std::net::SocketAddr;
use std::time::Instant;

use super::cookie::Cookies;
use crate::proto::srt::handshake::{BARE, BadHandshake, Extensions, Handshake, SRT_MAGIC, Step};
use crate::proto::srt::packet::SocketId;
use crate::proto::srt::rejection::{Rejection, reject};
use crate::proto::srt::stream_id::{self, BadStreamId, Mode};

/// The listener of SRT (draft-sharabayko-srt 4.3.1).
#[derive(Clone, Debug)]
pub struct Door {
    cookies: Cookies,
}

/// What a datagram at the door asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knock<'a> {
    /// To be answered at once.
    Induction([u8; BARE]),
    /// A stream, by a caller that is where it says.
    Ask(Box<Asked<'a>>),
    /// Something that no origin can give; the answer says so.
    Reject([u8; BARE], Rejection),
    /// Nothing that deserves an answer.
    Drop(Dropped),
}

/// A conclusion with a fresh cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Where it came from.
    pub client: SocketAddr,
    /// All of it.
    pub handshake: Handshake<'a>,
    /// For [`crate::stream::Ask::Srt`]; empty where there is none.
    pub stream_id: String,
    /// What the client does with the stream.
    pub mode: Mode,
}

impl Asked<'_> {
    /// The answer that rejects it.
    pub fn reject(&self, why: Rejection) -> [u8; BARE] {
        reject(&self.handshake, why).bare()
    }
}

/// Why a datagram is dropped in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// No handshake.
    Malformed(BadHandshake),
    /// For a socket, or from none.
    NotForTheDoor,
    /// Rendezvous, a rejection, or no type that is known.
    Step,
    /// The cookie is forged, or too old. A caller that goes on without an answer begins again.
    Cookie,
}

impl Dropped {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NotForTheDoor => "not_for_the_door",
            Self::Step => "step",
            Self::Cookie => "cookie",
        }
    }
}

impl Door {
    /// Whose callers show these cookies.
    pub fn new(cookies: Cookies) -> Self {
        Self { cookies }
    }

    /// Reads what `client` sent to [`SocketId::NONE`]. No answer is longer than the datagram, so
    /// that a forged address is not flooded.
    pub fn knock<'a>(&self, datagram: &'a [u8], client: SocketAddr, now: Instant) -> Knock<'a> {
        let handshake = match Handshake::parse(datagram) {
            Ok(handshake) => handshake,
            Err(error) => return Knock::Drop(Dropped::Malformed(error)),
        };
        if handshake.destination != SocketId::NONE || handshake.socket_id == SocketId::NONE {
            return Knock::Drop(Dropped::NotForTheDoor);
        }
        let socket = handshake.socket_id;
        match handshake.step {
            Step::Induction => {
                let cookie = self.cookies.bake(client, socket, now).get();
                Knock::Induction(induction_answer(&handshake, cookie, client))
            }
            Step::Conclusion if self.cookies.is_fresh(handshake.cookie, client, socket, now) => {
                conclusion(handshake, client)
            }
            Step::Conclusion => Knock::Drop(Dropped::Cookie),
            Step::Rejection(_) | Step::Other(_) => Knock::Drop(Dropped::Step),
        }
    }
}

/// 4.3.1.1, as SRS answers: what the caller said, its own socket id included, with the cookie.
/// There is no socket yet whose time the timestamp could be.
fn induction_answer(induction: &Handshake<'_>, cookie: u32, client: SocketAddr) -> [u8; BARE] {
    let answer = Handshake {
        destination: induction.socket_id,
        version: 5,
        encryption: 0,
        extension: SRT_MAGIC,
        cookie,
        peer: client.ip().into(),
        extensions: Extensions::default(),
        ..*induction
    };
    answer.bare()
}

fn conclusion(handshake: Handshake<'_>, client: SocketAddr) -> Knock<'_> {
    let reject = |why| Knock::Reject(reject(&handshake, why).bare(), why);
    // An HSv4 caller can name no stream, and has no extensions that could be passed on.
    if handshake.version < 5 {
        return reject(Rejection::VERSION);
    }
    let asked = stream_id::find(&handshake.extensions)
        .and_then(|stream_id| Mode::of(&stream_id).map(|mode| (stream_id, mode)));
    match asked {
        Ok((stream_id, mode)) => Knock::Ask(Box::new(Asked { client, handshake, stream_id, mode })),
        Err(BadStreamId::Mode) => reject(Rejection::BAD_MODE),
        Err(BadStreamId::TooLong | BadStreamId::Twice | BadStreamId::NotText) => {
            reject(Rejection::BAD_REQUEST)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::recorded;
    use super::*;

    const CLIENT: &str = "127.0.0.1:40448";

    fn door(now: Instant) -> Door {
        Door::new(Cookies::new(&[1; 32], now))
    }

    /// The recorded conclusion with a cookie of this door, changed by `change`.
    fn knock(door: &Door, now: Instant, change: impl FnOnce(&mut Handshake<'_>)) -> Knock<'static> {
        let client = CLIENT.parse().unwrap();
        let mut handshake = Handshake::parse(recorded::PUBLISH.conclusion).unwrap();
        handshake.cookie = door.cookies.bake(client, handshake.socket_id, now).get();
        change(&mut handshake);
        let mut datagram = Vec::new();
        handshake.write(&mut datagram);
        match door.knock(&datagram, client, now) {
            Knock::Induction(answer) => Knock::Induction(answer),
            Knock::Ask(asked) => {
                let Asked { client, handshake, stream_id, mode } = *asked;
                let handshake = handshake.into_owned();
                Knock::Ask(Box::new(Asked { client, handshake, stream_id, mode }))
            }
            Knock::Reject(answer, why) => Knock::Reject(answer, why),
            Knock::Drop(why) => Knock::Drop(why),
        }
    }

    #[test]
    fn an_induction_gets_a_cookie_that_its_conclusion_may_show() {
        let now = Instant::now();
        let door = door(now);
        let client = CLIENT.parse().unwrap();
        let Knock::Induction(answer) = door.knock(recorded::PUBLISH.induction, client, now) else {
            panic!("no answer");
        };
        let answer = Handshake::parse(&answer).unwrap();
        assert_ne!(answer.cookie, 0);
        let asked = knock(&door, now, |handshake| handshake.cookie = answer.cookie);
        let Knock::Ask(asked) = asked else { panic!("{asked:?}") };
        assert_eq!(asked.stream_id, "#!::r=live/srtstream,m=publish");
        assert_eq!((asked.mode, asked.client), (Mode::Publish, client));
    }

    #[test]
    fn a_cookie_of_another_time_or_caller_is_none() {
        let now = Instant::now();
        let door = door(now);
        let stale = knock(&door, now + Duration::from_mins(3), |handshake| {
            let client = CLIENT.parse().unwrap();
            handshake.cookie = door.cookies.bake(client, handshake.socket_id, now).get();
        });
        assert_eq!(stale, Knock::Drop(Dropped::Cookie));
        let forged = knock(&door, now, |handshake| handshake.cookie ^= 1);
        assert_eq!(forged, Knock::Drop(Dropped::Cookie));
        // The constant of the existing proxy, and that of an induction.
        for cookie in [0x418d_5e4e, 0] {
            let knock = knock(&door, now, |handshake| handshake.cookie = cookie);
            assert_eq!(knock, Knock::Drop(Dropped::Cookie));
        }
    }

    #[test]
    fn an_hsv4_caller_is_told_that_its_version_is_too_old() {
        let now = Instant::now();
        let knock = knock(&door(now), now, |handshake| {
            handshake.version = 4;
            handshake.extensions = Extensions::default();
        });
        let Knock::Reject(answer, why) = knock else { panic!("{knock:?}") };
        assert_eq!(why, Rejection::VERSION);
        let answer = Handshake::parse(&answer).unwrap();
        assert_eq!(answer.step, Step::Rejection(Rejection::VERSION));
        assert_eq!(answer.destination, SocketId(0x19d4_748e));
    }

    #[test]
    fn what_cannot_be_a_callers_handshake_gets_no_answer() {
        let now = Instant::now();
        let door = door(now);
        for (why, change) in [
            (Dropped::NotForTheDoor, (|h| h.destination = SocketId(1)) as fn(&mut Handshake<'_>)),
            (Dropped::NotForTheDoor, |h| h.socket_id = SocketId::NONE),
            (Dropped::Step, |h| h.step = Step::Other(0)),
            (Dropped::Step, |h| h.step = Step::Other(u32::MAX - 1)),
            (Dropped::Step, |h| h.step = Step::Rejection(Rejection::PEER)),
        ] {
            assert_eq!(knock(&door, now, change), Knock::Drop(why));
        }
        let client = CLIENT.parse().unwrap();
        for datagram in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x80, 0, 0, 0]] {
            let knock = door.knock(datagram, client, now);
            assert_eq!(knock, Knock::Drop(Dropped::Malformed(BadHandshake::NotAHandshake)));
        }
    }

    #[test]
    fn a_stream_id_that_is_none_is_rejected_with_its_reason() {
        let now = Instant::now();
        let mut datagram = Vec::new();
        let client = CLIENT.parse().unwrap();
        let door = door(now);
        for (content, why) in [
            (&b"::!#ts=m\0lae"[..], Rejection::BAD_MODE),
            (b"\0\0\xc3\xa9", Rejection::BAD_REQUEST),
            (&[b'x'; 516], Rejection::BAD_REQUEST),
        ] {
            let mut handshake = Handshake::parse(recorded::PUBLISH.conclusion).unwrap();
            handshake.extensions = Extensions::default();
            handshake.cookie = door.cookies.bake(client, handshake.socket_id, now).get();
            datagram.clear();
            handshake.write(&mut datagram);
            datagram.extend([0, 5, 0, u8::try_from(content.len() / 4).unwrap()]);
            datagram.extend(content);
            let knock = door.knock(&datagram, client, now);
            let Knock::Reject(_, found) = knock else { panic!("{knock:?}") };
            assert_eq!(found, why);
        }
    }
}
