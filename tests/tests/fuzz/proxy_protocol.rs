//! The PROXY protocol, as a connection may begin.

use bolero::check;
use srs_proxy::proto::proxy_protocol::{Header, MAX_HEADER, Version, parse, write};

use crate::{RANDOM, corpus};

#[test]
fn parser() {
    check!().with_iterations(RANDOM).with_max_len(2 * MAX_HEADER).for_each(|input: &[u8]| {
        match parse(input) {
            Ok(Some((header, length))) => {
                assert!(length <= input.len().min(MAX_HEADER), "{length} bytes of {}", input.len());
                let alone = &input[..length];
                assert_eq!(parse(alone), Ok(Some((header, length))), "what follows counts");
                assert_eq!(parse(&alone[..length - 1]), Ok(None), "its last byte does not count");
                must_be_read_again(header);
            }
            Ok(None) => assert!(input.len() < MAX_HEADER, "more than a header is asked for"),
            Err(_) => {}
        }
    });
}

fn must_be_read_again(header: Header) {
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        write(version, &header, &mut out);
        let read = parse(&out).expect("a header").expect("all of it");
        assert_eq!((canonical(read.0), read.1), (canonical(header), out.len()), "{version:?}");
    }
}

fn canonical(header: Header) -> Header {
    match header {
        Header::Proxy(ends) => Header::Proxy(ends.to_canonical()),
        Header::Local => Header::Local,
    }
}

/// What has been said of a prefix holds for the whole: more is asked for until the same answer.
#[test]
fn every_prefix_of_the_corpus_asks_for_more_or_ends_as_the_whole_does() {
    for (name, input) in corpus::of("proxy_protocol__parser") {
        let whole = parse(&input);
        for n in 0..input.len() {
            let answer = parse(&input[..n]);
            assert!(answer == Ok(None) || answer == whole, "{name}: {n} bytes are {answer:?}");
        }
    }
}
