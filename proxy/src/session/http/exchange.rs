//! One request at one origin: what goes on to whom, until the answer's last byte.
//!
//! Bodies pass as they come, their framing included; the machine only counts where they end. Three
//! answers are changed on the way: heads, which lose what is meant for one hop; playlists, which are
//! collected and rewritten; and chunked bodies for a client that does not know of chunks.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::heads::{self, Client, Encoding};
use super::request::Request;
use super::room::Share;
use crate::cluster::store::HlsRecord;
use crate::origin::ServerName;
use crate::plane::relay::filter::{AtEnd, Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::addition::Addition;
use crate::proto::http::{
    BadBody, BodyLength, BodyReader, Headers, MAX_HEAD, ResponseHead, Version,
};
use crate::proto::{dash, hls};
use crate::stream::{Kind, StreamKey, Tokens};

/// Bytes of the largest playlist that is rewritten.
pub(super) const MAX_PLAYLIST: usize = 2 * 1024 * 1024;

/// Interim answers (1xx) that are passed on: one says to continue, few give hints.
const MAX_INTERIM: usize = 16;

/// One request at one origin.
pub(super) struct Exchange {
    method: String,
    kind: Kind,
    client: Client,
    /// What is added to the URIs of a playlist.
    token: Token,
    /// The memory that a playlist takes.
    share: Share,
    /// Where the body of the request ends.
    request: BodyReader,
    published: Published,
    /// What the client sent behind the request: the next one.
    early: Vec<u8>,
    stage: Stage,
    has_heard: bool,
    /// Interim answers so far.
    interim: usize,
    status: Option<u16>,
    /// The client has got a final head, and the driver has not heard of it.
    is_news: bool,
    /// Payload in one piece from which on it need not come through here, bytes; none if all must.
    large: Option<u64>,
}

/// The parameter by which a playlist's URIs come back to their origin. It is issued only for an
/// answer that is a playlist.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) tokens: Arc<Tokens>,
    pub(super) stream: StreamKey,
    pub(super) server: ServerName,
    /// The authority by which the client came.
    pub(super) host: String,
    /// What segments of HLS get for the existing proxy, if that may be beside this one.
    pub(super) id: Option<String>,
}

/// What the exchange's driver must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client has sent more of a body than an origin that does not want it lets come.
    Publishing,
    /// The origin has answered with this status.
    Answered(u16),
    /// From here on bytes only go to the client, and end with the origin's connection.
    Endless,
    /// So many bytes of the answer come next of which none needs a look: [`Exchange::passed`] is told
    /// when they have passed elsewhere.
    Payload(u64),
    /// The answer is with the client.
    Finished(Reuse),
}

/// Which connections can take another request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reuse {
    pub(super) client: bool,
    pub(super) origin: bool,
}

/// How much of a stream the client has published.
#[derive(Debug, Default)]
struct Published {
    bytes: usize,
    is_told: bool,
}

impl Published {
    /// Bytes by which a publisher is known.
    const ENOUGH: usize = 64 * 1024;

    fn pass(&mut self, payload: usize) {
        self.bytes = self.bytes.saturating_add(payload);
    }

    /// True once, when it has become enough.
    fn take_news(&mut self) -> bool {
        self.bytes >= Self::ENOUGH && !std::mem::replace(&mut self.is_told, true)
    }
}

/// Why an exchange cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The client's body is malformed.
    #[error("request body: {0}")]
    Request(BadBody),
    /// The client sends requests ahead while it watches a live stream.
    #[error("too many requests ahead of a live stream's end")]
    TooEarly,
    /// No more playlists can be held.
    #[error("too many bytes of playlists are under way")]
    NoRoom,
    /// The origin's answer is malformed, or larger than what can be kept.
    #[error("the origin's answer: {0}")]
    Answer(String),
}

/// How far the answer is.
enum Stage {
    /// The head, as far as it is here.
    Head(Vec<u8>),
    Body {
        reader: BodyReader,
        delivery: Delivery,
        reuse: Reuse,
    },
    Endless,
    Finished(Reuse),
}

enum Delivery {
    Verbatim,
    /// Chunks are taken off.
    Unchunked,
    /// A playlist: its head, and what is there of it.
    Collected(Box<ResponseHead>, Vec<u8>),
}

impl Exchange {
    pub(super) fn new(request: &Request, client: Client, token: Token, share: Share) -> Self {
        Self {
            method: request.head.method.clone(),
            kind: request.kind,
            client,
            token,
            share,
            request: BodyReader::new(request.head.body_length()),
            published: Published::default(),
            early: Vec::new(),
            stage: Stage::Head(Vec::new()),
            has_heard: false,
            interim: 0,
            status: None,
            is_news: false,
            large: None,
        }
    }

