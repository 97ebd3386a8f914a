//! The token that brings a request back to where its playlist, or its session, came from.
//!
//! It says the stream and the origin, signed, so that any proxy with the same secret can route a
//! segment without having seen its playlist.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::key::StreamKey;

/// Issues and reads tokens of one secret.
///
/// A token is base64url without padding (RFC 4648 5) of: the version, one byte; the length of the
/// server's name, two bytes, and the name; the key; and the first 16 bytes of the HMAC-SHA256 of
/// all that.
///
/// The same stream at the same origin has the same token, so that its segments have the same
/// URLs for all players, and caches in front keep working. A token does not expire: a recording
/// may be watched for hours, and beyond what the path alone opens a token opens no more than the
/// other files of the stream's app.
#[derive(Clone)]
pub struct Tokens {
    mac: Hmac<Sha256>,
}

impl Tokens {
    /// Name of the query parameter that holds a token.
    pub const PARAMETER: &'static str = "spt";

    /// Of a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        // The secret may serve other purposes, with other names.
        let digest = Sha256::new().chain_update(b"srs-proxy stream token\0").chain_update(secret);
        // RFC 2104 2: a key shorter than the block is filled up with zeros.
        let mut key = [0; 64];
        for (to, from) in key.iter_mut().zip(digest.finalize()) {
            *to = from;
        }
        Self { mac: Hmac::new(&key.into()) }
    }

    /// A token, at most 1050 characters of `A-Z a-z 0-9 - _`. Servers of more than 256 bytes
    /// have none that could be read.
    pub fn issue(&self, key: &StreamKey, server: &str) -> String {
        let mut token = vec![VERSION];
        push(&mut token, server);
        token.extend_from_slice(key.as_str().as_bytes());
        self.signed(token, &[])
    }

    /// A token of a session that opens this target alone. Sessions whose names have more than 600
    /// bytes have none that could be read.
    pub fn issue_session(&self, claim: &SessionClaim, target: &str) -> String {
        let mut token = vec![SESSION_VERSION];
        push(&mut token, &claim.server);
        push(&mut token, &claim.name);
        token.extend_from_slice(claim.key.as_str().as_bytes());
        self.signed(token, &opened(target))
    }

    /// The token with its signature, which is of what stands behind it as well.
    fn signed(&self, mut token: Vec<u8>, behind: &[u8]) -> String {
        let mac = self.mac.clone().chain_update(&token).chain_update(behind);
        token.extend(mac.finalize().into_bytes().into_iter().take(SIGNATURE));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What a token of this secret says.
    pub fn read(&self, token: &str) -> Result<Claim, BadToken> {
        let signed = self.verified(token, VERSION, &[])?;
        let (server, key) = split(&signed, MAX_SERVER).ok_or(BadToken::Malformed)?;
        Ok(Claim { key: key_of(key)?, server: server.to_owned() })
    }

    /// What a token of a session says, if it opens this target.
    pub fn read_session(&self, token: &str, target: &str) -> Result<SessionClaim, BadToken> {
        let signed = self.verified(token, SESSION_VERSION, &opened(target))?;
        let (server, rest) = split(&signed, MAX_SERVER).ok_or(BadToken::Malformed)?;
        let (name, key) = split(rest, MAX_NAME).ok_or(BadToken::Malformed)?;
        Ok(SessionClaim { key: key_of(key)?, server: server.to_owned(), name: name.to_owned() })
    }

    /// What a token of this version says, signed with what stands behind it.
    fn verified(&self, token: &str, version: u8, behind: &[u8]) -> Result<Vec<u8>, BadToken> {
        if token.len() > MAX_TOKEN {
            return Err(BadToken::Malformed);
        }
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken::Malformed)?;
        match token.first() {
            Some(&it) if it == version => {}
            Some(_) => return Err(BadToken::Version),
            None => return Err(BadToken::Malformed),
        }
        let (signed, signature) =
            token.split_last_chunk::<SIGNATURE>().ok_or(BadToken::Malformed)?;
        let mac = self.mac.clone().chain_update(signed).chain_update(behind);
        // Compares in constant time.
        mac.verify_truncated_left(signature).map_err(|_| BadToken::Forged)?;
        Ok(signed.get(1..).unwrap_or_default().to_vec())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Where a request belongs, by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The stream whose playlist it was.
    pub key: StreamKey,
    /// The server id of the origin that it came from.
    pub server: String,
}

