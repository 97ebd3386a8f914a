//! Signalling of WebRTC: a client's offer goes to an origin and the answer back, each with the
//! proxy in the place of the other side; and later requests go to where the session is.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::client::Connection;
use super::origin::{Reached, Refusal, Wanted};
use super::signal::{About, Endpoint, Form, Signal};
use super::whole::{self, Answered, Bounds, NoAnswer, Request};
use super::{Http, Next};
use crate::origin::{Lease, Listener, Origin};
use crate::proto::addition::{Addition, take_parameter};
use crate::proto::http::Headers;
use crate::proto::location;
use crate::proto::sdp;
use crate::proto::signalling::Message;
use crate::session::webrtc::{BadDescription, Draft, Elsewhere, Invited};
use crate::session::{End, Session};
use crate::stream::in_query;
use crate::stream::{Ask, Kind, SessionClaim, StreamKey, Tokens};

/// Bytes of an origin's answer.
const MAX_ANSWER: usize = 256 * 1024;

impl Http {
    /// Answers a request about a session.
    pub(super) async fn signal(
        &self,
        client: Connection,
        signal: Signal,
        session: &Session,
    ) -> Next {
        const KIND: Kind = Kind::Signalling;
        session.note(|progress| progress.kind = Some(KIND));
        let (is_plain, is_served) = (signal.is_plain(), signal.is_served());
        let Signal { head, about } = signal;
        if !is_plain {
            return self.refuse(client, answer::BAD_PATH, &head, KIND, session).await;
        }
        if !is_served {
            return self.refuse(client, answer::BAD_SIGNAL, &head, KIND, session).await;
        }
        if self.is_in_circles(&head) {
            return self.refuse(client, answer::IN_CIRCLES, &head, KIND, session).await;
        }
        let (client, mut request) = match self.whole(client, head, KIND, session).await {
            Ok(whole) => whole,
            Err(next) => return next,
        };
        if let About::Stream(Endpoint { form: Form::Sdp, .. }) = about
            && let Some(target) = in_query(&request.head.target)
        {
            request.head.target = target;
        }
        let answered = match about {
            About::Session(claim) => self.ask_session(&claim, &request, session).await,
            About::Stream(endpoint) if request.head.method == "POST" => {
                self.negotiate(endpoint, &request, session).await
            }
            About::Stream(_) => self.ask_stream(&request, session).await,
        };
        match answered {
            Ok(answered) => self.tell(client, &request.head, KIND, answered, session).await,
            Err(Refusal { answer, why }) => {
                session.note(|progress| progress.why = Some(why));
                self.refuse(client, answer, &request.head, KIND, session).await
            }
        }
    }

    /// Takes an offer to the stream's origin, and makes a session of the answer.
    async fn negotiate(
        &self,
        endpoint: Endpoint,
        request: &Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let Endpoint { form, role } = endpoint;
        let text = str::from_utf8(&request.body);
        let text = text.map_err(|error| refusal(answer::NOT_AN_OFFER, &error))?;
        let offer = Description::read(form, text)?;
        // No origin is bothered with one that it could not answer.
        sdp::ice(offer.sdp()).map_err(|error| bad_offer(&error.into()))?;
        let stream = self.stream_of(request, offer.stream_url())?;
        session.note(|progress| progress.stream = Some(stream.clone()));
        let reached = self.reach_api(&stream, session).await.inspect_err(|refusal| {
            let end = end_of(refusal);
            self.webrtc.turned_away(end, &stream, session.client, &refusal.why);
        })?;
        let Reached { socket, address, lease, .. } = reached;
        let outcome = async {
            let near = socket.local_addr().map_err(|error| refusal(answer::UNREACHABLE, &error))?;
            let draft = self.webrtc.invite(Invited {
                client: session.ends(),
                stream: stream.clone(),
                role,
                lease: lease.share(),
                near: near.ip(),
                far: address,
                offer: offer.sdp().to_owned(),
            });
            let draft = draft.map_err(|end| refusal(answer::NO_SESSION, &end.as_str()))?;
            let asked = async {
                let body = offer.with_sdp(&draft.offer());
                let asked = (socket, &**lease.origin());
                self.put(request, body.as_bytes(), asked, &stream, session).await
            };
            match asked.await {
                Ok(answered) => self.accept(draft, endpoint, answered, &lease),
                Err(refusal) => {
                    draft.refuse(end_of(&refusal), &refusal.why);
                    Err(refusal)
                }
            }
        };
        let answered = outcome.await;
        match &answered {
            Ok((_, true)) => lease.found(),
            _ => drop(lease),
        }
        answered.map(|(answered, _)| answered)
    }

