//! The digests that Flash Player and Flash Media Server put into the handshake. Not in the RTMP
//! text; every implementation follows the same published analysis of the two schemes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::handshake::PACKET;

/// Bytes of a digest.
pub(super) const DIGEST: usize = 32;

/// Bytes of C2 or S2 that the signature at its end covers.
const SIGNED: usize = PACKET - DIGEST;

const PLAYER: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER: &[u8] = b"Genuine Adobe Flash Media Server 001";
const SUFFIX: [u8; 32] = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57,
    0x6e, 0xec, 0x5d, 0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];

/// Where the digest stands in C1 and S1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the first block, its offset in bytes 8 to 11.
    DigestFirst,
    /// In the second block, behind the key, its offset in bytes 772 to 775.
    KeyFirst,
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    Player,
    Server,
}

impl Signer {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Player => PLAYER,
            Self::Server => SERVER,
        }
    }
}

impl Scheme {
    const ALL: [Self; 2] = [Self::DigestFirst, Self::KeyFirst];

    /// Where the four offset bytes stand.
    fn offset_field(self) -> usize {
        match self {
            Self::DigestFirst => 8,
            Self::KeyFirst => 772,
        }
    }

    /// Where the digest stands in `packet`: always inside it, whatever the four bytes say.
    fn position(self, packet: &[u8; PACKET]) -> usize {
        let field = self.offset_field();
        let sum: usize = packet.iter().skip(field).take(4).map(|&b| usize::from(b)).sum();
        // A block has 764 bytes: four for the offset, the digest, and 728 places for it.
        field + 4 + sum % 728
    }
}

/// Finds the digest of `signer` in C1 or S1 and the scheme that placed it.
pub(super) fn find(packet: &[u8; PACKET], signer: Signer) -> Option<(Scheme, [u8; DIGEST])> {
    Scheme::ALL.into_iter().find_map(|scheme| {
        let (before, digest, after) = split(packet, scheme.position(packet))?;
        let expected = mac(signer.name(), &[before, after]);
        (digest == expected).then_some((scheme, expected))
    })
}

/// Writes the digest of `signer` into C1 or S1 and returns it.
pub(super) fn place(packet: &mut [u8; PACKET], scheme: Scheme, signer: Signer) -> [u8; DIGEST] {
    let at = scheme.position(packet);
    let digest = split(packet, at)
        .map(|(before, _, after)| mac(signer.name(), &[before, after]))
        .unwrap_or_default();
    if let Some(place) = packet.get_mut(at..at + DIGEST) {
        place.copy_from_slice(&digest);
    }
    digest
}

/// Signs C2 or S2 at its end, for the peer's digest.
pub(super) fn sign(packet: &mut [u8; PACKET], peer_digest: &[u8; DIGEST], signer: Signer) {
    let key = mac_of_full_key(signer, peer_digest);
    if let Some((body, end)) = packet.split_at_mut_checked(SIGNED) {
        end.copy_from_slice(&mac(&key, &[body]));
    }
}

fn mac_of_full_key(signer: Signer, peer_digest: &[u8; DIGEST]) -> [u8; DIGEST] {
    mac(&[signer.name(), &SUFFIX].concat(), &[peer_digest])
}

fn split(packet: &[u8; PACKET], at: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let (before, rest) = packet.split_at_checked(at)?;
    let (digest, after) = rest.split_at_checked(DIGEST)?;
    Some((before, digest, after))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    // HMAC takes a key of any length (RFC 2104 section 2), so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; DIGEST] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a signature the way a Flash peer does.
    fn signed(packet: &[u8; PACKET], digest: &[u8; DIGEST], signer: Signer) -> bool {
        let mut copy = *packet;
        sign(&mut copy, digest, signer);
        copy == *packet
    }

    #[test]
    fn a_placed_digest_is_found_again_in_both_schemes_whatever_the_offset_bytes_say() {
        for scheme in Scheme::ALL {
            for fill in [0u8, 1, 77, 182, 255] {
                let mut packet = [fill; PACKET];
                let digest = place(&mut packet, scheme, Signer::Player);
                assert_eq!(find(&packet, Signer::Player), Some((scheme, digest)));
                assert_eq!(find(&packet, Signer::Server), None);
            }
        }
    }

    #[test]
    fn a_signature_holds_for_its_digest_only() {
        let mut packet = [9; PACKET];
        sign(&mut packet, &[1; DIGEST], Signer::Server);
        assert!(signed(&packet, &[1; DIGEST], Signer::Server));
        assert!(!signed(&packet, &[2; DIGEST], Signer::Server));
        assert!(!signed(&packet, &[1; DIGEST], Signer::Player));
    }
}
