//! A caller's handshake, driven until it has an origin or knows that there is none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{Instrument, debug, info_span, warn};

use super::{Action, Asked, Caller, Established, OriginHandshake, Pending, Srt, SrtSettings};
use crate::listen::is_served;
use crate::origin::{Lease, Listener, NoOrigin, Origin};
use crate::plane::datagram::{Exit, Gone, Outlet, Socket, Train};
use crate::proto::srt::rejection::Rejection;
use crate::proto::srt::stream_id::Mode;
use crate::session::{End, Ending, Live, Role};
use crate::stream::StreamKey;

/// A caller who is where it says.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) exit: Exit,
    pub(super) caller: Caller,
    pub(super) role: Role,
    pub(super) ending: Arc<Ending>,
    handshake: Mutex<OriginHandshake>,
    /// When it has asked last: it asks again until it is answered.
    asked: Mutex<Instant>,
    /// When it has to be answered.
    deadline: Instant,
}

/// A caller that does not ask again for so long has given up. libsrt asks four times a second.
const GIVEN_UP: Duration = Duration::from_secs(2);

impl Call {
    pub(super) fn new(
        asked: Asked<'_>,
        caller: Caller,
        exit: Exit,
        settings: &SrtSettings,
        now: Instant,
    ) -> Self {
        let deadline = now + settings.setup_timeout;
        let patience = settings.origin_timeout;
        let role = match asked.mode {
            Mode::Publish => Role::Publish,
            Mode::Request => Role::Play,
        };
        Self {
            exit,
            caller,
            role,
            ending: Arc::default(),
            handshake: Mutex::new(OriginHandshake::new(asked, patience, deadline, now)),
            asked: Mutex::new(now),
            deadline,
        }
    }

    /// Answers a conclusion that has come again. False if it is another one.
    pub(super) fn is_repeated_by(&self, asked: &Asked<'_>, now: Instant) -> bool {
        let handshake = self.handshake.lock();
        if !handshake.is_repeated_by(asked) {
            return false;
        }
        let actions = handshake.repeated(now);
        drop(handshake);
        *self.asked.lock() = now;
        for action in actions {
            if let Action::ToClient(bytes) = action {
                self.say(&bytes);
            }
        }
        true
    }

    /// The client has its answer.
    pub(super) fn confirm(&self) {
        self.handshake.lock().confirm();
    }

    /// Sends the client something of the handshake.
    pub(super) fn say(&self, bytes: &[u8]) {
        self.exit.send(&Train::alone(self.caller.client, bytes));
    }

    /// Tells the client that it gets no origin.
    pub(super) fn reject(&self, why: Rejection) {
        for action in self.machine(|handshake, now| handshake.reject(why, now)) {
            if let Action::ToClient(bytes) = action {
                self.say(&bytes);
            }
        }
    }

    /// Whether it was told that it gets no origin.
    fn is_rejected(&self) -> bool {
        self.handshake.lock().is_rejected()
    }

    fn machine<R>(&self, act: impl FnOnce(&mut OriginHandshake, Instant) -> R) -> R {
        act(&mut self.handshake.lock(), Instant::now())
    }
}

/// An origin that has answered.
pub(super) struct Reached {
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) established: Established,
    /// What the client is to be told.
    pub(super) answer: Vec<u8>,
    /// What came together with that, each a datagram.
    pub(super) behind: Vec<Vec<u8>>,
}

/// Why a caller has no session, and whether it knows.
pub(super) struct Failure {
    pub(super) end: End,
    pub(super) why: String,
    /// What the client is still to be told.
    pub(super) answer: Option<Rejection>,
}

/// What came of one origin.
enum Attempt {
    Reached(Box<Reached>),
    /// It has said no, and the client has been told.
    Refused(Rejection),
    /// It is not there.
    Down(String),
    /// It speaks SRT, and did not answer the conclusion.
    Late,
    OutOfResources(io::Error),
}

