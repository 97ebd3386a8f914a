//! STUN as ICE speaks it: whose session a datagram belongs to, and whether its sender knows the
//! password.
//!
//! RFC 8489; the attributes of ICE are those of RFC 8445.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use thiserror::Error;

/// One datagram, wholly read.
///
/// What an attribute says counts only in front of MESSAGE-INTEGRITY, and the first of several
/// counts (RFC 8489 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    kind: u16,
    transaction: TransactionId,
    username: Option<&'a str>,
    priority: Option<u32>,
    has_use_candidate: bool,
    integrity: Option<Integrity<'a>>,
}

/// What a message is for (RFC 8489 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// The answer of who did what was asked.
    Success,
    /// The answer of who did not.
    Error,
}

/// By which an answer belongs to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// MESSAGE-INTEGRITY and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Integrity<'a> {
    /// From the message's first byte up to the attribute.
    covered: &'a [u8],
    mac: &'a [u8; MAC],
}

/// Why a datagram is no STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum BadStun {
    /// It has no header of 20 bytes that begins with two zero bits and has the magic cookie.
    #[error("no STUN header")]
    Header,
    /// Its length is not that of the datagram, or no multiple of four.
    #[error("STUN length differs from the datagram's")]
    Length,
    /// An attribute goes on behind the end.
    #[error("STUN attribute without its end")]
    Attribute,
    /// It has more attributes than anybody sends.
    #[error("too many STUN attributes")]
    TooMany,
    /// An attribute that is read has a length or text that it cannot have.
    #[error("malformed value of a STUN attribute")]
    Value,
    /// FINGERPRINT is wrong, or not the last attribute.
    #[error("wrong STUN fingerprint")]
    Fingerprint,
}

impl BadStun {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Header,
        Self::Length,
        Self::Attribute,
        Self::TooMany,
        Self::Value,
        Self::Fingerprint,
    ];

    /// The word by which they are counted.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Length => "length",
            Self::Attribute => "attribute",
            Self::TooMany => "too_many",
            Self::Value => "value",
            Self::Fingerprint => "fingerprint",
        }
    }
}

