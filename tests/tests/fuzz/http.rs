//! HTTP heads and the ends of bodies. What `body` reads is chunked; a known length is tried on the
//! same bytes.

use std::fmt::Debug;

use bolero::check;
use srs_proxy::proto::http::{
    BadBody, BadHead, BodyLength, BodyReader, Headers, MAX_HEAD, MAX_HEADERS, RequestHead,
    ResponseHead, Version,
};

use crate::split::{in_two, pieces};
use crate::{RANDOM, corpus};

#[test]
fn request() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        comes_in_pieces(input, &pieces(input), RequestHead::parse);
        let Ok(Some((mut head, length))) = RequestHead::parse(input) else { return };
        assert!(length <= MAX_HEAD, "{length} bytes of a head");
        is_clean(&head.headers);
        assert_ne!(head.body_length(), BodyLength::UntilClose, "a request does not end so");
        let form = head.origin_form();
        assert!(form.starts_with('/') || form == "*" || head.method == "CONNECT", "{form}");
        // Questions that every session asks of a head.
        let _ = (head.keeps_alive(), head.authority());
        // It is written as HTTP/1.1, which wants a Host.
        head.version = Version::Http11;
        if !head.headers.has("Host") {
            head.headers.push("Host", "origin");
        }
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        if bytes.len() <= MAX_HEAD && head.headers.len() <= MAX_HEADERS {
            assert_eq!(RequestHead::parse(&bytes), Ok(Some((head, bytes.len()))));
        }
    });
}

#[test]
fn response() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        comes_in_pieces(input, &pieces(input), ResponseHead::parse);
        let Ok(Some((mut head, length))) = ResponseHead::parse(input) else { return };
        assert!(length <= MAX_HEAD, "{length} bytes of a head");
        is_clean(&head.headers);
        assert_eq!(head.body_length("HEAD"), BodyLength::Known(0));
        let _ = (head.keeps_alive(), head.body_length("GET"));
        head.version = Version::Http11;
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        if bytes.len() <= MAX_HEAD {
            assert_eq!(ResponseHead::parse(&bytes), Ok(Some((head, bytes.len()))));
        }
    });
}

#[test]
fn body() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let half = BodyLength::Known(input.len() as u64 / 2);
        for length in [BodyLength::Chunked, half, BodyLength::UntilClose] {
            let whole = Body::of(length, &[input]);
            assert_eq!(Body::of(length, &pieces(input)), whole, "another body in pieces");
            assert!(whole.payload.len() <= input.len(), "payload from nowhere");
            let all = whole.error.is_some() || whole.is_done || whole.taken == input.len();
            assert!(all, "{} of {} bytes taken by what goes on", whole.taken, input.len());
            whole.can_be_sent_as_one_chunk();
        }
    });
}

#[test]
fn every_split_of_the_corpora_is_read_as_the_whole_is() {
    for (_, input) in corpus::of("http__request") {
        for two in in_two(&input).step_by(input.len().div_ceil(500).max(1)) {
            comes_in_pieces(&input, &two, RequestHead::parse);
        }
    }
    for (_, input) in corpus::of("http__response") {
        for two in in_two(&input).step_by(input.len().div_ceil(500).max(1)) {
            comes_in_pieces(&input, &two, ResponseHead::parse);
        }
    }
    for (name, input) in corpus::of("http__body") {
        let whole = Body::of(BodyLength::Chunked, &[&input]);
        for two in in_two(&input).step_by(input.len().div_ceil(500).max(1)) {
            assert_eq!(Body::of(BodyLength::Chunked, &two), whole, "{name}, {}", two[0].len());
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(Body::of(BodyLength::Chunked, &bytes), whole, "{name} byte by byte");
    }
}

/// A head is asked for whenever bytes come, with all there are. It is the same as that of the
/// whole, or neither is one.
fn comes_in_pieces<T: Debug + PartialEq>(
    input: &[u8],
    pieces: &[&[u8]],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, BadHead>,
) {
    let whole = parse(input);
    let mut came = 0;
    for piece in pieces {
        came += piece.len();
        let part = parse(&input[..came]);
        match part {
            Ok(None) => {}
            Ok(Some(_)) => return assert_eq!(part, whole, "the first {came} bytes"),
            Err(_) => return assert!(whole.is_err(), "{part:?} of {came} bytes, then {whole:?}"),
        }
    }
    assert!(input.is_empty() || whole == Ok(None), "{whole:?}, and nothing in pieces");
}

/// Nothing in a header begins another line, in any reader's eyes.
fn is_clean(headers: &Headers) {
    assert!(headers.len() <= MAX_HEADERS, "{} headers", headers.len());
    for (name, value) in headers.iter() {
        let token = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        assert!(token && !name.is_empty(), "{name:?}");
        let text = value.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control());
        assert!(text && value.trim_ascii() == value, "{name}: {}", value.escape_ascii());
    }
    let mut passed_on = headers.clone();
    passed_on.remove_hop_by_hop();
    let kept = ["Host", "Content-Length", "Authorization", "X-Forwarded-For"];
    for name in kept {
        assert_eq!(passed_on.has(name), headers.has(name), "{name}");
    }
    assert!(!passed_on.has("Connection") && !passed_on.has("Transfer-Encoding"));
}

/// Everything that a reader says of its input.
#[derive(Debug, PartialEq)]
struct Body {
    payload: Vec<u8>,
    /// Bytes of the body; none are counted of a piece with an error.
    taken: usize,
    is_done: bool,
    error: Option<BadBody>,
}

impl Body {
    fn of(length: BodyLength, pieces: &[&[u8]]) -> Self {
        let mut reader = BodyReader::new(length);
        let mut body = Self { payload: Vec::new(), taken: 0, is_done: false, error: None };
        for piece in pieces {
            match reader.read(piece, &mut |bytes| body.payload.extend_from_slice(bytes)) {
                Ok(taken) => {
                    body.taken += taken;
                    assert!(taken == piece.len() || reader.is_done(), "bytes left by what goes on");
                }
                Err(error) => {
                    body.error = Some(error);
                    body.taken = 0;
                    break;
                }
            }
        }
        body.is_done = reader.is_done();
        body
    }

    fn can_be_sent_as_one_chunk(&self) {
        if self.payload.is_empty() {
            return;
        }
        let size = format!("{:x}\r\n", self.payload.len()).into_bytes();
        let bytes = [size.as_slice(), &self.payload, b"\r\n0\r\n\r\n"].concat();
        let again = Self::of(BodyLength::Chunked, &[&bytes]);
        assert_eq!(
            (&again.payload, again.taken, again.is_done),
            (&self.payload, bytes.len(), true)
        );
    }
}
