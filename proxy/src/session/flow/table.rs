//! Sessions by name and by address, and which of a session's addresses media takes.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::time::Instant;

use crate::plane::Leg;
use crate::plane::datagram::{Flow, FlowEnds, FlowKey, Offload, Progress};

/// What a protocol keeps for each session.
pub trait Media {
    /// What it knows of the session.
    type Session: Debug;
    /// The session's socket towards its origin.
    type Lane: Clone + Debug;
    /// The way out to a client.
    type Exit: Clone + Debug;
}

/// One session. Never given again, so that whoever comes late finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

/// By what a client names its session before its address is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// WebRTC: the ICE user names of the answer and the offer, as in STUN's USERNAME.
    Ice(Box<str>),
    /// SRT: the socket id that the origin has given out. Two origins can give out the same.
    SocketId(u32),
}

/// What is new about an address at which a session's client was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The client has not been seen there before.
    New,
    /// It has.
    Known,
}

/// All sessions of one protocol, and the plane that is told of their flows.
///
/// Bounds: [`Self::MAX_PATHS`] addresses and [`Self::MAX_NAMES`] names for each session; how many
/// sessions there are is limited where they are admitted.
#[derive(Debug)]
pub struct FlowTable<M: Media, O> {
    plane: O,
    sessions: HashMap<FlowId, Entry<M>>,
    by_key: HashMap<FlowKey, FlowId>,
    by_name: HashMap<Name, Vec<FlowId>>,
    last_id: u64,
    last_generation: u64,
}

#[derive(Debug)]
struct Entry<M: Media> {
    session: M::Session,
    lane: M::Lane,
    ends: FlowEnds,
    names: Vec<Name>,
    paths: Vec<Path<M::Exit>>,
    flow: Option<Flow>,
    is_held: bool,
    heard: [Instant; Leg::ALL.len()],
}

/// An address at which the client was seen.
#[derive(Debug)]
struct Path<X> {
    key: FlowKey,
    exit: X,
    seen: Instant,
    is_nominated: bool,
}

impl<M: Media, O: Offload<M::Lane, M::Exit>> FlowTable<M, O> {
    /// Addresses of one session; the one that was seen last of all makes room for another.
    pub const MAX_PATHS: usize = 8;

    /// Names of one session. The first is its own for good; of the others the oldest makes room for
    /// another.
    pub const MAX_NAMES: usize = 4;

    /// An empty table.
    pub fn new(plane: O) -> Self {
        Self {
            plane,
            sessions: HashMap::new(),
            by_key: HashMap::new(),
            by_name: HashMap::new(),
            last_id: 0,
            last_generation: 0,
        }
    }

    /// Takes in a session with this socket, which has these ends. It can be found by no name and no
    /// address yet.
    pub fn insert(
        &mut self,
        session: M::Session,
        lane: M::Lane,
        ends: FlowEnds,
        now: Instant,
    ) -> FlowId {
        self.last_id += 1;
        let id = FlowId(self.last_id);
        let entry = Entry {
            session,
            lane,
            ends,
            names: Vec::new(),
            paths: Vec::new(),
            flow: None,
            is_held: false,
            heard: [now; Leg::ALL.len()],
        };
        self.sessions.insert(id, entry);
        id
    }

    /// Lets a session be found by one more name. False if there is no such session.
    pub fn name(&mut self, id: FlowId, name: Name) -> bool {
        let Some(entry) = self.sessions.get_mut(&id) else { return false };
        if entry.names.contains(&name) {
            return true;
        }
        entry.names.push(name.clone());
        let oldest = (entry.names.len() > Self::MAX_NAMES).then(|| entry.names.remove(1));
        self.by_name.entry(name).or_default().push(id);
        if let Some(oldest) = oldest {
            self.forget_name(&oldest, id);
        }
        true
    }

    /// The session of this name, if there is one, and only one.
    pub fn find(&self, name: &Name) -> Option<FlowId> {
        match self.by_name.get(name)?.as_slice() {
            &[id] => Some(id),
            _ => None,
        }
    }

    /// Every session of this name, the newest first.
    pub fn find_all(&self, name: &Name) -> impl Iterator<Item = FlowId> {
        self.by_name.get(name).into_iter().flatten().rev().copied()
    }