impl Srt {
    /// Finds an origin for a caller, and serves the session until its end.
    pub(super) fn answer(
        self: &Arc<Self>,
        call: Arc<Call>,
        key: StreamKey,
        live: Live,
        pending: Pending,
    ) {
        live.session().note(|progress| {
            progress.role = Some(call.role);
            progress.stream = Some(key.clone());
        });
        let span = info_span!("session", id = %live.session().id);
        let srt = Arc::clone(self);
        let listed = Called { srt: Arc::clone(self), call: Arc::clone(&call) };
        let session = async move {
            let ended = |end, answer| Err(Failure { end, why: String::new(), answer });
            let reached = tokio::select! {
                reached = srt.reach(&call, &key, &live) => reached,
                end = call.ending.ended() => ended(end, None),
                () = srt.stop.sessions.cancelled() => ended(End::Shutdown, Some(Rejection::CLOSE)),
            };
            let opened =
                reached.and_then(|(lease, reached)| srt.open(&call, lease, reached, &live));
            match opened {
                Ok(open) => {
                    drop(pending);
                    let end = srt.relay(open).await;
                    drop(listed);
                    live.end(end);
                }
                Err(Failure { end, why, answer }) => {
                    live.session().note(|progress| {
                        progress.why = Some(why).filter(|why| !why.is_empty());
                    });
                    if let Some(why) = answer {
                        call.reject(why);
                    }
                    live.end(end);
                    if call.is_rejected() {
                        srt.remain(&call).await;
                    }
                    drop((listed, pending));
                }
            }
        };
        tokio::spawn(session.instrument(span));
    }

    /// Lets a rejection be heard: a client that asks again has lost it, and would begin anew.
    async fn remain(&self, call: &Call) {
        tokio::select! {
            () = sleep(GIVEN_UP) => {}
            _ = call.ending.ended() => {}
            () = self.stop.sessions.cancelled() => {}
        }
    }

    /// Tries the stream's origins until one answers.
    async fn reach(
        &self,
        call: &Call,
        key: &StreamKey,
        live: &Live,
    ) -> Result<(Lease, Reached), Failure> {
        let mut tried = Vec::new();
        loop {
            let now = Instant::now();
            let unreachable = |why: &str| Failure {
                end: End::OriginUnreachable,
                why: why.to_owned(),
                answer: Some(Rejection::GATEWAY),
            };
            if now >= call.deadline {
                return Err(unreachable("no origin was reached in time"));
            }
            let lease = self.cluster.pick(key, Listener::Srt, &tried).await;
            let lease = lease.map_err(|error| {
                let why = error.to_string();
                match error {
                    NoOrigin::TooManyStreams => {
                        let answer = Some(Rejection::OVERLOAD);
                        Failure { end: End::TooManyStreams, why, answer }
                    }
                    _ if tried.is_empty() => {
                        Failure { end: End::NoOrigin, why, answer: Some(Rejection::DOWN) }
                    }
                    _ => unreachable(&why),
                }
            })?;
            match self.dial(call, lease.origin(), live).await {
                Attempt::Reached(reached) => {
                    self.cluster.reached(&lease);
                    return Ok((lease, *reached));
                }
                Attempt::Refused(why) => {
                    self.cluster.reached(&lease);
                    drop(lease);
                    let why = format!("the origin: {}", why.as_str());
                    return Err(Failure { end: End::OriginRefused, why, answer: None });
                }
                Attempt::Down(why) => {
                    self.cluster.failed(&lease, &why);
                    tried.push(lease.origin().server().clone());
                    drop(lease);
                }
                // What it does not answer depends on the client: it is not held against it.
                Attempt::Late => {
                    drop(lease);
                    return Err(unreachable("the origin does not answer in time"));
                }
                Attempt::OutOfResources(error) => {
                    if let Some(unsaid) = self.exhausted.say(Instant::now()) {
                        warn!(%error, unsaid, "this host has no resources left for new sessions");
                    }
                    let (end, why) = (End::OutOfResources, error.to_string());
                    return Err(Failure { end, why, answer: Some(Rejection::RESOURCE) });
                }
            }
            let last_asked = *call.asked.lock();
            if last_asked.elapsed() >= GIVEN_UP {
                let why = "the client has given up".to_owned();
                return Err(Failure { end: End::ClientLost, why, answer: None });
            }
        }
    }

    /// Shakes hands with an origin, by each of its addresses in turn, which share the time that it
    /// has for its first word. It counts as down when none has answered.
    async fn dial(&self, call: &Call, origin: &Origin, live: &Live) -> Attempt {
        let addresses = match self.addresses_of(origin).await {
            Ok(addresses) => addresses,
            Err(why) => return Attempt::Down(why),
        };
        let limit = self.settings.origin_timeout;
        let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let mut failure = "its name has no address".to_owned();
        for address in addresses {
            if Instant::now() >= call.deadline {
                return Attempt::Late;
            }
            let name = origin.name().clone();
            live.session().note(|progress| progress.origin = Some((name, address)));
            match self.attempt(call, address, share).await {
                Attempt::Down(why) => failure = why,
                other => return other,
            }
        }
        Attempt::Down(failure)
    }