    /// The answer for the client, and whether there is a session now.
    fn accept(
        &self,
        draft: Draft,
        endpoint: Endpoint,
        mut answered: Answered,
        lease: &Lease,
    ) -> Result<(Answered, bool), Refusal> {
        let bad = |why: String| {
            self.complain(lease.origin(), lease.key(), &why);
            Refusal { answer: answer::BAD_ANSWER, why: format!("origin: {why}") }
        };
        let description = match (answered.is_success(), answered.text()) {
            // SRS refuses in JSON, with a code, and by 200.
            (true, Some(text)) if !is_refusal(endpoint.form, text) => {
                Description::read(endpoint.form, text).map_err(|error| error.why)
            }
            (true, None) => Err("a description that is no text".to_owned()),
            _ => {
                let status = answered.head.status;
                draft.refuse(End::OriginRefused, &format!("the origin: {status}"));
                return Ok((answered, false));
            }
        };
        let description = match description {
            Ok(description) => description,
            Err(why) => {
                draft.refuse(End::BadAnswer, &why);
                return Err(bad(why));
            }
        };
        let accepted = draft.accept(description.sdp()).map_err(|error| bad(error.to_string()))?;
        let (sdp, name) = accepted;
        let body = description.with_sdp(&sdp);
        answered.set_body(body);
        self.lead_back(&mut answered, lease, name);
        Ok((answered, true))
    }

    /// Makes the URL of a session one that leads to its origin, whoever is asked.
    fn lead_back(&self, answered: &mut Answered, lease: &Lease, name: String) {
        let headers = &mut answered.head.headers;
        let Some(target) = headers.text("Location").map(str::to_owned) else { return };
        let server = lease.origin().server().as_str().to_owned();
        let claim = SessionClaim { key: lease.key().clone(), server, name };
        let value = self.tokens.issue_session(&claim, &target);
        let addition = Addition { name: Tokens::PARAMETER, value: &value, host: "" };
        headers.set("Location", &*addition.add_to(&target));
    }

    /// Asks about a session where it is, and nobody else.
    async fn ask_session(
        &self,
        claim: &SessionClaim,
        request: &Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let SessionClaim { key, server, name } = claim;
        session.note(|progress| progress.stream = Some(key.clone()));
        let origin =
            self.cluster.balancer().server(server, Listener::Api, Instant::now().into_std());
        let Some(origin) = origin else {
            // Nobody is left who could be asked to end it.
            if request.head.method == "DELETE" {
                self.webrtc.delete(name);
            }
            return Err(refusal(answer::GONE, &"it is not registered"));
        };
        let (socket, address) = self.dial_server(&origin, session).await?;
        session.note(|progress| progress.origin = Some((origin.name().clone(), address)));
        let fragment = with_candidates(&request.body, |text| self.webrtc.fragment(name, text));
        let body = fragment.as_ref().map_or(&*request.body, |fragment| fragment.as_bytes());
        let mut answered = self.put(request, body, (socket, &origin), key, session).await?;
        let is_success = answered.is_success();
        let restarted = match request.head.method.as_str() {
            "DELETE" if is_success || is_over(&answered) => {
                self.webrtc.delete(name);
                None
            }
            // RFC 9725 4.3.3
            "PATCH" if is_success => {
                self.restarted(claim, (&origin, address.ip()), request, &answered, session).await?
            }
            _ => None,
        };
        match restarted {
            Some(answer) => answered.set_body(answer),
            None => without_candidates(&mut answered),
        }
        Ok(answered)
    }