    /// Takes what the client has sent behind the request's head; gives what of it is for the
    /// origin, the rest is kept.
    pub(super) fn begin(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let used = self.request.read(&bytes, &mut |_| ()).map_err(Fault::Request)?;
        self.early = bytes.split_off(used);
        self.check_early()?;
        Ok(bytes)
    }

    /// Payload in pieces of so many bytes or more need not come through here.
    pub(super) fn spare_large(&mut self, bytes: u64) {
        self.large = Some(bytes);
    }

    /// So many bytes of payload have passed elsewhere. What may have come behind the answer's end is
    /// still in the origin's socket.
    pub(super) fn passed(&mut self, bytes: u64, out: &mut Outbox) -> Result<(), Fault> {
        let Stage::Body { reader, .. } = &mut self.stage else { return Ok(()) };
        reader.skip(bytes);
        if reader.is_done() { self.finish(true, out) } else { Ok(()) }
    }

    /// Whether the origin has said anything.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// What the origin has answered.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the client has been told anything that cannot be taken back.
    pub(super) fn has_answered(&self) -> bool {
        match &self.stage {
            Stage::Head(_) => false,
            Stage::Body { delivery, .. } => !matches!(delivery, Delivery::Collected(..)),
            Stage::Endless | Stage::Finished(_) => true,
        }
    }

    /// Whether the end of the answer, if it comes too early, would look to the client like its end.
    pub(super) fn ends_with_the_connection(&self) -> bool {
        match &self.stage {
            Stage::Body { delivery: Delivery::Unchunked, .. } => true,
            Stage::Body { reader, .. } => reader.ends_with_the_connection(),
            Stage::Head(_) | Stage::Endless | Stage::Finished(_) => false,
        }
    }

