//! A client on str0m that numbers what it sends, and counts what it gets.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use str0m::change::SdpAnswer;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::rtp::{RtpPacket, RtpWrite};
use str0m::{Candidate, Event, Rtc};

use super::{DATAGRAM, drive, fragment, input, receive, restarted};
use crate::whip::{Role, Session};
use crate::{ports, wait};

/// A publisher of numbered packets, or a player of them. Vanishes when dropped, without a word to
/// anybody.
pub struct Client {
    session: Session,
    seen: Arc<Mutex<Seen>>,
    commands: Sender<Command>,
}

impl Client {
    /// Publishes so many packets a second as the stream `live/<stream>`.
    pub fn publish(server: SocketAddr, stream: &str, rate: u32) -> Result<Self> {
        Self::start(server, None, Role::Publish, stream, rate)
    }

    /// The same, with every datagram to another server than the answer says, as a load balancer
    /// may have it.
    pub fn publish_by(
        server: SocketAddr,
        media: SocketAddr,
        stream: &str,
        rate: u32,
    ) -> Result<Self> {
        Self::start(server, Some(media), Role::Publish, stream, rate)
    }

    /// Plays this stream.
    pub fn play(server: SocketAddr, stream: &str) -> Result<Self> {
        Self::start(server, None, Role::Play, stream, 0)
    }

    /// The same, with every datagram to another server than the answer says.
    pub fn play_by(server: SocketAddr, media: SocketAddr, stream: &str) -> Result<Self> {
        Self::start(server, Some(media), Role::Play, stream, 0)
    }

    fn start(
        server: SocketAddr,
        way: Option<SocketAddr>,
        role: Role,
        stream: &str,
        rate: u32,
    ) -> Result<Self> {
        let socket = ports::towards(server)?;
        let address = socket.local_addr()?;
        let mut rtc = Rtc::builder().set_rtp_mode(true).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp")?);
        let mut changes = rtc.sdp_api();
        let direction = match role {
            Role::Publish => Direction::SendOnly,
            Role::Play => Direction::RecvOnly,
        };
        changes.add_media(MediaKind::Audio, direction, None, None, None);
        let video = changes.add_media(MediaKind::Video, direction, None, None, None);
        let (offer, pending) = changes.apply().context("an offer of nothing")?;
        let session = Session::open(server, role, stream, &offer.to_sdp_string())?;
        let answer = SdpAnswer::from_sdp_string(&session.answer)?;
        rtc.sdp_api().accept_answer(pending, answer)?;

        let seen = Arc::<Mutex<Seen>>::default();
        lock(&seen).socket = Some(socket.try_clone()?);
        let (sender, commands) = mpsc::channel();
        let interval = Duration::from_secs(1).checked_div(rate);
        let peer = Peer {
            rtc,
            socket,
            address,
            remote: session.media()?,
            way,
            video,
            interval,
            next: Instant::now(),
            session: session.clone(),
            seen: Arc::clone(&seen),
            commands,
        };
        thread::spawn(move || peer.run());
        Ok(Self { session, seen, commands: sender })
    }

    /// How HTTP names the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The address that its packets come from.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(lock(&self.seen).socket.as_ref().context("it has ended")?.local_addr()?)
    }

    /// Waits until ICE and DTLS are through.
    pub fn must_connect_within(&self, limit: Duration) -> Result<()> {
        wait::until_true("ICE and DTLS are through", limit, || Ok(lock(&self.seen).is_connected))
    }

    /// Waits until the other end has closed the session.
    pub fn must_be_closed_within(&self, limit: Duration) -> Result<()> {
        wait::until_true("the session is closed", limit, || Ok(lock(&self.seen).is_closed))
    }

    /// Packets sent so far; their numbers begin with 0.
    pub fn sent(&self) -> u64 {
        lock(&self.seen).sent
    }

    /// Packets received so far.
    pub fn tally(&self) -> Tally {
        lock(&self.seen).tally()
    }

    /// Waits until it has received so many more packets than now.
    pub fn must_get(&self, packets: u64, limit: Duration) -> Result<Tally> {
        let before = self.tally().packets;
        wait::until("more packets", limit, || {
            let tally = self.tally();
            ensure!(tally.packets >= before + packets, "{tally:?}, {before} of them before");
            Ok(Some(tally))
        })
    }

    /// Goes on from another port, as behind a NAT that has forgotten it: it does not know.
    pub fn move_to_new_port(&self) -> Result<()> {
        self.move_to(self.address()?.ip())
    }

    /// The same from another address of its host.
    pub fn move_to(&self, host: IpAddr) -> Result<()> {
        self.tell(|done| Command::Move(host, done))
    }

    /// Goes on by another server, as if a load balancer had moved it: it does not know.
    pub fn go_by(&self, server: SocketAddr) -> Result<()> {
        self.tell(|done| Command::GoBy(server, done))
    }

    /// Restarts ICE, with new credentials that PATCH exchanges.
    pub fn restart_ice(&self) -> Result<()> {
        self.restart_ice_at(self.session.server)
    }

    /// The same with the PATCH to this server.
    pub fn restart_ice_at(&self, server: SocketAddr) -> Result<()> {
        self.tell(|done| Command::Restart(server, done))
    }

    /// Ends it by DTLS `close_notify` alone.
    pub fn hang_up(&self) -> Result<()> {
        self.tell(Command::Close)
    }

    /// Tells its thread to do this, and waits until it is done.
    fn tell(&self, command: impl FnOnce(Sender<Result<()>>) -> Command) -> Result<()> {
        let (sender, done) = mpsc::channel();
        self.commands.send(command(sender)).ok().context("it has ended")?;
        done.recv_timeout(Duration::from_secs(5))?
    }
}

