//! Offers, answers and fragments of them: the credentials of ICE are read, candidates are
//! replaced, and every other line stays as it is.
//!
//! RFC 8866, RFC 8839 for ICE in it, RFC 6544 for TCP candidates, RFC 8840 for fragments, which
//! are media sections without a session or lines without either.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;

/// Bytes of the longest description that anybody should read; the functions here take any.
pub const MAX_SDP: usize = 256 * 1024;

/// What one side of a session is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ice {
    /// Its name, of 1 to 256 characters.
    pub ufrag: String,
    /// By which it is authentic, of 22 to 256 characters.
    pub password: String,
}

/// Why a description has no credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSdp {
    /// Nowhere is an `a=ice-ufrag`.
    #[error("no ice-ufrag")]
    NoUfrag,
    /// No section with an `a=ice-ufrag` has an `a=ice-pwd`.
    #[error("no ice-pwd")]
    NoPassword,
    /// The ufrag is empty, too long, or has characters that it cannot have.
    #[error("malformed ice-ufrag")]
    Ufrag,
    /// The password is too short or long, or has characters that it cannot have.
    #[error("malformed ice-pwd")]
    Password,
}

/// The credentials that count: with BUNDLE those of the section in which all are bundled
/// (RFC 9143 10).
pub fn ice(sdp: &str) -> Result<Ice, BadSdp> {
    ice_of(sdp, bundled_mid(sdp))
}

/// The first section of the first group that is bundled, by its `a=mid` (RFC 9143 7.2.1): its
/// transport is the one of all others.
pub fn bundled_mid(sdp: &str) -> Option<&str> {
    let group = sdp.lines().find_map(|line| line.strip_prefix("a=group:BUNDLE"))?;
    group.split_ascii_whitespace().next()
}

/// The credentials of the section with this `a=mid`; else of the session; else of the first section
/// that has both. A section that is rejected has none (RFC 3264 6).
///
/// Lengths and characters are those of RFC 8839 5.4, with two exceptions: a ufrag may be shorter
/// than four characters, as SRS allows, and `-`, `=`, `#` and `_` are taken, as libwebrtc does.
pub fn ice_of(sdp: &str, mid: Option<&str>) -> Result<Ice, BadSdp> {
    let is_named = |section: &&str| {
        let found = section.lines().find_map(|line| line.strip_prefix("a=mid:"));
        mid.is_some() && found == mid
    };
    let all = || sections(sdp).filter(|section| !is_rejected(section));
    let mut has_ufrag = false;
    let found = all().filter(is_named).chain(all()).find_map(|section| {
        let first = |name| section.lines().find_map(|line| line.strip_prefix(name));
        let ufrag = first("a=ice-ufrag:")?;
        has_ufrag = true;
        Some((ufrag, first("a=ice-pwd:")?))
    });
    let missing = if has_ufrag { BadSdp::NoPassword } else { BadSdp::NoUfrag };
    let (ufrag, password) = found.ok_or(missing)?;
    if !is_ufrag(ufrag) {
        return Err(BadSdp::Ufrag);
    }
    if !(22..=256).contains(&password.len()) || !is_credential(password) {
        return Err(BadSdp::Password);
    }
    Ok(Ice { ufrag: ufrag.to_owned(), password: password.to_owned() })
}

/// Whether a text can be the user name of an ICE agent (RFC 8839 5.4).
pub fn is_ufrag(text: &str) -> bool {
    (1..=256).contains(&text.len()) && is_credential(text)
}

/// With some characters more than the RFC has: there are agents that use them.
fn is_credential(text: &str) -> bool {
    text.bytes().all(|b| is_ice_char(b) || b"-=#_".contains(&b))
}

/// Whether a section is one of media that is not there: its port is zero. One that is there only if
/// it is bundled has that port, too (RFC 9143 6).
fn is_rejected(section: &str) -> bool {
    let mut lines = section.lines();
    let media = lines.next().and_then(|line| line.strip_prefix("m="));
    let port = media.and_then(|media| media.split_ascii_whitespace().nth(1));
    let has_none = port.and_then(|port| port.split('/').next()) == Some("0");
    has_none && !lines.any(|line| line == "a=bundle-only")
}

/// RFC 8839 5.1.
const fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// What carries the datagrams of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The network itself.
    Udp,
    /// A stream (RFC 6544).
    Tcp,
}

/// How a candidate was found (RFC 8445 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CandidateKind {
    /// An address of the host.
    Host,
    /// What a STUN server saw.
    ServerReflexive,
    /// What the peer saw.
    PeerReflexive,
    /// An address of a TURN server.
    Relay,
}

/// Who connects (RFC 6544 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpType {
    /// The candidate.
    Active,
    /// Its peer.
    Passive,
    /// Both at once.
    SimultaneousOpen,
}

