//! Sessions under their load, on one thread.

use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::packets::{BATCH, Header, Inbox, Kind, Outbox};
use super::{Load, OriginSocket, Pace, Session, Way};
use crate::bench::Tally;

/// Both ends of all sessions.
pub(super) struct Traffic {
    load: Load,
    origin: OriginSocket,
    sessions: Vec<Session>,
    poll: Epoll,
    outbox: Outbox,
    inbox: Inbox,
    begin: Instant,
}

impl Traffic {
    pub(super) fn new(load: Load, origin: OriginSocket, sessions: Vec<Session>) -> Result<Self> {
        let poll = Epoll::new(EpollCreateFlags::empty())?;
        poll.add(&origin.socket, EpollEvent::new(EpollFlags::EPOLLIN, ORIGIN))?;
        for (number, session) in (0..).zip(&sessions) {
            poll.add(&session.client, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        }
        let (Pace::Bursts { packets, .. } | Pace::Window { packets, .. }) = load.pace;
        let (outbox, inbox) = (Outbox::new(packets), Inbox::new());
        Ok(Self { load, origin, sessions, poll, outbox, inbox, begin: Instant::now() })
    }

    /// Sends, receives and counts until the load is over.
    pub(super) fn run(mut self, tally: &Tally) -> Result<()> {
        let count = u32::try_from(self.sessions.len())?;
        let mut media = match self.load.pace {
            Pace::Bursts { per_second, .. } => {
                Some(Timer::new(self.begin, Duration::from_secs(1) / per_second / count, LATE))
            }
            Pace::Window { .. } => None,
        };
        let mut echo = self.load.has_echo.then(|| Timer::new(self.begin, ECHO_STEP, ECHO_STEP));
        let mut consent = Timer::new(self.begin, CONSENT / count, CONSENT);
        while !tally.is_over() {
            let now = Instant::now();
            while let Some(turn) = media.as_mut().and_then(|timer| timer.due(now)) {
                self.burst(usize::try_from(turn % count)?, tally)?;
            }
            if echo.as_mut().is_some_and(|timer| timer.due(now).is_some()) {
                self.ask_for_echo()?;
            }
            while let Some(turn) = consent.due(now) {
                self.consent(usize::try_from(turn % count)?, turn / count + 1)?;
            }
            if let Pace::Window { most, .. } = self.load.pace {
                self.fill(most, now, tally)?;
                // Without waiting: who is woken for each packet is slower than a relay.
                let mut taken = 0;
                for client in (0..self.sessions.len()).map(Some).chain([None]) {
                    taken += self.receive(client, tally)?;
                }
                if taken == 0 {
                    thread::yield_now();
                }
                continue;
            }
            let timers = [&media, &echo].into_iter().flatten().chain([&consent]);
            let next = timers.map(|timer| timer.next).min().unwrap_or(now);
            self.receive_until(next.min(now + LATE), tally)?;
        }
        Ok(())
    }

    /// One burst of a session.
    fn burst(&mut self, number: usize, tally: &Tally) -> Result<()> {
        let session = self.sessions.get_mut(number).context("no such session")?;
        let (socket, to) = match self.load.way {
            Way::ToClients => (&*self.origin.socket, Some(session.at_origin)),
            Way::ToOrigin => (&session.client, None),
        };
        let sent = self.outbox.send(socket, to, u32::try_from(number)?, session.next)?;
        session.next = session.next.wrapping_add(u32::try_from(sent)?);
        tally.sent(sent);
        Ok(())
    }

    /// Bursts of all sessions, of each as long as it has room.
    fn fill(&mut self, most: u32, now: Instant, tally: &Tally) -> Result<()> {
        let burst = u32::try_from(self.outbox.packets())?;
        for number in 0..self.sessions.len() {
            loop {
                let session = self.sessions.get_mut(number).context("no such session")?;
                if now.saturating_duration_since(session.arrived_at) > STUCK {
                    // What has not come by now is lost, and nothing behind it tells so.
                    (session.arrived, session.arrived_at) = (session.next, now);
                }
                if session.next.wrapping_sub(session.arrived) + burst > most {
                    break;
                }
                self.burst(number, tally)?;
            }
        }
        Ok(())
    }

    fn ask_for_echo(&self) -> Result<()> {
        let time = u64::try_from(self.begin.elapsed().as_nanos())?;
        let mut packet = [0; ECHO];
        Header { kind: Kind::Echo, time, ..Header::EMPTY }.write(&mut packet)?;
        self.sessions.first().context("no session")?.client.send(&packet)?;
        Ok(())
    }

    fn consent(&self, number: usize, turn: u32) -> Result<()> {
        let session = self.sessions.get(number).context("no such session")?;
        if let Some(consent) = &session.consent {
            session.client.send(&consent.request(number, turn)?.1)?;
        }
        Ok(())
    }

    /// Waits for packets, and takes what has come.
    fn receive_until(&mut self, end: Instant, tally: &Tally) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        // epoll_wait(2) knows milliseconds, which would have packets of all kinds come together.
        let mut poll = [PollFd::new(self.poll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut poll, Some(left.into()), None) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            ready => ready?,
        };
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = self.poll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in events.iter().take(ready) {
            let client = match event.data() {
                ORIGIN => None,
                number => Some(usize::try_from(number)?),
            };
            while self.receive(client, tally)? == BATCH {}
        }
        Ok(())
    }