    /// The session whose client was seen there.
    pub fn owner(&self, key: &FlowKey) -> Option<FlowId> {
        self.by_key.get(key).copied()
    }

    /// A session and its socket.
    pub fn get(&self, id: FlowId) -> Option<(&M::Session, &M::Lane)> {
        self.sessions.get(&id).map(|entry| (&entry.session, &entry.lane))
    }

    /// What the protocol knows of a session, to be changed.
    pub fn session_mut(&mut self, id: FlowId) -> Option<&mut M::Session> {
        self.sessions.get_mut(&id).map(|entry| &mut entry.session)
    }

    /// The flow by which media of a session goes, once there is one.
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.sessions.get(&id)?.flow.as_ref()
    }

    /// The way to an address at which the session's client was seen.
    pub fn exit(&self, id: FlowId, key: &FlowKey) -> Option<&M::Exit> {
        let entry = self.sessions.get(&id)?;
        entry.paths.iter().find(|path| path.key == *key).map(|path| &path.exit)
    }

    /// The way by which the session's client was seen last.
    pub fn latest_exit(&self, id: FlowId) -> Option<&M::Exit> {
        let paths = &self.sessions.get(&id)?.paths;
        paths.iter().max_by_key(|path| path.seen).map(|path| &path.exit)
    }

    /// When something was heard of a leg last: `now` if it was since the planes were asked.
    pub fn heard(&self, id: FlowId, leg: Leg, now: Instant) -> Option<Instant> {
        let entry = self.sessions.get(&id)?;
        let has_heard = |flow: &Flow| self.plane.has_heard(flow, &entry.lane, leg);
        if entry.flow.as_ref().is_some_and(has_heard) {
            return Some(now);
        }
        entry.heard.get(leg as usize).copied()
    }

    /// Lets every datagram of a session be seen until it is released; says how far its origin has
    /// come meanwhile. None if it has no flow, or is held already.
    pub fn hold(&mut self, id: FlowId, why: &'static str) -> Option<Progress> {
        let entry = self.sessions.get_mut(&id)?;
        let flow = entry.flow.as_ref()?;
        if std::mem::replace(&mut entry.is_held, true) {
            return None;
        }
        Some(self.plane.hold(flow, why))
    }

    /// Sessions that are held.
    pub fn held(&self) -> impl Iterator<Item = FlowId> {
        self.sessions.iter().filter(|(_, entry)| entry.is_held).map(|(&id, _)| id)
    }

    /// Ends a hold.
    pub fn release(&mut self, id: FlowId) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        if let Some(flow) = entry.flow.as_ref().filter(|_| std::mem::take(&mut entry.is_held)) {
            self.plane.release(flow);
        }
    }

    /// The client of this session is at this address, as it has proved. If another session had
    /// it, it is that one's no more. None if there is no such session.
    pub fn learn(
        &mut self,
        id: FlowId,
        key: FlowKey,
        exit: M::Exit,
        now: Instant,
    ) -> Option<Learnt> {
        if let Some(former) = self.by_key.get(&key).copied().filter(|&former| former != id) {
            self.forget_path(former, &key);
        }
        let entry = self.sessions.get_mut(&id)?;
        if let Some(path) = entry.paths.iter_mut().find(|path| path.key == key) {
            // The same address by another connection is another way.
            (path.seen, path.exit) = (now, exit);
            return Some(Learnt::Known);
        }
        let flow = entry.flow.map(|flow| flow.key);
        let unused = entry.paths.iter().filter(|path| Some(path.key) != flow);
        let oldest = unused.min_by_key(|path| path.seen).map(|path| path.key);
        let is_full = entry.paths.len() >= Self::MAX_PATHS;
        entry.paths.push(Path { key, exit, seen: now, is_nominated: false });
        self.by_key.insert(key, id);
        if let Some(oldest) = oldest.filter(|_| is_full) {
            self.forget_path(id, &oldest);
        }
        Some(Learnt::New)
    }

    /// The client has nominated this address, at which it was seen before. True if it has not done
    /// so before.
    pub fn nominate(&mut self, id: FlowId, key: &FlowKey) -> bool {
        let paths = self.sessions.get_mut(&id).map(|entry| &mut entry.paths);
        let path = paths.into_iter().flatten().find(|path| path.key == *key);
        path.is_some_and(|path| !std::mem::replace(&mut path.is_nominated, true))
    }

    /// When the client was last seen where media goes, and at another address of its.
    pub fn seen(&self, id: FlowId, key: &FlowKey) -> Option<(Option<Instant>, Instant)> {
        let entry = self.sessions.get(&id)?;
        let seen = |key| entry.paths.iter().find(|path| path.key == key).map(|path| path.seen);
        Some((entry.flow.and_then(|flow| seen(flow.key)), seen(*key)?))
    }

    /// The client is at this address no longer: its connection has ended.
    pub fn forget(&mut self, key: &FlowKey) {
        if let Some(id) = self.owner(key) {
            self.forget_path(id, key);
        }
    }

    /// Lets media take this address, at which the client was seen before. True if it took another
    /// one, or none.
    pub fn select(&mut self, id: FlowId, key: &FlowKey) -> bool {
        let Some(entry) = self.sessions.get_mut(&id) else { return false };
        let Some(path) = entry.paths.iter().find(|path| path.key == *key) else { return false };
        if entry.flow.is_some_and(|flow| flow.key == *key) {
            return false;
        }
        self.last_generation += 1;
        let generation = self.last_generation;
        let flow = Flow { key: *key, ends: entry.ends, generation };
        // The new way before the old one goes: there is no time without any.
        self.plane.install(&flow, &entry.lane, &path.exit);
        // A hold was of the former way.
        entry.is_held = false;
        if let Some(former) = entry.flow.replace(flow) {
            self.plane.remove(&former, &entry.lane);
        }
        true
    }

    /// Forgets a session, its names and its addresses; gives what the protocol knew of it.
    pub fn remove(&mut self, id: FlowId) -> Option<M::Session> {
        let entry = self.sessions.remove(&id)?;
        if let Some(flow) = &entry.flow {
            self.plane.remove(flow, &entry.lane);
        }
        for path in &entry.paths {
            self.by_key.remove(&path.key);
        }
        for name in &entry.names {
            self.forget_name(name, id);
        }
        Some(entry.session)
    }

    /// Reads the counters of the planes. Then asks of every session, with when its origin and its
    /// client were heard last (in the order of [`Leg::ALL`]), whether it is over: gives those for
    /// which `judge` has a reason. Forgets addresses other than the one in use that were not seen
    /// since `stale`.
    pub fn tick<R>(
        &mut self,
        now: Instant,
        stale: Option<Instant>,
        mut judge: impl FnMut(&mut M::Session, [Instant; Leg::ALL.len()]) -> Option<R>,
    ) -> Vec<(FlowId, R)> {
        let (by_key, sessions) = (&self.by_key, &mut self.sessions);
        self.plane.counters(&mut |key, delta| {
            let Some(entry) = by_key.get(key).and_then(|id| sessions.get_mut(id)) else { return };
            for (heard, datagrams) in entry.heard.iter_mut().zip(delta.heard) {
                if datagrams > 0 {
                    *heard = now;
                }
            }
        });
        let mut over = Vec::new();
        let mut forgotten = HashSet::new();
        for (&id, entry) in &mut self.sessions {
            over.extend(judge(&mut entry.session, entry.heard).map(|why| (id, why)));
            let in_use = entry.flow.map(|flow| flow.key);
            let old = |path: &&Path<_>| Some(path.key) != in_use && Some(path.seen) < stale;
            forgotten.extend(entry.paths.iter().filter(old).map(|path| (id, path.key)));
        }
        for (id, key) in forgotten {
            self.forget_path(id, &key);
        }
        over
    }

    /// The plane, for what concerns it alone.
    pub fn plane(&self) -> &O {
        &self.plane
    }

    /// How many sessions, addresses and names there are.
    pub fn sizes(&self) -> [usize; 3] {
        [self.sessions.len(), self.by_key.len(), self.by_name.len()]
    }

    fn forget_path(&mut self, id: FlowId, key: &FlowKey) {
        self.by_key.remove(key);
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        entry.paths.retain(|path| path.key != *key);
        if let Some(flow) = entry.flow.take_if(|flow| flow.key == *key) {
            self.plane.remove(&flow, &entry.lane);
        }
    }

    fn forget_name(&mut self, name: &Name, id: FlowId) {
        if let Some(ids) = self.by_name.get_mut(name) {
            ids.retain(|&other| other != id);
            if ids.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
