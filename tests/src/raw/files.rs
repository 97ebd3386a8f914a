//! Files as a scripted origin has them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Exchange, Request};

/// An answer for [`super::Origin::start`]: the file of this folder that the last part of the path
/// names, or the part of it that one range asks for (RFC 9110 14.2).
pub fn files(
    folder: &Path,
) -> impl Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync + 'static {
    let folder = folder.to_path_buf();
    move |request, exchange| {
        let name = request.path().rsplit('/').next().unwrap_or_default();
        let Ok(bytes) = fs::read(folder.join(name)) else {
            return exchange.answer("404 Not Found", "", "");
        };
        let Some(range) = request.head.field("range") else {
            return exchange.answer("200 OK", "Accept-Ranges: bytes\r\n", bytes);
        };
        let range = range.strip_prefix("bytes=").context("a range of bytes")?;
        let (first, last) = range.split_once('-').context("a range has two ends")?;
        let end = bytes.len().min(last.parse().map_or(usize::MAX, |last: usize| last + 1));
        let first = first.parse()?;
        let part = bytes.get(first..end).context("a range of the file")?;
        let told = format!("Content-Range: bytes {first}-{}/{}\r\n", end - 1, bytes.len());
        exchange.answer("206 Partial Content", &told, part)
    }
}
