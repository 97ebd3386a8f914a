//! The RTMP handshake, both sides (RTMP 1.0 section 5.2), simple and with digests.

use thiserror::Error;

pub use super::digest::Scheme;
use super::digest::{self, DIGEST, Signer};

/// Bytes of C1, S1, C2 and S2 (RTMP 1.0 section 5.2.3).
pub const PACKET: usize = 1536;

/// The only version in use (RTMP 1.0 section 5.2.2).
const VERSION: u8 = 3;

/// What Flash Media Server 3.5 puts where the simple handshake has zeros; any non-zero value
/// tells the peer that a digest follows.
const SERVER_VERSION: [u8; 4] = [3, 5, 1, 1];
/// The same for a client; the value FFmpeg sends.
const CLIENT_VERSION: [u8; 4] = [9, 0, 124, 2];

/// Random bytes for one side of one handshake. They need not be secret.
pub type Nonce = [u8; PACKET];

/// How a peer proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Echoes only, as in the RTMP text.
    Simple,
    /// Flash's digests.
    Digest(Scheme),
}

/// The peer's first bytes are no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// C0 or S0 is not version 3: another protocol, or RTMPE.
    #[error("first byte is {0:#04x}, not RTMP version 3")]
    Version(u8),
}

/// The accepting side: reads C0, C1, C2 and writes S0, S1, S2.
#[derive(Debug)]
pub struct ServerHandshake {
    received: Vec<u8>,
    nonce: Box<Nonce>,
    style: Option<Style>,
}

impl ServerHandshake {
    /// Waits for C0.
    pub fn new(nonce: Box<Nonce>) -> Self {
        Self { received: Vec::new(), nonce, style: None }
    }

    /// Takes handshake bytes off the front of `input` and appends what must be sent to `out`.
    /// Returns the client's style when C2 is complete; what is left of `input` is then the chunk
    /// stream.
    pub fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Style>, HandshakeError> {
        if let Some(style) = self.style {
            // The content of C2 proves nothing that a proxy needs; FMLE and others send zeros.
            return Ok(take::<PACKET>(&mut self.received, input).map(|_| style));
        }
        check_version(self.received.first().or(input.first()))?;
        let Some(c0_c1) = take::<{ 1 + PACKET }>(&mut self.received, input) else {
            return Ok(None);
        };
        let c1 = packet_behind_version(&c0_c1);
        let style = self.answer(&c1, out);
        self.style = Some(style);
        self.read(input, out)
    }

    fn answer(&self, c1: &[u8; PACKET], out: &mut Vec<u8>) -> Style {
        let mut s1 = *self.nonce;
        write_prefix(&mut s1, [0; 4]);
        let (style, s2) = match digest::find(c1, Signer::Player) {
            None => (Style::Simple, *c1),
            Some((scheme, client_digest)) => {
                write_prefix(&mut s1, SERVER_VERSION);
                digest::place(&mut s1, scheme, Signer::Server);
                let mut s2 = *self.nonce;
                digest::sign(&mut s2, &client_digest, Signer::Server);
                (Style::Digest(scheme), s2)
            }
        };
        out.push(VERSION);
        out.extend_from_slice(&s1);
        out.extend_from_slice(&s2);
        style
    }
}

/// The connecting side: writes C0, C1, C2 and reads S0, S1, S2.
#[derive(Debug)]
pub struct ClientHandshake {
    received: Vec<u8>,
    nonce: Box<Nonce>,
    style: Style,
}

impl ClientHandshake {
    /// Appends C0 and C1 to `out` and waits for S0.
    pub fn start(nonce: Box<Nonce>, style: Style, out: &mut Vec<u8>) -> Self {
        let mut c1 = *nonce;
        match style {
            Style::Simple => write_prefix(&mut c1, [0; 4]),
            Style::Digest(scheme) => {
                write_prefix(&mut c1, CLIENT_VERSION);
                digest::place(&mut c1, scheme, Signer::Player);
            }
        }
        out.push(VERSION);
        out.extend_from_slice(&c1);
        Self { received: Vec::new(), nonce, style }
    }

    /// Takes handshake bytes off the front of `input`. Returns true when S2 is complete and C2
    /// has been appended to `out`; what is left of `input` is then the chunk stream.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        check_version(self.received.first().or(input.first()))?;
        let Some(s0_s1_s2) = take::<{ 1 + 2 * PACKET }>(&mut self.received, input) else {
            return Ok(false);
        };
        let s1 = packet_behind_version(&s0_s1_s2);
        // A server that knows no digests answers simply, and wants its S1 back.
        let server_digest = match self.style {
            Style::Simple => None,
            Style::Digest(_) => digest::find(&s1, Signer::Server),
        };
        match server_digest {
            None => out.extend_from_slice(&s1),
            Some((_, server_digest)) => {
                let mut c2 = *self.nonce;
                digest::sign(&mut c2, &server_digest, Signer::Player);
                out.extend_from_slice(&c2);
            }
        }
        Ok(true)
    }
}

