//! What proxies tell each other, as a stream of Redis.

use std::borrow::Cow;

use redis::cmd;

use super::record;
use super::store::RedisStore;
use crate::cluster::store::{Change, Mark, News, StoreError};

type Entry = (String, Vec<Vec<u8>>);

impl RedisStore {
    pub(super) async fn append(&self, changes: &[Change]) -> Result<(), StoreError> {
        let most = KEPT.to_string();
        for some in changes.chunks(TOLD_AT_ONCE) {
            let written: Vec<_> = some.iter().map(written).collect();
            let mut args = vec![most.as_bytes()];
            args.extend(written.iter().flatten().map(|it| it.as_bytes()));
            self.script::<()>(&self.scripts.tell, &[&self.keys.log()], &args).await?;
        }
        Ok(())
    }

    pub(super) async fn since(&self, mark: Option<&Mark>) -> Result<News, StoreError> {
        let key = self.keys.log();
        let Some(Mark(last)) = mark else {
            let mut newest = cmd("XREVRANGE");
            newest.arg(&key).arg("+").arg("-").arg("COUNT").arg(1);
            let newest: Vec<Entry> = self.query(&key, &newest).await?;
            let mark = newest.into_iter().next().map_or_else(|| START.to_owned(), |(id, _)| id);
            return Ok(News { changes: Vec::new(), mark: Mark(mark), is_broken: false });
        };
        if !is_id(last) {
            return Err(StoreError::Malformed("a mark".to_owned()));
        }
        let mut range = cmd("XRANGE");
        range.arg(&key).arg(last).arg("+").arg("COUNT").arg(READ_AT_ONCE);
        let mut entries: Vec<Entry> = self.query(&key, &range).await?;
        // The one that was read last is still there, unless what follows it may be gone, too.
        let is_broken = match entries.first() {
            Some((id, _)) if id == last => {
                entries.remove(0);
                false
            }
            _ if last == START => entries.len() >= KEPT,
            _ => true,
        };
        let mark = entries.last().map(|(id, _)| id.clone());
        // A log that is gone begins anew.
        let mark = mark.unwrap_or_else(|| if is_broken { START.to_owned() } else { last.clone() });
        let changes = entries.iter().filter_map(|(_, fields)| read(fields)).collect();
        Ok(News { changes, mark: Mark(mark), is_broken })
    }
}

/// Entries that the log keeps, or a few more.
const KEPT: usize = 4096;

const TOLD_AT_ONCE: usize = 256;
/// More than are kept, with what Redis keeps beyond.
const READ_AT_ONCE: usize = 2 * KEPT;

/// Before the first entry.
const START: &str = "0-0";

fn is_id(text: &str) -> bool {
    let is_number =
        |it: &str| (1..=20).contains(&it.len()) && it.bytes().all(|b| b.is_ascii_digit());
    text.split_once('-').is_some_and(|(ms, n)| is_number(ms) && is_number(n))
}

/// Kind, text, origin and epoch of a change.
fn written(change: &Change) -> [Cow<'_, str>; 4] {
    let none = || Cow::Borrowed("");
    match change {
        Change::Route(stream, origin, epoch) => {
            ["route".into(), stream.as_str().into(), (&**origin).into(), epoch.to_string().into()]
        }
        Change::Gone(stream, epoch) => {
            ["gone".into(), stream.as_str().into(), none(), epoch.to_string().into()]
        }
        Change::Origins => ["origins".into(), none(), none(), none()],
        Change::Deleted(name) => ["deleted".into(), name.into(), none(), none()],
    }
}

/// The change of an entry: names of members and their values, in turn.
fn read(fields: &[Vec<u8>]) -> Option<Change> {
    let text = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        let value = pairs.find_map(|pair| match pair {
            [key, value] if key == name.as_bytes() => Some(value),
            _ => None,
        })?;
        std::str::from_utf8(value).ok().filter(|it| it.len() <= MAX_TEXT)
    };
    let stream = || record::stream(text("text")?);
    Some(match text("kind")? {
        "route" => {
            let origin = text("origin").filter(|it| !it.is_empty())?;
            Change::Route(stream()?, origin.into(), text("epoch")?.parse().ok()?)
        }
        "gone" => Change::Gone(stream()?, text("epoch")?.parse().ok()?),
        "origins" => Change::Origins,
        "deleted" => Change::Deleted(text("text")?.to_owned()),
        _ => return None,
    })
}

/// Longest member, in bytes.
const MAX_TEXT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let stream = record::stream("__defaultVhost__/live/s").unwrap();
        for change in [
            Change::Route(stream.clone(), "vid-1-x-7".into(), 7),
            Change::Gone(stream, 8),
            Change::Origins,
            Change::Deleted("a:b".into()),
        ] {
            let [kind, text, origin, epoch] = &written(&change);
            let fields = ["kind", kind, "text", text, "origin", origin, "epoch", epoch];
            assert_eq!(read(&fields.map(|it| it.as_bytes().to_vec())), Some(change));
        }
        for fields in [&["kind"][..], &["kind", "route", "text", "a"], &["kind", "no"], &[]] {
            let fields: Vec<_> = fields.iter().map(|it| it.as_bytes().to_vec()).collect();
            assert_eq!(read(&fields), None, "{fields:?}");
        }
        assert_eq!(read(&[b"kind".to_vec(), b"\xff".to_vec()]), None);
    }
}
