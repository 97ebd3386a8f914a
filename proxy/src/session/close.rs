//! Closes a connection in order.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a leg that was closed may still send what nobody reads, so that what it was told
/// last is not overtaken by a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Closes a leg in order: what it was sent is read by it, whatever it is still sending.
pub(super) async fn close(mut socket: TcpStream) {
    let drain = async {
        socket.shutdown().await?;
        loop {
            socket.readable().await?;
            // A buffer for nobody, which is not held while nothing comes.
            match socket.try_read(&mut [0; 4096]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    };
    // Whatever goes wrong here, the socket is closed behind it.
    let _closed = timeout(LINGER, drain).await;
}

/// Closes a leg so that it does not look like an end in order: what it was told is not whole.
pub(super) fn reset(socket: TcpStream) {
    // Without it the end only looks like another.
    let _linger = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}
