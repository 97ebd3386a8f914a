//! The connection to Redis: shared by all tasks, made anew in the background, and never waited for.
//!
//! The `redis` crate's own connection manager lets commands queue behind a new connection, and
//! knows one server only. Here one task keeps the connection, whatever the shape of Redis is, and
//! a command that finds none is answered at once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerError, ToRedisArgs,
};
use sha1::{Digest, Sha1};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::dial::{self, Connection};
use crate::config::RedisTarget;

/// The connection to Redis. A clone is the same one.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    /// For one command.
    deadline: Duration,
    state: watch::Sender<State>,
}

enum State {
    /// And why.
    Down(LinkError),
    Up(Live),
}

/// Why a command has no answer that can be used. None of them has a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The deadline passed.
    #[error("Redis did not answer in time")]
    Late,
    /// There is no connection, and why.
    #[error("Redis cannot be reached: {0}")]
    Down(Arc<str>),
    /// User or password are wrong, or may not do this.
    #[error("Redis refuses: {0}")]
    Refused(Arc<str>),
    /// The server answered with an error.
    #[error("Redis answers {code}: {text}")]
    Server {
        /// Its first word: `WRONGTYPE`, `OOM`, `READONLY`, `CLUSTERDOWN`.
        code: Arc<str>,
        /// The others.
        text: Arc<str>,
    },
    /// The answer is of another type, or none at all.
    #[error("Redis answers what was not asked for: {0}")]
    Malformed(Arc<str>),
}

impl LinkError {
    /// Its word in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Down(_) => "down",
            Self::Refused(_) => "refused",
            Self::Server { .. } => "server",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// A Lua script that Redis runs as one command. All its keys are in one slot of a Cluster.
#[derive(Clone, Debug)]
pub struct Script {
    code: &'static str,
    sha1: String,
}

impl Script {
    /// A script, as Redis has it in `EVAL`.
    pub fn new(code: &'static str) -> Self {
        let mut sha1 = String::with_capacity(40);
        for byte in Sha1::digest(code) {
            for digit in [byte >> 4, byte & 15] {
                sha1.extend(char::from_digit(digit.into(), 16));
            }
        }
        Self { code, sha1 }
    }
}

impl Link {
    /// Begins to connect, and does not wait for it. `deadline` is that of every command. Must be
    /// called in a runtime; when the last clone is gone, so is the connection.
    pub fn open(target: &RedisTarget, deadline: Duration) -> Self {
        let state = State::Down(LinkError::Down("not connected yet".into()));
        let shared = Arc::new(Shared { deadline, state: watch::Sender::new(state) });
        let keeper = tokio::spawn(keep(shared.clone(), target.clone()));
        Self(Arc::new(Inner { shared, keeper }))
    }

    /// Waits for the first connection, at most this long. That Redis refuses user or password is
    /// known as soon as it says so.
    pub async fn greet(&self, limit: Duration) -> Result<(), LinkError> {
        let mut states = self.0.shared.state.subscribe();
        let is_settled = |state: &State| !matches!(state, State::Down(LinkError::Down(_)));
        // Either way the state says what there is to say.
        let _ = timeout(limit, states.wait_for(is_settled)).await;
        self.live().map(|_| ())
    }

    /// The answer to one command.
    pub async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, LinkError> {
        let mut live = self.live()?;
        let answer = timeout(self.0.shared.deadline, cmd.query_async(&mut live.connection)).await;
        self.learn(&live, answer.ok())
    }

    /// The answers to several commands, sent together. In a Cluster all keys are in one slot.
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, LinkError> {
        let mut live = self.live()?;
        let answers = commands.query_async(&mut live.connection);
        let answers = timeout(self.0.shared.deadline, answers).await;
        self.learn(&live, answers.ok())
    }

    /// What a script returns. Its code is sent only to a server that does not know it.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[impl ToRedisArgs],
    ) -> Result<T, LinkError> {
        let mut live = self.live()?;
        let call = |name, script: &str| {
            let mut call = redis::cmd(name);
            call.arg(script).arg(keys.len()).arg(keys).arg(args);
            call
        };
        let (known, new) = (call("EVALSHA", &script.sha1), call("EVAL", script.code));
        let connection = &mut live.connection;
        let answer = timeout(self.0.shared.deadline, async {
            match known.query_async(connection).await {
                // Not SCRIPT LOAD: in a Cluster that asks every node, also one that is dead.
                Err(error) if error.code() == Some("NOSCRIPT") => new.query_async(connection).await,
                answer => answer,
            }
        });
        let answer = answer.await;
        self.learn(&live, answer.ok())
    }

    /// Whether there is a connection to a Cluster, some nodes of which may be dead.
    pub(super) fn is_cluster(&self) -> bool {
        self.live().is_ok_and(|live| live.connection.is_cluster())
    }

    /// The connection as it is now.
    fn live(&self) -> Result<Live, LinkError> {
        match &*self.0.shared.state.borrow() {
            State::Up(live) => Ok(live.clone()),
            State::Down(why) => Err(why.clone()),
        }
    }

