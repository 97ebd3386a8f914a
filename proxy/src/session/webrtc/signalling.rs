//! A session out of an offer and its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use thiserror::Error;
use tracing::{Instrument, info, info_span};

use super::guest::Place;
use super::{Datagrams, Ice, Known, Webrtc, keep};
use crate::cluster::store::{WebrtcPlace, WebrtcRecord};
use crate::listen::is_served;
use crate::origin::{Lease, Listener};
use crate::plane::datagram::{Course, FlowEnds, Gone, Lane, Planes, Socket};
use crate::proto::proxy_protocol::Ends;
use crate::proto::sdp::{self, BadSdp, Offered, Transport};
use crate::session::flow::{FlowId, FlowTable, Name};
use crate::session::{Carriage, End, Ending, Live, Protocol, Role};
use crate::stream::StreamKey;

/// What signalling knows of a session that is to be.
#[derive(Debug)]
pub struct Invited {
    /// Of the connection by which the offer came.
    pub client: Ends,
    /// The stream.
    pub stream: StreamKey,
    /// What the client does with it.
    pub role: Role,
    /// The origin that is asked.
    pub lease: Lease,
    /// The proxy's own address towards that origin.
    pub near: IpAddr,
    /// Where the origin takes offers.
    pub far: SocketAddr,
    /// The offer, in which there are ICE names.
    pub offer: String,
}

/// A session between its offer and its answer. Its drop ends it.
pub struct Draft {
    webrtc: Arc<Webrtc>,
    invited: Invited,
    live: Live,
    socket: Socket,
}

/// Why a description is not taken.
#[derive(Debug, Error)]
pub enum BadDescription {
    /// The offer or the answer has no ICE user name or password that could be one.
    #[error("{0}")]
    Sdp(#[from] BadSdp),
    /// Nothing in the answer tells where the origin takes media.
    #[error("no candidate, and the origin has registered no rtc endpoint")]
    NoCandidate,
    /// The origin takes media where this proxy does.
    #[error("its media would come back to this proxy")]
    Circle,
    /// There is no socket for its media.
    #[error("{0}")]
    Socket(io::Error),
}

impl Webrtc {
    /// Admits a session, counted against the limits, before its origin is asked.
    pub fn invite(self: &Arc<Self>, invited: Invited) -> Result<Draft, End> {
        let mut live = self.sessions.admit(invited.client, Protocol::Webrtc)?;
        // Whoever asks the origin is only ever stopped by the end of all.
        live.presume(End::Shutdown);
        live.session().note(|progress| {
            progress.role = Some(invited.role);
            progress.stream = Some(invited.stream.clone());
            progress.origin = Some((Arc::clone(invited.lease.origin().name()), invited.far));
        });
        match Socket::at(invited.near, self.settings.buffer) {
            Ok(socket) => Ok(Draft { webrtc: Arc::clone(self), invited, live, socket }),
            Err(error) => {
                live.session().note(|progress| progress.why = Some(error.to_string()));
                live.end(End::OutOfResources);
                Err(End::OutOfResources)
            }
        }
    }

    /// Counts a session that has not begun: there is no origin for its offer.
    pub fn turned_away(&self, end: End, stream: &StreamKey, client: SocketAddr, why: &str) {
        self.sessions.refuse(Protocol::Webrtc, end);
        if let Some(unsaid) = self.refusals.say(Instant::now()) {
            let end = end.as_str();
            info!(%stream, %client, end, why, unsaid, "no session of WebRTC");
        }
    }

    /// The offer's part in an ICE restart of this session, and its origin's answer to it: gives
    /// the answer for the client. None if the session is not here, or is of no restart.
    pub fn restart(self: &Arc<Self>, name: &str, offer: &str, answer: &str) -> Option<String> {
        let (offer, ice) = (sdp::ice(offer).ok()?, sdp::ice(answer).ok()?);
        let mut table = self.table.lock();
        let id = table.find(&Name::Ice(name.into()))?;
        let renamed = named(&ice.ufrag, &offer.ufrag);
        let known = table.session_mut(id)?;
        known.ice.restart(&renamed, &ice.password, FlowTable::<Datagrams, Planes>::MAX_NAMES);
        let reached = known.reached;
        // A name that counts no more is nobody's.
        known.kept.retain(|kept| known.ice.password(kept.name()).is_some());
        self.keep_found(&mut table, id, &renamed);
        table.name(id, Name::Ice(renamed.into()));
        keep(&table, id);
        drop(table);
        Some(sdp::with_candidates(answer, &self.offered(reached)))
    }

