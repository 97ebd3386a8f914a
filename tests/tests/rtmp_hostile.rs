//! Peers that mean no good: each is ended in bounded time for the right reason, costs bounded
//! memory, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Peer, Script};
use srs_proxy_tests::{story, usage, wait};

const SOON: Duration = Duration::from_secs(5);
/// Longest life of a hostile session: the longest of the limits below, and some slack.
const BOUND: Duration = Duration::from_secs(4);

fn start(folder: &Path) -> Result<Proxy> {
    let limits = [("PROXY_RTMP_HANDSHAKE_TIMEOUT", "1s"), ("PROXY_RTMP_COMMAND_TIMEOUT", "2s")];
    Proxy::start(folder, &limits)
}

/// What a peer says, again and again until it is cut off, and the reason that is due.
struct Attack {
    name: &'static str,
    /// Whether it begins after a proper handshake.
    greets: bool,
    first: Vec<u8>,
    /// Said every now and then after that, if it is not empty.
    again: Vec<u8>,
    pause: Duration,
    reason: &'static str,
}

fn attacks() -> Vec<Attack> {
    let attack = |name, reason, greets, first: &[u8]| Attack {
        name,
        greets,
        first: first.to_vec(),
        again: Vec::new(),
        pause: Duration::from_millis(20),
        reason,
    };
    let mut attacks = vec![
        attack("a silent peer", "handshake_timeout", false, b""),
        attack("a web browser", "not_the_protocol", false, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        attack("a TLS client", "not_the_protocol", false, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        attack("noise", "not_the_protocol", false, &[0xa5; 4096]),
        attack("a peer that only greets", "command_timeout", true, b""),
        // RTMP 1.0 5.3.1.2: a chunk without a message header has nothing to go on from.
        attack("a chunk that continues nothing", "bad_chunk", true, &[0xc3, 0, 0, 0, 0]),
        attack("a message of 16 MiB", "message_too_large", true, &header(3, 0x00ff_ffff, 20)),
        attack("a chunk size of zero", "bad_chunk", true, &message(2, 1, &[0, 0, 0, 0])),
        attack("AMF nested 1000 deep", "bad_command", true, &nested_connect(1000)),
        attack("AMF nested 50000 deep", "message_too_large", true, &nested_connect(50_000)),
    ];
    attacks.push(Attack {
        again: vec![0],
        pause: Duration::from_millis(50),
        ..attack("a handshake byte by byte", "handshake_timeout", false, &[3])
    });
    attacks.push(Attack {
        again: vec![0xc3],
        pause: Duration::from_millis(50),
        ..attack("a message byte by byte", "command_timeout", true, &header(3, 1000, 20))
    });
    let unfinished = |id| [header(id, 1000, 20), vec![0; 128]].concat();
    // RTMP 1.0 5.3.1.1: an id of 0 says that the next byte is the id, less 64.
    let unfinished_far = |id| {
        let mut bytes = unfinished(0);
        bytes.insert(1, id);
        bytes
    };
    let all =
        (3..=63).flat_map(unfinished).chain((0..=255).flat_map(unfinished_far)).collect::<Vec<_>>();
    attacks.push(attack(
        "messages begun on every chunk stream",
        "too_many_chunk_streams",
        true,
        &all,
    ));
    attacks
}

#[test]
fn hostile_peers_are_ended_for_the_right_reason_while_others_play_on() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
        let proxy = start(folder)?;
        origin.register_at(proxy.system_api(), "good")?;
        let mut player = Client::play(proxy.rtmp(), "show")?;
        let start = Instant::now();
        let watch = thread::spawn(move || -> Result<(Client, u64)> {
            let mut sum = 0;
            while start.elapsed() < Duration::from_secs(8) {
                let (bytes, open) = player.watch(Instant::now() + Duration::from_secs(1))?;
                ensure!(open, "the player was cut off");
                ensure!(bytes > 100_000, "the player got {bytes} bytes in a second");
                sum += bytes;
            }
            Ok((player, sum))
        });
        let memory = usage::memory(proxy.process.id())?;

        // At the same time, as they would come; several peers may be due the same reason.
        let attacks = attacks();
        let proxy = &proxy;
        thread::scope(|scope| {
            let threads: Vec<_> =
                attacks.iter().map(|attack| scope.spawn(|| attack.run(proxy))).collect();
            for (attack, thread) in attacks.iter().zip(threads) {
                let outcome = thread.join().ok().context("the attacker panicked")?;
                outcome.with_context(|| attack.name)?;
            }
            anyhow::Ok(())
        })?;
        for attack in &attacks {
            let due = attacks.iter().filter(|other| other.reason == attack.reason).count();
            wait::until_true(
                &format!("{}: {due} ends by {}", attack.name, attack.reason),
                SOON,
                || Ok(proxy.ends(attack.reason)? == u64::try_from(due)?),
            )?;
        }
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < 16 << 20, "the attacks left {grown} bytes of memory");

        let (player, bytes) = watch.join().ok().context("the player panicked")??;
        assert!(bytes > 1_500_000, "the player got {bytes} bytes in 8 s at 2 Mb/s");
        assert_eq!(proxy.sessions()?.len(), 1, "only the player remains");
        drop(player);
        Ok(())
    })
}

