//! An origin on str0m that forwards RTP from publishers to players.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use str0m::change::SdpOffer;
use str0m::media::{KeyframeRequestKind, MediaAdded, MediaKind, Mid};
use str0m::rtp::{RtpPacket, RtpWrite};
use str0m::{Candidate, Event, Rtc};

use super::{DATAGRAM, PAUSE, drive, fragment, input, receive, restarted};
use crate::whip::{self, Endpoint, Manner, Media, Role};
use crate::{heartbeat, ports};

/// An origin as SRS is one: ICE-lite, all sessions on one UDP port, told apart by their names and
/// addresses, each where its latest check came from, over after 30 s of silence. Ended when dropped.
pub struct Origin {
    endpoint: Endpoint,
    media: SocketAddr,
    sessions: Arc<AtomicUsize>,
}

impl Origin {
    /// Starts an origin on free ports of loopback.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// Starts an origin on free ports of this host.
    pub fn start_at(host: IpAddr) -> Result<Self> {
        let socket = ports::at(host)?;
        let media = socket.local_addr()?;
        let sessions = Arc::<AtomicUsize>::default();
        let (sender, commands) = mpsc::channel();
        let server =
            Server { socket, media, commands, sessions: Vec::new(), count: sessions.clone() };
        thread::spawn(move || server.run());
        let endpoint = Endpoint::start_at(host, Desk(Mutex::new(sender)))?;
        Ok(Self { endpoint, media, sessions })
    }

    /// Where it takes offers.
    pub fn http(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// Where it takes media.
    pub fn media(&self) -> SocketAddr {
        self.media
    }

    /// Its HTTP side.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Receives clients like this from now on.
    pub fn behave(&self, manner: Manner) {
        self.endpoint.behave(manner);
    }

    /// Sessions that have not ended.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        let media = format!("udp://0.0.0.0:{}", self.media.port());
        let listeners = [("api", self.http().port().to_string()), ("rtc", media)];
        heartbeat::register_host(self.media.ip(), proxy, name, &listeners)
    }
}

/// What HTTP asks of the thread of the media.
enum Command {
    Open(Role, String, String, Sender<Result<String>>),
    Patch(String, String, Sender<Result<Option<String>>>),
    End(String, Sender<bool>),
}

/// The way from HTTP to the media; the thread there ends when it is dropped.
struct Desk(Mutex<Sender<Command>>);

impl Desk {
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T> {
        let (sender, answer) = mpsc::channel();
        let commands = self.0.lock().ok().context("the origin has failed")?;
        commands.send(command(sender)).ok().context("the origin has ended")?;
        Ok(answer.recv_timeout(Duration::from_secs(5))?)
    }
}

impl Media for Desk {
    fn open(&self, role: Role, stream: &str, offer: &str) -> Result<String> {
        self.ask(|answer| Command::Open(role, stream.to_owned(), offer.to_owned(), answer))?
    }

    fn patch(&self, session: &str, fragment: &str) -> Result<Option<String>> {
        self.ask(|answer| Command::Patch(session.to_owned(), fragment.to_owned(), answer))?
    }

    fn end(&self, session: &str) -> Result<bool> {
        self.ask(|answer| Command::End(session.to_owned(), answer))
    }
}

struct Server {
    socket: UdpSocket,
    media: SocketAddr,
    commands: Receiver<Command>,
    sessions: Vec<Session>,
    count: Arc<AtomicUsize>,
}

struct Session {
    name: String,
    role: Role,
    stream: String,
    offer: String,
    rtc: Rtc,
    way: Way,
    media: Vec<(Mid, MediaKind)>,
    heard: Instant,
}

/// Where a session's client is. ICE would stay with an address that it has once chosen for as long
/// as it can, and so it is told of one alone.
#[derive(Default)]
struct Way {
    /// That one.
    told: Option<SocketAddr>,
    /// Where the check came from that is to be answered.
    asking: Option<SocketAddr>,
    /// Where checks of its own came from, the latest last.
    proven: Vec<SocketAddr>,
}