    /// The same for a session of this stream that is not here: it is found by its new name where it
    /// was by the one before. `reached` is where the client has asked.
    pub async fn restart_elsewhere(
        &self,
        stream: &StreamKey,
        name: &str,
        (offer, answer): (&str, &str),
        reached: IpAddr,
    ) -> Option<String> {
        let (offer, ice) = (sdp::ice(offer).ok()?, sdp::ice(answer).ok()?);
        if !self.cluster.is_shared() {
            return None;
        }
        let place = self.cluster.webrtc(name).await.and_then(|record| record.place);
        let place =
            place.map(|place| WebrtcPlace { password: ice.password.as_str().into(), ..place });
        let name = named(&ice.ufrag, &offer.ufrag);
        // Whoever meets the client keeps it on.
        drop(self.cluster.keep_webrtc(WebrtcRecord { name, stream: stream.clone(), place }));
        Some(sdp::with_candidates(answer, &self.offered(reached)))
    }

    /// What a client has to say of this session's ICE later, for its origin: the proxy stays in the
    /// client's place.
    pub fn fragment(&self, name: &str, fragment: &str) -> String {
        let table = self.table.lock();
        let id = table.find(&Name::Ice(name.into()));
        let lane = id.and_then(|id| table.get(id)).map(|(_, lane)| Arc::clone(lane));
        drop(table);
        let here = lane.map(|lane| Offered { address: lane.near(), transport: Transport::Udp });
        sdp::with_candidates(fragment, here.as_slice())
    }

    /// Ends the session of this name, whose client has deleted it at the origin, at every proxy.
    pub fn delete(&self, name: &str) {
        self.end_named(name);
        if self.cluster.is_shared() {
            self.cluster.deleted(name);
        }
    }

    /// Ends the session of this name, and its guests.
    pub(super) fn end_named(&self, name: &str) {
        let guests = self.guests.of(name);
        let table = self.table.lock();
        for id in table.find_all(&Name::Ice(name.into())).chain(guests) {
            if let Some((known, _)) = table.get(id) {
                known.ending.end(End::Deleted);
            }
        }
    }

    /// Lets a session be found at every proxy by this name, if there are others.
    pub(super) fn keep_found(
        &self,
        table: &mut FlowTable<Datagrams, Planes>,
        id: FlowId,
        name: &str,
    ) {
        let Some((known, lane)) = table.get(id).filter(|_| self.cluster.is_shared()) else {
            return;
        };
        let progress = known.session.progress();
        let Some((role, stream)) = progress.role.zip(progress.stream) else { return };
        let (server, media) = (known.origin.server().clone(), lane.origin());
        let Some(password) = known.ice.password(name) else { return };
        let (session, password) = (known.name.to_string(), password.as_ref().into());
        let place = Some(WebrtcPlace { session, server, media, password, role });
        let kept = self.cluster.keep_webrtc(WebrtcRecord { name: name.to_owned(), stream, place });
        if let Some(known) = table.session_mut(id) {
            known.kept.push(kept);
        }
    }

    /// A session was deleted: no proxy has it any more, by none of its names.
    fn forget(&self, id: FlowId) {
        let mut table = self.table.lock();
        let Some(known) = table.session_mut(id) else { return };
        let (kept, is_guest) = (std::mem::take(&mut known.kept), known.guest.is_some());
        drop(table);
        for kept in kept {
            if !is_guest {
                self.cluster.deleted(kept.name());
            }
            kept.over();
        }
    }

    /// One session, from its answer to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        listed: Listed,
        lane: Arc<Lane>,
        live: Live,
        role: Role,
    ) {
        let id = listed.id;
        let heard = lane.listen(|train| {
            if self.answered(id, &lane, &train) {
                live.established(role);
                listed.lease.found();
                if role == Role::Publish {
                    listed.lease.publishes();
                }
            }
        });
        let end = tokio::select! {
            Gone = heard => {
                let table = self.table.lock();
                table.get(id).map_or(End::OriginLost, |(known, _)| known.ice.end_without_origin())
            }
            end = listed.ending.ended() => end,
            () = self.stop.cancelled() => End::Shutdown,
        };
        if end == End::Deleted {
            self.forget(id);
        }
        // The flow before its socket: nobody finds a session whose socket is another's by now.
        drop(listed);
        drop(lane);
        live.end(end);
    }
}

impl Draft {
    /// The offer for the origin: the proxy takes the client's place among the candidates, or an
    /// origin that can reach the client would meet it past the proxy.
    pub fn offer(&self) -> String {
        let here = Offered { address: self.socket.local(), transport: Transport::Udp };
        sdp::with_candidates(&self.invited.offer, &[here])
    }

