//! An exchange that is fed by hand, and what comes out of it.

use std::sync::Arc;

use super::super::exchange::{Exchange, Fault, Reuse, Token, Turn};
use super::super::heads::Client;
use super::super::request::{Asked, Request};
use super::super::room::Room;
use crate::origin::{Balancer, BalancerSettings, ServerName};
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::http::RequestHead;
use crate::stream::{Tokens, Vhosts};

/// One exchange: what came out of it so far.
pub(super) struct Fed {
    pub(super) machine: Exchange,
    pub(super) got: Outbox,
    pub(super) turns: Vec<Turn>,
    pub(super) fault: Option<Fault>,
}

impl Fed {
    /// A request, with all that its client sent behind the head.
    pub(super) fn asked(asked: impl AsRef<[u8]>) -> Self {
        let (request, behind) = understood(asked.as_ref());
        Self::begun(&request, behind)
    }

    pub(super) fn begun(request: &Request, behind: &[u8]) -> Self {
        Self::with(request, token_of(request), behind)
    }

    pub(super) fn with(request: &Request, token: Token, behind: &[u8]) -> Self {
        let client = client_of(&request.head);
        let mut machine = Exchange::new(request, client, token, Room::new(usize::MAX).share());
        let mut got = Outbox::default();
        let mut fault = None;
        match machine.begin(behind.to_vec()) {
            Ok(body) => got.to_origin = body,
            Err(error) => fault = Some(error),
        }
        Self { machine, got, turns: Vec::new(), fault }
    }

    /// One read of a leg, as the relay passes it on.
    pub(super) fn says(mut self, from: Leg, bytes: impl AsRef<[u8]>) -> Self {
        if self.is_over() {
            return self;
        }
        let bytes = bytes.as_ref();
        let mut out = Outbox::default();
        match self.machine.pass(from, bytes, &mut out) {
            Ok(Passed::Verbatim) => {
                assert_eq!(out.waiting(), [0, 0], "what was written is behind what follows it");
                out.towards(from.other()).extend_from_slice(bytes);
            }
            Ok(Passed::Written) => {}
            Err(fault) => self.fault = Some(fault),
        }
        self.flush(&mut out);
        if self.fault.is_none() {
            while !self.is_over()
                && let Some(turn) = self.machine.turn(&Outbox::default())
            {
                self.turns.push(turn);
            }
        }
        self
    }

    pub(super) fn client(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Leg::Client, bytes)
    }

    pub(super) fn origin(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Leg::Origin, bytes)
    }

    /// The origin closes in order.
    pub(super) fn closed(mut self) -> Self {
        if self.is_over() {
            return self;
        }
        let mut out = Outbox::default();
        match self.machine.origin_closed(&mut out) {
            Some(Ok(reuse)) => self.turns.push(Turn::Finished(reuse)),
            Some(Err(fault)) => self.fault = Some(fault),
            None => {}
        }
        self.flush(&mut out);
        self
    }

    fn flush(&mut self, out: &mut Outbox) {
        self.got.to_client.append(&mut out.to_client);
        self.got.to_origin.append(&mut out.to_origin);
    }

    fn is_over(&self) -> bool {
        self.fault.is_some() || matches!(self.turns.last(), Some(Turn::Endless | Turn::Finished(_)))
    }

    pub(super) fn come(self) -> Came {
        Came {
            to_client: text(&self.got.to_client),
            to_origin: text(&self.got.to_origin),
            has_answered: self.machine.has_answered(),
            turns: self.turns,
            fault: self.fault.map(|fault| fault.to_string()),
            early: text(&self.machine.into_early()),
        }
    }
}

/// Bytes to compare and to read: each is one character.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What an exchange came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Came {
    pub(super) to_client: String,
    /// Of the request's body.
    pub(super) to_origin: String,
    pub(super) has_answered: bool,
    pub(super) turns: Vec<Turn>,
    pub(super) fault: Option<String>,
    pub(super) early: String,
}

impl Came {
    pub(super) fn head(&self) -> &str {
        self.to_client.split_once("\r\n\r\n").map_or("", |(head, _)| head)
    }

    pub(super) fn body(&self) -> &str {
        self.to_client.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    pub(super) fn has(&self, header: &str) -> bool {
        self.head().lines().any(|line| line == header)
    }

    pub(super) fn names(&self, name: &str) -> bool {
        let name = format!("{name}:").to_ascii_lowercase();
        self.head().lines().any(|line| line.to_ascii_lowercase().starts_with(&name))
    }

    /// Which connections can be used again; None if the exchange is not finished.
    pub(super) fn reuse(&self) -> Option<Reuse> {
        self.turns.iter().find_map(|turn| match turn {
            Turn::Finished(reuse) => Some(*reuse),
            _ => None,
        })
    }
}

pub(in super::super) fn understood(asked: &[u8]) -> (Request, &[u8]) {
    let (head, used) = RequestHead::parse(asked).unwrap().expect("a whole head");
    let (tokens, balancer) = (Tokens::new(b"secret"), Balancer::new(BalancerSettings::default()));
    match Request::understand(head, &tokens, &Vhosts::default(), &balancer) {
        Asked::Stream(request) => (request, &asked[used..]),
        other => panic!("no request for a stream: {other:?}"),
    }
}

pub(in super::super) fn client_of(head: &RequestHead) -> Client {
    Client {
        address: "192.0.2.7:4000".parse().unwrap(),
        version: head.version,
        keeps_alive: head.keeps_alive(),
    }
}

pub(in super::super) fn token_of(request: &Request) -> Token {
    Token {
        tokens: Arc::new(Tokens::new(b"secret")),
        stream: request.stream.clone(),
        server: ServerName::from("origin"),
        host: "proxy".into(),
        id: None,
    }
}

/// What the URIs of a playlist get that is the answer to this.
pub(super) fn parameter(asked: &str) -> String {
    let (request, _) = understood(asked.as_bytes());
    format!("spt={}", token_of(&request).value())
}

/// A request and its answer, in every split in two of either, and byte by byte.
pub(super) fn in_every_split(
    asked: impl AsRef<[u8]>,
    answer: impl AsRef<[u8]>,
    closes: bool,
) -> Came {
    let (asked, answer) = (asked.as_ref(), answer.as_ref());
    let (request, behind) = understood(asked);
    let close = |fed: Fed| if closes { fed.closed().come() } else { fed.come() };
    let whole = close(Fed::begun(&request, behind).origin(answer));
    for at in 0..=answer.len() {
        let (first, second) = answer.split_at(at);
        let parts = close(Fed::begun(&request, behind).origin(first).origin(second));
        assert_eq!(parts, whole, "the answer in two pieces, at {at}");
    }
    for at in 0..=behind.len() {
        let (first, second) = behind.split_at(at);
        let parts = close(Fed::begun(&request, first).client(second).origin(answer));
        assert_eq!(parts, whole, "the request's body in two pieces, at {at}");
    }
    let mut bytes = Fed::begun(&request, b"");
    for byte in behind {
        bytes = bytes.client([*byte]);
    }
    for byte in answer {
        bytes = bytes.origin([*byte]);
    }
    assert_eq!(close(bytes), whole, "byte by byte");
    whole
}
