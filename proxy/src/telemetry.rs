//! The log: one line per event on standard output.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Lines that wait for a reader of the log who is slow. More are dropped: a log that nobody reads
/// must not stop the media.
const WAITING_LINES: usize = 64 * 1024;

/// The log, which writes what is left of it when this is dropped.
#[derive(Debug)]
#[must_use = "the log ends with it"]
pub struct Writing {
    _thread: WorkerGuard,
}

/// Sends every event and span of this process to standard output from here on, times in UTC, by
/// a thread of its own. Fails if the directives are malformed, or if the log has been set up
/// before.
pub fn init(log: &Log) -> Result<Writing, Error> {
    let (writer, thread) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(io::stdout());
    subscriber(log, writer, io::stdout().is_terminal())?.try_init()?;
    Ok(Writing { _thread: thread })
}

/// Whether anything can be logged at level debug. False for directives that [`init`] refuses.
pub fn may_say_debug(log: &Log) -> bool {
    let filter = EnvFilter::try_new(&log.filter);
    filter.is_ok_and(|filter| filter.max_level_hint().is_none_or(|most| most >= LevelFilter::DEBUG))
}

/// Lets one of many events that are alike be said, and counts the others: whoever causes them
/// must not fill the log.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Between two that are said.
    const PAUSE: Duration = Duration::from_secs(10);

    /// Whether this one is said, and then how many before it were not.
    pub fn say(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < Self::PAUSE) {
            *unsaid += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

/// Seconds as logs and the API show them: three digits behind the point.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directives are malformed.
    #[error("log directives")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// There is one already.
    #[error("log")]
    Init(#[from] tracing_subscriber::util::TryInitError),
}

fn subscriber<W>(
    log: &Log,
    writer: W,
    is_terminal: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&log.filter)?)
        .with_writer(writer)
        .with_ansi(is_terminal)
        // A reader of the log that went away is no reason to write elsewhere.
        .log_internal_errors(false);
    Ok(match log.format {
        LogFormat::Human => Box::new(builder.compact().with_target(false).finish()),
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .finish(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    #[test]
    fn of_many_events_one_is_said_and_the_others_are_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.say(start), Some(0));
        for _ in 0..3 {
            assert_eq!(seldom.say(start + Duration::from_secs(9)), None);
        }
        assert_eq!(seldom.say(start + Seldom::PAUSE), Some(3));
    }

    /// What is logged by a session that starts, in this format.
    fn logged(format: LogFormat, filter: &str) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Lines(Arc::clone(&lines));
        let log = Log { filter: filter.into(), format };
        let subscriber = subscriber(&log, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _session = tracing::info_span!("session", id = "s000007").entered();
            tracing::info!(client = "192.0.2.1:5000", "accepted");
            tracing::debug!("too much detail");
        });
        let lines = lines.lock().clone();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_session() {
        let text = logged(LogFormat::Json, "info");
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let [line] = lines.as_slice() else { panic!("expected one line, not {text}") };
        assert_eq!(line["message"], "accepted");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["client"], "192.0.2.1:5000");
        assert_eq!(line["span"]["id"], "s000007");
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z'), "{time} is not in UTC");
    }

    #[test]
    fn human_lines_are_plain_where_there_is_no_terminal() {
        let text = logged(LogFormat::Human, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["INFO", "accepted", "client=\"192.0.2.1:5000\"", "id=\"s000007\""] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains('\x1b'), "colours in {text:?}");
    }

    #[test]
    fn directives_choose_what_is_logged() {
        assert_eq!(logged(LogFormat::Human, "debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Human, "off"), "");
    }

    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