#[test]
fn unfinished_messages_are_held_up_to_their_limit_and_no_further() -> Result<()> {
    const MIB: u64 = 1 << 20;
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Silence))?;
        let proxy = start(folder)?;
        origin.register_at(proxy.system_api(), "origin")?;
        // Of two streams with one id messages are relayed, and so put together.
        let mut publisher = Client::connect(proxy.rtmp())?;
        publisher.create_stream()?;
        publisher.ask_to_publish("hoard")?;
        publisher.expect("NetStream.Publish.Start")?;
        let memory = usage::memory(proxy.process.id())?;
        let mut socket = publisher.socket();
        // Eight times 900 KB of 1 MB: all but the end, and below PROXY_RTMP_MAX_MESSAGE.
        for chunk_stream in 10..18 {
            let more = [vec![0xc0 | chunk_stream], vec![0; 128]].concat().repeat(7000);
            let begin = [header(chunk_stream, 1_000_000, 9), vec![0; 128]].concat();
            socket.write_all(&[begin, more].concat())?;
        }
        wait::until_true("all of it has come", SOON, || {
            Ok(usage::memory(proxy.process.id())? > memory + 6 * MIB)
        })?;
        let grown = usage::memory(proxy.process.id())? - memory;
        assert!(grown < 32 * MIB, "{grown} bytes for 7 MB of unfinished messages");
        socket.write_all(&header(18, 1_000_000, 9))?;
        publisher.must_be_closed_within(SOON)?;
        wait::until_true(
            "the reason is counted",
            SOON,
            || Ok(proxy.ends("message_too_large")? == 1),
        )
    })
}

impl Attack {
    /// Runs until the proxy ends it; fails if it does not in time.
    fn run(&self, proxy: &Proxy) -> Result<()> {
        let socket = TcpStream::connect(proxy.rtmp())?;
        let start = Instant::now();
        let peer = if self.greets { Some(Peer::greet(socket.try_clone()?)?) } else { None };
        let mut socket = peer.as_ref().map_or(socket.try_clone()?, |_| socket);
        socket.set_read_timeout(Some(self.pause))?;
        let mut gone = socket.write_all(&self.first).is_err();
        let mut buffer = [0; 4096];
        while !gone {
            if start.elapsed() > BOUND {
                bail!("still connected after {BOUND:?}");
            }
            gone = match socket.read(&mut buffer) {
                Ok(0) => true,
                Ok(_) => false,
                Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            } || socket.write_all(&self.again).is_err();
        }
        Ok(())
    }
}

/// A full chunk header on a one-byte chunk stream id, RTMP 1.0 5.3.1.2.1: time stamp 0,
/// message stream 0.
fn header(chunk_stream: u8, length: u32, kind: u8) -> Vec<u8> {
    let [_, length @ ..] = length.to_be_bytes();
    [&[chunk_stream, 0, 0, 0][..], &length, &[kind, 0, 0, 0, 0]].concat()
}

/// A message in chunks of 128 bytes.
fn message(chunk_stream: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = header(chunk_stream, length, kind);
    for (n, chunk) in payload.chunks(128).enumerate() {
        if n > 0 {
            bytes.push(0xc0 | chunk_stream);
        }
        bytes.extend_from_slice(chunk);
    }
    bytes
}

/// `connect` whose object has objects in objects, AMF0 2.5.
fn nested_connect(depth: usize) -> Vec<u8> {
    let mut payload = vec![2, 0, 7];
    payload.extend_from_slice(b"connect");
    payload.push(0);
    payload.extend_from_slice(&1f64.to_be_bytes());
    payload.extend([3, 0, 1, b'a'].repeat(depth));
    message(3, 20, &payload)
}
