//! The HTTP API of the origins behind one address: each request goes to the origin that it is
//! about, and lists come from all of them.

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::answer;
use super::client::Connection;
use super::origin::Refusal;
use super::room::Share;
use super::survey::{Heard, Question};
use super::whole::{Answered, Bounds, NoAnswer, Request};
use super::{Http, Next, path_of};
use crate::origin::{Listener, Origin};
use crate::proto::addition::take_parameter;
use crate::proto::http::RequestHead;
use crate::session::Session;
use crate::stream::{Ask, Kind, StreamKey, is_plain_path};

/// For an answer of which origins do not know that they are waited for together.
const SURVEY: Duration = Duration::from_secs(5);

/// Bytes of one origin's answer.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// Bytes of a list that is joined.
const MAX_LIST: usize = 16 * 1024 * 1024;

/// Lists of which each origin has its part; what is in them has names of its own.
const LISTS: [&str; 3] = ["streams", "clients", "vhosts"];

/// Whether a request is for an origin's API. Its version is the proxy's own to tell, unless a server
/// is named.
pub(super) fn is_asked(head: &RequestHead) -> bool {
    let target = head.origin_form();
    let (path, _) = at_query(&target);
    path.starts_with("/api/v1/")
        && (path != "/api/v1/versions" || take_parameter(&target, "server").0.is_some())
}

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
enum About {
    /// The server that is named.
    Server(String),
    /// The origin of the stream.
    Stream,
    /// The origin that has the stream, client or vhost of this path.
    Thing(String),
    /// All origins: the member of their answers that is a list.
    List(&'static str),
    /// An origin, whichever.
    Unsaid,
}

impl About {
    /// And what the origin is asked for.
    fn of(method: &str, target: &str) -> (Self, String) {
        let (server, rest) = take_parameter(target, "server");
        if let Some(server) = server.filter(|server| !server.is_empty()) {
            let server = percent_decode_str(server).decode_utf8_lossy().into_owned();
            return (Self::Server(server), rest.into_owned());
        }
        let (path, query) = at_query(target);
        let says = |name: &str| {
            let mut names = query.split('&').filter_map(|pair| pair.split_once('='));
            names.any(|(own, value)| own == name && !value.is_empty())
        };
        let mut parts = path.trim_start_matches("/api/v1/").splitn(2, '/');
        let (name, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let list = LISTS.into_iter().find(|list| *list == name);
        let about = match list {
            _ if says("app") && says("stream") => Self::Stream,
            Some(_) if !id.is_empty() => Self::Thing(path.to_owned()),
            Some(list) if matches!(method, "GET" | "HEAD") => Self::List(list),
            _ => Self::Unsaid,
        };
        (about, target.to_owned())
    }
}

impl Http {
    /// Answers a request for the API of an origin.
    pub(super) async fn origin_api(
        &self,
        client: Connection,
        head: RequestHead,
        session: &Session,
    ) -> Next {
        const KIND: Kind = Kind::Api;
        session.note(|progress| progress.kind = Some(KIND));
        if !is_plain_path(path_of(&head.origin_form())) {
            return self.refuse(client, answer::BAD_PATH, &head, KIND, session).await;
        }
        if !matches!(head.method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "DELETE") {
            return self.refuse(client, answer::BAD_API_METHOD, &head, KIND, session).await;
        }
        if self.is_in_circles(&head) {
            return self.refuse(client, answer::IN_CIRCLES, &head, KIND, session).await;
        }
        let (client, mut request) = match self.whole(client, head, KIND, session).await {
            Ok(whole) => whole,
            Err(next) => return next,
        };
        let asked = request.head.clone();
        let (about, target) = About::of(&asked.method, &asked.origin_form());
        request.head.target = target;
        // Answers are read, and a HEAD has nothing in it.
        if asked.method == "HEAD" {
            "GET".clone_into(&mut request.head.method);
        }
        match self.find(about, request, session).await {
            Ok(answered) => self.tell(client, &asked, KIND, answered, session).await,
            Err(Refusal { answer, why }) => {
                session.note(|progress| progress.why = Some(why));
                self.refuse(client, answer, &asked, KIND, session).await
            }
        }
    }

