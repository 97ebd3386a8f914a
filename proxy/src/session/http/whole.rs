//! Requests and answers that are held whole: what is changed inside cannot be passed on piece by
//! piece.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::answer;
use super::client::Connection;
use super::heads::{self, Encoding};
use super::origin::Refusal;
use super::room::{Room, Share};
use super::{Http, Next};
use crate::plane::{Leg, Meter};
use crate::proto::http::{
    BadBody, BodyLength, BodyReader, Headers, RequestHead, ResponseHead, Version,
};
use crate::session::close::close;
use crate::session::{End, Session};
use crate::stream::Kind;

/// Bytes of a request's body.
const MAX_BODY: usize = 256 * 1024;

/// A request that is all here.
#[derive(Debug)]
pub(super) struct Request {
    /// It tells of no body any more: what follows is the next request.
    pub(super) head: RequestHead,
    pub(super) body: Vec<u8>,
    has_body: bool,
    /// The memory that it takes.
    share: Arc<Share>,
}

/// An origin's answer that is all here.
#[derive(Debug)]
pub(super) struct Answered {
    /// Its length is not told.
    pub(super) head: ResponseHead,
    pub(super) body: Vec<u8>,
    /// The memory that it takes; none of an answer of the proxy's own.
    share: Option<Share>,
}

/// What an answer may take.
pub(super) struct Bounds {
    /// Bytes of its body.
    pub(super) most: usize,
    /// Time.
    pub(super) deadline: Instant,
    /// Memory, of that for all.
    pub(super) room: Room,
}

/// Why a request is not whole.
#[derive(Debug, Error)]
enum NoBody {
    #[error("the request's body is too large")]
    TooLarge,
    #[error("the request's body was not complete in time")]
    Slow,
    #[error("request body: {0}")]
    Bad(BadBody),
    #[error("too many bytes of requests are under way")]
    NoRoom,
    #[error("the client closed before the end of its request")]
    Closed,
    #[error("{0}")]
    Lost(io::Error),
}

/// Why there is no answer of an origin.
#[derive(Debug, Error)]
pub(super) enum NoAnswer {
    /// It takes too long.
    #[error("it did not answer in time")]
    Late,
    /// There is no room for it.
    #[error("too many bytes of answers are under way")]
    NoRoom,
    /// The connection has ended before the answer.
    #[error("it closed the connection instead of an answer")]
    Closed,
    /// What comes is no answer that can be read, or a too long one.
    #[error("{0}")]
    Bad(String),
}

impl Request {
    /// The same with another head and body.
    pub(super) fn with(&self, head: RequestHead, body: Vec<u8>) -> Self {
        Self { head, body, has_body: self.has_body, share: Arc::clone(&self.share) }
    }

    /// The request with this body for the origin at an address.
    pub(super) fn to_origin(
        &self,
        kind: Kind,
        body: &[u8],
        client: heads::Client,
        hop: &heads::Hop,
        origin: SocketAddr,
    ) -> Vec<u8> {
        let mut head = self.head.clone();
        if self.has_body || !body.is_empty() {
            head.headers.set("Content-Length", body.len().to_string());
        }
        let mut bytes = Vec::new();
        heads::for_origin(&head, kind, client, hop, origin).write(&mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }
}

impl Http {
    /// The request that begins with this head, or what follows one that does not come.
    pub(super) async fn whole(
        &self,
        mut client: Connection,
        mut head: RequestHead,
        kind: Kind,
        session: &Session,
    ) -> Result<(Connection, Request), Next> {
        let mut share = self.held.share();
        match self.collect(&mut client, &head, &mut share, session).await {
            Ok(body) => {
                let has_body =
                    head.headers.has("Content-Length") || head.headers.has("Transfer-Encoding");
                for name in ["Content-Length", "Transfer-Encoding", "Expect"] {
                    head.headers.remove(name);
                }
                Ok((client, Request { head, body, has_body, share: Arc::new(share) }))
            }
            Err(why) => {
                session.note(|progress| progress.why = Some(why.to_string()));
                let (answer, end) = match why {
                    NoBody::Closed => return Err(Next::Over(End::ClientClosed)),
                    NoBody::Lost(_) => return Err(Next::Over(End::ClientLost)),
                    NoBody::TooLarge => (answer::TOO_LARGE, End::BadRequest),
                    NoBody::Bad(_) => (answer::BAD_BODY, End::BadRequest),
                    NoBody::NoRoom => (answer::NO_ROOM_FOR_BODY, End::OutOfResources),
                    NoBody::Slow => (answer::TOO_SLOW, End::HeadTimeout),
                };
                self.count(kind, answer.status.as_u16(), session);
                let bytes = answer.to(&head, kind, false, SystemTime::now());
                if self.write(&client.socket, &bytes, session).await.is_ok() {
                    close(client.socket).await;
                }
                Err(Next::Over(end))
            }
        }
    }

