//! A fuzz target of the machine between a client and an origin, fed as their connections would
//! feed it.

use bolero::check;

use super::exchange::{Exchange, Fault, MAX_PLAYLIST, Turn};
use super::heads::{self, Client, Encoding};
use super::request::{Asked, Request};
use super::room::Room;
use super::tests::fed::token_of;
use crate::origin::{Balancer, BalancerSettings};
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::http::{
    BadHead, BodyLength, BodyReader, MAX_HEAD, RequestHead, ResponseHead, Version,
};
use crate::session::dice::Dice;
use crate::stream::{Kind, Tokens, Vhosts};

/// Random inputs where no fuzzing engine runs.
const RANDOM: usize = 200;

/// The input is a whole exchange: a byte for the pieces, whose highest bit says whether the origin
/// closes; the length of what the client says (two bytes, big-endian), that, and what the origin
/// says.
#[test]
fn exchange() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let Some((exchange, pieces)) = Both::of(input) else { return };
        exchange.goes_well(Dice(Some(pieces)));
    });
}

/// Splits and orders that one byte of the input does not reach.
#[test]
fn every_exchange_of_the_corpus_goes_well_in_any_pieces() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/session/http/__fuzz__/session__http__fuzz__exchange/corpus"
    );
    for entry in std::fs::read_dir(folder).expect("the corpus of the exchange") {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let (exchange, _) =
            Both::of(&input).unwrap_or_else(|| panic!("{} is none", path.display()));
        for pieces in 0..=64 {
            let run = || exchange.goes_well(Dice(Some(pieces)));
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            assert!(outcome.is_ok(), "{} in pieces of {pieces}", path.display());
        }
    }
}

/// What both sides say.
struct Both<'a> {
    request: Request,
    /// What follows the request's head.
    client: &'a [u8],
    origin: &'a [u8],
    /// Whether the origin closes its connection behind that.
    closes: bool,
}

/// What an exchange came to.
struct Came {
    got: Outbox,
    /// How much of what each side said was taken.
    taken: [usize; 2],
    early: Vec<u8>,
    turns: Vec<Turn>,
    fault: Option<Fault>,
    has_answered: bool,
}

