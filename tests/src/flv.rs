//! FLV files, tag by tag (Adobe FLV 10.1, annex E).

use anyhow::{Context, Result};

/// One tag: a message as RTMP carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// 8 audio, 9 video, 18 script data: RTMP's message types.
    pub kind: u8,
    /// Milliseconds.
    pub timestamp: u32,
    /// The body.
    pub data: Vec<u8>,
}

/// Every tag of a file.
pub fn tags(file: &[u8]) -> Result<Vec<Tag>> {
    // The header says how long it is; behind it stands the size of no tag.
    let length = file.get(5..9).context("no header")?;
    let start = usize::try_from(u32::from_be_bytes(length.try_into()?))? + 4;
    let mut rest = file.get(start..).context("no tags")?;
    let mut tags = Vec::new();
    while let Some((&[kind, a, b, c, t1, t2, t3, t0, ..], body)) = rest.split_first_chunk::<11>() {
        let size = usize::try_from(u32::from_be_bytes([0, a, b, c]))?;
        let data = body.get(..size).context("the last tag is cut short")?.to_vec();
        tags.push(Tag { kind, timestamp: u32::from_be_bytes([t0, t1, t2, t3]), data });
        rest = body.get(size + 4..).unwrap_or_default();
    }
    Ok(tags)
}
