//! The JSON of SRS's own signalling of WebRTC: a description is one member of it, and all else
//! stays as it stands.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// A request to `/rtc/v1/publish/` or `/rtc/v1/play/`, or the answer to one.
#[derive(Debug)]
pub struct Message<'a> {
    /// The whole of it.
    text: &'a str,
    /// Where the description stands, with its quotes.
    at: Option<Range<usize>>,
    /// The description; none where an answer is a refusal.
    pub sdp: Option<String>,
    /// `webrtc://host/app/stream`, of a request.
    pub stream_url: Option<String>,
    /// Zero if it worked, of an answer.
    pub code: Option<i64>,
}

/// These bytes are no such message.
#[derive(Debug, Error)]
#[error("not the JSON of a description: {0}")]
pub struct BadMessage(#[from] serde_json::Error);

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    sdp: Option<&'a RawValue>,
    #[serde(borrow, rename = "streamurl")]
    stream_url: Option<Cow<'a, str>>,
    code: Option<i64>,
}

impl<'a> Message<'a> {
    /// Reads an object. A member of interest that is there twice is an error: two readers could
    /// take another one each.
    pub fn parse(text: &'a str) -> Result<Self, BadMessage> {
        let Members { sdp, stream_url, code } = serde_json::from_str(text)?;
        let (at, sdp) = match sdp {
            Some(raw) => {
                let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
                let sdp = serde_json::from_str::<String>(raw.get())?;
                (Some(start..start + raw.get().len()), Some(sdp))
            }
            None => (None, None),
        };
        Ok(Self { text, at, sdp, stream_url: stream_url.map(Cow::into_owned), code })
    }

    /// The same message with another description, if it has one.
    pub fn with_sdp(&self, sdp: &str) -> String {
        let Some(Range { start, end }) = self.at else { return self.text.to_owned() };
        let (before, behind) = (self.text.get(..start), self.text.get(end..));
        let sdp = serde_json::Value::from(sdp).to_string();
        [before.unwrap_or_default(), &sdp, behind.unwrap_or_default()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn nothing_but_the_description_is_changed() {
        let text = "{ \"api\":\"http://h:1985/rtc/v1/play/\", \"z\": [1, {\"sdp\": 2}],\r\n \
                    \"\\u0073dp\" : \"v=0\\r\\na=\\u00e9\\\"\\n\" ,\"streamurl\":\"webrtc:\\/\\/h/live/s\",\
                    \"tid\":1.50, \"clientip\":null }\n";
        let message = Message::parse(text).unwrap();
        assert_eq!(message.sdp.as_deref(), Some("v=0\r\na=\u{e9}\"\n"));
        assert_eq!(message.stream_url.as_deref(), Some("webrtc://h/live/s"));
        let changed = message.with_sdp("v=1\r\n\"");
        assert_eq!(changed, text.replace("v=0\\r\\na=\\u00e9\\\"\\n", "v=1\\r\\n\\\""));
        assert_eq!(Message::parse(&changed).unwrap().sdp.as_deref(), Some("v=1\r\n\""));
    }

    #[test]
    fn a_refusal_has_a_code_and_no_description() {
        let message = Message::parse("{\"code\":400,\"server\":\"vid-1\"}").unwrap();
        assert_eq!((message.code, &message.sdp), (Some(400), &None));
        assert_eq!(message.with_sdp("v=0"), "{\"code\":400,\"server\":\"vid-1\"}");
        assert_eq!(Message::parse("{\"sdp\":null}").unwrap().sdp, None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "v=0\r\n",
            "[]",
            "{",
            "{}{}",
            "{\"sdp\":1}",
            "{\"sdp\":\"a\",\"sdp\":\"b\"}",
            "{\"sdp\":\"a\",\"\\u0073dp\":\"b\"}",
            "{\"streamurl\":[]}",
            "{\"code\":\"0\"}",
            "{\"sdp\":\"\\ud800\"}",
        ] {
            assert!(Message::parse(text).is_err(), "{text}");
        }
        assert!(Message::parse(&"[".repeat(100_000)).is_err());
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert!(Message::parse(&deep).is_err());
    }
}
