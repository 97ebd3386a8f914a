//! A UDP socket that receives and sends many datagrams with one call of the system.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams of one sender that came at once, all of one size but for the last.
///
/// The system joins them where it can (UDP GRO), and takes them joined (UDP GSO).
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// Who has sent them.
    pub source: SocketAddr,
    /// The address they were sent to, if the system tells it.
    pub destination: Option<IpAddr>,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
    /// Bytes of each but the last. Never zero.
    pub stride: usize,
    /// Marks of congestion on the way (RFC 3168 5).
    pub ecn: Option<EcnCodepoint>,
}

impl<'a> Train<'a> {
    /// Each datagram. One without a byte is none.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.stride)
    }

    /// These bytes out of the same train: whole datagrams.
    #[must_use]
    pub fn part(&self, bytes: &'a [u8]) -> Self {
        Self { bytes, ..*self }
    }
}

/// A socket with its batches. Needs a runtime of tokio.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl Socket {
    /// Takes over a bound socket, and lets it be read `buffer` bytes late if the system allows.
    pub fn new(socket: socket2::Socket, buffer: usize) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        enlarge(&socket, buffer);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        system::fragment(&socket);
        let io = UdpSocket::from_std(socket.into())?;
        let local = io.local_addr()?;
        Ok(Self { io, state, local })
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
            let mut came = 0;
            let received = self.io.try_io(Interest::READABLE, || {
                came = self.state.recv(UdpSockRef::from(&self.io), slices, &mut metas)?;
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
            join(came, self.state.max_gso_segments(), &mut take);
            match received {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Sends to `to`, from the address `from` if it is given. Gives the bytes that were taken:
    /// what a full socket does not take is lost, as it would be anywhere else on the way.
    pub fn send_to(&self, to: SocketAddr, from: Option<IpAddr>, train: &Train<'_>) -> usize {
        self.transmit(train, |bytes, segment_size| {
            let ecn = train.ecn;
            let transmit =
                Transmit { destination: to, ecn, contents: bytes, segment_size, src_ip: from };
            self.state.try_send(UdpSockRef::from(&self.io), &transmit)
        })
        .unwrap_or_else(|(sent, _)| sent)
    }

    /// Sends to the `peer` that it is connected to. The error, beside what was taken before, is
    /// what the system has to say of the peer, such as that nobody listens there.
    pub fn send(&self, peer: SocketAddr, train: &Train<'_>) -> Result<usize, (usize, io::Error)> {
        self.transmit(train, |bytes, segment_size| {
            // Of a connected socket the system knows the way already, and some systems do not
            // take an address beside it.
            if segment_size.is_none() && train.ecn.is_none() || !system::NAMES_CONNECTED {
                return SockRef::from(&self.io).send(bytes).map(|_| ());
            }
            let (ecn, contents) = (train.ecn, bytes);
            let transmit =
                Transmit { destination: peer, ecn, contents, segment_size, src_ip: None };
            self.state.try_send(UdpSockRef::from(&self.io), &transmit)
        })
    }

    /// Sends as many datagrams at once as the system takes.
    fn transmit(
        &self,
        train: &Train<'_>,
        mut send: impl FnMut(&[u8], Option<usize>) -> io::Result<()>,
    ) -> Result<usize, (usize, io::Error)> {
        let mut taken = 0;
        let most = self.state.max_gso_segments().min(MAX_GSO / train.stride).max(1);
        // One that is too large for the way would have the socket send no joined ones any more.
        let many = if train.stride <= MAX_JOINED { most } else { 1 };
        for bytes in train.bytes.chunks(train.stride * many) {
            let is_one = bytes.len() <= train.stride;
            let result = send(bytes, (!is_one).then_some(train.stride));
            match result {
                Ok(()) => taken += bytes.len(),
                // The device takes no joined ones, or not of this size: one by one then.
                Err(error) if !is_one && error.kind() != io::ErrorKind::WouldBlock => {
                    for datagram in bytes.chunks(train.stride) {
                        match send(datagram, None) {
                            Ok(()) => taken += datagram.len(),
                            Err(error) if is_of_this_datagram(&error) => {}
                            Err(error) => return Err((taken, error)),
                        }
                    }
                }
                Err(error) if is_of_this_datagram(&error) => {}
                Err(error) => return Err((taken, error)),
            }
        }
        Ok(taken)
    }
}

/// Joins datagrams of one sender, as the system does where the network card has taken part: what
/// is copied here costs less than a call of the system for each. Gives trains of at most `most`.
fn join<'a>(
    trains: impl Iterator<Item = Train<'a>>,
    most: usize,
    take: &mut impl FnMut(Train<'_>),
) {
    JOINED.with_borrow_mut(|joined| {
        let mut trains = trains.peekable();
        while let Some(first) = trains.next() {
            let mut count = first.count();
            let mut is_open = first.bytes.len() == count * first.stride;
            joined.clear();
            while let Some(next) = trains.next_if(|next| {
                let is_alike = next.source == first.source
                    && next.destination == first.destination
                    && next.ecn == first.ecn;
                let fits = next.bytes.len() <= first.stride
                    && !next.bytes.is_empty()
                    && first.bytes.len() + joined.len() + next.bytes.len() <= MAX_GSO;
                is_open && is_alike && fits && count < most
            }) {
                if joined.is_empty() {
                    joined.extend_from_slice(first.bytes);
                }
                joined.extend_from_slice(next.bytes);
                count += 1;
                is_open = next.bytes.len() == first.stride;
            }
            if joined.is_empty() {
                take(first);
            } else {
                take(Train { bytes: joined, ..first });
            }
        }
    });
}

/// Whether the next datagram may still go out: this one is too large, or the socket is full.
fn is_of_this_datagram(error: &io::Error) -> bool {
    system::is_too_large(error) || error.kind() == io::ErrorKind::WouldBlock
}

/// Bytes of joined datagrams, at most: what IP can carry (RFC 768).
const MAX_TRAIN: usize = 64 * 1024;

/// The same for sending, without the headers.
const MAX_GSO: usize = 65_000;

/// Bytes of each of them, at most: what goes through the usual tunnels, with the headers of IPv6.
const MAX_JOINED: usize = 1420 - 48;

thread_local! {
    /// What was received last on this thread. The system gives memory for what is used of it.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * MAX_TRAIN]);

    /// What was joined of it.
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_TRAIN));
}