/// A line `a=candidate` (RFC 8839 5.1). `raddr` and `rport`, which tell where a candidate stands
/// behind its address, are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Equal for candidates whose checks succeed or fail together; 1 to 32 characters.
    pub foundation: String,
    /// 1 for media, 2 for RTCP on a port of its own; up to 256.
    pub component: u16,
    /// What carries its datagrams.
    pub transport: Transport,
    /// Higher is better.
    pub priority: u32,
    /// An address, or a name as mDNS has it, without blanks.
    pub address: String,
    /// Its port; that of an active TCP candidate means nothing.
    pub port: u16,
    /// How it was found.
    pub kind: CandidateKind,
    /// Who connects, if anybody does.
    pub tcptype: Option<TcpType>,
    /// Names and values of what else is said, such as `generation`.
    pub extensions: Vec<(String, String)>,
}

impl Candidate {
    /// Reads a line without its end. None if it is another line, or malformed.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(CANDIDATE)?.split_ascii_whitespace();
        let foundation = words.next().filter(|word| word.len() <= 32)?;
        if !foundation.bytes().all(is_ice_char) {
            return None;
        }
        let mut candidate = Self {
            foundation: foundation.to_owned(),
            component: number(words.next()?).filter(|&component| component <= 256)?,
            transport: meaning(&TRANSPORTS, words.next()?)?,
            priority: number(words.next()?)?,
            address: words.next()?.to_owned(),
            port: number(words.next()?)?,
            kind: match words.next()? {
                "typ" => meaning(&KINDS, words.next()?)?,
                _ => return None,
            },
            tcptype: None,
            extensions: Vec::new(),
        };
        while let Some(name) = words.next() {
            let value = words.next()?;
            match name {
                "raddr" | "rport" => {}
                "tcptype" => candidate.tcptype = Some(meaning(&TCP_TYPES, value)?),
                _ => candidate.extensions.push((name.to_owned(), value.to_owned())),
            }
        }
        Some(candidate)
    }
}

impl fmt::Display for Candidate {
    /// Writes the line without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { foundation, component, priority, address, port, .. } = self;
        let transport = word(&TRANSPORTS, self.transport);
        let kind = word(&KINDS, self.kind);
        write!(f, "{CANDIDATE}{foundation} {component} {transport} {priority} {address} {port}")?;
        write!(f, " typ {kind}")?;
        if let Some(tcptype) = self.tcptype {
            write!(f, " tcptype {}", word(&TCP_TYPES, tcptype))?;
        }
        self.extensions.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))
    }
}

const CANDIDATE: &str = "a=candidate:";

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Udp, "udp"), (Transport::Tcp, "tcp")];

const KINDS: [(CandidateKind, &str); 4] = [
    (CandidateKind::Host, "host"),
    (CandidateKind::ServerReflexive, "srflx"),
    (CandidateKind::PeerReflexive, "prflx"),
    (CandidateKind::Relay, "relay"),
];

const TCP_TYPES: [(TcpType, &str); 3] =
    [(TcpType::Active, "active"), (TcpType::Passive, "passive"), (TcpType::SimultaneousOpen, "so")];

fn meaning<T: Copy>(words: &[(T, &str)], word: &str) -> Option<T> {
    words.iter().find(|(_, known)| known.eq_ignore_ascii_case(word)).map(|&(meaning, _)| meaning)
}

fn word<T: Copy + PartialEq>(words: &[(T, &'static str)], meaning: T) -> &'static str {
    words.iter().find(|(known, _)| *known == meaning).map_or("", |&(_, word)| word)
}

/// Digits alone, no sign.
fn number<T: FromStr>(word: &str) -> Option<T> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok())?
}

/// The first 64 candidates of all sections; lines that are malformed are passed over.
pub fn candidates(sdp: &str) -> Vec<Candidate> {
    sdp.lines().filter_map(Candidate::parse).take(MAX_CANDIDATES).collect()
}

/// Candidates that are looked at; of a section each, where they are replaced.
const MAX_CANDIDATES: usize = 64;

/// Where clients reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Offered {
    /// An address of the proxy and the port it listens on.
    pub address: SocketAddr,
    /// What it listens for.
    pub transport: Transport,
}

/// The description with the offered addresses in place of its candidates.
///
/// In each section that has candidates of a transport, every offered address of that transport
/// becomes one of type host; the n-th has foundation, priority and extensions of the n-th there
/// was. TCP addresses also stand behind UDP candidates that had none of TCP beside them. A
/// description without candidates gets them in its first media section. They stand where the
/// first candidate stood, else in front of `a=end-of-candidates`, else at the section's end.
///
/// No address of a candidate is left, malformed lines included; no other byte changes. The result
/// grows by at most one line per section and offered address, as long as the one it stands for.
pub fn with_candidates(sdp: &str, offered: &[Offered]) -> String {
    let sections: Vec<(&str, Vec<Candidate>)> = sections(sdp)
        .map(|section| {
            let mut candidates = candidates(section);
            // Everything of a session goes over one port of the proxy.
            candidates.retain(|candidate| candidate.component == 1);
            (section, candidates)
        })
        .collect();
    let taken: HashSet<&str> = sections
        .iter()
        .flat_map(|(_, candidates)| candidates.iter().map(|c| c.foundation.as_str()))
        .collect();
    // An address has the same foundation in every section (RFC 8445 5.1.1.3).
    let numbers = (1_u32..).map(|n| n.to_string());
    let foundations: Vec<String> =
        numbers.filter(|n| !taken.contains(n.as_str())).take(offered.len()).collect();
    let has_none = sections.iter().all(|(_, candidates)| candidates.is_empty());
    let first_media = sections.iter().position(|(section, _)| section.starts_with("m="));
    let mut edited = Edited::new(sdp);
    for (n, (section, originals)) in sections.iter().enumerate() {
        let gets_candidates = !originals.is_empty() || has_none && n == first_media.unwrap_or(0);
        let replaced =
            if gets_candidates { replace(originals, offered, &foundations) } else { Vec::new() };
        edited.section(section, replaced);
    }
    edited.finish()
}