    /// Takes what has come to a client, or to the origin; says how many packets.
    fn receive(&mut self, client: Option<usize>, tally: &Tally) -> Result<usize> {
        let Self { origin, begin, sessions, inbox, .. } = self;
        let descriptor = match client {
            None => origin.socket.as_raw_fd(),
            Some(number) => sessions.get(number).context("no such session")?.client.as_raw_fd(),
        };
        let now = Instant::now();
        let (mut count, mut arrived, mut bytes) = (0, 0, 0);
        inbox.receive(descriptor, |packet, from| {
            count += 1;
            match Header::read(packet) {
                Some(Header { kind: Kind::Media, session, number, .. }) => {
                    let session = sessions.get_mut(usize::try_from(session)?);
                    let session = session.context("a packet of no session")?;
                    (session.arrived, session.arrived_at) = (number.wrapping_add(1), now);
                    arrived += 1;
                    bytes += packet.len();
                }
                Some(Header { kind: Kind::Echo, time, .. }) if client.is_some() => {
                    tally.took(begin.elapsed().saturating_sub(Duration::from_nanos(time)));
                }
                _ if client.is_none() => origin.answer(packet, from)?,
                _ => {}
            }
            Ok(())
        })?;
        tally.arrived(arrived);
        tally.got(bytes);
        Ok(count)
    }
}

/// What is due again and again.
struct Timer {
    next: Instant,
    step: Duration,
    /// A turn that is later than this takes place now, and those behind it after it.
    patience: Duration,
    turn: u32,
}

impl Timer {
    fn new(begin: Instant, step: Duration, patience: Duration) -> Self {
        Self { next: begin, step, patience, turn: 0 }
    }

    /// The turn whose time has come, counted from 0.
    fn due(&mut self, now: Instant) -> Option<u32> {
        let late = now.checked_duration_since(self.next)?;
        self.next = if late > self.patience { now } else { self.next } + self.step;
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        Some(turn)
    }
}

/// Bytes of a packet that comes back.
const ECHO: usize = 100;
/// When it is sent.
const ECHO_STEP: Duration = Duration::from_millis(1);
/// RFC 7675 5.1: every five seconds.
const CONSENT: Duration = Duration::from_secs(5);
/// What is later is not made up for: the machine stood still.
const LATE: Duration = Duration::from_millis(100);
/// A window that nothing has come from for so long has lost what was in it.
const STUCK: Duration = Duration::from_millis(20);
/// The event of the origin's socket; others are sessions' numbers.
const ORIGIN: u64 = u64::MAX;
