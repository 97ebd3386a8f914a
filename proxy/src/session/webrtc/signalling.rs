//! A session out of an offer and its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use thiserror::Error;
use tracing::{Instrument, info, info_span};

use super::guest::Place;
use super::{Datagrams, Ice, Known, Webrtc, keep};
use crate::cluster::KeptSession;
use crate::cluster::store::{WebrtcPlace, WebrtcRecord};
use crate::listen::is_served;
use crate::origin::{Lease, Listener, ServerName};
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

/// A session that is not here, as far as its URL and its origin tell.
#[derive(Debug)]
pub struct Elsewhere<'a> {
    /// The stream.
    pub stream: &'a StreamKey,
    /// The name in its URL.
    pub name: &'a str,
    /// The server that has it.
    pub server: &'a ServerName,
    /// Where that has registered to take media.
    pub media: Option<SocketAddr>,
    /// Where the client has asked.
    pub reached: IpAddr,
}

/// A session that no proxy would find by its new name.
#[derive(Clone, Copy, Debug, Error)]
#[error("nothing tells where its media goes")]
pub struct Placeless;

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
        let id = *of_name(&table, name).first()?;
        let renamed = named(&ice.ufrag, &offer.ufrag);
        let known = table.session_mut(id)?;
        known.ice.restart(&renamed, &ice.password, FlowTable::<Datagrams, Planes>::MAX_NAMES);
        let reached = known.reached;
        // A name that counts no more is nobody's.
        let (kept, past): (Vec<_>, Vec<_>) = std::mem::take(&mut known.kept)
            .into_iter()
            .partition(|kept| known.ice.password(kept.name()).is_some());
        known.kept = kept;
        let found = self.findable(&table, id, &renamed);
        table.name(id, Name::Ice(renamed.into()));
        keep(&table, id);
        drop(table);
        drop(past);
        self.keep_found(id, found);
        Some(sdp::with_candidates(answer, &self.offered(reached)))
    }

    /// The same for a session that is not here: every proxy finds it by its new name.
    pub async fn restart_elsewhere(
        self: &Arc<Self>,
        session: Elsewhere<'_>,
        (offer, answer): (&str, &str),
    ) -> Result<Option<String>, Placeless> {
        let Some((offer, ice)) = sdp::ice(offer).ok().zip(sdp::ice(answer).ok()) else {
            return Ok(None);
        };
        if !self.cluster.is_shared() {
            return Ok(None);
        }
        let Elsewhere { stream, name, server, media, reached } = session;
        let renamed = named(&ice.ufrag, &offer.ufrag);
        let kept = self.cluster.webrtc(name).await.and_then(|record| record.place);
        let (server, media, role) = match (kept, media) {
            (Some(WebrtcPlace { server, media, role, .. }), _) => (server, media, role),
            // The URL does not tell what the client does.
            (None, Some(media)) => (server.clone(), media, Role::Play),
            (None, None) => return Err(Placeless),
        };
        let former = (renamed != name).then(|| name.to_owned());
        let place = Some(WebrtcPlace { server, media, password: ice.password, role, former });
        // Whoever meets the client keeps it on.
        let record = WebrtcRecord { name: renamed, stream: stream.clone(), place };
        drop(self.cluster.keep_webrtc(record));
        Ok(Some(sdp::with_candidates(answer, &self.offered(reached))))
    }

    /// What a client has to say of this session's ICE later, for its origin: the proxy stays in the
    /// client's place.
    pub fn fragment(&self, name: &str, fragment: &str) -> String {
        let table = self.table.lock();
        let id = of_name(&table, name).first().copied();
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

    /// Ends the session of this name, wherever its client was found, and its guests.
    pub(super) fn end_named(&self, name: &str) {
        let guests = self.guests.of(name);
        let table = self.table.lock();
        for id in of_name(&table, name).into_iter().chain(guests) {
            if let Some((known, _)) = table.get(id) {
                known.ending.end(End::Deleted);
            }
        }
    }

    /// By what every proxy finds a session of this name, if there are others.
    pub(super) fn findable(
        &self,
        table: &FlowTable<Datagrams, Planes>,
        id: FlowId,
        name: &str,
    ) -> Option<WebrtcRecord> {
        let (known, lane) = table.get(id).filter(|_| self.cluster.is_shared())?;
        let progress = known.session.progress();
        let (role, stream) = progress.role.zip(progress.stream)?;
        let (server, media) = (known.origin.server().clone(), lane.origin());
        let password = known.ice.password(name)?.as_ref().into();
        let former = (*name != *known.name).then(|| known.name.to_string());
        let place = Some(WebrtcPlace { server, media, password, role, former });
        Some(WebrtcRecord { name: name.to_owned(), stream, place })
    }

    /// Lets a session be found at every proxy while it is here. Not to be called with the table
    /// locked: no datagram waits for what is told to the store.
    pub(super) fn keep_found(&self, id: FlowId, record: Option<WebrtcRecord>) {
        let Some(record) = record else { return };
        let mut kept = Some(self.cluster.keep_webrtc(record));
        if let Some(known) = self.table.lock().session_mut(id) {
            known.kept.extend(kept.take());
        }
    }

    /// A session was deleted: no proxy has it any more, by none of its names.
    fn forget(&self, id: FlowId) {
        let mut table = self.table.lock();
        let Some(known) = table.session_mut(id) else { return };
        let (kept, is_guest) = (std::mem::take(&mut known.kept), known.guest.is_some());
        let url_name = known.name.clone();
        drop(table);
        if !is_guest && self.cluster.is_shared() {
            let renamed = kept.iter().map(KeptSession::name).filter(|name| **name != *url_name);
            for name in renamed.chain([&*url_name]) {
                self.cluster.deleted(name);
            }
        }
        kept.into_iter().for_each(KeptSession::over);
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
        let found = webrtc.findable(&table, id, &name);
        drop(table);
        webrtc.keep_found(id, found);
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
        let known = self.webrtc.table.lock().remove(self.id);
        // The store is told without the lock.
        drop(known);
    }
}

/// The session of this name, the newest part first: after a restart at another proxy it may be here
/// once by each of its names. None if passwords tell several sessions apart: nobody knows which is
/// meant.
fn of_name(table: &FlowTable<Datagrams, Planes>, name: &str) -> Vec<FlowId> {
    let all: Vec<_> = table.find_all(&Name::Ice(name.into())).collect();
    let known = all.iter().filter_map(|id| table.get(*id));
    let mut passwords = known.filter_map(|(known, _)| known.ice.password(name));
    let first = passwords.next();
    if passwords.all(|other| Some(&other) == first.as_ref()) { all } else { Vec::new() }
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
