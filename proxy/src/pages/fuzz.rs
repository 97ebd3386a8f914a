//! Fuzz targets of what strangers name: paths of files, and streams in the index.

use std::path::Component;

use bolero::check;

use super::folder::Wanted;
use super::streams::{Stream, escape};
use crate::stream::{Ask, StreamKey, Vhosts};

/// Input: the path of a request.
#[test]
fn paths() {
    check!().with_iterations(1000).with_max_len(300).for_each(|input: &[u8]| {
        let Some(wanted) = Wanted::read(&String::from_utf8_lossy(input)) else { return };
        for part in wanted.path.components() {
            let Component::Normal(name) = part else { panic!("{:?} climbs", wanted.path) };
            let name = name.to_str().unwrap();
            assert!(!name.starts_with('.') || name == ".well-known", "{name} is hidden");
            assert!(!name.contains(['/', '\\', ':', '\0']), "{name} is more than a name");
        }
        assert!(wanted.path.is_relative());
    });
}

/// Input: the name of a stream as a publisher says it.
#[test]
fn stream_names() {
    check!().with_iterations(1000).with_max_len(600).for_each(|input: &[u8]| {
        let name = String::from_utf8_lossy(input);
        let text = escape(&name);
        assert!(!text.contains(['<', '>', '"', '\'']), "{text} is markup");
        let ask = Ask::Rtmp { tc_url: "rtmp://tv.example/live", app: "", stream: &name };
        let Ok(key) = StreamKey::new(&ask, &Vhosts::new(["*"])) else { return };
        let stream = Stream::new(&key, None);
        let is_path = |c: char| c.is_ascii_alphanumeric() || "-._~%/?=".contains(c);
        assert!(stream.flv.starts_with("/live/") && stream.flv.chars().all(is_path));
        // What the index links to is this stream again.
        let ask = Ask::Http { host: None, target: &stream.flv };
        assert_eq!(StreamKey::new(&ask, &Vhosts::new(["*"])), Ok(key.clone()));
    });
}
