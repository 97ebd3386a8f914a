//! WebRTC: sessions that are signalled over HTTP, and whose media finds them by its ICE names.

use std::net::IpAddr;

use thiserror::Error;

use super::{End, Role};
use crate::origin::Lease;
use crate::proto::proxy_protocol::Ends;
use crate::stream::StreamKey;

/// What all WebRTC sessions share.
#[derive(Debug)]
pub struct Webrtc {}

/// What signalling knows of a session that is to be.
#[derive(Debug)]
pub struct Invited {
    /// Of the connection by which the offer came.
    pub client: Ends,
    /// The stream.
    pub stream: StreamKey,
    /// What the client does with it.
    pub role: Role,
    /// The origin that is asked.
    pub lease: Lease,
    /// The proxy's own address towards that origin.
    pub near: IpAddr,
    /// The origin's address.
    pub far: IpAddr,
}

/// A session between its offer and its answer. Its drop ends it.
#[derive(Debug)]
pub struct Draft {}

/// Why a description is not taken.
#[derive(Debug, Error)]
pub enum BadDescription {
    /// The offer or the answer has no ICE user name or password.
    #[error("no ice-ufrag or ice-pwd")]
    NoIce,
    /// Nothing in the answer tells where the origin takes media.
    #[error("no candidate, and the origin has registered no rtc endpoint")]
    NoCandidate,
    /// There is no socket for its media.
    #[error("{0}")]
    Socket(std::io::Error),
}

impl Webrtc {
    /// Admits a session, counted against the limits, before its origin is asked.
    pub fn invite(&self, invited: Invited) -> Result<Draft, End> {
        let _ = invited;
        Err(End::OutOfResources)
    }

    /// The offer's part in an ICE restart of this session, and its origin's answer to it: gives
    /// the answer for the client. None if the session is not here, or is of no restart.
    pub fn restart(&self, name: &str, offer: &str, answer: &str) -> Option<String> {
        let _ = (name, offer, answer);
        None
    }

    /// Ends the session of this name, whose client has deleted it at the origin.
    pub fn delete(&self, name: &str) {
        let _ = name;
    }
}

impl Draft {
    /// The offer for the origin: the proxy takes the client's place among the candidates.
    pub fn offer(&self, offer: &str) -> Result<String, BadDescription> {
        let _ = offer;
        Err(BadDescription::NoIce)
    }

    /// Takes the origin's answer. Media can come from here on. Gives the answer for the client,
    /// with the proxy's candidates, and the session's name: the ICE user names of answer and
    /// offer with a colon between them.
    pub fn accept(self, answer: &str) -> Result<(String, String), BadDescription> {
        let _ = answer;
        Err(BadDescription::NoIce)
    }
}