    async fn find(
        &self,
        about: About,
        request: Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let now = Clock::now();
        let origins = self.cluster.balancer().servers(Listener::Api, now);
        match about {
            About::Server(server) => {
                match self.cluster.balancer().server(&server, Listener::Api, now) {
                    Some(origin) => self.ask_one(&origin, request, session).await,
                    None => Ok(unclear(StatusCode::NOT_FOUND, "no such server", &origins)),
                }
            }
            About::Stream => {
                let (host, target) = (request.head.headers.text("Host"), &*request.head.target);
                let key = StreamKey::new(&Ask::Rtc { host, target }, &self.vhosts);
                let key = key.map_err(|error| Refusal {
                    answer: answer::BAD_STREAM,
                    why: error.to_string(),
                })?;
                let lease = self.cluster.pick(&key, Listener::Api, &[]).await;
                let lease = lease
                    .map_err(|error| Refusal { answer: answer::NO_API, why: error.to_string() })?;
                let answered = self.ask_one(lease.origin(), request, session).await;
                // Who asks about a stream does not place it.
                drop(lease);
                answered
            }
            About::Thing(path) => self.ask_owner(&path, origins, request, session).await,
            About::List(list) => self.join(list, origins, request, session).await,
            About::Unsaid => match &origins[..] {
                [origin] => self.ask_one(origin, request, session).await,
                [] => Err(Refusal { answer: answer::NO_API, why: "no origin has an API".into() }),
                _ => {
                    let why = "of which server? Say it by ?server=";
                    Ok(unclear(StatusCode::BAD_REQUEST, why, &origins))
                }
            },
        }
    }

    fn question(&self, request: Request, time: Duration, session: &Session) -> Question {
        Question {
            dialer: Arc::clone(&self.dialer),
            client: self.about(&request.head, session),
            request,
            ends: session.ends(),
            hop: self.settings.hop.clone(),
            bounds: Bounds {
                most: MAX_ANSWER,
                deadline: Instant::now() + time,
                room: self.held.clone(),
            },
        }
    }

    async fn ask_one(
        &self,
        origin: &Origin,
        request: Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        self.question(request, self.settings.origin_timeout, session).ask(origin).await
    }

    /// Leave to ask all origins.
    fn survey(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        let leave = self.surveys.try_acquire();
        let answer = answer::TOO_MANY_SURVEYS;
        leave.map_err(|_| Refusal { answer, why: "too many surveys at once".into() })
    }

    /// Asks the origin that has what is at this path: the one that had it a moment ago, or whoever
    /// says so now.
    async fn ask_owner(
        &self,
        path: &str,
        origins: Vec<Arc<Origin>>,
        request: Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let known = self.known.get(path, Clock::now());
        let known = origins.iter().find(|it| Some(it.server().as_str()) == known.as_deref());
        let (known, method) = (known.cloned(), request.head.method.clone());
        let mut question = self.question(request, SURVEY, session);
        if let Some(origin) = known
            && let Ok(answered) = question.ask(&origin).await
            && is_ok(&answered)
        {
            return Ok(answered);
        }
        let leave = self.survey()?;
        // Nothing must happen at an origin that is only asked whether it is the one.
        let body = std::mem::take(&mut question.request.body);
        "GET".clone_into(&mut question.request.head.method);
        let (mut found, mut refused) = (None, None);
        let question = question.ask_all(origins, |origin, answer| match answer {
            Ok(answered) if is_ok(&answered) => {
                found = Some((Arc::clone(origin), answered));
                Heard::Enough
            }
            answer => {
                refused = refused.take().or(answer.ok().filter(wants_a_password));
                Heard::NotYet
            }
        });
        let question = question.await;
        drop(leave);
        let Some((origin, answered)) = found else {
            if let Some(refused) = refused {
                return Ok(refused);
            }
            // As SRS numbers it, with the status that SRS does not give.
            let code = if path.starts_with("/api/v1/clients/") { 2049 } else { 2048 };
            let body = json!({ "code": code }).to_string();
            return Ok(Answered::json(StatusCode::NOT_FOUND, body));
        };
        self.known.put(path, origin.server().as_str(), Clock::now());
        if method == "GET" {
            return Ok(answered);
        }
        let head = RequestHead { method, ..question.request.head.clone() };
        let request = question.request.with(head, body);
        self.ask_one(&origin, request, session).await
    }

