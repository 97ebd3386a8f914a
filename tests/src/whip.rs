//! WHIP and WHEP as SRS speaks them: the client's side of a session, and an origin's endpoint.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::raw::{self, Exchange, Request, Response};

/// What a client does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends, by WHIP.
    Publish,
    /// It receives, by WHEP.
    Play,
}

impl Role {
    /// Where offers for the stream `live/<stream>` go.
    pub fn target(self, stream: &str) -> String {
        format!("/rtc/v1/{}/?app=live&stream={stream}", self.endpoint())
    }

    fn endpoint(self) -> &'static str {
        match self {
            Self::Publish => "whip",
            Self::Play => "whep",
        }
    }
}

/// A session that a server has accepted. It is not deleted when dropped: clients vanish.
#[derive(Clone, Debug)]
pub struct Session {
    /// The SDP answer.
    pub answer: String,
    /// Where its requests go.
    pub server: SocketAddr,
    /// What they ask for there.
    pub target: String,
}

impl Session {
    /// Sends an offer; any answer but 201 is an error.
    pub fn open(server: SocketAddr, role: Role, stream: &str, offer: &str) -> Result<Self> {
        let target = role.target(stream);
        let response = ask(server, "POST", &target, "Content-Type: application/sdp\r\n", offer)?;
        ensure!(response.status() == 201, "{}: {}", response.head.line, response.text());
        let location = response.head.field("location").context("no Location")?;
        let (server, target) = match location.strip_prefix("http://") {
            None => (server, location.to_owned()),
            Some(rest) => {
                let (host, target) = rest.split_once('/').context("a Location without a path")?;
                (host.parse()?, format!("/{target}"))
            }
        };
        Ok(Self { answer: response.text(), server, target })
    }

    /// The same as another server is asked about it.
    #[must_use]
    pub fn at(&self, server: SocketAddr) -> Self {
        Self { server, ..self.clone() }
    }

    /// As in the USERNAME of the client's checks, until ICE restarts.
    pub fn name(&self) -> Result<String> {
        let (_, name) = self.target.split_once("session=").context("no session in the URL")?;
        Ok(name.split('&').next().unwrap_or_default().replace("%3A", ":"))
    }

    /// Where its media goes.
    pub fn media(&self) -> Result<SocketAddr> {
        let candidate = attribute(&self.answer, "candidate")?;
        let mut words = candidate.split(' ').skip(4);
        let (ip, port) = words.next().zip(words.next()).context("a candidate cut short")?;
        Ok(SocketAddr::new(ip.parse()?, port.parse()?))
    }

    /// Asks for its end.
    pub fn delete(&self) -> Result<Response> {
        ask(self.server, "DELETE", &self.target, "", "")
    }

    /// Sends a fragment of an SDP (RFC 8840).
    pub fn patch(&self, fragment: &str) -> Result<Response> {
        let lines = "Content-Type: application/trickle-ice-sdpfrag\r\n";
        ask(self.server, "PATCH", &self.target, lines, fragment)
    }
}

/// One request on a connection of its own. `lines` are further fields, each ended by CR LF.
pub fn ask(
    server: SocketAddr,
    method: &str,
    target: &str,
    lines: &str,
    body: &str,
) -> Result<Response> {
    let mut client = raw::Client::connect(server)?;
    let lines = format!("{lines}Content-Length: {}\r\nConnection: close\r\n", body.len());
    client.ask(method, target, &lines)?;
    client.send(body)?;
    client.answer(method).with_context(|| format!("{method} {target}"))
}

/// What an origin does with the sessions that its endpoint is asked for.
pub trait Media: Send + Sync + 'static {
    /// Answers an offer.
    fn open(&self, role: Role, stream: &str, offer: &str) -> Result<String>;
    /// Applies a fragment of an SDP; a fragment in return if there is something to say.
    fn patch(&self, session: &str, fragment: &str) -> Result<Option<String>>;
    /// Ends a session; whether there was one.
    fn end(&self, session: &str) -> Result<bool>;
}

