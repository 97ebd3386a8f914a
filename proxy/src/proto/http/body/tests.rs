use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a reader makes of these pieces: the payload, and how many bytes were the body's, if it
/// ended, or none yet.
fn read(length: BodyLength, pieces: &[&[u8]]) -> (Vec<u8>, Result<(usize, bool), BadBody>) {
    let mut reader = BodyReader::new(length);
    let mut payload = Vec::new();
    let mut taken = 0;
    for piece in pieces {
        match reader.read(piece, &mut |bytes| payload.extend_from_slice(bytes)) {
            Ok(bytes) => taken += bytes,
            Err(error) => return (payload, Err(error)),
        }
    }
    (payload, Ok((taken, reader.is_done())))
}

fn chunked(bytes: &[u8]) -> (Vec<u8>, Result<(usize, bool), BadBody>) {
    read(BodyLength::Chunked, &[bytes])
}

#[test]
fn a_known_body_ends_after_its_bytes() {
    let body = |length, pieces| read(BodyLength::Known(length), pieces);
    assert_eq!(body(0, &[b"next"]), (vec![], Ok((0, true))));
    assert_eq!(body(3, &[b"abcnext"]), (b"abc".to_vec(), Ok((3, true))));
    assert_eq!(body(3, &[b"a", b"", b"bcd", b"e"]), (b"abc".to_vec(), Ok((3, true))));
    assert_eq!(body(3, &[b"ab"]), (b"ab".to_vec(), Ok((2, false))));
    assert!(BodyReader::new(BodyLength::Known(0)).is_done());
}

#[test]
fn a_body_until_close_never_ends_by_itself() {
    assert_eq!(read(BodyLength::UntilClose, &[b"a", b"b"]), (b"ab".to_vec(), Ok((2, false))));
    assert!(BodyReader::new(BodyLength::UntilClose).ends_with_the_connection());
    assert!(!BodyReader::new(BodyLength::Chunked).ends_with_the_connection());
    assert_eq!(BodyReader::new(BodyLength::Known(7)).length(), BodyLength::Known(7));
}

#[test]
fn chunks_end_with_an_empty_one() {
    let bodies: [(&[u8], &[u8]); 8] = [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"0000000000000003\r\n\r\n0\r\n0\r\n\r\n", b"\r\n0"),
        (b"3;a\r\nabc\r\n0 \t; a=\"b;\"\r\n\r\n", b"abc"),
        (b"1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"a"),
        (b"0\r\nA: \xfc\t \r\n\r\n", b""),
    ];
    for (bytes, payload) in bodies {
        let story = (payload.to_vec(), Ok((bytes.len(), true)));
        assert_eq!(chunked(&[bytes, b"0\r\n\r\n"].concat()), story);
        for cut in 0..=bytes.len() {
            let (before, behind) = bytes.split_at(cut);
            assert_eq!(read(BodyLength::Chunked, &[before, behind]), story, "cut at {cut}");
            let (_, seen) = chunked(before);
            assert_eq!(seen, Ok((cut, cut == bytes.len())), "the first {cut} bytes");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(BodyLength::Chunked, &single), story, "byte by byte");
    }
}

#[test]
fn chunks_that_could_be_read_in_two_ways_are_refused() {
    use BadBody::*;
    let refused: [(&[u8], BadBody); 32] = [
        (b"\r\n", ChunkSize),
        (b"\n", ChunkSize),
        (b" 3\r\n", ChunkSize),
        (b"+3\r\n", ChunkSize),
        (b"-3\r\n", ChunkSize),
        (b"0x3\r\n", ChunkSize),
        (b"g\r\n", ChunkSize),
        (b";a\r\n", ChunkSize),
        (b"3_0\r\n", ChunkSize),
        (b"3 \r\n", ChunkSize),
        (b"3 3\r\n", ChunkSize),
        (b"8000000000000000\r\n", ChunkSize),
        (b"ffffffffffffffff\r\n", ChunkSize),
        (b"00000000000000003\r\n", ChunkSize),
        (b"3\nabc", LineEnd),
        (b"3\rabc", LineEnd),
        (b"3\r\r\n", LineEnd),
        (b"3;a\nabc", LineEnd),
        (b"3;a\rb", LineEnd),
        (b"3;a\0b", Extension),
        (b"3;\x7f", Extension),
        (b"3\r\nabcd", LineEnd),
        (b"3\r\nabc\n", LineEnd),
        (b"3\r\nabc\r0", LineEnd),
        (b"3\r\nabc0\r\n", LineEnd),
        (b"0\r\n\n", LineEnd),
        (b"0\r\n\rX", LineEnd),
        (b"0\r\nA: b\n", LineEnd),
        (b"0\r\nA: b\rC", LineEnd),
        (b"0\r\n: b\r\n", Trailer),
        (b"0\r\n a: b\r\n", Trailer),
        (b"0\r\nGET / HTTP/1.1\r\n", Trailer),
    ];
    for (bytes, error) in refused {
        let text = bytes.escape_ascii();
        assert_eq!(chunked(bytes).1, Err(error), "{text}");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(BodyLength::Chunked, &single).1, Err(error), "{text}, byte by byte");
    }
}

