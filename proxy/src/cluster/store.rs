//! What proxies share: the contract that every store keeps.
//!
//! A store knows nothing of clients. It holds the origins that were heard, which origin each stream
//! belongs to and who uses it there, what operators want, and where sessions are that may arrive at
//! another proxy. Whatever it is made of, `conformance` shows that it behaves the same.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::origin::{Origin, OriginId, ServerName, Service, Standing};
use crate::session::Role;
use crate::stream::StreamKey;

/// What a store answers, within the deadline that it was made with.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The name of one run of an origin: `server-service-pid`.
pub type OriginName = Arc<str>;

/// What proxies share. Every change of one stream's owner is atomic: whoever races, all see the
/// same owner, and each change has a greater epoch than the one before.
pub trait Store: fmt::Debug + Send + Sync {
    /// The word for it in logs and the API: `memory`, `redis`.
    fn as_str(&self) -> &'static str;

    /// Whether other processes may have it, too.
    fn is_shared(&self) -> bool;

    /// All that is known of origins and proxies.
    fn survey(&self) -> Answer<'_, Survey>;

    /// An origin by the name of its run, as the store has it now.
    fn origin<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Heard>>;

    /// Notes that an origin was heard, and for how long it lives by that. An earlier run of the
    /// server goes. False if this run was withdrawn and stays out. Nothing that others have written
    /// about it is lost, and no other origin.
    ///
    /// With `is_old` the origin is only brought back if the store does not have it: what was heard
    /// by others since is better.
    fn announce<'a>(&'a self, heard: &'a Heard, is_old: bool) -> Answer<'a, bool>;

    /// Takes an origin out until it runs anew, or [`Standing::Active`] is wanted for its server.
    fn withdraw<'a>(&'a self, origin: &'a OriginId) -> Answer<'a, ()>;

    /// Notes what an operator wants of a server; [`Standing::Active`] forgets what was wanted.
    fn stand<'a>(&'a self, server: &'a ServerName, standing: Standing) -> Answer<'a, ()>;

    /// Notes that this proxy cannot reach an origin's service, for [`VOTE_LIFE`]; or that it can.
    fn vote<'a>(&'a self, vote: &'a Vote, is_down: bool) -> Answer<'a, ()>;

    /// Notes that this proxy is there, for [`HOLD_LIFE`].
    fn greet<'a>(&'a self, me: &'a Presence) -> Answer<'a, ()>;

    /// This proxy is no more: its presence, holds and votes go.
    fn part(&self) -> Answer<'_, ()>;

    /// Asks for a stream. It belongs to `origin` from now on if it belonged to nobody, or to `over`
    /// and that may be replaced; else everything stays. In any case this proxy holds the stream. What
    /// none has found yet is forgotten [`UNFOUND_LIFE`] behind its last use.
    fn claim<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Owned>;

    /// Notes that this proxy uses a stream at an origin, for [`HOLD_LIFE`]. Unless it publishes it
    /// there, it uses it elsewhere only where it publishes it. The stream belongs to that origin from
    /// now on if it belonged to nobody, or to another run of its server; and, unless the hold says
    /// that the origin is out, if it is published there by this proxy and not at its owner, or if
    /// nobody uses it at its owner and none has found it there.
    fn hold<'a>(&'a self, hold: &'a Hold) -> Answer<'a, Owned>;

    /// This proxy uses a stream no more at this origin. With `is_unfound` the stream belongs to
    /// nobody from now on if it still is this origin's, nobody else holds it, and none who held it
    /// has found it: nobody places a stream by asking for it too early.
    /// The answer is the epoch of the owner that ended by that.
    fn leave<'a>(&'a self, left: &'a Left) -> Answer<'a, Option<u64>>;

    /// At most this many streams and their owners.
    fn routes(&self, most: usize) -> Answer<'_, Vec<(StreamKey, OriginName)>>;

    /// Tells every proxy, this one included, what has changed.
    fn tell<'a>(&'a self, changes: &'a [Change]) -> Answer<'a, ()>;

    /// What was told since `mark`; since now, if there is none.
    fn changes<'a>(&'a self, mark: Option<&'a Mark>) -> Answer<'a, News>;