impl Way {
    /// Where a datagram for the client goes.
    fn of(&mut self, datagram: &[u8]) -> Option<SocketAddr> {
        if is_check(datagram) {
            // Nothing else is answered.
            let asking = self.asking.take()?;
            self.proven.retain(|it| *it != asking);
            self.proven.push(asking);
        }
        self.proven.last().copied()
    }
}

/// Whether a datagram is of ICE (RFC 7983).
fn is_check(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| *first < 4)
}

/// What goes on from one session to others of its stream.
enum Forward {
    Packet(Box<RtpPacket>),
    Keyframe(MediaKind),
}

impl Server {
    fn run(mut self) {
        let mut buffer = [0; DATAGRAM];
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            let wake = self.drive();
            match receive(&self.socket, &mut buffer, wake) {
                Ok(Some((datagram, source))) => self.take(datagram, source),
                Ok(None) => {}
                Err(_) => return,
            }
            self.sessions.retain(|it| it.rtc.is_alive() && it.heard.elapsed() < SILENCE);
            self.count.store(self.sessions.len(), Ordering::Relaxed);
        }
    }

    fn obey(&mut self, command: Command) {
        // Who has asked may have lost patience.
        match command {
            Command::Open(role, stream, offer, answer) => {
                drop(answer.send(self.open(role, stream, offer)));
            }
            Command::Patch(session, fragment, answer) => {
                drop(answer.send(self.patch(&session, &fragment)));
            }
            Command::End(session, answer) => {
                let before = self.sessions.len();
                self.sessions.retain(|it| it.name != session);
                self.count.store(self.sessions.len(), Ordering::Relaxed);
                let _ = answer.send(self.sessions.len() < before);
            }
        }
    }

    fn open(&mut self, role: Role, stream: String, offer: String) -> Result<String> {
        let now = Instant::now();
        let mut rtc = Rtc::builder().set_ice_lite(true).set_rtp_mode(true).build(now);
        rtc.add_local_candidate(Candidate::host(self.media, "udp")?);
        let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer)?)?;
        let answer = with_candidates_everywhere(&answer.to_sdp_string());
        let name = format!("{}:{}", whip::ufrag(&answer)?, whip::ufrag(&offer)?);
        let (way, media) = (Way::default(), Vec::new());
        self.sessions.push(Session { name, role, stream, offer, rtc, way, media, heard: now });
        Ok(answer)
    }

    fn patch(&mut self, session: &str, change: &str) -> Result<Option<String>> {
        let mut all = self.sessions.iter_mut();
        let session = all.find(|it| it.name == session).context("no such session")?;
        if whip::ufrag(change)
            .is_ok_and(|new| whip::ufrag(&session.offer).is_ok_and(|it| it != new))
        {
            session.offer = restarted(&session.offer, change)?;
            let offer = SdpOffer::from_sdp_string(&session.offer)?;
            let answer = session.rtc.sdp_api().accept_offer(offer)?;
            return Ok(Some(fragment(&answer.to_sdp_string())));
        }
        Ok(None)
    }

    /// Drives all sessions, and passes media on, until nothing is left to do; then says when
    /// there will be.
    fn drive(&mut self) -> Instant {
        loop {
            let mut wake = Instant::now() + PAUSE;
            let mut forwards = Vec::new();
            for session in &mut self.sessions {
                let Session { rtc, way, media, role, stream, .. } = session;
                let send = |bytes: &[u8], _| {
                    if let Some(to) = way.of(bytes) {
                        // An answer of ICMP to an earlier datagram is no reason to stop.
                        drop(self.socket.send_to(bytes, to));
                    }
                };
                let next = drive(rtc, send, |_, event| match event {
                    Event::MediaAdded(MediaAdded { mid, kind, .. }) => media.push((mid, kind)),
                    Event::RtpPacket(packet) if *role == Role::Publish => {
                        forwards.push((stream.clone(), Forward::Packet(Box::new(packet))));
                    }
                    Event::KeyframeRequest(request) => {
                        let kind = media.iter().find(|(mid, _)| *mid == request.mid);
                        forwards.extend(
                            kind.map(|(_, kind)| (stream.clone(), Forward::Keyframe(*kind))),
                        );
                    }
                    _ => {}
                });
                wake = wake.min(next);
            }
            if forwards.is_empty() {
                return wake;
            }
            for (stream, forward) in forwards {
                self.forward(&stream, &forward);
            }
        }
    }

    fn forward(&mut self, stream: &str, forward: &Forward) {
        let of_stream = |it: &&mut Session| it.stream == stream;
        match forward {
            Forward::Packet(packet) => {
                let pt = packet.header.payload_type;
                let publishers = self.sessions.iter().filter(|it| it.role == Role::Publish);
                let mut publishers = publishers.filter(|it| it.stream == stream);
                let params = publishers.find_map(|it| {
                    it.rtc.codec_config().params().iter().find(|it| it.pt() == pt).copied()
                });
                let Some(params) = params else { return };
                let players = self.sessions.iter_mut().filter(|it| it.role == Role::Play);
                for player in players.filter(of_stream) {
                    let matching = player.rtc.codec_config().match_params(params);
                    let Some(pt) = matching.map(str0m::format::PayloadParams::pt) else { continue };
                    let kind = params.spec().codec.kind();
                    let mid = player.media.iter().find(|(_, it)| *it == kind);
                    let mut api = player.rtc.direct_api();
                    let Some(out) = mid.and_then(|(mid, _)| api.stream_tx_by_mid(*mid, None))
                    else {
                        continue;
                    };
                    let (time, seen) = (packet.header.timestamp, packet.timestamp);
                    let payload = Arc::clone(&packet.payload);
                    let write = RtpWrite::new(pt, packet.seq_no, time, seen, payload);
                    out.write_rtp(write.marker(packet.header.marker));
                }
            }
            Forward::Keyframe(kind) => {
                let publishers = self.sessions.iter_mut().filter(|it| it.role == Role::Publish);
                for publisher in publishers.filter(of_stream) {
                    let mid = publisher.media.iter().find(|(_, it)| it == kind);
                    let mut api = publisher.rtc.direct_api();
                    if let Some(from) = mid.and_then(|(mid, _)| api.stream_rx_by_mid(*mid, None)) {
                        from.request_keyframe(KeyframeRequestKind::Pli);
                    }
                }
            }
        }
    }

    fn take(&mut self, datagram: &[u8], source: SocketAddr) {
        let Some(seen) = input(datagram, source, self.media) else { return };
        let is_check = is_check(datagram);
        // An address that a newer session uses is its own.
        let mut newest_first = self.sessions.iter_mut().rev();
        let session = newest_first.find(|it| {
            if is_check { it.rtc.accepts(&seen) } else { it.way.proven.contains(&source) }
        });
        let Some(Session { rtc, way, heard, .. }) = session else { return };
        *heard = Instant::now();
        if is_check {
            way.asking = Some(source);
        }
        let told = *way.told.get_or_insert(source);
        let Some(input) = input(datagram, told, self.media) else { return };
        if rtc.handle_input(input).is_err() {
            rtc.disconnect();
        }
    }
}

/// SRS repeats the candidates in every media section, and aiortc finds them only there.
fn with_candidates_everywhere(sdp: &str) -> String {
    let candidates: Vec<&str> =
        sdp.lines().filter(|line| line.starts_with("a=candidate:")).collect();
    let mut lines = Vec::new();
    for line in sdp.lines().filter(|line| !candidates.contains(line)) {
        lines.push(line);
        if line.starts_with("a=setup:") {
            lines.extend(&candidates);
        }
    }
    lines.join("\r\n") + "\r\n"
}

/// `stun_timeout` of SRS.
const SILENCE: Duration = Duration::from_secs(30);
