//! What comes around the descriptions of WebRTC: the URL of a session, and the JSON of SRS.

use bolero::check;
use srs_proxy::proto::http::Target;
use srs_proxy::proto::location;
use srs_proxy::proto::signalling::Message;

use crate::RANDOM;

/// The input is the reference, and in a second line the target that was asked for.
#[test]
fn location() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let (reference, base) = text.split_once('\n').unwrap_or((&text, "/rtc/v1/whip/?app=live"));
        // As heads are read before.
        if !matches!(Target::parse("POST", base), Some(Target::Origin(_))) {
            return;
        }
        let Some(path) = location::path_of(reference, base) else { return };
        assert!(path.starts_with('/') && !path.starts_with("//"), "another host: {path:?}");
        assert!(!path.contains(['\\', '#']), "a browser reads another one: {path:?}");
        if !base.contains('\\') {
            assert_eq!(Target::parse("DELETE", &path), Some(Target::Origin(&path)), "{path:?}");
            assert_eq!(location::path_of(&path, "/other").as_ref(), Some(&path), "twice");
        }
        assert!(path.len() <= reference.len() + base.len() + 1);
    });
}

#[test]
fn message() {
    const SDP: &str = "v=0\r\na=\"\\\u{1}\u{e9}\r\n";
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let Ok(message) = Message::parse(&text) else { return };
        let changed = message.with_sdp(SDP);
        let Some(sdp) = &message.sdp else {
            assert_eq!(changed, text);
            return;
        };
        let again = Message::parse(&changed).expect("what was read once");
        assert_eq!(again.sdp.as_deref(), Some(SDP));
        assert_eq!((&again.stream_url, again.code), (&message.stream_url, message.code));
        // Another reader finds the same before and after, but for the description.
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        if let (Some(mut before), Some(after)) = (value(&text), value(&changed)) {
            assert_eq!(before["sdp"], sdp.as_str());
            before["sdp"] = SDP.into();
            assert_eq!(before, after);
        }
    });
}