    /// Keeps a session of WebRTC findable for [`RECORD_LIFE`].
    fn keep_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()>;

    /// The session of this name.
    fn webrtc<'a>(&'a self, name: &'a str) -> Answer<'a, Option<WebrtcRecord>>;

    /// Forgets a session that is over.
    fn drop_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()>;

    /// Keeps the id that segments of a playlist carry, for [`RECORD_LIFE`].
    fn keep_hls<'a>(&'a self, record: &'a HlsRecord) -> Answer<'a, ()>;

    /// The stream of a segment that carries this id.
    fn hls<'a>(&'a self, id: &'a str) -> Answer<'a, Option<StreamKey>>;

    /// The secret of all proxies: this one, if none has proposed another before.
    fn secret(&self, proposed: [u8; 32]) -> Answer<'_, [u8; 32]>;
}

/// How long a proxy holds a stream, and is known to be there, after it has said so.
pub const HOLD_LIFE: Duration = Duration::from_secs(30);

/// How long a stream that none has found belongs to its origin.
pub const UNFOUND_LIFE: Duration = Duration::from_mins(1);

/// How long the word of a proxy counts that an origin cannot be reached.
pub const VOTE_LIFE: Duration = Duration::from_secs(30);

/// How long a record of a session or a playlist is kept, as the existing proxy has it.
pub const RECORD_LIFE: Duration = Duration::from_mins(2);

/// Why a store does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Not within the deadline.
    #[error("no answer in time")]
    Late,
    /// There is no connection, and why.
    #[error("no connection: {0}")]
    Down(String),
    /// It does not let this proxy in.
    #[error("refused: {0}")]
    Refused(String),
    /// It cannot do what was asked.
    #[error("it answers: {0}")]
    Failed(String),
    /// What it answers, or has, is not what was written by a proxy.
    #[error("not understood: {0}")]
    Malformed(String),
}

impl StoreError {
    /// Every word of [`Self::as_str`].
    pub const WORDS: [&str; 5] = ["late", "down", "refused", "failed", "malformed"];

    /// The word in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Down(_) => "down",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Malformed(_) => "malformed",
        }
    }

    /// Whether the store as a whole is of no use now, rather than one key of it.
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Late | Self::Down(_) | Self::Refused(_))
    }
}

/// Names one process among the proxies: host name and a random number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyId(Arc<str>);

impl ProxyId {
    /// Longest, in bytes.
    pub const MAX_BYTES: usize = 80;

    /// None if the text is empty, too long, or has other than letters, digits, dots and hyphens.
    pub fn new(text: &str) -> Option<Self> {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        (fits && text.bytes().all(is_fine)).then(|| Self(text.into()))
    }

    /// The name of a process on this host, by a random number.
    pub fn of_host(host: &str, number: u32) -> Self {
        let fine = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
        let host: String = fine.take(Self::MAX_BYTES - 9).collect();
        Self(format!("{host}-{number:08x}").into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An origin, and how long it still lives without another word of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// As it registered.
    pub origin: Arc<Origin>,
    /// Until it expires.
    pub life: Duration,
}

/// Everything about origins and proxies.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The origins that are alive.
    pub origins: Vec<Heard>,
    /// What operators want of servers; those not named are active.
    pub standings: Vec<(ServerName, Standing)>,
    /// Runs that were taken out.
    pub withdrawn: Vec<OriginName>,
    /// Which origins cannot be reached, and by whom.
    pub votes: Vec<(ProxyId, Vote)>,
    /// The proxies that are there.
    pub proxies: Vec<Presence>,
    /// Why a part of this is what was known before.
    pub trouble: Option<StoreError>,
}

/// A service of an origin's run that is voted on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vote {
    /// Which origin.
    pub origin: OriginName,
    /// Which of its services.
    pub service: Service,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who.
    pub proxy: ProxyId,
    /// Version of the program.
    pub version: String,
    /// Streams that it uses, by server.
    #[serde(default)]
    pub streams: BTreeMap<ServerName, usize>,
    /// Sessions that it has, by server.
    #[serde(default)]
    pub sessions: BTreeMap<ServerName, usize>,
    /// Streams published at two origins, as far as it knows; at most [`Self::MAX_CONFLICTS`].
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
}

