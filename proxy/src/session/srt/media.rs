//! An established session: its packets pass unread but for the header, until a side shuts down
//! or falls silent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::debug;

use super::call::{Call, Failure, Reached};
use super::{Established, Packets, Srt, Verdict};
use crate::origin::{Lease, Origin};
use crate::plane::Leg;
use crate::plane::datagram::{
    Course, Exit, FlowEnds, FlowKey, Gone, Lane, Planes, Progress, Train,
};
use crate::proto::srt::packet::{Packet, SocketId, shutdown};
use crate::proto::srt::rejection::Rejection;
use crate::session::adopt::keep;
use crate::session::flow::{FlowId, FlowTable, Name};
use crate::session::memo::Matter;
use crate::session::{Carriage, End, Ending, Live, Role, Session};

/// A session, to those who find it by a packet.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) ending: Arc<Ending>,
    /// None of one that an earlier process has called.
    call: Option<Arc<Call>>,
    since: Instant,
    ip: IpAddr,
    /// The sockets of both peers.
    client: SocketId,
    origin: SocketId,
    window: u32,
    session: Arc<Session>,
    at: Arc<Origin>,
    moving: Mutex<Moving>,
}

#[derive(Debug)]
struct Moving {
    machine: Established,
    /// The way back to what the machine tries.
    exit: Option<Exit>,
}

impl Known {
    /// Of a session of this origin.
    pub(super) fn new(
        machine: Established,
        call: Option<Arc<Call>>,
        session: Arc<Session>,
        at: Arc<Origin>,
        since: Instant,
    ) -> Self {
        Self {
            ending: call.as_ref().map(|call| Arc::clone(&call.ending)).unwrap_or_default(),
            call,
            since,
            ip: machine.ip(),
            client: machine.client(),
            origin: machine.origin(),
            window: machine.window(),
            session,
            at,
            moving: Mutex::new(Moving { machine, exit: None }),
        }
    }

    /// Whether the client is at this address, by whatever port.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        self.ip == ip.to_canonical()
    }

    /// Whether a packet from a port that is not the client's may go on.
    pub(super) fn may_come(
        &self,
        packet: &Packet<'_>,
        key: &FlowKey,
        exit: impl Fn() -> Exit,
        heard: Instant,
        now: Instant,
    ) -> bool {
        let mut moving = self.moving.lock();
        let before = moving.machine.trying();
        let verdict = moving.machine.from_elsewhere(packet, key, heard, now);
        let tried = moving.machine.trying();
        if tried != before {
            moving.exit = tried.map(|_| exit());
        }
        verdict == Verdict::Pass
    }

    /// Whether a port is tried that may be the client's.
    pub(super) fn is_tried(&self, heard: Instant, now: Instant) -> bool {
        self.moving.lock().machine.tries(heard, now)
    }

    /// How far the origin has come while another plane has carried the session.
    pub(super) fn catch_up(&self, progress: Progress) {
        self.moving.lock().machine.catch_up(progress);
    }

    /// Notes when each leg was heard last: a client that sends media has its answer.
    pub(super) fn heard(&self, heard: [Instant; Leg::ALL.len()]) {
        if let Some(call) = &self.call
            && heard.get(Leg::Client as usize).is_some_and(|&heard| heard > self.since)
        {
            call.confirm();
        }
    }
}

/// A session whose packets find it.
pub(super) struct Open {
    listed: Listed,
    known: Arc<Known>,
    lane: Arc<Lane>,
    /// What the origin has sent already.
    behind: Vec<Vec<u8>>,
}

impl Open {
    /// One whose origin has sent nothing that was not passed on.
    pub(super) const fn new(listed: Listed, known: Arc<Known>, lane: Arc<Lane>) -> Self {
        Self { listed, known, lane, behind: Vec::new() }
    }
}

/// A session's place in the table, and at its origin. Its drop gives up both.
pub(super) struct Listed {
    srt: Arc<Srt>,
    id: FlowId,
    #[expect(dead_code, reason = "held for its drop: the stream's route is in use until then")]
    lease: Lease,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.srt.state.lock().table.remove(self.id);
    }
}

impl Srt {
    /// Lets packets find a session, and gives the client its answer.
    pub(super) fn open(
        self: &Arc<Self>,
        call: &Arc<Call>,
        lease: Lease,
        reached: Reached,
        live: &Live,
    ) -> Result<Open, Failure> {
        let Reached { socket, address, established, answer, behind } = reached;
        let session = live.session();
        let origin = established.origin();
        let now = Instant::now();
        let course = Arc::new(Course::new(Arc::clone(&session.meter), now));
        let carriage = Carriage::Datagrams(Arc::clone(&course));
        let lane = Arc::new(Lane::new(socket, address, course));
        let (again, at) = (Some(Arc::clone(call)), Arc::clone(lease.origin()));
        let known = Arc::new(Known::new(established, again, Arc::clone(session), at, now));
        let key = FlowKey {
            is_tcp: false,
            client: call.caller.client,
            local: call.caller.local,
            socket_id: Some(origin.0),
        };
        lease.found();
        if call.role == Role::Publish {
            lease.publishes();
        }
        let Some(listed) = self.list(key, &known, &lane, call.exit.clone(), lease) else {
            // Two origins have given out one socket id, to one address: the second one has to be
            // another. It will be when the client comes again.
            close(&lane, origin);
            let why = "two origins, one socket id".into();
            let answer = Some(Rejection::RESOURCE);
            return Err(Failure { end: End::OutOfResources, why, answer });
        };
        session.note(|progress| progress.plane = Some(carriage));
        live.established(call.role);
        call.say(&answer);
        Ok(Open { listed, known, lane, behind })
    }