impl<'a> Both<'a> {
    fn of(input: &'a [u8]) -> Option<(Self, u64)> {
        let (&[pieces, high, low], said) = input.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low])).min(said.len());
        let (asked, origin) = said.split_at(length);
        let (head, used) = RequestHead::parse(asked).ok()??;
        if !matches!(head.method.as_str(), "GET" | "HEAD" | "POST" | "PUT") {
            return None;
        }
        let balancer = Balancer::new(BalancerSettings::default());
        let tokens = Tokens::new(b"secret");
        match Request::understand(head, &tokens, &Vhosts::default(), &balancer) {
            Asked::Stream(request) => {
                let closes = pieces & 0x80 != 0;
                Some((Self { request, client: &asked[used..], origin, closes }, pieces.into()))
            }
            Asked::Page(_) | Asked::Session(_) | Asked::Unclear(..) => None,
        }
    }

    fn goes_well(&self, mut dice: Dice) {
        let whole = self.run(false, &mut Dice(None));
        let parts = self.run(false, &mut dice);
        let mixed = self.run(true, &mut dice);
        for came in [&whole, &parts, &mixed] {
            self.keeps_the_request(came);
            self.keeps_the_answer(came);
        }
        match (&whole.fault, &parts.fault) {
            (None, None) => {
                assert!(parts.got.to_client == whole.got.to_client, "another answer in pieces");
                assert!(parts.got.to_origin == whole.got.to_origin, "another body in pieces");
                assert!(parts.early == whole.early, "another next request in pieces");
                assert_eq!(parts.has_answered, whole.has_answered);
                let ending = |came: &Came| match came.turns.last() {
                    // What an origin says behind its answer is found by who waits long enough.
                    Some(Turn::Finished(reuse)) => (came.turns.len(), Some(reuse.client)),
                    _ => (came.turns.len(), None),
                };
                assert_eq!(ending(&parts), ending(&whole));
            }
            (Some(Fault::Request(parts)), Some(Fault::Request(whole))) => assert_eq!(parts, whole),
            (Some(Fault::Answer(_)), Some(Fault::Answer(_))) => {
                let (parts, whole) = (&parts.got.to_client, &whole.got.to_client);
                assert!(parts.starts_with(whole), "another answer in pieces");
            }
            (whole, parts) => panic!("whole: {whole:?}\nin pieces: {parts:?}"),
        }
    }

    /// Lets both sides speak: the client first, or as the dice say.
    fn run(&self, mixed: bool, dice: &mut Dice) -> Came {
        let head = &self.request.head;
        let client = Client {
            address: "192.0.2.7:4000".parse().unwrap(),
            version: head.version,
            keeps_alive: head.keeps_alive(),
        };
        let (token, room) = (token_of(&self.request), Room::new(usize::MAX));
        let mut machine = Exchange::new(&self.request, client, token, room.share());
        let mut came = Came {
            got: Outbox::default(),
            taken: [0, 0],
            early: Vec::new(),
            turns: Vec::new(),
            fault: None,
            has_answered: false,
        };
        let said = [self.client, self.origin];
        let begun = usize::try_from(dice.roll(64)).unwrap().min(self.client.len());
        match machine.begin(self.client[..begun].to_vec()) {
            Ok(body) => came.got.to_origin = body,
            Err(fault) => came.fault = Some(fault),
        }
        came.taken[0] = begun;
        while came.fault.is_none() && !came.is_over() {
            let left = [0, 1].map(|side| said[side].len() - came.taken[side]);
            let may = [left[0] > 0 && machine.room(Leg::Client) > 0, left[1] > 0];
            let side = match may {
                [false, false] => break,
                [true, true] if mixed => usize::try_from(dice.roll(2)).unwrap(),
                [client, _] => usize::from(!client),
            };
            let length = dice.piece(left[side]);
            let from = [Leg::Client, Leg::Origin][side];
            let piece = &said[side][came.taken[side]..][..length];
            came.taken[side] += length;
            came.hears(&mut machine, from, piece);
        }
        if came.turns.last() == Some(&Turn::Endless) {
            came.got.to_client.extend_from_slice(&self.origin[came.taken[1]..]);
            came.taken[1] = self.origin.len();
        } else if self.closes && came.fault.is_none() && !came.is_over() {
            match machine.origin_closed(&mut came.got) {
                Some(Ok(reuse)) => {
                    assert!(!reuse.origin, "a closed connection can be used again");
                    // Of a playlist the status is told at its end.
                    came.turns.extend(machine.turn(&Outbox::default()));
                    if !came.is_over() {
                        came.turns.push(Turn::Finished(reuse));
                    }
                }
                Some(Err(fault)) => came.fault = Some(fault),
                None => {}
            }
        }
        came.has_answered = machine.has_answered();
        came.early = machine.into_early();
        came
    }

    /// The origin gets the request's body, and what is behind it is kept, and no byte is lost.
    fn keeps_the_request(&self, came: &Came) {
        let body = &came.got.to_origin;
        let mut reader = BodyReader::new(self.request.head.body_length());
        let used = reader.read(body, &mut |_| ());
        if matches!(came.fault, Some(Fault::Request(_))) {
            assert!(self.client.starts_with(body), "the origin got other bytes");
            return;
        }
        assert_eq!(used, Ok(body.len()), "the origin got more than the body");
        assert!(reader.is_done() || came.early.is_empty(), "a body went to the next request");
        let taken = &self.client[..came.taken[0]];
        assert!([body.as_slice(), &came.early].concat() == taken, "bytes of the client were lost");
        assert!(came.early.len() <= MAX_HEAD + taken.len().min(64 * 1024), "too much kept");
        if let Some(Turn::Finished(reuse)) = came.turns.last() {
            let asked = reader.is_done();
            assert!(asked || !(reuse.client || reuse.origin), "used again behind half a request");
        }
    }

    /// The client reads what the origin meant, and the end of it where the proxy sees it.
    fn keeps_the_answer(&self, came: &Came) {
        let head = &self.request.head;
        let said = &self.origin[..came.taken[1]];
        let got = &came.got.to_client;
        let (Ok(meant), Ok(read)) = (Read::of(head, said), Read::of(head, got)) else {
            // A head may grow beyond what is read again; the proxy reads none that is malformed.
            return;
        };
        let Some(answer) = &read.head else {
            assert!(!came.has_answered && read.left == 0, "half a head");
            return;
        };
        assert!(came.has_answered, "an answer that can be taken back");
        assert!(head.version == Version::Http11 || read.interim == 0, "100 in HTTP/1.0");
        let status = answer.status;
        assert_eq!(meant.head.as_ref().map(|head| head.status), Some(status));
        let is_list = self.request.kind == Kind::Playlist || heads::is_playlist(&answer.headers);
        let zipped = meant.head.as_ref().map(|head| Encoding::of(&head.headers));
        let collected = is_list && status == 200 && zipped.flatten().is_some();
        let most = if collected { said.len().max(MAX_PLAYLIST) } else { said.len() };
        assert!(got.len() <= 8 * most + 4096, "{} bytes became {}", said.len(), got.len());
        let endless = came.turns.contains(&Turn::Endless);
        if !collected && !endless {
            let payload = &meant.payload;
            assert!(payload.starts_with(&read.payload), "the client got another body");
            assert!(came.fault.is_some() || read.payload == *payload, "the client misses bytes");
        }
        let close = answer.headers.names_token("Connection", "close");
        let stays = match head.version {
            Version::Http11 => !close,
            Version::Http10 => answer.headers.names_token("Connection", "keep-alive"),
        };
        assert!(stays || close, "the client is not told that the connection ends");
        assert!(!(endless && stays), "the client may wait for the end of a live stream");
        if let Some(Turn::Finished(reuse)) = came.turns.last() {
            assert_eq!(reuse.client, stays, "the client expects something else");
            assert!(read.is_whole && read.left == 0, "the client sees another end");
            let quiet = meant.is_whole && meant.left == 0;
            assert!(quiet || !reuse.origin, "used again behind more than an answer");
            assert!(!stays || read.length != BodyLength::UntilClose);
        }
    }
}