    /// The lists of all origins as one. Who has not answered stands beside it.
    async fn join(
        &self,
        list: &'static str,
        origins: Vec<Arc<Origin>>,
        request: Request,
        session: &Session,
    ) -> Result<Answered, Refusal> {
        let leave = self.survey()?;
        let (mut joined, mut missing, mut refused) = (Vec::new(), Vec::new(), None);
        let mut left = MAX_LIST;
        let question = self.question(request, SURVEY, session);
        let asked = question.ask_all(origins, |origin, answer| {
            let server = origin.server().as_str().to_owned();
            let answered = answer.ok().filter(|answered| answered.body.len() <= left);
            let part = answered.as_ref().and_then(|answered| listed(answered, list));
            match (part.map(str::to_owned), answered) {
                (Some(part), Some(mut answered)) => {
                    left -= answered.body.len();
                    answered.set_body(part);
                    joined.push((server, answered));
                }
                (_, answered) => {
                    missing.push(server);
                    refused = refused.take().or(answered.filter(wants_a_password));
                }
            }
            Heard::NotYet
        });
        asked.await;
        drop(leave);
        if let Some(refused) = refused.filter(|_| joined.is_empty()) {
            return Ok(refused);
        }
        // The same order each time, whoever was the first to answer.
        joined.sort_by(|(one, _), (other, _)| one.cmp(other));
        missing.sort();
        joined_list(list, joined, &missing, self.held.share())
            .ok_or_else(|| NoAnswer::NoRoom.into())
    }
}

/// The lists of servers, of which nothing but the elements is left, as the proxy's own answer. The
/// share is for this one; none if there is no room for it.
fn joined_list(
    list: &str,
    parts: Vec<(String, Answered)>,
    missing: &[String],
    mut share: Share,
) -> Option<Answered> {
    let pid = std::process::id();
    let missing = json!(missing);
    let mut body = format!(
        "{{\"code\":0,\"server\":\"srs-proxy\",\"service\":\"srs-proxy\",\"pid\":\"{pid}\",\
         \"missing\":{missing},\"{list}\":["
    );
    let end = "]}";
    let elements: usize = parts.iter().map(|(_, part)| part.body.len() + 1).sum();
    let all = elements + end.len();
    if !share.resize(body.len() + all) {
        return None;
    }
    body.reserve_exact(all);
    let mut is_first = true;
    for (_, part) in parts {
        let Some(elements) = part.text().filter(|elements| !elements.is_empty()) else { continue };
        if !is_first {
            body.push(',');
        }
        body.push_str(elements);
        is_first = false;
    }
    body.push_str(end);
    Some(Answered::json(StatusCode::OK, body).held_by(share))
}

/// Whether an origin has what it was asked for: SRS says by a code that it does not, and by 200.
fn is_ok(answered: &Answered) -> bool {
    #[derive(Deserialize)]
    struct Code {
        code: i64,
    }
    let code = answered.text().and_then(|text| serde_json::from_str::<Code>(text).ok());
    answered.is_success() && code.is_none_or(|it| it.code == 0)
}

/// Whether an origin answers nobody that it does not know: the client may ask again with a password.
fn wants_a_password(answered: &Answered) -> bool {
    matches!(answered.head.status, 401 | 403)
}

/// The elements of a list in an answer, as they stand, with the commas between them.
fn listed<'a>(answered: &'a Answered, list: &str) -> Option<&'a str> {
    #[derive(Deserialize)]
    struct Lists<'a> {
        code: i64,
        #[serde(borrow)]
        streams: Option<&'a RawValue>,
        #[serde(borrow)]
        clients: Option<&'a RawValue>,
        #[serde(borrow)]
        vhosts: Option<&'a RawValue>,
    }
    let text = answered.text().filter(|_| answered.is_success())?;
    let Lists { code, streams, clients, vhosts } = serde_json::from_str(text).ok()?;
    let [first, second, third] = LISTS;
    let named = [(first, streams), (second, clients), (third, vhosts)];
    let found = named.into_iter().find(|(name, _)| *name == list).and_then(|(_, found)| found)?;
    let elements = found.get().strip_prefix('[')?.strip_suffix(']')?;
    (code == 0).then(|| elements.trim_ascii())
}

