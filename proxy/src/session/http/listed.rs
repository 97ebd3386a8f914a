//! Ids of segments that the existing proxy has listed: what the store says of each, for some seconds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::stream::StreamKey;

/// The stream of each id that was looked up lately. Bounded; the oldest goes first.
#[derive(Debug)]
pub(super) struct ListedIds {
    known: Mutex<Known>,
    under_way: Semaphore,
}

#[derive(Debug, Default)]
struct Known {
    /// With until when it counts. None if the store has no stream of it.
    streams: HashMap<Box<str>, (Option<StreamKey>, Instant)>,
    oldest_first: VecDeque<Box<str>>,
}

impl Default for ListedIds {
    fn default() -> Self {
        Self { known: Mutex::default(), under_way: Semaphore::new(Self::LOOK_UPS) }
    }
}

impl ListedIds {
    /// Look-ups under way.
    const LOOK_UPS: usize = 64;

    /// Ids that are remembered.
    const MAX: usize = 4096;

    /// How long a stream is.
    const LIFE: Duration = Duration::from_secs(10);

    /// How long it is that there is none: its playlist may just be written.
    const UNKNOWN: Duration = Duration::from_secs(1);

    /// The stream of this id. None if what is `asked` tells of none, or if too many are.
    pub(super) async fn stream(
        &self,
        id: &str,
        asked: impl Future<Output = Option<StreamKey>>,
        now: Instant,
    ) -> Option<StreamKey> {
        if let Some((stream, until)) = self.known.lock().streams.get(id)
            && now < *until
        {
            return stream.clone();
        }
        let _permit = self.under_way.try_acquire().ok()?;
        let stream = asked.await;
        self.known.lock().put(id, stream.clone(), now);
        stream
    }
}

impl Known {
    fn put(&mut self, id: &str, stream: Option<StreamKey>, now: Instant) {
        let life = if stream.is_some() { ListedIds::LIFE } else { ListedIds::UNKNOWN };
        if self.streams.insert(id.into(), (stream, now + life)).is_none() {
            self.oldest_first.push_back(id.into());
        }
        if self.oldest_first.len() > ListedIds::MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.streams.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use futures_util::FutureExt;

    use super::*;
    use crate::stream::{Ask, Vhosts};

    fn show() -> StreamKey {
        let ask = Ask::Rtmp { tc_url: "rtmp://proxy/live", app: "", stream: "show" };
        StreamKey::new(&ask, &Vhosts::default()).unwrap()
    }

    #[tokio::test]
    async fn an_id_is_looked_up_once_in_some_seconds_whether_it_is_there_or_not() {
        let (ids, asked, start) = (ListedIds::default(), Cell::new(0), Instant::now());
        let stream = async |id: &str, seconds| {
            let ask = async {
                asked.set(asked.get() + 1);
                (id == "show").then(show)
            };
            ids.stream(id, ask, start + Duration::from_secs(seconds)).await
        };
        for (id, seconds, expected, so_far) in [
            ("show", 0, Some(show()), 1),
            ("show", 9, Some(show()), 1),
            ("show", 10, Some(show()), 2),
            ("none", 10, None, 3),
            ("none", 10, None, 3),
            ("none", 11, None, 4),
        ] {
            assert_eq!(stream(id, seconds).await, expected, "{id} at {seconds} s");
            assert_eq!(asked.get(), so_far, "{id} at {seconds} s");
        }
        for n in 0..=ListedIds::MAX {
            stream(&n.to_string(), 12).await;
        }
        let known = ids.known.lock();
        assert_eq!((known.streams.len(), known.oldest_first.len()), (4096, 4096));
    }

    #[tokio::test]
    async fn ids_beyond_those_that_are_looked_up_tell_no_stream_and_wait_for_nothing() {
        let (ids, now) = (ListedIds::default(), Instant::now());
        let mut waiting: Vec<_> = (0..ListedIds::LOOK_UPS)
            .map(|n| {
                let ids = &ids;
                Box::pin(async move { ids.stream(&n.to_string(), pending(), now).await })
            })
            .collect();
        assert!(waiting.iter_mut().all(|it| it.now_or_never().is_none()));
        let one_more = ids.stream("more", async { Some(show()) }, now);
        assert_eq!(one_more.now_or_never(), Some(None));
        drop(waiting);
        let later = ids.stream("more", async { Some(show()) }, now);
        assert_eq!(later.await, Some(show()));
    }
}