    /// Takes an answer, none if it was late, and what it says of the connection.
    fn learn<T>(&self, live: &Live, answer: Option<RedisResult<T>>) -> Result<T, LinkError> {
        let error = match answer {
            Some(Ok(answer)) => {
                live.is_heard();
                return Ok(answer);
            }
            Some(Err(error)) => match error.redirect_node() {
                // After all attempts: the one that has the key cannot be reached.
                Some((node, _)) if live.connection.is_cluster() => {
                    LinkError::Down(shortened(&format!("no connection to {node}")))
                }
                _ => LinkError::from(error),
            },
            None => LinkError::Late,
        };
        let is_lost = match &error {
            LinkError::Late => live.is_silent(),
            // A Cluster looks for the node's successor itself, while its other nodes go on.
            LinkError::Down(_) => live.is_silent() || !live.connection.is_cluster(),
            LinkError::Refused(_) | LinkError::Server { .. } | LinkError::Malformed(_) => {
                live.is_heard();
                error.is_of_another_server() && !live.connection.is_cluster()
            }
        };
        if is_lost {
            let why = match &error {
                LinkError::Down(why) => why.clone(),
                other => other.to_string().into(),
            };
            self.0.shared.state.send_if_modified(|state| {
                let is_this = matches!(state, State::Up(other) if other.is_same(live));
                if is_this {
                    *state = State::Down(LinkError::Down(why));
                }
                is_this
            });
        }
        Err(error)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// One connection that was made.
#[derive(Clone)]
struct Live {
    connection: Connection,
    /// Since when no command was answered; none if the last one was.
    silent_since: Arc<Mutex<Option<Instant>>>,
}

impl Live {
    fn new(connection: Connection) -> Self {
        Self { connection, silent_since: Arc::default() }
    }

    fn is_heard(&self) {
        *self.silent_since.lock() = None;
    }

    /// Whether another command without an answer is one too many: where packets vanish, TCP
    /// takes a quarter of an hour to say so.
    fn is_silent(&self) -> bool {
        self.silent_since.lock().get_or_insert_with(Instant::now).elapsed() >= PATIENCE
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.silent_since, &other.silent_since)
    }
}

/// Connects, and again whenever the connection is lost; one attempt at a time.
async fn keep(shared: Arc<Shared>, target: RedisTarget) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let begun = Instant::now();
        let connected = timeout(CONNECT, dial::connect(&target, shared.deadline)).await;
        match connected.unwrap_or_else(|_| Err(LinkError::Late)) {
            Ok(connection) => {
                debug!("connected to Redis");
                let up = State::Up(Live::new(connection));
                let mut states = shared.state.subscribe();
                shared.state.send_replace(up);
                // Never an error: the sender is here.
                let _ = states.wait_for(|state| matches!(state, State::Down(_))).await;
            }
            Err(error) => {
                debug!(%error, "no connection to Redis");
                let why = match error {
                    LinkError::Down(_) | LinkError::Refused(_) => error,
                    other => LinkError::Down(other.to_string().into()),
                };
                shared.state.send_replace(State::Down(why));
            }
        }
        // Also for what is accepted and at once lost again.
        if begun.elapsed() < LONGEST_PAUSE {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            pause = SHORTEST_PAUSE;
        }
    }
}

impl LinkError {
    /// Whether it is not this server that should be asked: it is no longer the master, or has
    /// forgotten who asks.
    fn is_of_another_server(&self) -> bool {
        match self {
            Self::Server { code, .. } => matches!(&**code, "READONLY" | "MASTERDOWN"),
            Self::Refused(why) => why.starts_with("NOAUTH"),
            Self::Late | Self::Down(_) | Self::Malformed(_) => false,
        }
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let text = shortened(&error.to_string());
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Refused(text),
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Malformed(text),
            // Of a pipeline the first that failed.
            ErrorKind::Server(_) | ErrorKind::Extension => match error.into_server_errors() {
                Some(errors) => errors.first().map_or(Self::Malformed(text), |(_, it)| it.into()),
                None => Self::Malformed(text),
            },
            _ if error.is_timeout() => Self::Late,
            _ => Self::Down(text),
        }
    }
}

impl From<&ServerError> for LinkError {
    fn from(error: &ServerError) -> Self {
        let (code, text) = (error.code(), error.details().unwrap_or_default());
        match code {
            "WRONGPASS" | "NOAUTH" | "NOPERM" => {
                Self::Refused(shortened(&format!("{code} {text}")))
            }
            _ => Self::Server { code: shortened(code), text: shortened(text) },
        }
    }
}

/// Enough for a line of the log; an unexpected answer may be of any size.
fn shortened(text: &str) -> Arc<str> {
    text.chars().take(MOST_CHARS).collect::<String>().into()
}

const MOST_CHARS: usize = 200;

/// For a connection, from the name's look-up to the first answer.
const CONNECT: Duration = Duration::from_secs(2);

/// A connection that answered nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts, growing from the one to the other.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_known_by_its_digest() {
        assert_eq!(Script::new("return 1").sha1, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