impl Came {
    /// One read of a leg, as the relay passes it on.
    fn hears(&mut self, machine: &mut Exchange, from: Leg, bytes: &[u8]) {
        let mut out = Outbox::default();
        match machine.pass(from, bytes, &mut out) {
            Ok(Passed::Verbatim) => {
                assert_eq!(out.waiting(), [0, 0], "written behind what follows it");
                out.towards(from.other()).extend_from_slice(bytes);
            }
            Ok(Passed::Written) => {}
            Err(fault) => self.fault = Some(fault),
        }
        self.got.to_client.append(&mut out.to_client);
        self.got.to_origin.append(&mut out.to_origin);
        while self.fault.is_none()
            && !self.is_over()
            && let Some(turn) = machine.turn(&out)
        {
            self.turns.push(turn);
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.turns.last(), Some(Turn::Endless | Turn::Finished(_)))
    }
}

/// What somebody reads who asked this.
struct Read {
    /// Heads before the final one.
    interim: usize,
    head: Option<ResponseHead>,
    length: BodyLength,
    payload: Vec<u8>,
    /// Whether the body has ended, or would with the connection.
    is_whole: bool,
    /// Bytes that are of no answer, or of half a head.
    left: usize,
}

impl Read {
    fn of(asked: &RequestHead, mut bytes: &[u8]) -> Result<Self, BadHead> {
        let length = BodyLength::UntilClose;
        let mut read =
            Self { interim: 0, head: None, length, payload: Vec::new(), is_whole: false, left: 0 };
        while let Some((head, used)) = ResponseHead::parse(bytes)? {
            bytes = &bytes[used..];
            if head.status >= 200 {
                read.length = head.body_length(&asked.method);
                read.head = Some(head);
                break;
            }
            read.interim += 1;
        }
        if read.head.is_some() {
            let mut reader = BodyReader::new(read.length);
            let used = reader.read(bytes, &mut |payload| read.payload.extend_from_slice(payload));
            bytes = &bytes[used.unwrap_or(bytes.len())..];
            read.is_whole = reader.is_done() || reader.ends_with_the_connection();
        }
        read.left = bytes.len();
        Ok(read)
    }
}
