//! Why a session ended.

use crate::listen::NoArrival;
use crate::plane::{Closed, Leg};

/// The one reason with which a session ends: metric label, log field and API value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The client closed its side in order.
    ClientClosed,
    /// The client's connection was reset or lost.
    ClientLost,
    /// The origin closed its side in order.
    OriginClosed,
    /// The origin's connection was reset or lost.
    OriginLost,
    /// No byte moved in either direction for the idle time.
    Idle,
    /// A peer took too few of the bytes that waited for it in the stall time.
    Stalled,
    /// The proxy is shutting down.
    Shutdown,
    /// The answer to the last request was given, and the connection closed as was said there.
    Answered,
    /// The handshake was not done in time.
    HandshakeTimeout,
    /// A request's head, or an offer, was not complete in time.
    HeadTimeout,
    /// Neither publish nor play was said in time.
    CommandTimeout,
    /// The first bytes are not the protocol of this port.
    NotTheProtocol,
    /// A trusted proxy's connection does not begin with a PROXY header.
    BadProxyHeader,
    /// A request is malformed.
    BadRequest,
    /// The origin's answer is malformed.
    BadAnswer,
    /// The chunk stream or a protocol control message is malformed.
    BadChunk,
    /// A command message is malformed or out of order.
    BadCommand,
    /// A message is larger than the limit.
    MessageTooLarge,
    /// More chunk streams are open than the limit.
    TooManyChunkStreams,
    /// Too many bytes came before publish or play.
    TooMuchBeforeStream,
    /// The application or stream name gives no stream key.
    BadStream,
    /// No origin is registered that could serve the stream.
    NoOrigin,
    /// The limit of streams is reached.
    TooManyStreams,
    /// Every origin that could serve the stream refused the connection or timed out.
    OriginUnreachable,
    /// The origin answered, and said no.
    OriginRefused,
    /// The limit of sessions is reached.
    TooManySessions,
    /// The limit of sessions of one client address is reached.
    TooManyFromClient,
    /// The proxy's own host has no more descriptors, ports or memory.
    OutOfResources,
    /// The client deleted its session.
    Deleted,
    /// No connectivity check of a signalled session came in time.
    NotConnected,
    /// The origin has answered no connectivity check for the consent time.
    NoConsent,
    /// The session's task ended without a word: a defect.
    Aborted,
}

impl End {
    /// Every reason, in the order in which they are counted.
    pub const ALL: [Self; 32] = [
        Self::ClientClosed,
        Self::ClientLost,
        Self::OriginClosed,
        Self::OriginLost,
        Self::Idle,
        Self::Stalled,
        Self::Shutdown,
        Self::Answered,
        Self::HandshakeTimeout,
        Self::HeadTimeout,
        Self::CommandTimeout,
        Self::NotTheProtocol,
        Self::BadProxyHeader,
        Self::BadRequest,
        Self::BadAnswer,
        Self::BadChunk,
        Self::BadCommand,
        Self::MessageTooLarge,
        Self::TooManyChunkStreams,
        Self::TooMuchBeforeStream,
        Self::BadStream,
        Self::NoOrigin,
        Self::TooManyStreams,
        Self::OriginUnreachable,
        Self::OriginRefused,
        Self::TooManySessions,
        Self::TooManyFromClient,
        Self::OutOfResources,
        Self::Deleted,
        Self::NotConnected,
        Self::NoConsent,
        Self::Aborted,
    ];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientLost => "client_lost",
            Self::OriginClosed => "origin_closed",
            Self::OriginLost => "origin_lost",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Shutdown => "shutdown",
            Self::Answered => "answered",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HeadTimeout => "head_timeout",
            Self::CommandTimeout => "command_timeout",
            Self::NotTheProtocol => "not_the_protocol",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::BadRequest => "bad_request",
            Self::BadAnswer => "bad_answer",
            Self::BadChunk => "bad_chunk",
            Self::BadCommand => "bad_command",
            Self::MessageTooLarge => "message_too_large",
            Self::TooManyChunkStreams => "too_many_chunk_streams",
            Self::TooMuchBeforeStream => "too_much_before_stream",
            Self::BadStream => "bad_stream",
            Self::NoOrigin => "no_origin",
            Self::TooManyStreams => "too_many_streams",
            Self::OriginUnreachable => "origin_unreachable",
            Self::OriginRefused => "origin_refused",
            Self::TooManySessions => "too_many_sessions",
            Self::TooManyFromClient => "too_many_from_client",
            Self::OutOfResources => "out_of_resources",
            Self::Deleted => "deleted",
            Self::NotConnected => "not_connected",
            Self::NoConsent => "no_consent",
            Self::Aborted => "aborted",
        }
    }
}

impl From<&NoArrival> for End {
    fn from(why: &NoArrival) -> Self {
        match why {
            NoArrival::BadHeader(_) | NoArrival::Unfinished => Self::BadProxyHeader,
            NoArrival::Silent => Self::ClientClosed,
            NoArrival::Lost(_) => Self::ClientLost,
            NoArrival::TooMany => Self::TooManySessions,
        }
    }
}

impl From<Closed> for End {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::InOrder(Leg::Client) => Self::ClientClosed,
            Closed::InOrder(Leg::Origin) => Self::OriginClosed,
            Closed::Lost(Leg::Client) => Self::ClientLost,
            Closed::Lost(Leg::Origin) => Self::OriginLost,
            Closed::Idle => Self::Idle,
            Closed::Stalled => Self::Stalled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn every_reason_is_counted_under_its_own_word() {
        for (index, end) in End::ALL.iter().enumerate() {
            assert_eq!(*end as usize, index, "{} stands out of order", end.as_str());
            let same = End::ALL.iter().filter(|other| other.as_str() == end.as_str());
            assert_eq!(same.count(), 1, "{} is said twice", end.as_str());
        }
    }
}
