//! Clients of sessions that were signalled at another proxy, and that come here.
//!
//! The name of a check tells in the store which stream it is of, where, and by which password it is
//! signed: a check that is, brings its session here. The existing proxy does not write a password.
//! Whether such a check is the client's is for the origin to say, and its client is a guest: one
//! address with a socket of its own, and until the origin has answered nothing goes there but
//! checks, and nothing comes back but that answer. A name that is made up costs a look-up, of which
//! there are few.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{Instrument, debug, info_span};

use super::ice::{Check, Ice};
use super::names::{LOOK_UPS, Names, is_name};
use super::signalling::Listed;
use super::{Known, Webrtc};
use crate::cluster::store::WebrtcRecord;
use crate::listen::{is_served, source};
use crate::origin::{Lease, Listener};
use crate::plane::datagram::{Course, Exit, FlowEnds, FlowKey, Lane, Socket, Train};
use crate::proto::proxy_protocol::Ends;
use crate::proto::stun::Message;
use crate::session::flow::{Dropped, FlowId, Name};
use crate::session::{Carriage, End, Ending, Protocol, Role};

/// What makes a session one of the other kind of proxy.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) record: WebrtcRecord,
    /// The way to its client. None until a check has come to this process.
    exit: Option<Exit>,
    /// Until the origin has answered.
    trial: Option<OwnedSemaphorePermit>,
}

impl Guest {
    /// One whose origin has answered an earlier process.
    pub(super) fn proven(record: WebrtcRecord) -> Self {
        Self { record, exit: None, trial: None }
    }

    /// The origin has answered: gives the way on which its client was.
    pub(super) fn prove(&mut self) -> Option<Exit> {
        self.trial = None;
        self.exit.clone()
    }
}

/// The guests, and the names that are looked up.
#[derive(Debug)]
pub(super) struct Guests {
    by_name: Mutex<HashMap<Box<str>, OfName>>,
    trials: Arc<Semaphore>,
    names: Mutex<Names>,
    under_way: Arc<Semaphore>,
    /// Of two checks that were looked up at once one brings their session here.
    arrival: Mutex<()>,
}

/// Where the clients of one name are, and whose guests they are.
type OfName = Vec<(FlowKey, FlowId)>;

/// Guests whose origin has not answered yet.
const TRIALS: usize = 256;

/// Guests of one name: a client at several addresses, and those who have heard its name.
const OF_NAME: usize = 8;

/// For the name of an origin's host to be found.
const RESOLVED: Duration = Duration::from_secs(1);

/// Largest check that waits for its name to be found, in bytes.
const MAX_WAITING: usize = 1500;

impl Default for Guests {
    fn default() -> Self {
        Self {
            by_name: Mutex::default(),
            trials: Arc::new(Semaphore::new(TRIALS)),
            names: Mutex::default(),
            under_way: Arc::new(Semaphore::new(LOOK_UPS)),
            arrival: Mutex::default(),
        }
    }
}

impl Guests {
    fn find(&self, name: &str, key: &FlowKey) -> Option<FlowId> {
        let by_name = self.by_name.lock();
        let same = |(other, _): &&(FlowKey, FlowId)| other == key;
        by_name.get(name)?.iter().find(same).map(|(_, id)| *id)
    }

    /// Every guest of this name.
    pub(super) fn of(&self, name: &str) -> Vec<FlowId> {
        let by_name = self.by_name.lock();
        by_name.get(name).into_iter().flatten().map(|(_, id)| *id).collect()
    }

    /// Lists a guest, if there is room for one more of its name.
    pub(super) fn list(self: &Arc<Self>, name: &str, key: FlowKey, id: FlowId) -> Option<Place> {
        let mut by_name = self.by_name.lock();
        let of_name = by_name.entry(name.into()).or_default();
        if of_name.len() >= OF_NAME {
            return None;
        }
        of_name.push((key, id));
        Some(Place { guests: Arc::clone(self), name: name.into(), id })
    }
}

