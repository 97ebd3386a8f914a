//! A side of a connection on loopback, and the peers of the plane's other tests.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::*;

pub(in crate::plane::splice) const SOON: Duration = Duration::from_secs(10);

/// The plane's end of a connection, which does not block, and the peer's, which does for a while.
pub(in crate::plane::splice) fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    (near, far)
}

/// The same with small buffers, the smallest towards the peer.
pub(in crate::plane::splice) fn narrow() -> (TcpStream, TcpStream) {
    let (near, far) = connection();
    for (from, to, bytes) in [(&near, &far, 32 << 10), (&far, &near, 128 << 10)] {
        SockRef::from(from).set_send_buffer_size(bytes).unwrap();
        SockRef::from(to).set_recv_buffer_size(bytes).unwrap();
    }
    (near, far)
}

/// Waits until so many bytes can be read.
pub(in crate::plane::splice) fn must_come(side: &Side, bytes: usize) {
    let (mut seen, deadline) = (vec![0; bytes], Instant::now() + SOON);
    while side.socket.peek(&mut seen).unwrap_or(0) < bytes {
        assert!(Instant::now() < deadline, "{bytes} bytes do not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a poller tells at first of a socket that nothing is wrong with.
pub(in crate::plane::splice) const EVERYTHING: Readiness =
    Readiness((libc::POLLIN | libc::POLLOUT) as u32);

/// Sends these numbers until nothing more is taken, and acts each time; all that was sent.
pub(in crate::plane::splice) fn flood(
    mut far: &TcpStream,
    first: u32,
    mut act: impl FnMut(),
) -> Vec<u8> {
    far.set_nonblocking(true).unwrap();
    let mut media = media(first, 8 << 20);
    let (mut sent, mut blocked) = (0, 0);
    while blocked < 20 {
        match far.write(&media[sent..]) {
            Ok(0) => panic!("nobody holds it back"),
            Ok(written) => (sent, blocked) = (sent + written, 0),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                blocked += 1;
                thread::sleep(Duration::from_millis(5));
            }
        }
        act();
    }
    far.set_nonblocking(false).unwrap();
    media.truncate(sent);
    media
}

/// So many bytes of numbers from this one on, of which no two are the same.
pub(in crate::plane::splice) fn media(first: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 4);
    for number in (first..).take(length.div_ceil(4)) {
        bytes.extend_from_slice(&number.wrapping_mul(0x9e37_79b1).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn readiness_holds_until_nothing_is_left() {
    let (near, mut far) = connection();
    far.write_all(&[7; 100]).unwrap();
    let mut side = Side::new(near);
    must_come(&side, 100);
    assert_eq!(side.read(&mut [0; 60]).unwrap(), 60);
    assert!(side.is_readable(), "the buffer was filled: there may be more");
    assert_eq!(side.read(&mut [0; 60]).unwrap(), 40);
    assert!(!side.is_readable(), "a short read has left nothing");
    assert_eq!(side.read(&mut [0; 60]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    side.heard(Readiness(libc::POLLIN as u32));
    assert!(side.is_readable());
}

#[test]
fn behind_a_short_read_there_is_the_end_of_who_sends_no_more() {
    let (near, mut far) = connection();
    far.write_all(&[7; 100]).unwrap();
    drop(far);
    let mut side = Side::new(near);
    must_come(&side, 100);
    side.heard(Readiness((libc::POLLIN | libc::POLLRDHUP) as u32));
    assert_eq!(side.read(&mut [0; 200]).unwrap(), 100);
    assert!(side.is_readable(), "its end is there to be read");
    assert_eq!(side.read(&mut [0; 200]).unwrap(), 0);
}