    /// The answer for the client if ICE has begun anew; none if it has not.
    async fn restarted(
        &self,
        claim: &SessionClaim,
        (origin, ip): (&Origin, IpAddr),
        request: &Request,
        answered: &Answered,
        session: &Session,
    ) -> Result<Option<String>, Refusal> {
        let SessionClaim { key, name, .. } = claim;
        let Some(both) = str::from_utf8(&request.body).ok().zip(answered.text()) else {
            return Ok(None);
        };
        if let Some(answer) = self.webrtc.restart(name, both.0, both.1) {
            return Ok(Some(answer));
        }
        let media = origin.targets(Listener::Rtc).next();
        let elsewhere = Elsewhere {
            stream: key,
            name,
            server: origin.server(),
            media: media.map(|(_, port)| SocketAddr::new(ip, port)),
            reached: session.destination.ip(),
        };
        let restarted = self.webrtc.restart_elsewhere(elsewhere, both).await;
        // The client may begin anew once more.
        restarted.map_err(|error| refusal(answer::NOT_SHARED, &error))
    }

    /// Asks the stream's origin about a session that the proxy does not know.
    async fn ask_stream(&self, request: &Request, session: &Session) -> Result<Answered, Refusal> {
        let stream = self.stream_of(request, None)?;
        session.note(|progress| progress.stream = Some(stream.clone()));
        let Reached { socket, lease, .. } = self.reach_api(&stream, session).await?;
        let asked = (socket, &**lease.origin());
        let fragment = with_candidates(&request.body, none_of);
        let body = fragment.as_ref().map_or(&*request.body, |fragment| fragment.as_bytes());
        let answered = self.put(request, body, asked, &stream, session).await;
        // Whether there is a session says nothing of whether there is a stream.
        drop(lease);
        let mut answered = answered?;
        without_candidates(&mut answered);
        Ok(answered)
    }

    /// The stream that a request for a session names.
    fn stream_of(&self, request: &Request, url: Option<&str>) -> Result<StreamKey, Refusal> {
        let (host, target) = (request.head.headers.text("Host"), &request.head.target);
        let asked = match url {
            Some(url) => Ask::WebRtc { url },
            None => Ask::Rtc { host, target },
        };
        let stream = StreamKey::new(&asked, &self.vhosts);
        stream.map_err(|error| refusal(answer::BAD_STREAM, &error))
    }

    async fn reach_api(&self, stream: &StreamKey, session: &Session) -> Result<Reached, Refusal> {
        let wanted = Wanted { stream, server: None, listener: Listener::Api };
        let deadline = Instant::now() + self.settings.setup_timeout;
        let reached = self.reach(wanted, session, false, deadline).await?;
        let name = reached.lease.origin().name().clone();
        session.note(|progress| progress.origin = Some((name, reached.address)));
        Ok(reached)
    }

    async fn dial_server(
        &self,
        origin: &Origin,
        session: &Session,
    ) -> Result<(TcpStream, SocketAddr), Refusal> {
        let dialled = self.dialer.dial(origin, Listener::Api, &session.ends()).await;
        dialled.map_err(Refusal::from)
    }

    /// Sends a request with this body to an origin that was reached, and waits for the answer. Its
    /// `Location` is a path of the proxy.
    async fn put(
        &self,
        request: &Request,
        body: &[u8],
        (socket, origin): (TcpStream, &Origin),
        stream: &StreamKey,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let address = socket.peer_addr().map_err(|error| refusal(answer::UNREACHABLE, &error))?;
        let about = self.about(&request.head, session);
        let bytes = request.to_origin(Kind::Signalling, body, about, &self.settings.hop, address);
        let bounds = Bounds {
            most: MAX_ANSWER,
            deadline: Instant::now() + self.settings.origin_timeout,
            room: self.held.clone(),
        };
        let asked = whole::ask(socket, &bytes, &request.head.method, &bounds, &session.meter);
        let mut answered = asked.await.map_err(|error| {
            if !matches!(error, NoAnswer::NoRoom) {
                self.complain(origin, stream, &error.to_string());
            }
            Refusal::from(error)
        })?;
        lead_here(&mut answered.head.headers, &request.head.origin_form());
        Ok(answered)
    }
}