/// Where a request about a session of WebRTC belongs, by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionClaim {
    /// The stream that is published or played.
    pub key: StreamKey,
    /// The server id of the origin.
    pub server: String,
    /// The session's name: the ICE user names of answer and offer with a colon between them.
    pub name: String,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not a token at all.
    #[error("not a token")]
    Malformed,
    /// Of a version that is not known.
    #[error("a token of another version")]
    Version,
    /// Signed with another secret, or changed.
    #[error("a token with a wrong signature")]
    Forged,
}

const VERSION: u8 = 1;

/// Of tokens of sessions.
const SESSION_VERSION: u8 = 2;

/// Bytes of the signature.
const SIGNATURE: usize = 16;

/// Longest server name, in bytes.
const MAX_SERVER: usize = 256;

/// Longest name of a session, in bytes: two ICE user names of 256 (RFC 8839 5.4), and more.
const MAX_NAME: usize = 600;

/// Longest token, in characters.
const MAX_TOKEN: usize =
    (5 + MAX_SERVER + MAX_NAME + StreamKey::MAX_BYTES + SIGNATURE).div_ceil(3) * 4;

/// Appends a name behind its length.
fn push(token: &mut Vec<u8>, name: &str) {
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    token.extend_from_slice(&length.to_be_bytes());
    token.extend_from_slice(name.as_bytes());
}

/// A name of so many bytes at most, and what stands behind it.
fn split(signed: &[u8], max: usize) -> Option<(&str, &[u8])> {
    let (length, rest) = signed.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (name, rest) = rest.split_at_checked(length).filter(|_| length <= max)?;
    Some((str::from_utf8(name).ok()?, rest))
}

fn key_of(text: &[u8]) -> Result<StreamKey, BadToken> {
    let key = str::from_utf8(text).ok().and_then(StreamKey::of_claim);
    key.ok_or(BadToken::Malformed)
}

