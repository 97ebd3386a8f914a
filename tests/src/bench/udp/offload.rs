//! How soon the kernel forwards what a new session sends, and how fast sessions come to be.

use std::io::{ErrorKind, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::Ipv4RecvTtl;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt};

use super::packets::{Header, Kind, READ, SIZE};
use super::{Opener, OriginSocket, PATIENCE};
use crate::bench::Relay;
use crate::stun;

/// A session that was asked for, and its first check.
pub struct Asked {
    client: UdpSocket,
    transaction: stun::Transaction,
    request: Vec<u8>,
}

impl Opener {
    /// Opens a session and sends media, a packet every [`STEP`], beginning when the first check is
    /// answered or `at_once` when it is sent: the time from there to the first packet that the
    /// kernel has forwarded. The relay sends packets of its own, with a time to live that is whole;
    /// what is forwarded has lost a hop of it. Gives the session's socket as well: a port that is
    /// free again would be another session's.
    pub fn offload_delay(
        &self,
        relay: &Relay,
        number: usize,
        at_once: bool,
    ) -> Result<(Duration, UdpSocket)> {
        setsockopt(&self.origin.socket, Ipv4RecvTtl, &true)?;
        let client = if at_once {
            let (client, consent) = self.at_home(|| self.asked(relay, number))?;
            let consent = consent.context("sessions of no signalling")?;
            client.send(&consent.request(number, 0)?.1)?;
            client
        } else {
            self.at_home(|| self.connect(relay, number))?.0
        };
        let (session, begin) = (u32::try_from(number)?, Instant::now());
        let (mut packet, mut sent) = ([0x5a; SIZE], 0);
        while begin.elapsed() < PATIENCE {
            if begin.elapsed() >= STEP * sent {
                Header { kind: Kind::Media, session, number: sent, time: 0 }.write(&mut packet)?;
                client.send(&packet)?;
                sent += 1;
            }
            while let Some((header, hops)) = self.origin.receive_with_hops()? {
                if header.session == session && hops < WHOLE {
                    return Ok((STEP * header.number, client));
                }
            }
        }
        bail!("the kernel has forwarded none of {sent} packets")
    }

    /// Asks for so many sessions, from this number on, with several clients at once.
    pub fn ask_for(&self, relay: &Relay, first: usize, count: usize) -> Result<Vec<Asked>> {
        self.side_by_side(count, |number| {
            let number = first + number;
            let (client, consent) = self.asked(relay, number)?;
            let consent = consent.context("sessions of no signalling")?;
            let (transaction, request) = consent.request(number, 0)?;
            client.set_nonblocking(true)?;
            Ok(Asked { client, transaction, request })
        })
    }

    /// Opens so many sessions, each until its check is answered.
    pub fn set_up(&self, relay: &Relay, first: usize, count: usize) -> Result<Vec<Asked>> {
        self.answering(|| {
            self.side_by_side(count, |number| {
                let number = first + number;
                let (client, consent) = self.asked(relay, number)?;
                let consent = consent.context("sessions of no signalling")?;
                let (transaction, request) = consent.request(number, 0)?;
                let asked = Asked { client, transaction, request };
                asked.client.set_read_timeout(Some(RETRY))?;
                let begin = Instant::now();
                loop {
                    asked.client.send(&asked.request)?;
                    if asked.is_answered()? {
                        return Ok(asked);
                    }
                    ensure!(begin.elapsed() < PATIENCE, "no answer to a check");
                }
            })
        })
    }

    /// Sends the first checks of all these sessions, and again those that are not answered, until
    /// the relay says that it is done.
    pub fn check_all(
        &self,
        asked: &[Asked],
        mut is_done: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        self.answering(|| {
            let begin = Instant::now();
            let mut open: Vec<_> = asked.iter().collect();
            while !is_done()? {
                ensure!(begin.elapsed() < PATIENCE, "{} checks are not answered", open.len());
                for some in open.chunks(AT_ONCE) {
                    for one in some {
                        one.client.send(&one.request)?;
                    }
                    thread::sleep(PAUSE);
                }
                let mut left = Vec::new();
                for one in open {
                    if !one.is_answered()? {
                        left.push(one);
                    }
                }
                open = left;
            }
            Ok(begin.elapsed())
        })
    }

    /// Does this for all numbers below `count`, with as many threads as serve.
    fn side_by_side<T: Send>(
        &self,
        count: usize,
        act: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let next = AtomicUsize::new(0);
        let some = || {
            self.at_home(|| {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok(done);
                    }
                    done.push(act(number)?);
                }
            })
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(some)).collect();
            let done = threads.into_iter().map(|one| one.join().ok().context("a panic")?);
            Ok(done.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }

    /// Does this while the origin answers checks.
    fn answering<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let answers = scope.spawn(|| self.origin.answer_until(&is_over));
            let done = act();
            is_over.store(true, Ordering::Relaxed);
            answers.join().ok().context("a panic")??;
            done
        })
    }
}

impl Asked {
    /// Whether the answer to the check is what has come, if anything.
    fn is_answered(&self) -> Result<bool> {
        let mut buffer = [0; READ];
        match self.client.recv(&mut buffer) {
            Ok(length) => {
                let packet = buffer.get(..length).unwrap_or_default();
                Ok(stun::is_success(packet, self.transaction))
            }
            Err(error) if is_silence(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl OriginSocket {
    fn answer_until(&self, is_over: &AtomicBool) -> Result<()> {
        while !is_over.load(Ordering::Relaxed) {
            match self.answer_one() {
                Ok(_) => {}
                Err(error) if error.downcast_ref().is_some_and(is_silence) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What has come, with the hops that are left to it; a check is answered.
    fn receive_with_hops(&self) -> Result<Option<(Header, i32)>> {
        let (mut buffer, mut control) = ([0; READ], cmsg_space!(i32));
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let (descriptor, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmsg::<SockaddrIn>(descriptor, &mut slices, Some(&mut control), flags);
        let message = match received {
            Err(Errno::EAGAIN) => return Ok(None),
            message => message?,
        };
        let hops = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4Ttl(hops) => Some(hops),
            _ => None,
        });
        let hops = hops.context("a packet without hops")?;
        let (length, from) = (message.bytes, message.address.context("a packet from nowhere")?);
        let packet = buffer.get(..length).unwrap_or_default();
        if let Some(header) = Header::read(packet) {
            return Ok(Some((header, hops)));
        }
        self.answer(packet, from)?;
        Ok(Some((Header::EMPTY, WHOLE)))
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Between two packets of a new session, at least: a delay is told in these.
const STEP: Duration = Duration::from_micros(50);
/// Linux gives it to what it sends (`net.ipv4.ip_default_ttl`).
const WHOLE: i32 = 64;
/// Clients that open sessions at once.
const CLIENTS: usize = 4;
const RETRY: Duration = Duration::from_millis(100);
/// Checks that fit into any socket's buffer.
const AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
