//! One question to all origins, and who knew the answer last time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::heads::{Client, Hop};
use super::origin::Refusal;
use super::whole::{self, Answered, Bounds, NoAnswer, Request};
use crate::origin::{Listener, Origin};
use crate::plane::Meter;
use crate::proto::proxy_protocol::Ends;
use crate::session::Dialer;
use crate::stream::Kind;

/// Origins that are asked at once.
const AT_ONCE: usize = 16;

/// A question to origins.
pub(super) struct Question {
    pub(super) dialer: Arc<Dialer>,
    pub(super) request: Request,
    pub(super) client: Client,
    pub(super) ends: Ends,
    pub(super) hop: Hop,
    /// For each answer; the time is for everything.
    pub(super) bounds: Bounds,
}

impl Question {
    /// Asks one origin.
    pub(super) async fn ask(&self, origin: &Origin) -> Result<Answered, Refusal> {
        let asked = async {
            let dialled = self.dialer.dial(origin, Listener::Api, &self.ends).await;
            let (socket, address) = dialled.map_err(Refusal::from)?;
            let Request { head, body, .. } = &self.request;
            let bytes = self.request.to_origin(Kind::Api, body, self.client, &self.hop, address);
            // What the proxy asks of its own accord is no traffic of a client's.
            let meter = Meter::default();
            let asked = whole::ask(socket, &bytes, &head.method, &self.bounds, &meter);
            asked.await.map_err(Refusal::from)
        };
        let asked = timeout_at(self.bounds.deadline, asked).await;
        asked.unwrap_or_else(|_| Err(NoAnswer::Late.into()))
    }

    /// Asks all of these, some at once, until `each` has heard enough. Gives the question back.
    pub(super) async fn ask_all(
        self,
        origins: Vec<Arc<Origin>>,
        mut each: impl FnMut(&Arc<Origin>, Result<Answered, Refusal>) -> Heard,
    ) -> Arc<Self> {
        let question = Arc::new(self);
        let mut waiting = origins.into_iter();
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < AT_ONCE
                && let Some(origin) = waiting.next()
            {
                let question = Arc::clone(&question);
                asked.spawn(async move {
                    let answer = question.ask(&origin).await;
                    (origin, answer)
                });
            }
            let Some(answer) = asked.join_next().await else { break };
            if let Ok((origin, answer)) = answer
                && each(&origin, answer) == Heard::Enough
            {
                break;
            }
        }
        question
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Enough,
    NotYet,
}

/// Which server has a stream or a client of the API, by path. Bounded; the oldest goes first.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    servers: HashMap<String, (String, Clock)>,
    oldest_first: VecDeque<String>,
}

impl Known {
    /// How many are remembered.
    const MAX: usize = 4096;
    /// How long.
    const LIFE: Duration = Duration::from_mins(1);

    pub(super) fn get(&self, path: &str, now: Clock) -> Option<String> {
        let places = self.0.lock();
        let (server, since) = places.servers.get(path)?;
        (now.saturating_duration_since(*since) < Self::LIFE).then(|| server.clone())
    }

    pub(super) fn put(&self, path: &str, server: &str, now: Clock) {
        let mut places = self.0.lock();
        if places.servers.insert(path.to_owned(), (server.to_owned(), now)).is_none() {
            places.oldest_first.push_back(path.to_owned());
        }
        if places.oldest_first.len() > Self::MAX
            && let Some(oldest) = places.oldest_first.pop_front()
        {
            places.servers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_known_for_a_while_and_no_more_than_so_much() {
        let (known, now) = (Known::default(), Clock::now());
        known.put("/api/v1/clients/a", "one", now);
        known.put("/api/v1/clients/a", "two", now);
        assert_eq!(known.get("/api/v1/clients/a", now).as_deref(), Some("two"));
        assert_eq!(known.get("/api/v1/clients/b", now), None);
        assert_eq!(known.get("/api/v1/clients/a", now + Known::LIFE), None);
        for n in 0..=Known::MAX {
            known.put(&n.to_string(), "one", now);
        }
        assert_eq!(known.get("/api/v1/clients/a", now), None);
        assert_eq!(known.get("0", now), None);
        assert!(known.get("1", now).is_some());
        let places = known.0.lock();
        assert_eq!((places.servers.len(), places.oldest_first.len()), (Known::MAX, Known::MAX));
    }
}
