//! What a client asks for, understood once.

use crate::origin::Balancer;
use crate::proto::addition::take_parameter;
use crate::proto::http::{BodyLength, RequestHead};
use crate::session::Role;
use crate::stream::{BadStream, Candidates, Claim, Kind, StreamKey, Tokens, Vhosts};

/// A request for a piece of a stream.
#[derive(Debug)]
pub(super) struct Request {
    /// Without the parameter that the proxy had added to the target.
    pub(super) head: RequestHead,
    pub(super) kind: Kind,
    pub(super) stream: StreamKey,
    /// The server that had listed this URI.
    pub(super) server: Option<String>,
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Asked {
    /// The stream's origin.
    Stream(Request),
    /// The proxy itself.
    Page(RequestHead),
    /// Nobody: a stream is meant, and none is named.
    Unclear(RequestHead, BadStream),
}

impl Request {
    /// Reads a request. A stream's token is believed; without one the path tells the stream, and of
    /// several that it may belong to, the one that has an origin.
    pub(super) fn understand(
        mut head: RequestHead,
        tokens: &Tokens,
        vhosts: &Vhosts,
        balancer: &Balancer,
    ) -> Asked {
        let (token, target) = take_parameter(&head.target, Tokens::PARAMETER);
        // A token that is not of this fleet, or none at all, is no fault: the path still tells.
        let claim = token.and_then(|token| tokens.read(token).ok());
        let target = target.into_owned();
        if let Some(Claim { key: stream, server }) = claim {
            let kind = Kind::of_piece(&target);
            head.target = target;
            return Asked::Stream(Self { head, kind, stream, server: Some(server) });
        }
        let candidates = Candidates::of(head.headers.text("Host"), &target, vhosts);
        head.target = target;
        match candidates {
            Err(error) => Asked::Unclear(head, error),
            Ok(None) => Asked::Page(head),
            Ok(Some(candidates)) => {
                let keys = candidates.keys();
                let routed = balancer.routed(&keys).or(keys.first());
                let Some(stream) = routed else { return Asked::Unclear(head, BadStream::NoName) };
                let (kind, stream) = (candidates.kind(stream), stream.clone());
                Asked::Stream(Self { head, kind, stream, server: None })
            }
        }
    }

    /// Whether asking twice is asking once (RFC 9110 9.2.2), and nothing but the head is asked.
    pub(super) fn can_be_repeated(&self) -> bool {
        matches!(self.head.method.as_str(), "GET" | "HEAD") && has_no_body(&self.head)
    }

    /// What the client does with a live stream; none if it only fetches a piece.
    pub(super) fn role(&self) -> Option<Role> {
        match (self.kind, self.head.method.as_str()) {
            (Kind::Live, "GET") => Some(Role::Play),
            (Kind::Live, "POST" | "PUT") => Some(Role::Publish),
            _ => None,
        }
    }
}

/// Whether nothing follows a request's head.
pub(super) fn has_no_body(head: &RequestHead) -> bool {
    head.body_length() == BodyLength::Known(0)
}