fn check_version(first: Option<&u8>) -> Result<(), HandshakeError> {
    match first {
        None | Some(&VERSION) => Ok(()),
        Some(&other) => Err(HandshakeError::Version(other)),
    }
}

/// Moves bytes from `input` to `received` until there are `N`, and then hands them out.
fn take<const N: usize>(received: &mut Vec<u8>, input: &mut &[u8]) -> Option<[u8; N]> {
    let missing = N.saturating_sub(received.len()).min(input.len());
    let (now, later) = input.split_at_checked(missing)?;
    received.extend_from_slice(now);
    *input = later;
    let whole = <[u8; N]>::try_from(received.as_slice()).ok()?;
    *received = Vec::new();
    Some(whole)
}

/// C1 or S1 out of what begins with C0 or S0.
fn packet_behind_version(bytes: &[u8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    for (to, from) in packet.iter_mut().zip(bytes.iter().skip(1)) {
        *to = *from;
    }
    packet
}

/// The time, which nobody reads, is zero; the four bytes behind it are `version`.
fn write_prefix(packet: &mut [u8; PACKET], version: [u8; 4]) {
    let prefix = [0; 4].into_iter().chain(version);
    for (to, from) in packet.iter_mut().zip(prefix) {
        *to = from;
    }
}

// A digest is found where it was placed only if it fits behind the largest offset.
const _: () = assert!(772 + 4 + 727 + DIGEST <= PACKET);

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs both sides against each other, `step` bytes at a time.
    fn shake(style: Style, step: usize) -> Style {
        let mut to_server = Vec::new();
        let mut to_client = Vec::new();
        let mut client = ClientHandshake::start(Box::new([7; PACKET]), style, &mut to_server);
        let mut server = ServerHandshake::new(Box::new([8; PACKET]));
        let mut seen = None;
        let mut done = false;
        while seen.is_none() {
            let bytes = std::mem::take(&mut to_server);
            for mut piece in bytes.chunks(step) {
                seen = seen.or(server.read(&mut piece, &mut to_client).unwrap());
            }
            let bytes = std::mem::take(&mut to_client);
            for mut piece in bytes.chunks(step) {
                done |= client.read(&mut piece, &mut to_server).unwrap();
            }
            assert!(seen.is_some() || !to_server.is_empty(), "nobody has anything to say");
        }
        assert!(done, "the server saw C2 before the client was done");
        seen.unwrap()
    }

    #[test]
    fn both_sides_agree_in_every_style_and_split() {
        for style in
            [Style::Simple, Style::Digest(Scheme::DigestFirst), Style::Digest(Scheme::KeyFirst)]
        {
            for step in [1, 2, 1535, 1536, 1537, 5000] {
                assert_eq!(shake(style, step), style);
            }
        }
    }

    #[test]
    fn bytes_behind_c2_are_left_for_the_chunk_stream() {
        let mut server = ServerHandshake::new(Box::new([0; PACKET]));
        let mut hello = vec![VERSION];
        hello.extend([0; 2 * PACKET]);
        hello.extend(b"chunks");
        let mut input = hello.as_slice();
        let style = server.read(&mut input, &mut Vec::new()).unwrap();
        assert_eq!(style, Some(Style::Simple));
        assert_eq!(input, b"chunks");
    }

    #[test]
    fn a_simple_server_gets_its_s1_back_even_from_a_digest_client() {
        let mut sent = Vec::new();
        let style = Style::Digest(Scheme::DigestFirst);
        let mut client = ClientHandshake::start(Box::new([1; PACKET]), style, &mut sent);
        let mut answer = vec![VERSION];
        answer.extend([5; 2 * PACKET]);
        sent.clear();
        assert!(client.read(&mut answer.as_slice(), &mut sent).unwrap());
        assert_eq!(sent, [5; PACKET]);
    }

    #[test]
    fn http_is_told_apart_at_its_first_byte() {
        let mut server = ServerHandshake::new(Box::new([0; PACKET]));
        let seen = server.read(&mut b"GET /".as_slice(), &mut Vec::new());
        assert_eq!(seen, Err(HandshakeError::Version(b'G')));
    }
}