impl<'a> Message<'a> {
    /// Reads a whole datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, BadStun> {
        let (header, mut rest) = datagram.split_first_chunk::<HEADER>().ok_or(BadStun::Header)?;
        let [k0, k1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let kind = u16::from_be_bytes([k0, k1]);
        if kind & TWO_ZERO_BITS != 0 || [c0, c1, c2, c3] != COOKIE {
            return Err(BadStun::Header);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length != rest.len() || !length.is_multiple_of(4) {
            return Err(BadStun::Length);
        }
        let mut message = Self {
            kind,
            transaction: TransactionId(transaction),
            username: None,
            priority: None,
            has_use_candidate: false,
            integrity: None,
        };
        let mut attributes = 0;
        let mut is_sealed = false;
        while !rest.is_empty() {
            let (before, _) = datagram.split_at(datagram.len() - rest.len());
            let (attribute, value) = split_attribute(&mut rest)?;
            attributes += 1;
            if attributes > MAX_ATTRIBUTES {
                return Err(BadStun::TooMany);
            }
            if attribute == FINGERPRINT {
                // RFC 8489 14.7: the last one.
                if !rest.is_empty() || value != fingerprint(before) {
                    return Err(BadStun::Fingerprint);
                }
            } else if !is_sealed {
                is_sealed = message.take(attribute, value, before)?;
            }
        }
        Ok(message)
    }

    /// Takes what an attribute says; true if nothing behind it is to be believed (RFC 8489 14.5
    /// and 14.6).
    fn take(&mut self, attribute: u16, value: &'a [u8], before: &'a [u8]) -> Result<bool, BadStun> {
        match attribute {
            USERNAME => {
                let text = str::from_utf8(value).map_err(|_| BadStun::Value)?;
                if text.len() > MAX_USERNAME {
                    return Err(BadStun::Value);
                }
                self.username.get_or_insert(text);
            }
            PRIORITY => {
                let priority = value.try_into().map_err(|_| BadStun::Value)?;
                self.priority.get_or_insert(u32::from_be_bytes(priority));
            }
            USE_CANDIDATE if value.is_empty() => self.has_use_candidate = true,
            USE_CANDIDATE => return Err(BadStun::Value),
            MESSAGE_INTEGRITY => {
                let mac = value.try_into().map_err(|_| BadStun::Value)?;
                self.integrity = Some(Integrity { covered: before, mac });
                return Ok(true);
            }
            // ICE signs by the other one alone.
            MESSAGE_INTEGRITY_SHA256 => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    /// What the message is for.
    pub const fn class(&self) -> Class {
        match self.kind & CLASS {
            0x0000 => Class::Request,
            0x0010 => Class::Indication,
            0x0100 => Class::Success,
            _ => Class::Error,
        }
    }

    /// Whether its method is Binding, the only one of ICE.
    pub const fn is_binding(&self) -> bool {
        self.kind & !CLASS == BINDING
    }

    /// By which request and answer belong together.
    pub const fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// Who asks, at most 513 bytes: in ICE the receiver's ufrag, a colon and the sender's
    /// (RFC 8445 7.2.2).
    pub const fn username(&self) -> Option<&'a str> {
        self.username
    }

    /// The priority of the sender's address (RFC 8445 7.1.1).
    pub const fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// Whether the sender nominates this pair of addresses (RFC 8445 7.1.2).
    pub const fn has_use_candidate(&self) -> bool {
        self.has_use_candidate
    }

    /// Whether MESSAGE-INTEGRITY was made with this password (RFC 8489 14.5), as far as the
    /// attribute reaches. A message without it is not authentic. The time taken does not tell
    /// how much of it is right.
    pub fn is_authentic(&self, password: &[u8]) -> bool {
        let Some(Integrity { covered, mac }) = self.integrity else { return false };
        let Some((kind, [_, _, rest @ ..])) = covered.split_first_chunk::<2>() else {
            return false;
        };
        // The length is signed as if the message ended with the attribute.
        let Ok(length) = u16::try_from(covered.len() - HEADER + 4 + MAC) else { return false };
        let Ok(mut own) = Hmac::<Sha1>::new_from_slice(password) else { return false };
        own.update(kind);
        own.update(&length.to_be_bytes());
        own.update(rest);
        own.verify_slice(mac).is_ok()
    }
}

/// Takes an attribute and its padding off the front (RFC 8489 14).
fn split_attribute<'a>(rest: &mut &'a [u8]) -> Result<(u16, &'a [u8]), BadStun> {
    let (&[k0, k1, l0, l1], behind) = rest.split_first_chunk().ok_or(BadStun::Attribute)?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let (padded, behind) =
        behind.split_at_checked(length.next_multiple_of(4)).ok_or(BadStun::Attribute)?;
    *rest = behind;
    let (value, _padding) = padded.split_at_checked(length).ok_or(BadStun::Attribute)?;
    Ok((u16::from_be_bytes([k0, k1]), value))
}

/// RFC 8489 14.7.
fn fingerprint(before: &[u8]) -> [u8; 4] {
    (crc32fast::hash(before) ^ 0x5354_554e).to_be_bytes()
}

/// Bytes of the header, and those that stand in it at 4 (RFC 8489 5).
const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Bits of the message's type.
const TWO_ZERO_BITS: u16 = 0xc000;
const CLASS: u16 = 0x0110;
const BINDING: u16 = 0x0001;

/// Attributes.
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;

/// Bytes of an HMAC-SHA1.
const MAC: usize = 20;

/// Bytes of the longest name. RFC 8489 14.3 allows 508, but two ufrags of 256 characters
/// (RFC 8839 5.4) and a colon are 513.
const MAX_USERNAME: usize = 513;

/// Attributes of one message that are read; browsers send eight.
const MAX_ATTRIBUTES: usize = 32;

#[cfg(test)]
mod tests;