/// Numbered packets that a player got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different ones.
    pub packets: u64,
    /// Numbers between the first and the last one that did not come.
    pub missing: u64,
    /// Packets that came again.
    pub repeated: u64,
}

#[derive(Default)]
struct Seen {
    is_connected: bool,
    is_closed: bool,
    socket: Option<UdpSocket>,
    sent: u64,
    numbers: HashSet<u64>,
    repeated: u64,
}

impl Seen {
    fn count(&mut self, packet: &RtpPacket) {
        let Some(number) = packet.payload.last_chunk().copied() else { return };
        if !self.numbers.insert(u64::from_be_bytes(number)) {
            self.repeated += 1;
        }
    }

    fn tally(&self) -> Tally {
        let packets = u64::try_from(self.numbers.len()).unwrap_or(u64::MAX);
        let ends = self.numbers.iter().min().zip(self.numbers.iter().max());
        let span = ends.map_or(0, |(first, last)| last - first + 1);
        Tally { packets, missing: span - packets, repeated: self.repeated }
    }
}

enum Command {
    Move(IpAddr, Sender<Result<()>>),
    GoBy(SocketAddr, Sender<Result<()>>),
    Restart(SocketAddr, Sender<Result<()>>),
    Close(Sender<Result<()>>),
}

struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    /// The candidate of the offer, whatever port the socket has by now.
    address: SocketAddr,
    /// The candidate of the answer.
    remote: SocketAddr,
    /// Where its datagrams go, if not there.
    way: Option<SocketAddr>,
    video: Mid,
    /// Between two packets; none for a player.
    interval: Option<Duration>,
    next: Instant,
    session: Session,
    seen: Arc<Mutex<Seen>>,
    commands: Receiver<Command>,
}

impl Peer {
    fn run(mut self) {
        let mut buffer = [0; DATAGRAM];
        while self.rtc.is_alive() {
            match self.commands.try_recv() {
                Ok(Command::Move(host, done)) => drop(done.send(self.move_on(host))),
                Ok(Command::GoBy(server, done)) => {
                    self.way = Some(server);
                    drop(done.send(Ok(())));
                }
                Ok(Command::Restart(server, done)) => drop(done.send(self.restart(server))),
                Ok(Command::Close(done)) => {
                    drop(done.send(self.rtc.close().map_err(Into::into)));
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.publish();
            let (seen, socket, way) = (&self.seen, &self.socket, self.way);
            // An answer of ICMP to an earlier datagram is no reason to stop.
            let send = |bytes: &[u8], to| drop(socket.send_to(bytes, way.unwrap_or(to)));
            let mut wake = drive(&mut self.rtc, send, |_, event| match event {
                Event::Connected => lock(seen).is_connected = true,
                Event::RtpPacket(packet) => lock(seen).count(&packet),
                _ => {}
            });
            if self.interval.is_some() {
                wake = wake.min(self.next);
            }
            match receive(&self.socket, &mut buffer, wake) {
                Ok(Some((datagram, source))) => {
                    // Under the names that ICE knows.
                    let source = if self.way.is_some() { self.remote } else { source };
                    let input = input(datagram, source, self.address);
                    if input.is_some_and(|input| self.rtc.handle_input(input).is_err()) {
                        self.rtc.disconnect();
                    }
                }
                Ok(None) => {}
                Err(_) => self.rtc.disconnect(),
            }
        }
        let mut seen = lock(&self.seen);
        (seen.is_closed, seen.socket) = (true, None);
    }

    /// Sends the packets that are due.
    fn publish(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if !self.rtc.is_connected() {
            self.next = now;
            return;
        }
        let mut params = self.rtc.codec_config().params().iter();
        let vp8 = params.find(|it| it.spec().codec == Codec::Vp8);
        let Some(pt) = vp8.map(str0m::format::PayloadParams::pt) else { return };
        let mut api = self.rtc.direct_api();
        let Some(out) = api.stream_tx_by_mid(self.video, None) else { return };
        while self.next <= now {
            let mut seen = lock(&self.seen);
            let mut payload = vec![0; PAYLOAD];
            payload.extend(seen.sent.to_be_bytes());
            // 90 kHz, and at any rate of ours about one picture for each packet.
            #[expect(clippy::cast_possible_truncation, reason = "RTP's time goes round")]
            let time = (seen.sent * 900) as u32;
            out.write_rtp(RtpWrite::new(pt, seen.sent.into(), time, now, payload).marker(true));
            seen.sent += 1;
            self.next += interval;
        }
    }

    fn move_on(&mut self, host: IpAddr) -> Result<()> {
        self.socket = ports::at(host)?;
        lock(&self.seen).socket = Some(self.socket.try_clone()?);
        Ok(())
    }

    fn restart(&mut self, server: SocketAddr) -> Result<()> {
        let mut changes = self.rtc.sdp_api();
        changes.ice_restart(true);
        let (offer, pending) = changes.apply().context("nothing to negotiate")?;
        let response = self.session.at(server).patch(&fragment(&offer.to_sdp_string()))?;
        ensure!(response.status() == 200, "{}: {}", response.head.line, response.text());
        self.session.answer = restarted(&self.session.answer, &response.text())?;
        self.remote = self.session.media()?;
        let answer = SdpAnswer::from_sdp_string(&self.session.answer)?;
        Ok(self.rtc.sdp_api().accept_answer(pending, answer)?)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in front of a packet's number.
const PAYLOAD: usize = 1000;