    /// Takes the origin's answer. Media can come from here on. Gives the answer for the client,
    /// with the proxy's candidates, and the session's name: the ICE user names of answer and
    /// offer with a colon between them.
    pub fn accept(self, answer: &str) -> Result<(String, String), BadDescription> {
        let (name, ice, origin) = match self.connect(answer) {
            Ok(connected) => connected,
            Err(error) => {
                self.refuse(End::BadAnswer, &error.to_string());
                return Err(error);
            }
        };
        let Self { webrtc, invited, live, socket } = self;
        let session = Arc::clone(live.session());
        let server = Arc::clone(invited.lease.origin().name());
        let now = Instant::now();
        let course = Arc::new(Course::new(Arc::clone(&session.meter), now));
        session.note(|progress| {
            progress.origin = Some((server, origin));
            progress.plane = Some(Carriage::Datagrams(Arc::clone(&course)));
        });
        let reached = session.destination.ip();
        let lane = Arc::new(Lane::new(socket, origin, course));
        let ending = Arc::new(Ending::default());
        let ice = Ice::new(&name, &ice.password, now);
        let session_ = Arc::clone(&session);
        let known = Known {
            name: name.as_str().into(),
            ice,
            ending: Arc::clone(&ending),
            reached,
            origin: Arc::clone(invited.lease.origin()),
            session: session_,
            guest: None,
            kept: Vec::new(),
        };
        let ends = FlowEnds { near: lane.near(), origin, client_socket_id: None };
        let mut table = webrtc.table.lock();
        let id = table.insert(known, Arc::clone(&lane), ends, now);
        table.name(id, Name::Ice(name.as_str().into()));
        webrtc.keep_found(&mut table, id, &name);
        drop(table);
        if invited.role == Role::Publish {
            invited.lease.publishes();
        }
        let lease = invited.lease;
        let listed = Listed { webrtc: Arc::clone(&webrtc), id, ending, lease, place: None };
        let answer = sdp::with_candidates(answer, &webrtc.offered(reached));
        // Not within that of the connection by which the offer came.
        let span = info_span!(parent: None, "session", id = %session.id);
        tokio::spawn(webrtc.serve(listed, lane, live, invited.role).instrument(span));
        Ok((answer, name))
    }

    /// Ends it: there is no answer that could be accepted, and why.
    pub fn refuse(self, end: End, why: &str) {
        let session = self.live.session();
        session.note(|progress| progress.why = Some(why.to_owned()));
        let span = info_span!(parent: None, "session", id = %session.id);
        span.in_scope(|| self.live.end(end));
    }

    /// The session's name, the origin's side of its ICE, and where it takes media from now on.
    fn connect(&self, answer: &str) -> Result<(String, sdp::Ice, SocketAddr), BadDescription> {
        // Of several sections the bundled ones share the transport of the first (RFC 9143).
        let mid = sdp::bundled_mid(answer);
        let ice = sdp::ice_of(answer, mid)?;
        let name = named(&ice.ufrag, &sdp::ice_of(&self.invited.offer, mid)?.ufrag);
        let origin = media_address(&self.invited, answer).ok_or(BadDescription::NoCandidate)?;
        if is_served(&self.webrtc.settings.udp, origin, self.invited.near) {
            return Err(BadDescription::Circle);
        }
        self.socket.connect(origin).map_err(BadDescription::Socket)?;
        Ok((name, ice, origin))
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("invited", &self.invited).finish_non_exhaustive()
    }
}

/// A session's place in the table, and at its origin. Its drop gives up both.
pub(super) struct Listed {
    pub(super) webrtc: Arc<Webrtc>,
    pub(super) id: FlowId,
    pub(super) ending: Arc<Ending>,
    /// The stream's route is in use until then.
    pub(super) lease: Lease,
    /// Of a guest.
    pub(super) place: Option<Place>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.webrtc.table.lock().remove(self.id);
    }
}

/// As in the USERNAME of the client's checks (RFC 8445 7.2.2).
fn named(answer: &str, offer: &str) -> String {
    format!("{answer}:{offer}")
}

/// Where the origin takes the media of this session: where it has registered to take all; else
/// where the answer says, at the origin's own address if that is among the candidates.
fn media_address(invited: &Invited, answer: &str) -> Option<SocketAddr> {
    if let Some((_, port)) = invited.lease.origin().targets(Listener::Rtc).next() {
        return Some(SocketAddr::new(invited.far.ip(), port));
    }
    let candidates = sdp::candidates(answer).into_iter();
    let udp = candidates.filter(|candidate| candidate.transport == Transport::Udp);
    let addresses = udp.filter_map(|candidate| {
        Some(SocketAddr::new(candidate.address.parse().ok()?, candidate.port))
    });
    let addresses: Vec<_> = addresses.collect();
    let same_family = |address: &&SocketAddr| address.is_ipv4() == invited.far.is_ipv4();
    let at_origin = addresses.iter().find(|address| address.ip() == invited.far.ip());
    at_origin.or_else(|| addresses.iter().find(same_family)).copied()
}
