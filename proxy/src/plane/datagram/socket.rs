//! A UDP socket that receives and sends many datagrams with one call of the system.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::system;
use super::train::{MAX_GSO, MAX_TRAIN, Train, join};

/// A socket with its batches. Needs a runtime of tokio.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: ArcSwap<UdpSocketState>,
    local: SocketAddr,
    /// Of the way to the peer that it is connected to.
    joins: Joins,
}

/// Whether the way to a peer takes joined datagrams: not if one alone is too large for it.
#[derive(Debug)]
pub struct Joins(AtomicBool);

impl Default for Joins {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

/// What became of a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that the system has taken.
    pub bytes: usize,
    /// Datagrams that it has not: a full socket, or one that is too large.
    pub lost: usize,
}

impl Socket {
    /// Takes over a bound socket, and lets it be read `buffer` bytes late if the system allows.
    pub fn new(socket: socket2::Socket, buffer: usize) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        enlarge(&socket, buffer);
        let state = ArcSwap::from_pointee(UdpSocketState::new(UdpSockRef::from(&socket))?);
        system::fragment(&socket);
        let io = UdpSocket::from_std(socket.into())?;
        let local = io.local_addr()?;
        Ok(Self { io, state, local, joins: Joins::default() })
    }

    /// A socket on a port of its own that sends to this peer and hears nobody else.
    pub fn towards(peer: SocketAddr, buffer: usize) -> io::Result<Self> {
        let domain = Domain::for_address(peer);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&peer.into())?;
        Self::new(socket, buffer)
    }

    /// A socket on a port of its own at this address, not connected yet.
    pub fn at(ip: IpAddr, buffer: usize) -> io::Result<Self> {
        let address = SocketAddr::new(ip, 0);
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        Self::new(socket, buffer)
    }

    /// Sends to this peer from here on, and hears nobody else.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        SockRef::from(&self.io).connect(&peer.into())
    }

    /// How many bytes late it may be read.
    pub fn buffer(&self) -> io::Result<usize> {
        SockRef::from(&self.io).recv_buffer_size()
    }

    /// Where it is bound.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Returns when there may be something to receive. The error is what the system has to say of
    /// the peer.
    pub async fn readable(&self) -> io::Result<()> {
        let ready = self.io.ready(Interest::READABLE.add(Interest::ERROR)).await?;
        if ready.is_error() {
            // Forgotten before it is asked for: one that comes meanwhile is told again.
            let _told: io::Result<()> =
                self.io.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
            if let Some(error) = self.io.take_error()? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives what has come to `take`, at most one batch. False if there was less: the next call
    /// is of use only when the socket is readable again.
    pub fn receive(&self, mut take: impl FnMut(Train<'_>)) -> io::Result<bool> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut slices = buffers.as_chunks_mut::<MAX_TRAIN>().0.iter_mut();
            let slices: &mut [IoSliceMut<'_>; BATCH_SIZE] = &mut std::array::from_fn(|_| {
                IoSliceMut::new(slices.next().map_or(&mut [], |slice| slice))
            });
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let (state, mut came) = (self.state.load(), 0);
            let received = self.io.try_io(Interest::READABLE, || {
                came = state.recv(UdpSockRef::from(&self.io), slices, &mut metas)?;
                // The socket is empty, and need not be asked whether it is. What comes from here
                // on is told by the system.
                if came < BATCH_SIZE { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            let came = slices.iter().zip(&metas).take(came).map(|(slice, meta)| Train {
                source: meta.addr,
                destination: meta.dst_ip,
                bytes: slice.get(..meta.len).unwrap_or_default(),
                stride: meta.stride.max(1),
                ecn: meta.ecn,
            });
            join(came, state.max_gso_segments(), &mut take);
            match received {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Sends to `to`, from the address `from` if it is given. What a full socket does not take is
    /// lost, as it would be anywhere else on the way.
    pub fn send_to(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        joins: &Joins,
        train: &Train<'_>,
    ) -> Sent {
        let sent = self.transmit(train, joins, true, |state, bytes, segment_size| {
            let ecn = train.ecn;
            let transmit =
                Transmit { destination: to, ecn, contents: bytes, segment_size, src_ip: from };
            state.try_send(UdpSockRef::from(&self.io), &transmit)
        });
        sent.unwrap_or_else(|(sent, _)| sent)
    }

    /// Sends to the `peer` that it is connected to. The error, beside what was taken before, is
    /// what the system has to say of the peer, such as that nobody listens there.
    pub fn send(&self, peer: SocketAddr, train: &Train<'_>) -> Result<Sent, (Sent, io::Error)> {
        let joins = &self.joins;
        self.transmit(train, joins, system::NAMES_CONNECTED, |state, bytes, segment_size| {
            // Of a connected socket the system knows the way already, and some systems do not
            // take an address beside it.
            if segment_size.is_none() && train.ecn.is_none() || !system::NAMES_CONNECTED {
                return SockRef::from(&self.io).send(bytes).map(|_| ());
            }
            let (ecn, contents) = (train.ecn, bytes);
            let transmit =
                Transmit { destination: peer, ecn, contents, segment_size, src_ip: None };
            state.try_send(UdpSockRef::from(&self.io), &transmit)
        })
    }

    /// Sends as many datagrams at once as the system takes.
    fn transmit(
        &self,
        train: &Train<'_>,
        joins: &Joins,
        may_join: bool,
        mut send: impl FnMut(&UdpSocketState, &[u8], Option<usize>) -> io::Result<()>,
    ) -> Result<Sent, (Sent, io::Error)> {
        let state = self.state.load();
        let most = state.max_gso_segments().min(MAX_GSO / train.stride).max(1);
        let may_join = may_join && joins.0.load(Ordering::Relaxed);
        let many = if may_join { most } else { 1 };
        let mut done = Sent::default();
        for bytes in train.bytes.chunks(train.stride * many) {
            let is_joined = bytes.len() > train.stride;
            if is_joined {
                match send(&state, bytes, Some(train.stride)) {
                    Ok(()) => {
                        done.bytes += bytes.len();
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        done.lost += bytes.len().div_ceil(train.stride);
                        continue;
                    }
                    Err(error) if is_said_of_the_peer(&error) => return Err((done, error)),
                    // One alone may be too large for the way: one by one from here on.
                    Err(_) => self.join_no_more(joins, most),
                }
            }
            for datagram in bytes.chunks(train.stride) {
                let mut result = send(&state, datagram, None);
                // What the system had to say of the way was said, and this one has not gone out.
                if result.as_ref().is_err_and(|error| !is_of_this_datagram(error)) {
                    result = match result {
                        Err(error) if is_said_of_the_peer(&error) => return Err((done, error)),
                        _ => send(&state, datagram, None),
                    };
                }
                match result {
                    Ok(()) => done.bytes += datagram.len(),
                    Err(error) if is_of_this_datagram(&error) => done.lost += 1,
                    Err(error) => return Err((done, error)),
                }
            }
        }
        Ok(done)
    }

    /// Notes that one peer's way does not take joined datagrams. The state takes an error for one
    /// of the device, which it is not where joined ones have gone out before: for the other peers
    /// it begins anew.
    fn join_no_more(&self, joins: &Joins, most: usize) {
        joins.0.store(false, Ordering::Relaxed);
        if most > 1
            && self.state.load().max_gso_segments() == 1
            && let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.io))
        {
            system::fragment(&self.io);
            self.state.store(Arc::new(state));
        }
    }
}

/// Whether the next datagram may still go out: this one is too large, or the socket is full.
fn is_of_this_datagram(error: &io::Error) -> bool {
    system::is_too_large(error) || error.kind() == io::ErrorKind::WouldBlock
}

/// Whether an error says that the peer is not there.
fn is_said_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionReset)
}

thread_local! {
    /// What was received last on this thread. The system gives memory for what is used of it.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * MAX_TRAIN]);
}

/// A system that gives less than `bytes` gives what it can.
fn enlarge(socket: &socket2::Socket, bytes: usize) {
    if !system::force_buffers(socket, bytes) {
        let _less = socket.set_recv_buffer_size(bytes);
        let _less = socket.set_send_buffer_size(bytes);
    }
}