/// A target as it is signed. Its length at the end tells where it begins, so that no other token and
/// target have the same bytes together.
fn opened(target: &str) -> Vec<u8> {
    let length = (target.len() as u64).to_be_bytes();
    [target.as_bytes(), &length].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::{Ask, Vhosts};

    fn key(target: &str) -> StreamKey {
        StreamKey::new(&Ask::Http { host: None, target }, &Vhosts::default()).unwrap()
    }

    fn decoded(token: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(token).unwrap()
    }

    #[test]
    fn a_fleet_with_one_secret_reads_each_other_s_tokens() {
        let (one, other) = (Tokens::new(b"secret"), Tokens::new(b"secret"));
        let token = one.issue(&key("/live/show.m3u8"), "vid-1a2b3c");
        assert_eq!(token, other.issue(&key("/live/show.flv"), "vid-1a2b3c"), "one URL for all");
        let claim = Claim { key: key("/live/show"), server: "vid-1a2b3c".to_owned() };
        assert_eq!(other.read(&token), Ok(claim));
        assert_eq!(Tokens::new(b"secret2").read(&token), Err(BadToken::Forged));
        assert_eq!(Tokens::new(b"").read(&token), Err(BadToken::Forged));
    }

    /// What is in playlists that players hold must be readable after an upgrade.
    #[test]
    fn the_format_is_as_it_was() {
        let token = Tokens::new(b"secret").issue(&key("/live/show"), "vid-1");
        assert_eq!(token, "AQAFdmlkLTFfX2RlZmF1bHRWaG9zdF9fL2xpdmUvc2hvd4jL8c-zV_OJwYELikPLXTQ");
    }

    #[test]
    fn no_changed_byte_goes_unnoticed() {
        let tokens = Tokens::new(b"secret");
        let token = tokens.issue(&key("/live/show"), "vid-1");
        for at in 0..token.len() {
            for other in ["A", "z", "_", "=", "%"] {
                let mut changed = token.clone();
                changed.replace_range(at..=at, other);
                assert!(changed == token || tokens.read(&changed).is_err(), "{changed}");
            }
            assert!(tokens.read(&token[..at]).is_err(), "the first {at} characters");
        }
        assert!(tokens.read(&format!("{token}A")).is_err());
        assert!(tokens.read(&format!("{token}=")).is_err());
        let mut newer = decoded(&token);
        newer[0] = 2;
        assert_eq!(tokens.read(&URL_SAFE_NO_PAD.encode(newer)), Err(BadToken::Version));
    }

    #[test]
    fn what_a_token_may_say_is_bounded() {
        let tokens = Tokens::new(b"secret");
        let longest = key(&format!("/live/{}", "s".repeat(StreamKey::MAX_BYTES - 22)));
        assert_eq!(longest.as_str().len(), StreamKey::MAX_BYTES);
        let server = "s".repeat(MAX_SERVER);
        let token = tokens.issue(&longest, &server);
        assert_eq!(token.len(), 1050);
        assert_eq!(tokens.read(&token), Ok(Claim { key: longest, server }));
        let token = tokens.issue(&key("/live/show"), &"s".repeat(MAX_SERVER + 1));
        assert_eq!(tokens.read(&token), Err(BadToken::Malformed));
        assert_eq!(tokens.read(&"A".repeat(1 << 20)), Err(BadToken::Malformed));
        assert_eq!(tokens.read(""), Err(BadToken::Malformed));
        assert_eq!(tokens.read("AQ"), Err(BadToken::Malformed));
    }

    fn session(name: &str) -> SessionClaim {
        SessionClaim { key: key("/live/show"), server: "vid-1".into(), name: name.into() }
    }

    #[test]
    fn a_session_s_token_opens_its_own_target_alone() {
        let (tokens, claim) = (Tokens::new(b"secret"), session("abcd:efgh"));
        let target = "/rtc/v1/whip/?action=delete&session=abcd:efgh";
        let token = tokens.issue_session(&claim, target);
        assert_eq!(tokens.read_session(&token, target), Ok(claim.clone()));
        for other in ["", "/", "/rtc/v1/whip/", &format!("{target}&"), &target[1..]] {
            let read = tokens.read_session(&token, other);
            assert_eq!(read, Err(BadToken::Forged), "{other}");
        }
        assert_eq!(tokens.read(&token), Err(BadToken::Version), "it lists nothing");
        let listed = tokens.issue(&claim.key, &claim.server);
        assert_eq!(tokens.read_session(&listed, target), Err(BadToken::Version));
        let foreign = Tokens::new(b"other").issue_session(&claim, target);
        assert_eq!(tokens.read_session(&foreign, target), Err(BadToken::Forged));
        let mut longer = decoded(&token);
        longer.splice(longer.len() - SIGNATURE..longer.len() - SIGNATURE, *b"/rtc");
        let shifted = tokens.read_session(&URL_SAFE_NO_PAD.encode(longer), &target[4..]);
        assert_eq!(shifted, Err(BadToken::Forged), "the key ends where it ended");
    }

    #[test]
    fn what_a_session_s_token_may_say_is_bounded() {
        let tokens = Tokens::new(b"secret");
        let longest = session(&"n".repeat(MAX_NAME));
        let token = tokens.issue_session(&longest, "/");
        assert_eq!(tokens.read_session(&token, "/"), Ok(longest));
        let token = tokens.issue_session(&session(&"n".repeat(MAX_NAME + 1)), "/");
        assert_eq!(tokens.read_session(&token, "/"), Err(BadToken::Malformed));
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Tokens::new(b"secret")), "Tokens { .. }");
    }

    proptest! {
        #[test]
        fn what_was_issued_is_read(name in "[a-zA-Z0-9é_.-]{1,40}", server in ".{0,60}") {
            let tokens = Tokens::new(b"secret");
            let key = key(&format!("/live/x{name}"));
            let token = tokens.issue(&key, &server);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            prop_assert_eq!(tokens.read(&token), Ok(Claim { key, server }));
        }

        #[test]
        fn nothing_but_an_issued_token_is_believed(text in "[a-zA-Z0-9_-]{0,200}|.{0,40}") {
            prop_assert!(Tokens::new(b"secret").read(&text).is_err());
        }
    }
}