/// How an endpoint receives its clients.
#[derive(Clone, Debug, Default)]
pub enum Manner {
    /// As SRS does.
    #[default]
    Srs,
    /// The same, for who has this token.
    Bearer(&'static str),
    /// The same, and the Location is a whole URL of the origin's.
    AbsoluteLocation,
    /// With this status, these further lines and this body.
    Refuse(&'static str, &'static str, &'static str),
}

/// The HTTP server of a WebRTC origin. Closed when dropped.
pub struct Endpoint {
    http: raw::Origin,
    manner: Arc<Mutex<Manner>>,
}

impl Endpoint {
    /// Listens on a free port of loopback.
    pub fn start(media: impl Media) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), media)
    }

    /// Listens on a free port of this host.
    pub fn start_at(host: IpAddr, media: impl Media) -> Result<Self> {
        let manner = Arc::<Mutex<Manner>>::default();
        let inside = Arc::clone(&manner);
        let http = raw::Origin::start_at(host, move |request, exchange| {
            let manner = inside.lock().unwrap_or_else(PoisonError::into_inner).clone();
            serve(&media, &manner, request, exchange)
        })?;
        Ok(Self { http, manner })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// Receives clients like this from now on.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Every request so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.http.requests()
    }
}

fn serve(
    media: &impl Media,
    manner: &Manner,
    request: &Request,
    exchange: &mut Exchange<'_>,
) -> Result<()> {
    const CORS: &str = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: *\r\n\
        Access-Control-Allow-Headers: *\r\nAccess-Control-Expose-Headers: *\r\n";
    // SRS closes behind every answer.
    exchange.close();
    let role = match request.path() {
        "/rtc/v1/whip/" => Role::Publish,
        "/rtc/v1/whep/" => Role::Play,
        _ => return exchange.answer("404 Not Found", CORS, ""),
    };
    if request.method() == "OPTIONS" {
        return exchange.answer("200 OK", CORS, "");
    }
    let mut prefix = String::new();
    match manner {
        Manner::Srs => {}
        Manner::AbsoluteLocation => {
            let host = request.head.field("host").context("no Host")?;
            prefix = format!("http://{host}");
        }
        Manner::Bearer(token) => {
            let said = request.head.field("authorization");
            if said != Some(format!("Bearer {token}").as_str()) {
                let lines = format!("{CORS}WWW-Authenticate: Bearer\r\n");
                return exchange.answer("401 Unauthorized", &lines, "who are you?");
            }
        }
        Manner::Refuse(status, lines, body) => {
            return exchange.answer(status, &format!("{CORS}{lines}"), body);
        }
    }
    let body = String::from_utf8_lossy(&request.body);
    let session = parameter(request, "session");
    match request.method() {
        "POST" => {
            let stream = parameter(request, "stream");
            let answer = match media.open(role, stream, &body) {
                Ok(answer) => answer,
                Err(error) => {
                    return exchange.answer("400 Bad Request", CORS, format!("{error:#}"));
                }
            };
            let name = format!("{}:{}", ufrag(&answer)?, ufrag(&body)?);
            let app = parameter(request, "app");
            let endpoint = role.endpoint();
            let lines = format!(
                "{CORS}Content-Type: application/sdp\r\nETag: \"{name}\"\r\n\
                 Link: <stun:stun.invalid>; rel=\"ice-server\"\r\n\
                 Location: {prefix}/rtc/v1/{endpoint}/?action=delete&token=1a2b3c&app={app}\
                 &stream={stream}&session={name}\r\n"
            );
            exchange.answer("201 Created", &lines, answer)
        }
        "PATCH" => match media.patch(session, &body) {
            Ok(None) => exchange.send(format!("HTTP/1.1 204 No Content\r\n{CORS}\r\n")),
            Ok(Some(fragment)) => {
                let lines = format!("{CORS}Content-Type: application/trickle-ice-sdpfrag\r\n");
                exchange.answer("200 OK", &lines, fragment)
            }
            Err(error) => exchange.answer("404 Not Found", CORS, format!("{error:#}")),
        },
        // SRS says the same of a session that it does not know.
        "DELETE" => media.end(session).and_then(|_| exchange.answer("200 OK", CORS, "")),
        _ => exchange.answer("405 Method Not Allowed", CORS, ""),
    }
}

/// A parameter of the query; empty if it is not there.
fn parameter<'a>(request: &'a Request, name: &str) -> &'a str {
    let (_, query) = request.target().split_once('?').unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value).unwrap_or_default()
}

/// The first ICE user name fragment of an SDP.
pub fn ufrag(sdp: &str) -> Result<&str> {
    attribute(sdp, "ice-ufrag")
}

/// The first value of this attribute of an SDP.
pub fn attribute<'a>(sdp: &'a str, name: &str) -> Result<&'a str> {
    let mut values = sdp
        .lines()
        .filter_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
    values.next().with_context(|| format!("no a={name}"))
}