    /// Where the origin takes SRT.
    async fn addresses_of(&self, origin: &Origin) -> Result<Vec<SocketAddr>, String> {
        let ports: Vec<u16> = origin.targets(Listener::Srt).map(|(_, port)| port).collect();
        if ports.is_empty() {
            return Err("the origin has no srt endpoint".into());
        }
        let found = lookup_host((origin.host().as_str(), 0));
        let found = timeout(self.settings.origin_timeout, found).await;
        let found = found.map_err(|_| "its name is not found in time")?;
        let found = found.map_err(|error| error.to_string())?;
        let hosts: Vec<_> = found.take(MAX_ADDRESSES).map(|address| address.ip()).collect();
        let of_port = |&port: &u16| hosts.iter().map(move |&ip| SocketAddr::new(ip, port));
        let addresses: Vec<_> = ports.iter().flat_map(of_port).take(MAX_ADDRESSES).collect();
        Ok(addresses)
    }

    /// Shakes hands with one address of an origin, which has `patience` for its first word.
    async fn attempt(&self, call: &Call, address: SocketAddr, patience: Duration) -> Attempt {
        let socket = match Socket::towards(address, self.settings.buffer) {
            Ok(socket) => socket,
            // A host may be without IPv6; without IPv4 sockets it is out of descriptors.
            Err(error) if is_of_the_way(&error) || address.is_ipv6() && has_sockets() => {
                return Attempt::Down(format!("{address}: {error}"));
            }
            Err(error) => return Attempt::OutOfResources(error),
        };
        if is_served(&self.settings.udp, address, socket.local().ip()) {
            return Attempt::Down("it is this proxy itself".to_owned());
        }
        let begin =
            |handshake: &mut OriginHandshake, now| handshake.begin(address.ip(), patience, now);
        let mut actions = call.machine(begin);
        let mut has_answered = false;
        let mut behind = Vec::new();
        loop {
            let mut answer = None;
            for action in actions.drain(..) {
                match action {
                    Action::ToOrigin(bytes) => {
                        if let Err((_, error)) =
                            socket.send(address, &Train::alone(address, &bytes))
                            && Gone::is_said_by(&error)
                        {
                            return Attempt::Down(format!("{address}: {error}"));
                        }
                    }
                    Action::ToClient(bytes) => answer = Some(bytes),
                    Action::Established(established) => {
                        let answer = answer.unwrap_or_default();
                        let reached = Reached { socket, address, established, answer, behind };
                        return Attempt::Reached(Box::new(reached));
                    }
                    Action::Rejected(why) => {
                        call.say(&answer.unwrap_or_default());
                        return Attempt::Refused(why);
                    }
                    Action::TimedOut if has_answered => return Attempt::Late,
                    Action::TimedOut => {
                        return Attempt::Down(format!("{address}: no answer by SRT"));
                    }
                }
            }
            let deadline = call.machine(|handshake, _| handshake.deadline());
            let deadline = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                ready = socket.readable() => {
                    let received = ready.and_then(|()| socket.receive(|train| {
                        // As behind the handshake: it may have come before the socket was
                        // connected.
                        let datagrams = train.datagrams().filter(|_| train.source == address);
                        for datagram in datagrams {
                            // Media may follow the answer at once.
                            if actions.iter().any(|a| matches!(a, Action::Established(_))) {
                                behind.push(datagram.to_vec());
                                continue;
                            }
                            actions.extend(call.machine(|handshake, now| {
                                handshake.receive(datagram, now)
                            }));
                        }
                    }));
                    has_answered |= !actions.is_empty();
                    match received {
                        Err(error) if Gone::is_said_by(&error) => {
                            return Attempt::Down(format!("{address}: {error}"));
                        }
                        Err(error) => debug!(%error, "of the way to the origin"),
                        Ok(_) => {}
                    }
                }
                () = sleep_until(deadline.into()) => {
                    actions = call.machine(OriginHandshake::wake);
                }
            }
        }
    }
}

/// Addresses of one origin that are tried.
const MAX_ADDRESSES: usize = 4;

/// A call's place among those that can be repeated. Its drop gives it up.
struct Called {
    srt: Arc<Srt>,
    call: Arc<Call>,
}

impl Drop for Called {
    fn drop(&mut self) {
        let mut state = self.srt.state.lock();
        // Another call of the same socket id may have taken its place.
        let caller = self.call.caller;
        if state.calls.get(&caller).is_some_and(|call| Arc::ptr_eq(call, &self.call)) {
            state.calls.remove(&caller);
        }
    }
}

/// Whether this host has descriptors left.
fn has_sockets() -> bool {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).is_ok()
}

/// Whether a socket could not be connected because of where, not because there is none.
fn is_of_the_way(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, Unsupported,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable | Unsupported
    )
}
