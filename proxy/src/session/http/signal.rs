//! A request about a session of WebRTC, as far as its head tells.

use super::path_of;
use crate::proto::http::RequestHead;
use crate::session::Role;
use crate::stream::{SessionClaim, is_plain_path};

/// A request about a session.
#[derive(Debug)]
pub(super) struct Signal {
    /// Without the parameter that the proxy had added to the target.
    pub(super) head: RequestHead,
    pub(super) about: About,
}

/// What it is about.
#[derive(Debug)]
pub(super) enum About {
    /// The session whose URL was asked: the proxy has given it out.
    Session(SessionClaim),
    /// One that is to be, or one whose URL the proxy does not know.
    Stream(Endpoint),
}

/// Where sessions are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) form: Form,
    pub(super) role: Role,
}

/// How a description is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is: WHIP (RFC 9725) and WHEP.
    Sdp,
    /// In the JSON of SRS.
    Json,
}

impl Signal {
    /// A request with its session, if its token tells of one; given back if it is about none.
    pub(super) fn of(
        head: RequestHead,
        session: Option<SessionClaim>,
    ) -> Result<Self, RequestHead> {
        match (session, Endpoint::of(&head)) {
            (Some(session), _) => Ok(Self { head, about: About::Session(session) }),
            (None, Some(endpoint)) => Ok(Self { head, about: About::Stream(endpoint) }),
            (None, None) => Err(head),
        }
    }

    /// Whether an origin reads the path as the proxy does. A session's own is the origin's.
    pub(super) fn is_plain(&self) -> bool {
        let is_known = matches!(self.about, About::Session(_));
        is_known || is_plain_path(path_of(&self.head.origin_form()))
    }

    /// Whether the method has a meaning here.
    pub(super) fn is_served(&self) -> bool {
        let method = self.head.method.as_str();
        match &self.about {
            About::Session(_) => {
                matches!(method, "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE")
            }
            About::Stream(Endpoint { form: Form::Sdp, .. }) => {
                matches!(method, "POST" | "PATCH" | "DELETE")
            }
            About::Stream(Endpoint { form: Form::Json, .. }) => method == "POST",
        }
    }
}

impl Endpoint {
    /// None if the target is no endpoint.
    pub(super) fn of(head: &RequestHead) -> Option<Self> {
        let target = head.origin_form();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let name = path.strip_prefix("/rtc/v1/")?.split('/').next()?;
        // SRS: the action counts, whatever the endpoint of WHIP is called.
        let plays = query.split('&').any(|pair| pair == "action=play");
        let (form, role) = match name {
            "whip" if plays => (Form::Sdp, Role::Play),
            "whip" => (Form::Sdp, Role::Publish),
            "whep" | "whip-play" => (Form::Sdp, Role::Play),
            "publish" => (Form::Json, Role::Publish),
            "play" => (Form::Json, Role::Play),
            _ => return None,
        };
        Some(Self { form, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(target: &str) -> Option<(Form, Role)> {
        let asked = format!("POST {target} HTTP/1.1\r\nHost: proxy\r\n\r\n");
        let (head, _) = RequestHead::parse(asked.as_bytes()).unwrap().unwrap();
        Endpoint::of(&head).map(|Endpoint { form, role }| (form, role))
    }

    #[test]
    fn the_endpoint_tells_form_and_role() {
        let (publish, play) = (Some((Form::Sdp, Role::Publish)), Some((Form::Sdp, Role::Play)));
        for (target, expected) in [
            ("/rtc/v1/whip/?app=live&stream=s", publish),
            ("/rtc/v1/whip", publish),
            ("/rtc/v1/whip/live/s", publish),
            ("http://proxy/rtc/v1/whip/?action=delete", publish),
            ("/rtc/v1/whip/?app=live&action=play", play),
            ("/rtc/v1/whep/", play),
            ("/rtc/v1/whip-play/live/s", play),
            ("/rtc/v1/publish/", Some((Form::Json, Role::Publish))),
            ("/rtc/v1/play/?x", Some((Form::Json, Role::Play))),
            ("/rtc/v1/", None),
            ("/rtc/v1/whipped/", None),
            ("/rtc/v1/nack/", None),
            ("/x/rtc/v1/whip/", None),
            ("/players/whip.html", None),
        ] {
            assert_eq!(endpoint(target), expected, "{target}");
        }
    }
}
