//! str0m: a real publisher, player and origin of WebRTC, whose every packet can be counted.

mod client;
mod origin;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use str0m::net::{Protocol, Receive};
use str0m::{Event, Input, Output, Rtc};

pub use self::client::{Client, Tally};
pub use self::origin::Origin;
use crate::whip;

/// Does what `rtc` wants now: gives its datagrams to `send`, with where it wants them, and its
/// events; then the time when it wants to be asked again.
fn drive(
    rtc: &mut Rtc,
    mut send: impl FnMut(&[u8], SocketAddr),
    mut on: impl FnMut(&mut Rtc, Event),
) -> Instant {
    if rtc.handle_input(Input::Timeout(Instant::now())).is_err() {
        rtc.disconnect();
    }
    loop {
        match rtc.poll_output() {
            Ok(Output::Timeout(at)) => return at,
            Ok(Output::Event(event)) => on(rtc, event),
            Ok(Output::Transmit(out)) => send(&out.contents, out.destination),
            Err(_) => rtc.disconnect(),
        }
    }
}

/// The next datagram that comes before `deadline`, or within [`PAUSE`].
fn receive<'a>(
    socket: &UdpSocket,
    buffer: &'a mut [u8],
    deadline: Instant,
) -> Result<Option<(&'a [u8], SocketAddr)>> {
    let wait = deadline.saturating_duration_since(Instant::now());
    socket.set_read_timeout(Some(wait.clamp(Duration::from_millis(1), PAUSE)))?;
    match socket.recv_from(buffer) {
        Ok((length, source)) => Ok(buffer.get(..length).map(|datagram| (datagram, source))),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        // The other end's socket is gone: its consent will run out.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A datagram as str0m takes it; none if it is of no protocol of WebRTC.
fn input(datagram: &[u8], source: SocketAddr, destination: SocketAddr) -> Option<Input<'_>> {
    let received = Receive::new(Protocol::Udp, source, destination, datagram).ok()?;
    Some(Input::Receive(Instant::now(), received))
}

/// What an ICE restart sends of a description (RFC 9725 4.3.2): credentials and candidates.
fn fragment(sdp: &str) -> String {
    let wanted = ["a=ice-ufrag:", "a=ice-pwd:", "a=candidate:"];
    let mut lines = vec!["a=ice-options:trickle ice2", "m=audio 9 RTP/AVP 0", "a=mid:0"];
    for line in sdp.lines() {
        if wanted.iter().any(|it| line.starts_with(it)) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\r\n") + "\r\n"
}

/// The description with the credentials and the candidate of a fragment, if there is one: an agent
/// that only answers needs none.
fn restarted(sdp: &str, fragment: &str) -> Result<String> {
    let mut sdp = sdp.to_owned();
    for name in ["ice-ufrag", "ice-pwd"] {
        let (old, new) = (whip::attribute(&sdp, name)?, whip::attribute(fragment, name)?);
        sdp = sdp.replace(&format!("a={name}:{old}"), &format!("a={name}:{new}"));
    }
    let candidate = whip::attribute(fragment, "candidate");
    let mut lines = Vec::new();
    for line in sdp.lines() {
        match (line.strip_prefix("a=candidate:"), &candidate) {
            (None, _) => lines.push(line.to_owned()),
            (Some(_), Ok(candidate)) => lines.push(format!("a=candidate:{candidate}")),
            (Some(_), Err(_)) => {}
        }
    }
    Ok(lines.join("\r\n") + "\r\n")
}

/// How long a command may lie before it is seen.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest datagram.
const DATAGRAM: usize = 2000;