    /// The body of a request, without its chunks.
    async fn collect(
        &self,
        client: &mut Connection,
        head: &RequestHead,
        share: &mut Share,
        session: &Session,
    ) -> Result<Vec<u8>, NoBody> {
        let length = head.body_length();
        if matches!(length, BodyLength::Known(bytes) if bytes > MAX_BODY as u64) {
            return Err(NoBody::TooLarge);
        }
        let (mut reader, mut body) = (BodyReader::new(length), Vec::new());
        // RFC 9110 10.1.1: of no use to who has not waited, and unknown to HTTP/1.0.
        if head.version == Version::Http11
            && head.headers.names_token("Expect", "100-continue")
            && !reader.is_done()
            && client.buffer.is_empty()
        {
            let told = self.write(&client.socket, b"HTTP/1.1 100 Continue\r\n\r\n", session).await;
            told.map_err(NoBody::Lost)?;
        }
        let deadline = Instant::now() + self.settings.head_timeout;
        loop {
            let used = reader.read(&client.buffer, &mut |piece| body.extend_from_slice(piece));
            client.buffer.drain(..used.map_err(NoBody::Bad)?);
            if body.len() > MAX_BODY {
                return Err(NoBody::TooLarge);
            }
            if !share.resize(body.len()) {
                return Err(NoBody::NoRoom);
            }
            if reader.is_done() {
                break;
            }
            match timeout_at(deadline, client.read()).await {
                Err(_) => return Err(NoBody::Slow),
                Ok(Err(error)) => return Err(NoBody::Lost(error)),
                Ok(Ok(0)) => return Err(NoBody::Closed),
                Ok(Ok(_)) => {}
            }
        }
        if client.buffer.is_empty() {
            client.buffer = Vec::new();
        }
        Ok(body)
    }

