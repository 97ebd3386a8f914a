//! A live show as a scripted origin has it: HLS, and HTTP-FLV without end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Exchange, Request};

/// Length of a segment.
pub const SEGMENT: Duration = Duration::from_secs(2);
/// Bytes of a segment.
pub const SEGMENT_BYTES: usize = 20_000;
/// HTTP-FLV comes in pieces, one in this time.
pub const PIECE: Duration = Duration::from_millis(250);
/// Bytes of a piece.
pub const PIECE_BYTES: usize = 2_000;

/// An answer for [`super::Origin::start`]: a playlist of the last six segments for `.m3u8`,
/// a segment for `.ts`, and pieces in chunks for anything else.
pub fn show() -> impl Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync + 'static {
    let start = Instant::now();
    move |request, exchange| match request.extension() {
        "ts" => exchange.answer("200 OK", "Content-Type: video/mp2t\r\n", vec![7; SEGMENT_BYTES]),
        "m3u8" => {
            let newest = 6 + start.elapsed().as_secs() / SEGMENT.as_secs();
            let first = newest - 5;
            let segments = (first..=newest).map(|it| format!("#EXTINF:2.000,\nshow-{it}.ts\n"));
            let head = format!("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
            let playlist = head + &segments.collect::<String>();
            exchange.answer("200 OK", "Cache-Control: no-cache\r\n", playlist)
        }
        _ => {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let piece = format!("{PIECE_BYTES:x}\r\n{}\r\n", "x".repeat(PIECE_BYTES));
            let mut due = Instant::now();
            loop {
                exchange.send(&piece)?;
                due += PIECE;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }
}