/// Makes the `Location` of an answer to a request for this target a path of the proxy, which is all
/// that the client can reach; if it cannot be one it is dropped.
fn lead_here(headers: &mut Headers, target: &str) {
    let path = headers.text("Location").and_then(|it| location::path_of(it, target));
    headers.remove("Location");
    if let Some(path) = path {
        let (_, path) = take_parameter(&path, Tokens::PARAMETER);
        headers.push("Location", &*path);
    }
}

/// Whether an origin does not have the session any more that it was asked about.
fn is_over(answered: &Answered) -> bool {
    matches!(answered.head.status, 404 | 410)
}

/// A body with other candidates; none if it has no candidate.
fn with_candidates(body: &[u8], change: impl FnOnce(&str) -> String) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    text.contains("a=candidate:").then(|| change(&text))
}

/// The same without a candidate.
fn none_of(text: &str) -> String {
    sdp::with_candidates(text, &[])
}

/// An origin's own candidates are of no use to a client, and not for it to know.
fn without_candidates(answered: &mut Answered) {
    if let Some(body) = with_candidates(&answered.body, none_of) {
        answered.set_body(body);
    }
}

/// A description, and what it is written in.
enum Description<'a> {
    Plain(&'a str),
    InJson(Message<'a>, String),
}

impl<'a> Description<'a> {
    fn read(form: Form, text: &'a str) -> Result<Self, Refusal> {
        if form == Form::Sdp {
            return Ok(Self::Plain(text));
        }
        let mut message =
            Message::parse(text).map_err(|error| refusal(answer::NOT_AN_OFFER, &error))?;
        let sdp = message.sdp.take();
        let sdp = sdp.ok_or_else(|| refusal(answer::NOT_AN_OFFER, &"no member sdp"))?;
        Ok(Self::InJson(message, sdp))
    }

    fn sdp(&self) -> &str {
        match self {
            Self::Plain(sdp) => sdp,
            Self::InJson(_, sdp) => sdp,
        }
    }

    /// The `streamurl` that stands beside it.
    fn stream_url(&self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::InJson(message, _) => message.stream_url.as_deref().filter(|url| !url.is_empty()),
        }
    }

    fn with_sdp(&self, sdp: &str) -> String {
        match self {
            Self::Plain(_) => sdp.to_owned(),
            Self::InJson(message, _) => message.with_sdp(sdp),
        }
    }
}

/// Whether an answer says in JSON that there is no session.
fn is_refusal(form: Form, text: &str) -> bool {
    let message = Message::parse(text).ok().filter(|_| form == Form::Json);
    message.and_then(|message| message.code).is_some_and(|code| code != 0)
}

fn refusal(answer: Answer, why: &dyn Display) -> Refusal {
    Refusal { answer, why: why.to_string() }
}

/// Why a session has not begun.
fn end_of(refusal: &Refusal) -> End {
    match refusal.answer {
        answer::TOO_LATE | answer::UNREACHABLE => End::OriginUnreachable,
        answer::BAD_ANSWER => End::BadAnswer,
        answer::NO_SESSION | answer::NO_ROOM_FOR_BODY => End::OutOfResources,
        answer::NO_ROOM => End::TooManyStreams,
        answer::NO_ORIGIN | answer::NO_API => End::NoOrigin,
        _ => End::BadRequest,
    }
}

fn bad_offer(error: &BadDescription) -> Refusal {
    let answer = match error {
        BadDescription::Sdp(_) => answer::NO_ICE,
        BadDescription::NoCandidate | BadDescription::Circle => answer::BAD_ANSWER,
        BadDescription::Socket(_) => answer::NO_SESSION,
    };
    refusal(answer, error)
}
