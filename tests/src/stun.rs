//! The STUN that opens a session and keeps it, RFC 8489 and 8445: binding requests and successes.

use std::net::SocketAddrV4;

use anyhow::Result;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// What a binding request is told apart from others by.
pub type Transaction = [u8; 12];

/// A binding request of a client that is in control, for the user `answerer:offerer`.
pub fn request(transaction: Transaction, user: &str, password: &str) -> Result<Vec<u8>> {
    let mut message = Message::new(REQUEST, transaction);
    message.attribute(USERNAME, user.as_bytes())?;
    message.attribute(PRIORITY, &0x6e00_1eff_u32.to_be_bytes())?;
    message.attribute(USE_CANDIDATE, &[])?;
    message.attribute(ICE_CONTROLLING, &[7; 8])?;
    message.seal(password)
}

/// The answer to this packet from there; none if it is no binding request.
pub fn success(packet: &[u8], from: SocketAddrV4, password: &str) -> Result<Option<Vec<u8>>> {
    let Some((REQUEST, transaction)) = kind(packet) else { return Ok(None) };
    let [high, low, ..] = COOKIE.to_be_bytes();
    let port = from.port() ^ u16::from_be_bytes([high, low]);
    let address = from.ip().to_bits() ^ COOKIE;
    let mut message = Message::new(SUCCESS, transaction);
    let mapped = [&[0, IPV4][..], &port.to_be_bytes(), &address.to_be_bytes()].concat();
    message.attribute(XOR_MAPPED_ADDRESS, &mapped)?;
    message.seal(password).map(Some)
}

/// Whether this is the success of this request.
pub fn is_success(packet: &[u8], transaction: Transaction) -> bool {
    kind(packet) == Some((SUCCESS, transaction))
}

/// Type and transaction of a STUN message; none if it is something else.
fn kind(packet: &[u8]) -> Option<(u16, Transaction)> {
    let (&[high, low, _, _], rest) = packet.split_first_chunk()?;
    let (cookie, rest) = rest.split_first_chunk()?;
    let is_stun = u32::from_be_bytes(*cookie) == COOKIE;
    is_stun.then_some((u16::from_be_bytes([high, low]), *rest.first_chunk()?))
}

struct Message {
    kind: u16,
    transaction: Transaction,
    attributes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, transaction: Transaction) -> Self {
        Self { kind, transaction, attributes: Vec::new() }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> Result<()> {
        self.attributes.extend(kind.to_be_bytes());
        self.attributes.extend(u16::try_from(value.len())?.to_be_bytes());
        self.attributes.extend(value);
        self.attributes.resize(self.attributes.len().next_multiple_of(4), 0);
        Ok(())
    }

    /// Ends it with MESSAGE-INTEGRITY and FINGERPRINT, RFC 8489 14.5 and 14.7: either covers what
    /// is in front of it, with a length as if it ended behind the attribute itself.
    fn seal(mut self, password: &str) -> Result<Vec<u8>> {
        let integrity = sha1_hmac(password.as_bytes(), &[&self.bytes(4 + 20)?]);
        self.attribute(MESSAGE_INTEGRITY, &integrity)?;
        let fingerprint = crc32fast::hash(&self.bytes(4 + 4)?) ^ 0x5354_554e;
        self.attribute(FINGERPRINT, &fingerprint.to_be_bytes())?;
        self.bytes(0)
    }

    /// All so far, with a length that counts this many bytes more.
    fn bytes(&self, more: usize) -> Result<Vec<u8>> {
        let length = u16::try_from(self.attributes.len() + more)?;
        let head = [self.kind.to_be_bytes(), length.to_be_bytes()].concat();
        Ok([&head, &COOKIE.to_be_bytes()[..], &self.transaction, &self.attributes].concat())
    }
}

/// What MESSAGE-INTEGRITY holds of a message in these parts, as str0m asks for it.
pub fn sha1_hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    // A key of any length will do; none is no message's.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(key) else { return [0; 20] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

const COOKIE: u32 = 0x2112_a442;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLING: u16 = 0x802a;
const IPV4: u8 = 1;

#[cfg(test)]
mod tests {
    use str0m::ice::StunMessage;

    use super::*;

    #[test]
    fn another_implementation_reads_what_is_written() {
        let (transaction, password) = ([3; 12], "a password of an origin");
        let request = request(transaction, "answerer:offerer", password).expect("a request");
        let read = StunMessage::parse(&request).expect("a STUN message");
        assert!(read.is_binding_request() && read.use_candidate());
        assert_eq!(read.split_username(), Some(("answerer", "offerer")));
        assert!(read.verify(password.as_bytes(), sha1_hmac));

        let from = "127.0.0.1:50001".parse().expect("an address");
        let success = success(&request, from, password).expect("an answer").expect("to a request");
        assert!(is_success(&success, transaction) && !is_success(&success, [4; 12]));
        let read = StunMessage::parse(&success).expect("a STUN message");
        assert!(read.is_successful_binding_response());
        assert_eq!(read.mapped_address(), Some(from.into()));
        assert!(read.verify(password.as_bytes(), sha1_hmac));
    }
}