/// A guest's place in the list. Its drop gives it up.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Guests>,
    name: Box<str>,
    id: FlowId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_name = self.guests.by_name.lock();
        if let Some(of_name) = by_name.get_mut(&self.name) {
            of_name.retain(|(_, id)| *id != self.id);
            if of_name.is_empty() {
                by_name.remove(&self.name);
            }
        }
    }
}

impl Webrtc {
    /// A check that no session of this proxy has signed: gives the lane of the guest that it is of;
    /// none if it waits for its name to be looked up.
    pub(super) fn of_guest(
        self: &Arc<Self>,
        key: &FlowKey,
        message: &Message<'_>,
        bytes: &[u8],
        exit: &dyn Fn() -> Exit,
    ) -> Result<Option<Arc<Lane>>, Dropped> {
        let name = message.username().ok_or(Dropped::UnknownName)?;
        let Some(id) = self.guests.find(name, key) else {
            return if self.look_up(name, key, bytes, exit) {
                Ok(None)
            } else {
                Err(Dropped::UnknownName)
            };
        };
        let mut table = self.table.lock();
        let known = table.session_mut(id).ok_or(Dropped::UnknownName)?;
        if known.ice.check(message.transaction(), *key) == Check::Replayed {
            return Err(Dropped::Replayed);
        }
        if let Some(guest) = &mut known.guest {
            guest.exit = Some(exit());
        }
        let lane = table.get(id).map(|(_, lane)| Arc::clone(lane));
        lane.map(Some).ok_or(Dropped::UnknownName)
    }

    /// Asks the store for a name, with the check that has it waiting. False if that is not done.
    fn look_up(
        self: &Arc<Self>,
        name: &str,
        key: &FlowKey,
        check: &[u8],
        exit: &dyn Fn() -> Exit,
    ) -> bool {
        if !self.cluster.is_shared() || !is_name(name) || check.len() > MAX_WAITING {
            return false;
        }
        let client = source(key.client.ip().to_canonical());
        let Ok(permit) = Arc::clone(&self.guests.under_way).try_acquire_owned() else {
            return false;
        };
        if !self.guests.names.lock().begin(name, client, Instant::now()) {
            return false;
        }
        let (webrtc, name, key) = (Arc::clone(self), name.to_owned(), *key);
        let (check, exit) = (check.to_vec(), exit());
        tokio::spawn(async move {
            let welcome = webrtc.welcome(&name, &check, key, exit.clone()).await;
            // Who has overheard a name keeps its client from nothing by it.
            let is_there = welcome != Err(Dropped::UnknownName);
            webrtc.guests.names.lock().done(&name, client, is_there, Instant::now());
            drop(permit);
            match welcome {
                Ok(()) => webrtc.take(&key, &Train::alone(key.client, &check), &|| exit.clone()),
                Err(dropped) => webrtc.drops.count(dropped, 1),
            }
        });
        true
    }

    /// Takes in a client, if the store has its name, its check is signed by the password that may be
    /// there, and its origin can be found.
    async fn welcome(
        self: &Arc<Self>,
        name: &str,
        check: &[u8],
        key: FlowKey,
        exit: Exit,
    ) -> Result<(), Dropped> {
        let record = self.cluster.webrtc(name).await.ok_or(Dropped::UnknownName)?;
        let is_signed = |password: &str| {
            Message::parse(check).is_ok_and(|check| check.is_authentic(password.as_bytes()))
        };
        if record.place.as_ref().is_some_and(|place| !is_signed(&place.password)) {
            return Err(Dropped::Forged);
        }
        let (lease, media) = self.whereabouts(&record).await.ok_or(Dropped::NotConnected)?;
        self.admit(record, lease, media, key, exit).ok_or(Dropped::NotConnected)
    }

