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

use super::train::{MAX_GSO, MAX_TRAIN, Train, join};
use super::{Gone, system};

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

    /// A socket at exactly this address that sends to this peer and hears nobody else.
    pub fn between(near: SocketAddr, peer: SocketAddr, buffer: usize) -> io::Result<Self> {
        let domain = Domain::for_address(near);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&near.into())?;
        socket.connect(&peer.into())?;
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
        // Nobody can be reached there (RFC 768), but anybody can write that he is. The system's
        // refusal would be taken for one of joined datagrams, which would then be over for all.
        if to.port() == 0 {
            return Sent { bytes: 0, lost: train.count() };
        }
        // What was sent to many is answered from an address that the system chooses.
        let from = from.filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
            // Which link it is of is not told.
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unicast_link_local(),
        });
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
        send: impl FnMut(&UdpSocketState, &[u8], Option<usize>) -> io::Result<()>,
    ) -> Result<Sent, (Sent, io::Error)> {
        let state = self.state.load();
        let most = state.max_gso_segments().min(MAX_GSO / train.stride).max(1);
        let may_join = may_join && joins.0.load(Ordering::Relaxed);
        let (mut done, mut datagrams) = (Sent::default(), 0);
        let many = if may_join { most } else { 1 };
        let result = Self::send_all(&state, train, many, joins, (&mut done, &mut datagrams), send);
        if most > 1 && state.max_gso_segments() == 1 {
            self.join_again();
        }
        done.lost = train.count() - datagrams;
        result.map(|()| done).map_err(|error| (done, error))
    }

    /// Sends trains of `many`, or one by one if the way does not take them; notes the bytes and
    /// the datagrams that have gone out.
    fn send_all(
        state: &UdpSocketState,
        train: &Train<'_>,
        many: usize,
        joins: &Joins,
        (done, datagrams): (&mut Sent, &mut usize),
        mut send: impl FnMut(&UdpSocketState, &[u8], Option<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        for bytes in train.bytes.chunks(train.stride * many) {
            if bytes.len() > train.stride {
                match send(state, bytes, Some(train.stride)) {
                    Ok(()) => {
                        done.bytes += bytes.len();
                        *datagrams += bytes.len().div_ceil(train.stride);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) if Gone::is_said_by(&error) => return Err(error),
                    // One alone may be too large for the way: one by one from here on.
                    Err(_) => joins.0.store(false, Ordering::Relaxed),
                }
            }
            for datagram in bytes.chunks(train.stride) {
                let mut result = send(state, datagram, None);
                // What the system had to say of the way was said, and this one has not gone out.
                if let Err(error) = &result
                    && !is_of_this_datagram(error)
                    && !Gone::is_said_by(error)
                {
                    result = send(state, datagram, None);
                }
                match result {
                    Ok(()) => {
                        done.bytes += datagram.len();
                        *datagrams += 1;
                    }
                    Err(error) if is_of_this_datagram(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The state takes an error for one of the device, which it is not where joined datagrams have
    /// gone out before, but of one peer's way: for the other peers it begins anew.
    fn join_again(&self) {
        if let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.io)) {
            system::fragment(&self.io);
            self.state.store(Arc::new(state));
        }
    }
}

/// Whether the next datagram may still go out: this one is too large, or the socket is full.
fn is_of_this_datagram(error: &io::Error) -> bool {
    system::is_too_large(error) || error.kind() == io::ErrorKind::WouldBlock
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_does_not_slow_those_that_can() {
        let socket = Socket::at(Ipv4Addr::UNSPECIFIED.into(), 1 << 16).unwrap();
        let joined = || socket.state.load().max_gso_segments();
        let before = joined();
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for (to, from, bytes) in [
            (here(0), Ipv4Addr::LOCALHOST, 0),
            (here(9), Ipv4Addr::BROADCAST, 6),
            (here(9), Ipv4Addr::new(224, 0, 0, 1), 6),
        ] {
            let train = Train::alone(to, b"answer");
            let sent = socket.send_to(to, Some(from.into()), &Joins::default(), &train);
            assert_eq!(sent.bytes, bytes, "{to} from {from}");
            assert_eq!(joined(), before, "{to} from {from}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_no_joined_ones_gets_them_one_by_one() {
        let [here, there] = [(); 2].map(|()| Socket::at(Ipv4Addr::LOCALHOST.into(), 1 << 20));
        let (here, there) = (here.unwrap(), there.unwrap());
        let bytes = [7; 5000];
        let train = Train { stride: 1000, ..Train::alone(here.local(), &bytes) };
        let joins = Joins::default();
        joins.0.store(false, Ordering::Relaxed);
        let sent = here.send_to(there.local(), None, &joins, &train);
        assert_eq!(sent, Sent { bytes: 5000, lost: 0 });
        let mut came = 0;
        while came < 5 {
            there.readable().await.unwrap();
            there.receive(|train| came += train.count()).unwrap();
        }
        assert!(Joins::default().0.load(Ordering::Relaxed), "the others' are joined as before");
    }
}
