//! Packets that are RTP as far as a relay looks, sent and received many at once.
//!
//! Each is sent for itself: a relay gets no train of them merged into one.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Packets that are sent at once.
pub(super) struct Outbox {
    packets: Vec<[u8; SIZE]>,
    headers: MultiHeaders<SockaddrIn>,
}

impl Outbox {
    pub(super) fn new(packets: usize) -> Self {
        Self {
            packets: vec![[0x5a; SIZE]; packets],
            headers: MultiHeaders::preallocate(packets, None),
        }
    }

    /// How many there are.
    pub(super) fn packets(&self) -> usize {
        self.packets.len()
    }

    /// Sends all of them, numbered from this number on; says how many the system took.
    pub(super) fn send(
        &mut self,
        socket: &UdpSocket,
        to: Option<SockaddrIn>,
        session: u32,
        number: u32,
    ) -> Result<usize> {
        for (offset, packet) in (0..).zip(&mut self.packets) {
            let number = number.wrapping_add(offset);
            Header { kind: Kind::Media, session, number, time: 0 }.write(packet)?;
        }
        let slices: Vec<_> = self.packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let to = vec![to; slices.len()];
        let (descriptor, headers) = (socket.as_raw_fd(), &mut self.headers);
        let sent = sendmmsg(descriptor, headers, &slices, to, [], MsgFlags::empty())?;
        Ok(sent.count())
    }
}

/// Where packets are received, many at once.
pub(super) struct Inbox {
    buffers: Vec<[u8; READ]>,
    headers: MultiHeaders<SockaddrIn>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffers: vec![[0; READ]; BATCH], headers: MultiHeaders::preallocate(BATCH, None) }
    }

    /// Takes up to [`BATCH`] packets that have come.
    pub(super) fn receive(
        &mut self,
        descriptor: i32,
        mut take: impl FnMut(&[u8], SockaddrIn) -> Result<()>,
    ) -> Result<()> {
        let mut slices: Vec<_> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let (headers, flags) = (&mut self.headers, MsgFlags::MSG_DONTWAIT);
        match recvmmsg(descriptor, headers, slices.iter_mut(), flags, None) {
            Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(mut messages) => messages.try_for_each(|message| {
                let from = message.address.context("a packet from nowhere")?;
                take(message.iovs().next().unwrap_or_default(), from)
            }),
        }
    }
}

/// What a packet begins with: the 12 bytes of RTP, and 8 more.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// RTP's timestamp.
    pub(super) number: u32,
    /// RTP's SSRC.
    pub(super) session: u32,
    /// When it was sent, nanoseconds since the load began.
    pub(super) time: u64,
}

/// RTP's payload type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Media = 96,
    /// To be sent back by the origin.
    Echo = 97,
}

impl Header {
    pub(super) const EMPTY: Self = Self { kind: Kind::Echo, number: 0, session: 0, time: 0 };

    pub(super) fn write(self, packet: &mut [u8]) -> Result<()> {
        let Self { kind, number, session, time } = self;
        let [.., high, low] = number.to_be_bytes();
        let words = [number, session].map(u32::to_be_bytes);
        let bytes = [&[0x80, kind as u8, high, low][..], words.as_flattened(), &time.to_be_bytes()];
        let head = packet.first_chunk_mut::<20>().context("a packet without room")?;
        head.copy_from_slice(&bytes.concat());
        Ok(())
    }

    /// None of what is no such packet.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (&[0x80, kind, _, _], rest) = packet.split_first_chunk()? else { return None };
        let kind = [Kind::Media, Kind::Echo].into_iter().find(|known| *known as u8 == kind)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (session, rest) = rest.split_first_chunk()?;
        Some(Self {
            kind,
            number: u32::from_be_bytes(*number),
            session: u32::from_be_bytes(*session),
            time: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }
}

/// Bytes of a media packet, as of video that fits any path.
pub(super) const SIZE: usize = 1100;
/// More than any packet here.
pub(super) const READ: usize = 2048;
/// Packets that are received at once.
pub(super) const BATCH: usize = 32;