    /// Whether nothing of the answer is still to come.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished(_))
    }

    /// What the client sent behind this request.
    pub(super) fn into_early(self) -> Vec<u8> {
        self.early
    }

    /// The origin has closed its connection in order: an answer of unknown length ends here. None
    /// if the answer is not whole.
    pub(super) fn origin_closed(&mut self, out: &mut Outbox) -> Option<Result<Reuse, Fault>> {
        let Stage::Body { reader, .. } = &self.stage else { return None };
        reader.ends_with_the_connection().then(|| {
            self.finish(false, out)?;
            match self.stage {
                Stage::Finished(reuse) => Ok(reuse),
                _ => Ok(Reuse::default()),
            }
        })
    }

    fn request_body(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        let mut payload = 0;
        let used = self.request.read(bytes, &mut |piece| payload += piece.len());
        let used = used.map_err(Fault::Request)?;
        self.published.pass(payload);
        if used == bytes.len() {
            return Ok(Passed::Verbatim);
        }
        let (body, early) = bytes.split_at_checked(used).unwrap_or((bytes, &[]));
        out.to_origin.extend_from_slice(body);
        self.early.extend_from_slice(early);
        self.check_early()?;
        Ok(Passed::Written)
    }

    /// Nobody would notice that the client of a live stream leaves if it were not read any more.
    fn check_early(&self) -> Result<(), Fault> {
        if self.kind == Kind::Live && self.room(Leg::Client) == 0 {
            return Err(Fault::TooEarly);
        }
        Ok(())
    }

    fn heard(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        self.has_heard = true;
        let Stage::Head(before) = &mut self.stage else {
            return self.body(bytes, out);
        };
        // A head mostly comes in one piece, and much of the body behind it: that is not copied.
        let mut whole = std::mem::take(before);
        let mut bytes = if whole.is_empty() {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            &whole
        };
        loop {
            let parsed = ResponseHead::parse(bytes).map_err(|e| Fault::Answer(e.to_string()))?;
            let Some((mut head, used)) = parsed else {
                self.stage = Stage::Head(bytes.to_vec());
                return Ok(Passed::Written);
            };
            bytes = bytes.get(used..).unwrap_or_default();
            match head.status {
                101 => return Err(Fault::Answer("a change of protocol nobody asked for".into())),
                100..200 => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(Fault::Answer("interim answers without end".into()));
                    }
                    // RFC 9110 15.2: not for a client of HTTP/1.0.
                    if self.client.version == Version::Http11 {
                        heads::interim(&mut head);
                        head.write(&mut out.to_client);
                    }
                }
                _ => {
                    self.head(head, out);
                    if self.body(bytes, out)? == Passed::Verbatim {
                        out.to_client.extend_from_slice(bytes);
                    }
                    return Ok(Passed::Written);
                }
            }
        }
    }

    /// The final head has come.
    fn head(&mut self, mut head: ResponseHead, out: &mut Outbox) {
        self.status = Some(head.status);
        let length = head.body_length(&self.method);
        let origin_stays = head.keeps_alive() && length != BodyLength::UntilClose;
        let reuse = Reuse {
            // What is left of its body would be read as a request.
            client: self.client.keeps_alive && self.request.is_done(),
            // It was asked to close, and does so even if it does not say so.
            origin: origin_stays && self.kind != Kind::Live,
        };
        let is_playlist = self.kind == Kind::Playlist || heads::is_playlist(&head.headers);
        let is_endless = self.kind == Kind::Live
            && self.request.is_done()
            && (200..300).contains(&head.status)
            && match length {
                BodyLength::UntilClose => true,
                BodyLength::Chunked => !origin_stays && self.client.version == Version::Http11,
                BodyLength::Known(_) => false,
            };
        let reader = BodyReader::new(length);
        if is_playlist && head.status == 200 && Encoding::of(&head.headers).is_some() {
            if !reader.is_done() {
                let delivery = Delivery::Collected(Box::new(head), Vec::new());
                self.stage = Stage::Body { reader, delivery, reuse };
                return;
            }
            if self.method == "HEAD" {
                // What would follow to GET would have another length.
                head.headers.remove("Content-Length");
                head.headers.remove("Content-Encoding");
                head.headers.remove("Accept-Ranges");
            }
        }
        self.is_news = true;
        let (delivery, stays) = match length {
            BodyLength::Chunked if self.client.version == Version::Http10 => {
                (Delivery::Unchunked, false)
            }
            BodyLength::UntilClose => (Delivery::Verbatim, false),
            BodyLength::Chunked | BodyLength::Known(_) => (Delivery::Verbatim, !is_endless),
        };
        let reuse = Reuse { client: reuse.client && stays, ..reuse };
        let is_chunked = length == BodyLength::Chunked && matches!(delivery, Delivery::Verbatim);
        heads::for_client(&mut head, self.kind, self.client, is_chunked, reuse.client);
        head.write(&mut out.to_client);
        self.stage = if is_endless {
            Stage::Endless
        } else if reader.is_done() {
            Stage::Finished(reuse)
        } else {
            Stage::Body { reader, delivery, reuse }
        };
    }

    fn body(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        let (reader, delivery) = match &mut self.stage {
            Stage::Body { reader, delivery, .. } => (reader, delivery),
            Stage::Endless => return Ok(Passed::Verbatim),
            // More than the answer: whoever speaks unasked is not asked again.
            Stage::Head(_) => return Ok(Passed::Written),
            Stage::Finished(reuse) => {
                reuse.origin &= bytes.is_empty();
                return Ok(Passed::Written);
            }
        };
        let share = &mut self.share;
        let mut fault = None;
        let used = reader.read(bytes, &mut |payload| match delivery {
            Delivery::Verbatim => {}
            Delivery::Unchunked => out.to_client.extend_from_slice(payload),
            Delivery::Collected(_, playlist) => {
                let length = playlist.len() + payload.len();
                if length > MAX_PLAYLIST {
                    fault = Some(Fault::Answer("a playlist that is too large".into()));
                } else if !share.resize(length) {
                    fault = Some(Fault::NoRoom);
                } else {
                    playlist.extend_from_slice(payload);
                }
            }
        });
        let used = used.map_err(|error| Fault::Answer(error.to_string()))?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let is_verbatim = matches!(delivery, Delivery::Verbatim);
        let is_all = used == bytes.len();
        if reader.is_done() {
            if is_verbatim && !is_all {
                out.to_client.extend_from_slice(bytes.get(..used).unwrap_or(bytes));
            }
            self.finish(is_all, out)?;
        }
        Ok(if is_verbatim && is_all { Passed::Verbatim } else { Passed::Written })
    }

    /// The last byte of the answer has come, and nothing behind it if the origin `is_quiet`.
    fn finish(&mut self, is_quiet: bool, out: &mut Outbox) -> Result<(), Fault> {
        let Stage::Body { delivery, reuse, .. } = &mut self.stage else { return Ok(()) };
        let mut reuse = *reuse;
        reuse.origin &= is_quiet;
        if let Delivery::Collected(head, playlist) = delivery {
            self.is_news = true;
            let playlist = std::mem::take(playlist);
            let playlist = self.token.rewritten(playlist, &mut head.headers)?;
            if !self.share.resize(playlist.len()) {
                return Err(Fault::NoRoom);
            }
            heads::for_client(head, self.kind, self.client, false, reuse.client);
            head.headers.set("Content-Length", playlist.len().to_string());
            head.write(&mut out.to_client);
            out.to_client.extend_from_slice(&playlist);
        }
        self.stage = Stage::Finished(reuse);
        Ok(())
    }
}

