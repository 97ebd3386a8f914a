//! What others may have put into Redis: origins and their list, playlists, sessions of WebRTC.

use std::time::SystemTime;

use bolero::check;
use srs_proxy::cluster::redis::record;
use srs_proxy::cluster::store::{HlsRecord, WebrtcRecord};

use crate::{RANDOM, corpus};

#[test]
fn server() {
    check!().with_iterations(RANDOM).with_max_len(2000).for_each(|input: &[u8]| {
        let Ok(origin) = record::read_server(input) else { return };
        let heard = SystemTime::UNIX_EPOCH;
        for former in [None, Some(input)] {
            let written = record::write_server(&origin, heard, former);
            let again = record::read_server(written.as_bytes());
            assert_eq!(again.as_ref(), Ok(&origin), "{written}");
            let once_more = record::write_server(&origin, heard, Some(written.as_bytes()));
            assert_eq!(once_more, written, "others' members stay as they are");
        }
    });
}

#[test]
fn list() {
    check!().with_iterations(RANDOM).with_max_len(2000).for_each(|input: &[u8]| {
        for is_cut in [false, true] {
            let Some(names) = record::read_list(input, is_cut) else { continue };
            assert!(names.len() <= record::MAX_SERVERS);
            let written = record::json(&names);
            assert_eq!(record::read_list(written.as_bytes(), false), Some(names));
        }
    });
}

#[test]
fn playlist_and_session() {
    check!().with_iterations(RANDOM).with_max_len(2000).for_each(|input: &[u8]| {
        if let Some(stream) = record::read_hls(input) {
            let hls = HlsRecord { id: "3a08a3f".into(), stream, url: "u".into() };
            assert_eq!(record::read_hls(record::write_hls(&hls).as_bytes()), Some(hls.stream));
        }
        if let Some((stream, name)) = record::read_webrtc(input) {
            let webrtc = WebrtcRecord { name, stream, place: None };
            let read = record::read_webrtc(record::write_webrtc(&webrtc).as_bytes());
            assert_eq!(read, Some((webrtc.stream, webrtc.name)));
        }
    });
}

#[test]
fn an_origin_cut_anywhere_is_none() {
    let mut read = 0;
    for (name, bytes) in corpus::of("records__server") {
        if record::read_server(&bytes).is_ok() {
            read += 1;
            let cut = (0..bytes.len()).find(|end| record::read_server(&bytes[..*end]).is_ok());
            assert_eq!(cut, None, "{name}");
        }
    }
    assert!(read >= 2, "{read} origins in the corpus can be read");
}
