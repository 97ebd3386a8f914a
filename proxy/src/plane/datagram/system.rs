//! What systems know of UDP beyond what all do.

pub(super) use self::this::*;

#[cfg(target_os = "linux")]
mod this {
    use std::io;
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};
    use nix::{libc, setsockopt_impl};
    use socket2::Socket;

    /// Whether a connected socket can be told its peer's address once more.
    pub(in super::super) const NAMES_CONNECTED: bool = true;

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
    pub(in super::super) fn fragment(socket: &impl AsFd) {
        // A family that the socket is not of refuses its option.
        let _v4 = setsockopt(socket, MtuDiscover, &libc::IP_PMTUDISC_WANT);
        let _v6 = setsockopt(socket, Mtu6Discover, &libc::IPV6_PMTUDISC_WANT);
        let _v6 = setsockopt(socket, sockopt::Ipv6DontFrag, &false);
    }

    /// Beyond the limit of the system, for who may.
    pub(in super::super) fn force_buffers(socket: &Socket, bytes: usize) -> bool {
        setsockopt(socket, sockopt::RcvBufForce, &bytes).is_ok()
            && setsockopt(socket, sockopt::SndBufForce, &bytes).is_ok()
    }

    pub(in super::super) fn is_too_large(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EMSGSIZE)
    }
}

#[cfg(not(target_os = "linux"))]
mod this {
    use std::io;

    use socket2::Socket;

    pub(in super::super) const NAMES_CONNECTED: bool = false;

    pub(in super::super) fn fragment<S>(_: &S) {}

    pub(in super::super) fn force_buffers(_: &Socket, _: usize) -> bool {
        false
    }

    /// `EMSGSIZE` has a number of its own on each system, and no kind.
    pub(in super::super) fn is_too_large(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(40 | 10040))
    }
}
