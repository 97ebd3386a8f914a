//! A UDP socket that receives and sends many datagrams with one call of the system.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
            for (slice, meta) in slices.iter().zip(&metas).take(came) {
                take(Train {
                    source: meta.addr,
                    destination: meta.dst_ip,
                    bytes: slice.get(..meta.len).unwrap_or_default(),
                    stride: meta.stride.max(1),
                    ecn: meta.ecn,
                });
            }
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
        // Nobody can be reached there (RFC 768), but anybody can write that he is. The system's
        // refusal would be taken for one of joined datagrams, which would then be over for all.
        if to.port() == 0 {
            return 0;
        }
        // What was sent to many is answered from an address that the system chooses.
        let from = from.filter(|&ip| !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST));
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
        let many = self.state.max_gso_segments().min(MAX_GSO / train.stride).max(1);
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

/// Whether the next datagram may still go out: this one is too large, or the socket is full.
fn is_of_this_datagram(error: &io::Error) -> bool {
    system::is_too_large(error) || error.kind() == io::ErrorKind::WouldBlock
}

/// Bytes of joined datagrams, at most: what IP can carry (RFC 768).
const MAX_TRAIN: usize = 64 * 1024;

/// The same for sending, without the headers.
const MAX_GSO: usize = 65_000;

thread_local! {
    /// What was received last on this thread. The system gives memory for what is used of it.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * MAX_TRAIN]);
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

    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_does_not_slow_those_that_can() {
        let socket = Socket::at(Ipv4Addr::UNSPECIFIED.into(), 1 << 16).unwrap();
        let joined = socket.state.max_gso_segments();
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for (to, from, sent) in [
            (here(0), Ipv4Addr::LOCALHOST, 0),
            (here(9), Ipv4Addr::BROADCAST, 6),
            (here(9), Ipv4Addr::new(224, 0, 0, 1), 6),
        ] {
            let train =
                Train { source: to, destination: None, bytes: b"answer", stride: 6, ecn: None };
            assert_eq!(socket.send_to(to, Some(from.into()), &train), sent, "{to} from {from}");
            assert_eq!(socket.state.max_gso_segments(), joined, "{to} from {from}");
        }
    }
}