impl Filter for Exchange {
    type Turn = Turn;
    type Fault = Fault;

    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        match from {
            Leg::Client => self.request_body(bytes, out),
            Leg::Origin => self.heard(bytes, out),
        }
    }

    fn turn(&mut self, out: &Outbox) -> Option<Turn> {
        if self.published.take_news() {
            return Some(Turn::Publishing);
        }
        if std::mem::take(&mut self.is_news) {
            return self.status.map(Turn::Answered);
        }
        match self.stage {
            Stage::Endless => Some(Turn::Endless),
            // What is not written yet would be lost behind the last turn.
            Stage::Finished(_) if !out.to_client.is_empty() => {
                // What the client has taken of a playlist is not held any longer.
                self.share.resize(out.to_client.len());
                None
            }
            Stage::Finished(reuse) => {
                // A body that the origin answers without reading it is of no use to anybody.
                let is_read = self.request.is_done() && out.to_origin.is_empty();
                let origin = reuse.origin && is_read;
                Some(Turn::Finished(Reuse { origin, ..reuse }))
            }
            Stage::Body { ref reader, delivery: Delivery::Verbatim, .. }
                if self.at_end(Leg::Client) == AtEnd::GoesOn && out.waiting() == [0, 0] =>
            {
                let ahead = reader.ahead();
                self.large.is_some_and(|large| ahead >= large).then_some(Turn::Payload(ahead))
            }
            _ => None,
        }
    }

    fn room(&self, from: Leg) -> usize {
        let is_full = from == Leg::Client && self.early.len() >= MAX_HEAD;
        if is_full { 0 } else { usize::MAX }
    }

    fn at_end(&self, leg: Leg) -> AtEnd {
        // Who has asked, and says no more, still waits for the answer. A live stream does not end
        // by itself: there it means that the player has left.
        let is_watching = self.kind == Kind::Live
            && matches!(self.method.as_str(), "GET" | "HEAD")
            && match &self.stage {
                Stage::Head(_) | Stage::Endless => true,
                Stage::Body { reader, .. } => !matches!(reader.length(), BodyLength::Known(_)),
                Stage::Finished(_) => false,
            };
        let goes_on = leg == Leg::Client && self.request.is_done() && !is_watching;
        if goes_on { AtEnd::GoesOn } else { AtEnd::Over }
    }

    fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Head(_))
    }
}

impl Token {
    /// The parameter's value.
    pub(super) fn value(&self) -> String {
        self.tokens.issue(&self.stream, self.server.as_str())
    }

    /// The playlist with the token in each URI that comes back to the proxy. What is no playlist
    /// after all stays as it is.
    fn rewritten(&self, body: Vec<u8>, headers: &mut Headers) -> Result<Vec<u8>, Fault> {
        let plain = match Encoding::of(headers) {
            Some(Encoding::Gzip) => Cow::Owned(inflated(&body)?),
            Some(Encoding::Identity) | None => Cow::Borrowed(body.as_slice()),
        };
        let value = self.value();
        let addition = Addition { name: Tokens::PARAMETER, value: &value, host: &self.host };
        let Ok(text) = std::str::from_utf8(&plain) else { return Ok(body) };
        let rewritten = if text.trim_start_matches('\u{feff}').starts_with('#') {
            let segments = self.id.as_ref().and_then(|id| {
                let addition = Addition { name: HlsRecord::PARAMETER, value: id, ..addition };
                hls::rewrite_segments(text, &addition).ok()
            });
            hls::rewrite(segments.as_deref().unwrap_or(text), &addition).ok()
        } else {
            dash::rewrite(text, &addition).ok()
        };
        let Some(rewritten) = rewritten else { return Ok(body) };
        headers.remove("Content-Encoding");
        heads::without_digests(headers);
        headers.remove("Accept-Ranges");
        // RFC 9110 8.8.1: the same playlist for all who play it, and no longer the same bytes.
        if let Some(tag) = headers.text("ETag").filter(|tag| tag.starts_with('"')) {
            let weak = format!("W/{tag}");
            headers.set("ETag", weak);
        }
        Ok(rewritten.into_bytes())
    }
}

/// A playlist without its gzip.
fn inflated(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    // One byte more than the limit tells that it is passed.
    let limit = MAX_PLAYLIST as u64 + 1;
    let inflated = MultiGzDecoder::new(body).take(limit).read_to_end(&mut plain);
    inflated.map_err(|error| Fault::Answer(error.to_string()))?;
    if plain.len() > MAX_PLAYLIST {
        return Err(Fault::Answer("a playlist that is too large".into()));
    }
    Ok(plain)
}