    /// The origin of a session, and where it takes media.
    async fn whereabouts(&self, record: &WebrtcRecord) -> Option<(Lease, SocketAddr)> {
        let WebrtcRecord { stream, place, .. } = record;
        if let Some(place) = place {
            let (balancer, now) = (self.cluster.balancer(), Instant::now());
            let origin = balancer.server(place.server.as_str(), Listener::Api, now)?;
            let lease = balancer.adopt(&origin, stream, Listener::Api, now).ok()?;
            return Some((lease, place.media));
        }
        let lease = self.cluster.pick(stream, Listener::Api, &[]).await.ok()?;
        let port = lease.origin().targets(Listener::Rtc).next().map(|(_, port)| port);
        let host = timeout(RESOLVED, lookup_host((lease.origin().host().as_str(), 0))).await;
        let host = host.ok().and_then(Result::ok).and_then(|mut found| found.next());
        let (host, port) = host.zip(port)?;
        Some((lease, SocketAddr::new(host.ip(), port)))
    }

    /// A session of its own, within all limits, unless it is here already.
    fn admit(
        self: &Arc<Self>,
        record: WebrtcRecord,
        lease: Lease,
        media: SocketAddr,
        key: FlowKey,
        exit: Exit,
    ) -> Option<()> {
        let _arrival = self.guests.arrival.lock();
        if let Some(place) = &record.place {
            let here = self.named(&record.name, &key);
            if here.iter().any(|(_, password)| **password == *place.password) {
                return Some(());
            }
        }
        let trial = || Arc::clone(&self.guests.trials).try_acquire_owned().ok();
        let trial = if record.place.is_none() { Some(trial()?) } else { None };
        let socket = Socket::towards(media, self.settings.buffer).ok()?;
        if is_served(&self.settings.udp, media, socket.local().ip()) {
            return None;
        }
        let ends = Ends { source: key.client, destination: key.local };
        let mut live = self.sessions.admit(ends, Protocol::Webrtc).ok()?;
        live.presume(End::Shutdown);
        let session = Arc::clone(live.session());
        // The existing proxy does not tell.
        let role = record.place.as_ref().map_or(Role::Play, |place| place.role);
        let now = Instant::now();
        let course = Arc::new(Course::new(Arc::clone(&session.meter), now));
        session.note(|progress| {
            progress.role = Some(role);
            progress.stream = Some(record.stream.clone());
            progress.origin = Some((Arc::clone(lease.origin().name()), media));
            progress.plane = Some(Carriage::Datagrams(Arc::clone(&course)));
        });
        let lane = Arc::new(Lane::new(socket, media, course));
        let ending = Arc::new(Ending::default());
        let name = record.name.clone();
        let ice = match &record.place {
            Some(place) => Ice::new(&name, &place.password, now),
            None => Ice::of_guest(now),
        };
        let is_guest = record.place.is_none();
        let former = record.place.as_ref().and_then(|place| place.former.clone());
        let url_name = former.unwrap_or_else(|| name.clone());
        let known = Known {
            name: url_name.as_str().into(),
            ice,
            ending: Arc::clone(&ending),
            reached: session.destination.ip(),
            origin: Arc::clone(lease.origin()),
            session: Arc::clone(&session),
            guest: is_guest.then(|| Guest { record, exit: Some(exit), trial }),
            kept: Vec::new(),
        };
        let ends = FlowEnds { near: lane.near(), origin: media, client_socket_id: None };
        let mut table = self.table.lock();
        let id = table.insert(known, Arc::clone(&lane), ends, now);
        let mut found = None;
        if !is_guest {
            // By the one in its URL it is deleted.
            table.name(id, Name::Ice(url_name.into()));
            table.name(id, Name::Ice(name.as_str().into()));
            found = self.findable(&table, id, &name);
        }
        drop(table);
        self.keep_found(id, found);
        let mut listed = Listed { webrtc: Arc::clone(self), id, ending, lease, place: None };
        listed.place = is_guest.then(|| self.guests.list(&name, key, id)).flatten();
        let span = info_span!(parent: None, "session", id = %session.id);
        if is_guest && listed.place.is_none() {
            drop(listed);
            span.in_scope(|| live.end(End::OutOfResources));
            return None;
        }
        span.in_scope(|| debug!(client = %key.client, "a client of another proxy"));
        tokio::spawn(Arc::clone(self).serve(listed, lane, live, role).instrument(span));
        Some(())
    }
}