    /// Relays a session until its end.
    pub(super) async fn relay(&self, open: Open) -> End {
        let Open { listed, known, lane, behind } = open;
        let id = listed.id;
        for datagram in &behind {
            self.answered(id, &known, &lane, &Train::alone(lane.origin(), datagram));
        }
        let heard = lane.listen(|train| self.answered(id, &known, &lane, &train));
        let end = tokio::select! {
            Gone = heard => End::OriginLost,
            end = known.ending.ended() => end,
            () = self.stop.sessions.cancelled() => End::Shutdown,
        };
        if !matches!(end, End::ClientClosed | End::OriginClosed) {
            close(&lane, known.origin);
        }
        // A client that has begun anew with the same socket id would take it for the new one's.
        if !matches!(end, End::ClientClosed | End::OriginClosed | End::ClientLost) {
            lane.to_client(&Train::alone(lane.origin(), &shutdown(0, known.client)));
        }
        drop(listed);
        end
    }

    /// Lets packets find a session. None if those of another one would find it, too.
    pub(super) fn list(
        self: &Arc<Self>,
        key: FlowKey,
        known: &Arc<Known>,
        lane: &Arc<Lane>,
        exit: Exit,
        lease: Lease,
    ) -> Option<Listed> {
        let name = Name::SocketId(key.socket_id?);
        let mut state = self.state.lock();
        let table = &mut state.table;
        if table.owner(&key).is_some() {
            return None;
        }
        let (near, origin) = (lane.near(), lane.origin());
        let ends = FlowEnds { near, origin, client_socket_id: Some(known.client.0) };
        let id = table.insert(Arc::clone(known), Arc::clone(lane), ends, known.since);
        table.name(id, name);
        table.learn(id, key, exit, known.since);
        select(table, id, &key);
        drop(state);
        Some(Listed { srt: Arc::clone(self), id, lease })
    }

    /// Takes what has come from a session's origin.
    fn answered(&self, id: FlowId, known: &Known, lane: &Lane, train: &Train<'_>) {
        let now = Instant::now();
        let mut moved = None;
        let mut ends = false;
        // A bit for each that goes on; the system joins no more than 64.
        let mut passes = 0_u128;
        let mut moving = known.moving.lock();
        // Only looked at while somebody may have moved.
        let heard = match moving.machine.trying() {
            None => now,
            Some(_) => self.state.lock().table.heard(id, Leg::Client, now).unwrap_or(now),
        };
        for (index, datagram) in train.datagrams().enumerate() {
            let verdict = Packet::parse(datagram)
                .map_or(Verdict::Drop, |packet| moving.machine.from_origin(&packet, heard, now));
            match verdict {
                Verdict::Pass => {}
                Verdict::Drop => continue,
                Verdict::End(_) => ends = true,
                Verdict::Moved(key) => moved = Some(key),
            }
            passes |= 1_u128.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
        }
        let exit = match moving.machine.trying() {
            Some(_) => None,
            None => moving.exit.take(),
        };
        drop(moving);
        if let Some((key, exit)) = moved.zip(exit) {
            debug!(client = %key.client, "the client has moved");
            let mut state = self.state.lock();
            state.table.learn(id, key, exit, now);
            select(&mut state.table, id, &key);
        }
        if passes.count_ones() as usize == train.count() {
            lane.to_client(train);
        } else {
            for (index, datagram) in train.datagrams().enumerate() {
                if passes >> index.min(127) & 1 == 1 {
                    lane.to_client(&train.part(datagram));
                }
            }
        }
        if ends {
            known.ending.end(End::OriginClosed);
        }
    }
}

/// Lets packets of a session take this address of its client, and keeps what the next process has to
/// know.
fn select(table: &mut FlowTable<Packets, Planes>, id: FlowId, key: &FlowKey) {
    table.select(id, key);
    if let Some(((known, _), flow)) = table.get(id).zip(table.flow(id)) {
        keep(table.plane(), &known.session, &known.at, flow, || Matter::Srt {
            client: known.client.0,
            origin: known.origin.0,
            window: known.window,
        });
    }
}

/// Tells the origin that its peer is gone.
fn close(lane: &Lane, origin: SocketId) {
    let _it_may_be_gone = lane.for_origin(&Train::alone(lane.near(), &shutdown(0, origin)));
}