/// What stands in front of the first `m=`, then each `m=` and the lines behind it.
fn sections(sdp: &str) -> impl Iterator<Item = &str> {
    let mut rest = sdp;
    std::iter::from_fn(move || {
        let end = rest.find("\nm=").map_or(rest.len(), |line_end| line_end + 1);
        let (section, behind) = rest.split_at(end);
        rest = behind;
        (!section.is_empty()).then_some(section)
    })
}

/// The candidates of a section, of which `foundations` has one for each offered address.
fn replace(originals: &[Candidate], offered: &[Offered], foundations: &[String]) -> Vec<Candidate> {
    let mut replaced = Vec::new();
    let mut lowest = u32::MAX;
    for transport in [Transport::Udp, Transport::Tcp] {
        let alike: Vec<&Candidate> =
            originals.iter().filter(|original| original.transport == transport).collect();
        if transport == Transport::Udp && alike.is_empty() && !originals.is_empty() {
            continue;
        }
        lowest = alike.iter().map(|original| original.priority).fold(lowest, u32::min);
        let offered = offered.iter().zip(foundations);
        let offered = offered.filter(|(offered, _)| offered.transport == transport);
        for (n, (offered, foundation)) in offered.enumerate() {
            let original = alike.get(n).copied();
            let model = original.or(alike.first().copied()).or(originals.first());
            // Each is one local preference below the one before it (RFC 8445 5.1.2.1).
            let next = host_priority(transport).min(lowest.saturating_sub(1 << 8)).max(1);
            let priority = original.map_or(next, |original| original.priority);
            lowest = lowest.min(priority);
            replaced.push(Candidate {
                foundation: original.map_or(foundation, |original| &original.foundation).clone(),
                component: 1,
                transport,
                priority,
                address: offered.address.ip().to_canonical().to_string(),
                port: offered.address.port(),
                kind: CandidateKind::Host,
                tcptype: (transport == Transport::Tcp).then_some(TcpType::Passive),
                extensions: model.map(|model| model.extensions.clone()).unwrap_or_default(),
            });
        }
    }
    replaced
}

/// The highest priority of a host candidate: type preference, local preference, component.
const fn host_priority(transport: Transport) -> u32 {
    let (kind, local) = match transport {
        // RFC 8445 5.1.2.2.
        Transport::Udp => (126, 0xffff),
        // Below all of UDP, as libwebrtc has it. RFC 6544 4.2: the preference of a direction, here
        // that of passive, in the upper three bits.
        Transport::Tcp => (90, 4 << 13 | 0x1fff),
    };
    kind << 24 | local << 8 | 0xff
}

/// The lines so far. Those that are kept bring their ends; one that is put in gets its end once
/// another follows, so that a last line without an end stays one.
struct Edited<'a> {
    sdp: &'a str,
    text: String,
}

impl<'a> Edited<'a> {
    fn new(sdp: &'a str) -> Self {
        Self { sdp, text: String::with_capacity(sdp.len()) }
    }

    /// Copies a section with these candidates in place of its own.
    fn section(&mut self, section: &str, mut candidates: Vec<Candidate>) {
        for line in section.split_inclusive('\n') {
            let is_candidate = line.starts_with(CANDIDATE);
            if is_candidate || line.trim_end() == "a=end-of-candidates" {
                self.candidates(&mut candidates);
            }
            if !is_candidate {
                self.line(line);
            }
        }
        self.candidates(&mut candidates);
    }

    fn candidates(&mut self, candidates: &mut Vec<Candidate>) {
        for candidate in candidates.drain(..) {
            self.line(&candidate.to_string());
        }
    }

    fn line(&mut self, line: &str) {
        self.end_line();
        self.text.push_str(line);
    }

    fn end_line(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push_str(line_end(self.sdp));
        }
    }

    fn finish(mut self) -> String {
        if self.sdp.ends_with('\n') {
            self.end_line();
        }
        self.text
    }
}

/// That of the first line, else the one of RFC 8866 5.
fn line_end(sdp: &str) -> &'static str {
    match sdp.split_once('\n') {
        Some((line, _)) if !line.ends_with('\r') => "\n",
        _ => "\r\n",
    }
}

#[cfg(test)]
mod tests;