#[test]
fn an_error_is_final() {
    let mut reader = BodyReader::new(BodyLength::Chunked);
    assert_eq!(reader.read(b"x", &mut |_| {}), Err(BadBody::ChunkSize));
    assert_eq!(reader.read(b"0\r\n\r\n", &mut |_| {}), Err(BadBody::ChunkSize));
    assert!(!reader.is_done());
}

#[test]
fn what_is_between_the_chunks_is_bounded() {
    let extended = |bytes: usize| format!("1;{}\r\na\r\n", "x".repeat(bytes - 1));
    let twice = extended(MAX_EXTENSION).repeat(2);
    assert_eq!(chunked(twice.as_bytes()).1, Ok((twice.len(), false)));
    assert_eq!(chunked(extended(MAX_EXTENSION + 1).as_bytes()).1, Err(BadBody::Extension));
    let spaces = format!("1{}", " ".repeat(MAX_EXTENSION + 1));
    assert_eq!(chunked(spaces.as_bytes()).1, Err(BadBody::Extension));

    let trailed = |bytes: usize| format!("0\r\nA:{}\r\n\r\n", "x".repeat(bytes - 6));
    let longest = trailed(MAX_HEAD);
    assert_eq!(chunked(longest.as_bytes()).1, Ok((longest.len(), true)));
    assert_eq!(chunked(trailed(MAX_HEAD + 1).as_bytes()).1, Err(BadBody::Trailer));
    let endless = format!("0\r\n{}", "A: b\r\n".repeat(MAX_HEAD / 6 + 1));
    assert_eq!(chunked(endless.as_bytes()).1, Err(BadBody::Trailer));
}

#[test]
fn the_largest_chunk_is_waited_for() {
    let (payload, seen) = chunked(b"7fffffffffffffff\r\nabc");
    assert_eq!((payload.as_slice(), seen), (b"abc".as_slice(), Ok((21, false))));
}

proptest! {
    #[test]
    fn whatever_the_chunks_and_the_pieces_the_payload_is_the_same(
        chunks in vec((vec(any::<u8>(), 1..40), "( ?;[ -~]{0,9})?", any::<bool>()), 0..8),
        trailers in vec("[a-z]{1,5}:[ -~]{0,9}", 0..4),
        behind in vec(any::<u8>(), 0..9),
        step in 1..30_usize,
    ) {
        let mut bytes = Vec::new();
        for (chunk, extension, upper) in &chunks {
            let size = match upper {
                true => format!("{:X}", chunk.len()),
                false => format!("{:04x}", chunk.len()),
            };
            bytes.extend(format!("{size}{extension}\r\n").into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n");
        for trailer in trailers {
            bytes.extend(format!("{trailer}\r\n").into_bytes());
        }
        bytes.extend(b"\r\n");
        let end = bytes.len();
        bytes.extend(behind);
        let payload: Vec<u8> = chunks.into_iter().flat_map(|(chunk, ..)| chunk).collect();
        let pieces: Vec<&[u8]> = bytes.chunks(step).collect();
        prop_assert_eq!(read(BodyLength::Chunked, &pieces), (payload, Ok((end, true))));
    }
}
