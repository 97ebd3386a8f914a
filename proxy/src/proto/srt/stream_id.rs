//! The stream id of an SRT caller (draft-sharabayko-srt 3.2.1.3), and whether it publishes.

use thiserror::Error;

use super::handshake::Extensions;

/// Bytes of the longest stream id (3.2.1.3).
pub const MAX_STREAM_ID: usize = 512;

/// The stream id's type among the extensions (3.2.1.1, table 5).
const SID: u16 = 5;

/// Why an extension is no stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadStreamId {
    /// More than [`MAX_STREAM_ID`].
    #[error("a stream id of more than 512 bytes")]
    TooLong,
    /// There is a second one: readers differ in which they take.
    #[error("two stream ids")]
    Twice,
    /// Not UTF-8.
    #[error("the stream id is not UTF-8")]
    NotText,
    /// A mode other than publish or request.
    #[error("m= is neither publish nor request")]
    Mode,
}

/// The stream id of a conclusion; empty where there is none.
pub fn find(extensions: &Extensions<'_>) -> Result<String, BadStreamId> {
    let mut found = extensions.iter().filter(|(kind, _)| *kind == SID);
    let Some((_, content)) = found.next() else { return Ok(String::new()) };
    if found.next().is_some() {
        return Err(BadStreamId::Twice);
    }
    if content.len() > MAX_STREAM_ID {
        return Err(BadStreamId::TooLong);
    }
    // The text stands in words of little-endian order, the last one filled up with zeros.
    let words = content.as_chunks::<4>().0;
    let mut text: Vec<u8> = words.iter().flat_map(|word| word.iter().rev()).copied().collect();
    while text.pop_if(|byte| *byte == 0).is_some() {}
    String::from_utf8(text).map_err(|_| BadStreamId::NotText)
}

/// What a caller does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sends media.
    Publish,
    /// Receives media.
    Request,
}

impl Mode {
    /// SRS: who has no stream id publishes `live/livestream`; who does not say requests.
    pub fn of(stream_id: &str) -> Result<Self, BadStreamId> {
        if stream_id.is_empty() {
            return Ok(Self::Publish);
        }
        let pairs = pairs(stream_id).into_iter().flatten();
        match pairs.filter(|(name, _)| *name == "m").last() {
            None => Ok(Self::Request),
            Some((_, mode)) if mode.eq_ignore_ascii_case("publish") => Ok(Self::Publish),
            Some((_, mode)) if mode.eq_ignore_ascii_case("request") => Ok(Self::Request),
            Some(_) => Err(BadStreamId::Mode),
        }
    }
}

/// The pairs of a stream id that begins with `#!::`. SRS separates them by any of these marks; `?`
/// because a query may be appended.
pub fn pairs(stream_id: &str) -> Option<impl Iterator<Item = (&str, &str)>> {
    let pairs = stream_id.strip_prefix("#!::")?.split(['&', ',', ';', '?']);
    Some(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))))
}

#[cfg(test)]
mod tests {
    use super::super::handshake::{BARE, Handshake};
    use super::*;

    /// Of a handshake with these extensions.
    fn found(extensions: &[(u16, &[u8])]) -> Result<String, BadStreamId> {
        let mut packet = vec![0; BARE];
        packet[0] = 0x80;
        for (kind, content) in extensions {
            packet.extend(kind.to_be_bytes());
            packet.extend(u16::try_from(content.len() / 4).unwrap().to_be_bytes());
            packet.extend(*content);
        }
        find(&Handshake::parse(&packet).expect("a handshake").extensions)
    }

    #[test]
    fn a_text_of_any_length_is_put_together_of_its_words() {
        for (content, text) in [
            (&b"::!#"[..], "#!::"),
            (b"::!#il=rs/evtstrmaerp=m,ilbu\0\0hs", "#!::r=live/srtstream,m=publish"),
            (b"\0\0\0a", "a"),
            (b"\0\0ba", "ab"),
            (b"\0cba", "abc"),
            (b"\0\0\0\0", ""),
            (b"", ""),
            (b"\0\0\xa9\xc3", "\u{e9}"),
        ] {
            assert_eq!(found(&[(1, b"abcd"), (5, content)]).as_deref(), Ok(text));
        }
        assert_eq!(found(&[(1, b"abcd")]).as_deref(), Ok(""));
        assert_eq!(found(&[(5, b"\0\0\xc3\xa9")]), Err(BadStreamId::NotText));
    }

    #[test]
    fn a_stream_id_is_there_once_and_at_most_512_bytes() {
        assert_eq!(found(&[(5, b"dcba"), (5, b"dcba")]), Err(BadStreamId::Twice));
        assert_eq!(found(&[(5, &[b'x'; 512])]).map(|id| id.len()), Ok(512));
        assert_eq!(found(&[(5, &[b'x'; 516])]), Err(BadStreamId::TooLong));
    }

    #[test]
    fn the_mode_is_the_one_that_srs_takes() {
        for (stream_id, mode) in [
            ("", Ok(Mode::Publish)),
            ("#!::r=live/livestream,m=publish", Ok(Mode::Publish)),
            ("#!::m=PUBLISH,r=live/livestream", Ok(Mode::Publish)),
            ("#!::r=live/livestream?secret=1,m=publish", Ok(Mode::Publish)),
            ("#!::r=live/livestream,m=request", Ok(Mode::Request)),
            ("#!::m=publish,r=live/livestream,m=request", Ok(Mode::Request)),
            ("#!::r=live/livestream", Ok(Mode::Request)),
            ("#!::r=live/livestream,m=bidirectional", Err(BadStreamId::Mode)),
            ("#!::r=live/livestream,m", Err(BadStreamId::Mode)),
            ("live/livestream", Ok(Mode::Request)),
            ("live/livestream?m=publish", Ok(Mode::Request)),
            ("livestream", Ok(Mode::Request)),
        ] {
            assert_eq!(Mode::of(stream_id), mode, "{stream_id}");
        }
    }
}