    /// Gives the client an origin's answer, changed or not.
    pub(super) async fn tell(
        &self,
        client: Connection,
        head: &RequestHead,
        kind: Kind,
        answered: Answered,
        session: &Session,
    ) -> Next {
        let Answered { head: mut told, body, share: _share } = answered;
        self.count(kind, told.status, session);
        let stays = self.stays(head);
        let has_body = head.method != "HEAD" && !matches!(told.status, 204 | 304);
        if has_body || !body.is_empty() {
            told.headers.set("Content-Length", body.len().to_string());
        }
        heads::for_client(&mut told, kind, self.about(head, session), false, stays);
        let mut bytes = Vec::new();
        told.write(&mut bytes);
        if has_body {
            bytes.extend_from_slice(&body);
        }
        drop(body);
        self.say(client, &bytes, stays, session).await
    }
}

/// Asks an origin by a connection of its own.
pub(super) async fn ask(
    mut origin: TcpStream,
    request: &[u8],
    method: &str,
    bounds: &Bounds,
    meter: &Meter,
) -> Result<Answered, NoAnswer> {
    let (mut from, mut to) = origin.split();
    let write = async {
        // An origin may answer without reading all of it: its answer counts.
        if to.write_all(request).await.is_ok() {
            meter.wrote(Leg::Origin, request.len());
        }
        std::future::pending::<()>().await;
    };
    let both = async {
        tokio::select! {
            () = write => Err(NoAnswer::Closed),
            answered = read(&mut from, method, bounds) => answered,
        }
    };
    timeout_at(bounds.deadline, both).await.unwrap_or(Err(NoAnswer::Late))
}

async fn read(
    origin: &mut (impl AsyncReadExt + Unpin),
    method: &str,
    bounds: &Bounds,
) -> Result<Answered, NoAnswer> {
    let bad = |why: &dyn std::fmt::Display| NoAnswer::Bad(why.to_string());
    let mut came = Vec::new();
    let (mut interim, mut share) = (0, bounds.room.share());
    let head = loop {
        match ResponseHead::parse(&came).map_err(|error| bad(&error))? {
            Some((head, _)) if head.status == 101 => {
                return Err(bad(&"a change of protocol nobody asked for"));
            }
            Some((head, used)) if head.status < 200 => {
                came.drain(..used);
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(bad(&"interim answers without end"));
                }
            }
            Some((head, used)) => {
                came.drain(..used);
                break head;
            }
            None => more(origin, &mut came).await?,
        }
    };
    let (mut reader, mut body) = (BodyReader::new(head.body_length(method)), Vec::new());
    loop {
        reader
            .read(&came, &mut |piece| body.extend_from_slice(piece))
            .map_err(|error| bad(&error))?;
        came.clear();
        if body.len() > bounds.most {
            return Err(bad(&"an answer that is too large"));
        }
        if !share.resize(body.len()) {
            return Err(NoAnswer::NoRoom);
        }
        if reader.is_done() {
            return Ok(Answered { head, body, share: Some(share) });
        }
        match more(origin, &mut came).await {
            Err(NoAnswer::Closed) if reader.ends_with_the_connection() => {
                return Ok(Answered { head, body, share: Some(share) });
            }
            others => others?,
        }
    }
}

/// Interim answers (1xx) that are skipped.
const MAX_INTERIM: usize = 16;

async fn more(
    origin: &mut (impl AsyncReadExt + Unpin),
    came: &mut Vec<u8>,
) -> Result<(), NoAnswer> {
    match origin.read_buf(came).await {
        Ok(0) => Err(NoAnswer::Closed),
        Ok(_) => Ok(()),
        Err(error) => Err(NoAnswer::Bad(error.to_string())),
    }
}

impl From<NoAnswer> for Refusal {
    fn from(error: NoAnswer) -> Self {
        let answer = match error {
            NoAnswer::Late => answer::TOO_LATE,
            NoAnswer::NoRoom => answer::NO_ROOM_FOR_BODY,
            NoAnswer::Closed | NoAnswer::Bad(_) => answer::BAD_ANSWER,
        };
        Self { answer, why: format!("origin: {error}") }
    }
}

impl Answered {
    /// Whether the origin has done what was asked.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.head.status)
    }

    /// The body as text; none if it is not, or is compressed, which nobody has asked for.
    pub(super) fn text(&self) -> Option<&str> {
        let is_plain = Encoding::of(&self.head.headers) == Some(Encoding::Identity);
        str::from_utf8(&self.body).ok().filter(|_| is_plain)
    }

    /// Puts another body in the place of the origin's.
    pub(super) fn set_body(&mut self, body: String) {
        self.body = body.into_bytes();
        heads::without_digests(&mut self.head.headers);
    }

    /// An answer of the proxy's own, in JSON.
    pub(super) fn json(status: StatusCode, body: String) -> Self {
        let mut headers = Headers::default();
        heads::sign(&mut headers, SystemTime::now());
        headers.push("Content-Type", "application/json");
        headers.push("Cache-Control", "no-store");
        let reason = status.canonical_reason().unwrap_or_default().into();
        let head =
            ResponseHead { version: Version::Http11, status: status.as_u16(), reason, headers };
        Self { head, body: body.into_bytes(), share: None }
    }

    /// The same, which takes this part of the memory.
    pub(super) fn held_by(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }
}
