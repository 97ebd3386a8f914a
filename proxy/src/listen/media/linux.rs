//! What Linux has beyond the options of every system.

use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::Socket;

use super::MediaOptions;

pub(super) fn set(socket: &Socket, options: &MediaOptions) {
    let _timeout = socket.set_tcp_user_timeout(Some(user_timeout(options.stall)));
    let _received = set_receive_buffer(socket, options.received());
    let unsent = u32::try_from(options.unsent()).unwrap_or(u32::MAX);
    let _unsent = socket.set_tcp_notsent_lowat(unsent);
    if let Some(bits) = options.max_rate {
        let bytes = libc::c_ulong::try_from(bits.get() / 8).unwrap_or(libc::c_ulong::MAX);
        let _rate = setsockopt(socket, MaxPacingRate, &bytes);
    }
}

/// For the kernel to give up a peer that acknowledges nothing, or whose window stays closed. The
/// proxy comes first where it has seen the stall itself: it knows the reason, and may be late.
fn user_timeout(stall: Duration) -> Duration {
    stall.saturating_mul(2)
}

/// Makes the receive buffer this large, once and for all.
///
/// `SO_RCVBUF` gives no more than `net.core.rmem_max`, which is small by default. A low-water mark
/// makes room for as many bytes as it says, up to half of the last number of `net.ipv4.tcp_rmem`; the
/// lock (Linux 5.14) keeps the room when the mark is gone.
fn set_receive_buffer(socket: &Socket, bytes: usize) -> nix::Result<()> {
    // The kernel doubles it, for what it needs itself: socket(7).
    let asked = bytes / 2;
    let mut mark = asked;
    // How much room a mark makes depends on the packets that have come by now: each time tells better.
    for _ in 0..4 {
        let _bounded = socket.set_recv_buffer_size(asked);
        if given(socket) >= asked * 2 {
            break;
        }
        setsockopt(socket, BufferLock, &UNLOCKED)?;
        setsockopt(socket, ReceiveLowWater, &mark)?;
        setsockopt(socket, ReceiveLowWater, &1)?;
        setsockopt(socket, BufferLock, &RECEIVE_LOCKED)?;
        let given = given(socket);
        if given.abs_diff(bytes) <= bytes / 16 {
            break;
        }
        mark = mark.saturating_mul(bytes) / given.max(1);
    }
    Ok(())
}

fn given(socket: &Socket) -> usize {
    socket.recv_buffer_size().unwrap_or_default()
}

sockopt_impl!(
    /// Bytes per second that the connection sends at most.
    MaxPacingRate,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_MAX_PACING_RATE,
    libc::c_ulong
);

sockopt_impl!(
    /// Which buffers the kernel leaves as they are.
    BufferLock,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_BUF_LOCK,
    usize
);

sockopt_impl!(
    /// Bytes before the socket counts as readable.
    ReceiveLowWater,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize
);

/// Of `SO_BUF_LOCK`: neither buffer.
const UNLOCKED: usize = 0;

/// Of `SO_BUF_LOCK`: `SOCK_RCVBUF_LOCK`.
const RECEIVE_LOCKED: usize = 2;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroU64;

    use nix::getsockopt_impl;
    use nix::sys::socket::getsockopt;
    use socket2::SockRef;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    sockopt_impl!(
        /// What [`MaxPacingRate`] has set.
        PacingRate,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_MAX_PACING_RATE,
        libc::c_ulong
    );

    /// Both ends of a connection.
    async fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn each_option_is_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, _far) = connection(&listener).await;
        let (stall, held) = (Duration::from_secs(30), 2 << 20);
        let max_rate = NonZeroU64::new(16_000_000);
        MediaOptions { stall, held, max_rate }.set(&near);
        let socket = SockRef::from(&near);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_mins(1)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 512 << 10);
        assert_eq!(getsockopt(&near, PacingRate).unwrap(), 2_000_000);
    }

    #[tokio::test]
    async fn a_session_without_a_rate_is_not_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, _far) = connection(&listener).await;
        let (stall, held) = (Duration::from_secs(30), 2 << 20);
        MediaOptions { stall, held, max_rate: None }.set(&near);
        assert_eq!(getsockopt(&near, PacingRate).unwrap(), libc::c_ulong::MAX);
    }

    #[tokio::test]
    async fn a_receive_buffer_is_as_large_as_is_wanted_whatever_has_come_before() {
        let most = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap();
        let most: usize = most.split_whitespace().last().unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for held in [MediaOptions::LEAST_HELD, 2 << 20, 16 << 20] {
            for early in [0, 1, 600, 1537, 20_000] {
                let (mut near, far) = connection(&listener).await;
                near.write_all(&vec![0; early]).await.unwrap();
                if early > 0 {
                    far.readable().await.unwrap();
                }
                let stall = Duration::from_secs(30);
                let options = MediaOptions { stall, held, max_rate: None };
                options.set(&far);
                let given = given(&SockRef::from(&far));
                let wanted = options.received().min(most);
                // More bytes may come between the two marks.
                let is_as_wanted = given.abs_diff(wanted) <= wanted / 8;
                assert!(is_as_wanted, "{given} of {wanted}, behind {early} bytes");
            }
        }
    }
}