/// A system that gives less than `bytes` gives what it can.
fn enlarge(socket: &socket2::Socket, bytes: usize) {
    if !system::force_buffer(socket, bytes) {
        let _less = socket.set_recv_buffer_size(bytes);
    }
    let _less = socket.set_send_buffer_size(bytes);
}

#[cfg(target_os = "linux")]
mod system {
    //! Where Linux knows more than others.

    use std::io;

    use nix::sys::socket::{setsockopt, sockopt};
    use nix::{libc, setsockopt_impl};
    use socket2::Socket;

    /// Whether a connected socket can be told its peer's address once more.
    pub(super) const NAMES_CONNECTED: bool = true;

    #[derive(Clone, Copy, Debug)]
    struct MtuDiscover;
    #[derive(Clone, Copy, Debug)]
    struct Mtu6Discover;
    setsockopt_impl!(MtuDiscover, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int, Int<'_>);
    setsockopt_impl!(
        Mtu6Discover,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::c_int,
        Int<'_>
    );
    type Int<'a> = sockopt::SetStruct<'a, libc::c_int>;

    /// Lets the system break up what is too large for the way, as for any other sender: QUIC,
    /// whose sockets these are, measures the way itself, but a proxy cannot ask its clients for
    /// smaller packets.
    pub(super) fn fragment(socket: &Socket) {
        // A family that the socket is not of refuses its option.
        let _v4 = setsockopt(socket, MtuDiscover, &libc::IP_PMTUDISC_WANT);
        let _v6 = setsockopt(socket, Mtu6Discover, &libc::IPV6_PMTUDISC_WANT);
        let _v6 = setsockopt(socket, sockopt::Ipv6DontFrag, &false);
    }

    /// Beyond the limit of the system, for who may.
    pub(super) fn force_buffer(socket: &Socket, bytes: usize) -> bool {
        setsockopt(socket, sockopt::RcvBufForce, &bytes).is_ok()
    }

    pub(super) fn is_too_large(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EMSGSIZE)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    //! What holds everywhere.

    use std::io;

    use socket2::Socket;

    pub(super) const NAMES_CONNECTED: bool = false;

    pub(super) fn fragment(_: &Socket) {}

    pub(super) fn force_buffer(_: &Socket, _: usize) -> bool {
        false
    }

    /// `EMSGSIZE` has a number of its own on each system, and no kind.
    pub(super) fn is_too_large(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(40 | 10040))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(source: u8, bytes: &[u8]) -> Train<'_> {
        let source = SocketAddr::new([192, 0, 2, source].into(), 5000);
        Train { source, destination: None, bytes, stride: bytes.len().max(1), ecn: None }
    }

    fn joined(came: &[(u8, &[u8])], most: usize) -> Vec<(u8, usize, Vec<u8>)> {
        let mut trains = Vec::new();
        let came = came.iter().map(|&(source, bytes)| alone(source, bytes));
        join(came, most, &mut |train| {
            let IpAddr::V4(ip) = train.source.ip() else { panic!("{}", train.source) };
            trains.push((ip.octets()[3], train.count(), train.bytes.to_vec()));
        });
        trains
    }

    #[test]
    fn datagrams_of_one_sender_and_size_are_joined_and_a_shorter_one_ends_the_train() {
        let came: &[(u8, &[u8])] = &[
            (1, b"aaa"),
            (1, b"bbb"),
            (1, b"cc"),
            (1, b"dd"),
            (1, b"eee"),
            (2, b"fff"),
            (2, b""),
            (2, b"ggg"),
        ];
        let expected = [
            (1, 3, b"aaabbbcc".to_vec()),
            (1, 1, b"dd".to_vec()),
            (1, 1, b"eee".to_vec()),
            (2, 1, b"fff".to_vec()),
            (2, 0, Vec::new()),
            (2, 1, b"ggg".to_vec()),
        ];
        assert_eq!(joined(came, 64), expected);
        let one_by_one: Vec<_> = joined(came, 1).into_iter().map(|(.., bytes)| bytes).collect();
        let sent: Vec<_> = came.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(one_by_one, sent);
    }

    #[test]
    fn a_train_is_no_longer_than_can_be_sent_at_once() {
        let datagram = [7; 1000];
        let came = vec![(1, datagram.as_slice()); 200];
        let trains = joined(&came, 64);
        assert_eq!(trains.iter().map(|(_, count, _)| count).sum::<usize>(), 200);
        assert!(trains.iter().all(|(_, count, bytes)| *count <= 64 && bytes.len() <= MAX_GSO));
    }
}