/// A question that one of these servers could answer.
fn unclear(status: StatusCode, why: &str, origins: &[Arc<Origin>]) -> Answered {
    let servers: Vec<_> = origins.iter().map(|origin| origin.server().as_str()).collect();
    let body = json!({ "code": status.as_u16(), "error": why, "servers": servers });
    Answered::json(status, body.to_string())
}

fn at_query(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

#[cfg(test)]
mod tests {
    use super::super::room::Room;
    use super::*;

    fn about(method: &str, target: &str) -> About {
        About::of(method, target).0
    }

    #[test]
    fn a_request_is_about_what_it_names() {
        let thing = |path: &str| About::Thing(path.to_owned());
        for (target, expected) in [
            ("/api/v1/streams", About::List("streams")),
            ("/api/v1/streams/?start=0&count=10", About::List("streams")),
            ("/api/v1/clients", About::List("clients")),
            ("/api/v1/vhosts/", About::List("vhosts")),
            ("/api/v1/streams/vid-1", thing("/api/v1/streams/vid-1")),
            ("/api/v1/clients/7u15?x=1", thing("/api/v1/clients/7u15")),
            ("/api/v1/clients/7u15?server=a", About::Server("a".into())),
            ("/api/v1/streams?app=live&stream=s", About::Stream),
            ("/api/v1/streams?app=live&stream=", About::List("streams")),
            ("/api/v1/summaries", About::Unsaid),
            ("/api/v1/summaries?server=vid%2D1", About::Server("vid-1".into())),
            ("/api/v1/summaries?server=", About::Unsaid),
            ("/api/v1/raw?rpc=reload", About::Unsaid),
        ] {
            assert_eq!(about("GET", target), expected, "{target}");
        }
        assert_eq!(about("DELETE", "/api/v1/clients"), About::Unsaid);
        assert_eq!(about("DELETE", "/api/v1/clients/1"), thing("/api/v1/clients/1"));
        let (_, target) = About::of("GET", "/api/v1/raw?rpc=a&server=b&c=d");
        assert_eq!(target, "/api/v1/raw?rpc=a&c=d");
    }

    fn answered(body: &str) -> Answered {
        Answered::json(StatusCode::OK, body.to_owned())
    }

    #[test]
    fn recorded_lists_of_srs_are_read_as_they_stand() {
        for (text, list) in [
            (include_str!("../../../testdata/srs-api/api-streams.json"), "streams"),
            (include_str!("../../../testdata/srs-api/api-clients.json"), "clients"),
            (include_str!("../../../testdata/srs-api/api-vhosts.json"), "vhosts"),
        ] {
            let answered = answered(text);
            let elements = listed(&answered, list).unwrap();
            assert!(elements.starts_with('{') && elements.ends_with('}'), "{elements}");
            assert!(text.contains(elements), "{elements}");
        }
        let empty = answered("{\"code\":0,\"streams\": [ ]}");
        assert_eq!(listed(&empty, "streams"), Some(""));
        for bad in [
            "",
            "[]",
            "{\"code\":1,\"streams\":[]}",
            "{\"code\":0,\"clients\":[]}",
            "{\"code\":0,\"streams\":{}}",
            "{\"code\":0,\"streams\":[,]}",
        ] {
            assert!(listed(&answered(bad), "streams").is_none(), "{bad}");
        }
    }

    #[test]
    fn a_joined_list_takes_room_as_long_as_it_is_there_and_is_none_without() {
        let parts = || ["", "1, 2", "", "[3]"].map(|part| (String::new(), answered(part))).into();
        let room = Room::new(256);
        let joined = joined_list("streams", parts(), &["b".into()], room.share()).unwrap();
        let text = joined.text().unwrap();
        assert!(text.ends_with("\"missing\":[\"b\"],\"streams\":[1, 2,[3]]}"), "{text}");
        let length = text.len();
        assert!(!room.share().resize(256 - length + 1), "it is not counted");
        drop(joined);
        assert!(room.share().resize(256));
        let small = Room::new(length - 1);
        assert!(joined_list("streams", parts(), &["b".into()], small.share()).is_none());
    }

    #[test]
    fn an_origin_that_does_not_know_says_so_by_its_code() {
        assert!(is_ok(&answered("{\"code\":0,\"stream\":{}}")));
        assert!(!is_ok(&answered("{\"code\":2048}")));
        assert!(!is_ok(&Answered::json(StatusCode::NOT_FOUND, "{\"code\":0}".into())));
    }
}
