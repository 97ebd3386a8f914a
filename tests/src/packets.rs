//! Media packets by their hashes, as FFmpeg's `framehash` muxer writes them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Hashes of the packets of each elementary stream, in order; keys are the stream's kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packets(BTreeMap<Kind, Vec<String>>);

/// What an elementary stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl Packets {
    /// Reads what `framehash` wrote; a line that is cut off at the end is left out.
    pub fn parse(text: &str) -> Self {
        let mut kinds = BTreeMap::new();
        let mut packets: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines() {
            if let Some(kind) = line.strip_prefix("#media_type ") {
                let kind = kind.split_once(": ").and_then(|(index, kind)| match kind {
                    "video" => Some((index.to_owned(), Kind::Video)),
                    "audio" => Some((index.to_owned(), Kind::Audio)),
                    _ => None,
                });
                kinds.extend(kind);
            } else if !line.starts_with('#') {
                // stream, dts, pts, duration, size, hash; side data may follow
                let fields: Vec<&str> = line.split(',').map(str::trim).collect();
                if let [stream, _, _, _, size, hash, ..] = fields[..]
                    && let Some(kind) = kinds.get(stream)
                {
                    packets.entry(*kind).or_default().push(format!("{size} {hash}"));
                }
            }
        }
        Self(packets)
    }

    /// Packets of this kind.
    pub fn of(&self, kind: Kind) -> &[String] {
        self.0.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Fails unless each stream is one unbroken part of the source's stream, with at least
    /// `least` packets; the source may have been sent again and again.
    pub fn must_be_a_part_of(&self, source: &Self, least: usize) -> Result<()> {
        for kind in [Kind::Video, Kind::Audio] {
            let (part, whole) = (self.of(kind), source.of(kind));
            if part.len() < least {
                bail!("{kind:?}: {} packets, at least {least} expected", part.len());
            }
            let starts = 0..whole.len();
            let longest = starts.map(|start| common_start(part, whole.iter().cycle().skip(start)));
            let longest = longest.max().unwrap_or_default();
            if longest < part.len() {
                bail!(
                    "{kind:?}: {longest} packets in a row are the source's, then comes another; \
                     {} in all",
                    part.len()
                );
            }
        }
        Ok(())
    }
}

/// How many packets are the same from the start.
fn common_start<'a>(part: &[String], source: impl Iterator<Item = &'a String>) -> usize {
    part.iter().zip(source).take_while(|(part, source)| part == source).count()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Packets};

    const SOURCE: &str = "\
#format: frame checksums\n#media_type 0: audio\n#media_type 1: video\n\
0, 0, 0, 23, 10, aa\n1, 0, 0, 40, 99, v1\n1, 40, 40, 40, 98, v2\n0, 23, 23, 23, 11, ab\n\
1, 80, 80, 40, 97, v3\n0, 46, 46, 23, 12, ac\n1, 120, 120, 40, 9";

    #[test]
    fn packets_are_read_by_kind_and_a_cut_line_is_not() {
        let packets = Packets::parse(SOURCE);
        assert_eq!(packets.of(Kind::Video), ["99 v1", "98 v2", "97 v3"]);
        assert_eq!(packets.of(Kind::Audio), ["10 aa", "11 ab", "12 ac"]);
    }

    #[test]
    fn a_part_is_unbroken() {
        let source = Packets::parse(SOURCE);
        let part = |video: &str| {
            let line = |v: &str| format!("1, 0, 0, 0, 9{}, v{v}\n", 10 - v.parse::<u32>().unwrap());
            let video = video.split(' ').map(line).collect::<Vec<_>>().concat();
            let head = "#media_type 0: audio\n#media_type 1: video\n";
            Packets::parse(&format!("{head}0, 0, 0, 0, 11, ab\n0, 0, 0, 0, 12, ac\n{video}"))
        };
        part("2 3 1").must_be_a_part_of(&source, 2).expect("the source goes round");
        let error = part("1 3").must_be_a_part_of(&source, 2).expect_err("v2 is missing");
        assert!(error.to_string().contains("1 packets in a row"), "{error}");
        part("1").must_be_a_part_of(&source, 2).expect_err("too few");
    }
}