impl Presence {
    /// Most conflicts that a proxy tells of.
    pub const MAX_CONFLICTS: usize = 32;
}

/// One stream that is published at several origins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// The stream.
    pub stream: String,
    /// Each origin, and the proxy through which it is published there.
    pub publishers: Vec<Holder>,
}

/// A proxy that uses a stream at an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub proxy: ProxyId,
    /// Where: the name of the origin's run.
    pub origin: OriginName,
}

/// The wish for a stream.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which.
    pub stream: StreamKey,
    /// To whom it shall belong.
    pub origin: OriginId,
    /// In whose place, too.
    pub over: Option<Over>,
}

/// An owner that shall be replaced.
#[derive(Clone, Debug)]
pub struct Over {
    /// Any run of this server; or, for a server that nobody knows, this name.
    pub origin: OriginName,
    /// Whether it is out for certain: replaced although the stream is held there.
    pub is_out: bool,
    /// Whether what this proxy publishes there counts as held, as whatever others use does: others can
    /// look for themselves whether it is out.
    pub has_company: bool,
}

/// To whom a stream belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The origin.
    pub origin: OriginName,
    /// Greater with each change of the owner.
    pub epoch: u64,
    /// Whether the owner was changed by this call.
    pub is_changed: bool,
    /// Publishers of this stream at other origins than the one of the call.
    pub rivals: Vec<Holder>,
}

/// The use of a stream.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Which.
    pub stream: StreamKey,
    /// At which origin.
    pub origin: OriginId,
    /// Whether any client has found it there.
    pub is_found: bool,
    /// Whether a client publishes it there.
    pub is_published: bool,
    /// Whether that origin is out, so that the stream shall not come back to it.
    pub is_out: bool,
}

/// The end of a use.
#[derive(Clone, Debug)]
pub struct Left {
    /// Which.
    pub stream: StreamKey,
    /// At which origin.
    pub origin: OriginId,
    /// Whether no client has found it there.
    pub is_unfound: bool,
}

/// What proxies tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A stream belongs to this origin, since this epoch.
    Route(StreamKey, OriginName, u64),
    /// A stream belongs to nobody, since the owner of this epoch.
    Gone(StreamKey, u64),
    /// A survey shows something new.
    Origins,
    /// A session of WebRTC of this name was deleted.
    Deleted(String),
}

/// How far a proxy has read what was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(pub String);

/// What was told.
#[derive(Clone, Debug)]
pub struct News {
    /// In the order in which it was told.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub mark: Mark,
    /// Whether something between was forgotten by the store.
    pub is_broken: bool,
}

/// A session of WebRTC that may arrive anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcRecord {
    /// The ICE user names of answer and offer with a colon between them.
    pub name: String,
    /// The stream.
    pub stream: StreamKey,
    /// The rest, which the existing proxy does not write.
    pub place: Option<WebrtcPlace>,
}

/// Where a session of WebRTC is, and how its client is known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebrtcPlace {
    /// The server that has it.
    pub server: ServerName,
    /// Where that takes its media.
    pub media: SocketAddr,
    /// By which the client signs its checks: what is not signed by it is nobody's.
    pub password: String,
    /// What the client does.
    pub role: Role,
    /// The name in the session's URL, if ICE has begun anew since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
}

impl fmt::Debug for WebrtcPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, media, role, .. } = self;
        let mut place = f.debug_struct("WebrtcPlace");
        place
            .field("server", server)
            .field("media", media)
            .field("role", role)
            .finish_non_exhaustive()
    }
}

/// The id that the existing proxy puts into the segments of a playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HlsRecord {
    /// Value of the parameter `spbhid`.
    pub id: String,
    /// The stream.
    pub stream: StreamKey,
    /// The playlist's URL.
    pub url: String,
}

impl HlsRecord {
    /// The parameter that the existing proxy looks for in the query of a segment.
    pub const PARAMETER: &str = "spbhid";

    /// Whatever the playlist and whichever proxy lists it, of one stream the id is the same.
    pub fn of(stream: StreamKey, url: String) -> Self {
        let digest = Sha256::digest(stream.as_str());
        let id = digest.iter().take(8).fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
        Self { id, stream, url }
    }
}
