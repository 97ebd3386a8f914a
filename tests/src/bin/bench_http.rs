//! What HTTP through a proxy costs: ours beside nginx and HAProxy, same machine, same run.
//!
//! Usage: `bench_http [rounds] [seconds] [segments|small|playlist|flv|flv-bulk]`. Every relay has as
//! many threads or workers as there are cores, writes no log of requests, keeps connections to both
//! sides, and tells the origin who the client is. nginx buffers, as it does unless told otherwise,
//! all but live streams. HAProxy copies, as it does unless told otherwise.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::bench::{
    self, Bench, Case, Client, Column, Contender, READ, Relay, Scene, Tally, drain,
};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{self, Exchange, Head};

fn main() -> Result<()> {
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("nginx", "-v"), ("haproxy", "-v")])?;
    bench.run(&Web::new(bench.folder())?, CASES, CONTENDERS)
}

/// What clients ask for.
enum Load {
    /// The first file of this name in the playlist, again and again.
    File(&'static str),
    /// The playlist itself.
    Playlist,
    /// A live stream without an end.
    Live(Pace),
}

/// How fast a live stream comes.
#[derive(Clone, Copy)]
enum Pace {
    /// Frames of this many bytes, 25 a second.
    Frames(usize),
    /// As fast as it is taken.
    Bulk,
}

const CASES: &[Case<Load>] = &[
    Case {
        name: "segments",
        title: "Segments of 500 KiB, 16 connections, as fast as they come",
        load: Load::File("segment"),
        clients: 16,
        tables: &[&[Column::CpuPerGib, Column::Requests, Column::Gigabits]],
        aims: &[],
    },
    Case {
        name: "small",
        title: "Parts of 16 KiB, 16 connections, as fast as they come",
        load: Load::File("part"),
        clients: 16,
        tables: &[&[Column::CpuPerRequest, Column::Requests]],
        aims: &[],
    },
    Case {
        name: "playlist",
        title: "A playlist of 2 KiB, 16 connections, as fast as they come; only srs-proxy rewrites it",
        load: Load::Playlist,
        clients: 16,
        tables: &[&[Column::CpuPerRequest, Column::Requests]],
        aims: &[],
    },
    Case {
        name: "flv",
        title: "200 live players of 4 Mb/s",
        load: Load::Live(Pace::Frames(20_000)),
        clients: 200,
        tables: &[&[Column::CpuPerGib, Column::Gigabits, Column::Memory]],
        aims: &[],
    },
    Case {
        name: "flv-bulk",
        title: "4 live players, as fast as they take it",
        load: Load::Live(Pace::Bulk),
        clients: 4,
        tables: &[&[Column::CpuPerGib, Column::Gigabits]],
        aims: &[],
    },
];

const CONTENDERS: &[Contender<Origin>] = &[
    Contender { name: "srs-proxy", is_reference: false, start: srs_proxy },
    Contender { name: "nginx", is_reference: true, start: nginx },
    Contender { name: "HAProxy", is_reference: true, start: haproxy },
];

fn srs_proxy(folder: &Path, origin: &Origin) -> Result<Relay> {
    let proxy = Proxy::start(folder, &[("PROXY_LOG", "warn")])?;
    raw::register(origin.address(), proxy.system_api(), "bench")?;
    let address = proxy.http();
    Ok(Relay::new(proxy.process, address))
}

fn nginx(folder: &Path, origin: &Origin) -> Result<Relay> {
    let origin = origin.address();
    bench::nginx(folder, "nginx", |listen| {
        format!(
            "upstream origin {{
        server {origin};
        keepalive 32;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen};
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        location / {{ proxy_pass http://origin; }}
        location ~ [.]flv$ {{ proxy_pass http://origin; proxy_buffering off; }}
    }}"
        )
    })
}

fn haproxy(folder: &Path, origin: &Origin) -> Result<Relay> {
    let origin = origin.address();
    bench::haproxy(folder, |listen| {
        format!(
            "global
    maxconn 4096
defaults
    mode http
    http-reuse always
    option forwardfor
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen http
    bind {listen}
    server origin {origin}
"
        )
    })
}

/// An nginx with files, or a scripted origin of live streams.
enum Origin {
    Files(Relay),
    Live(raw::Origin),
}

impl Origin {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Files(nginx) => nginx.address,
            Self::Live(origin) => origin.address(),
        }
    }
}

/// A folder for origins, and what lies in it.
struct Web {
    folder: PathBuf,
    files: Vec<(String, Vec<u8>)>,
}

/// What a client asks for, and how long the answer is.
struct Hint {
    target: String,
    /// None of a live stream.
    length: Option<usize>,
}

impl Web {
    fn new(folder: &Path) -> Result<Self> {
        let mut playlist = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n".to_owned();
        let mut files = Vec::new();
        for number in 0..32 {
            for (name, extension, bytes) in
                [("part", "m4s", 16 << 10), ("segment", "ts", 500 << 10)]
            {
                let file = format!("{name}-{number:02}.{extension}");
                writeln!(playlist, "#EXTINF:2.000,\n{file}")?;
                files.push((file, pattern(number, bytes)));
            }
        }
        files.push((PLAYLIST.to_owned(), playlist.into_bytes()));
        let live = folder.join("files/live");
        fs::create_dir_all(&live)?;
        for (file, bytes) in &files {
            fs::write(live.join(file), bytes)?;
        }
        Ok(Self { folder: folder.to_path_buf(), files })
    }

    fn file(&self, name: &str) -> Result<&[u8]> {
        let file = self.files.iter().find(|(other, _)| other == name);
        Ok(&file.with_context(|| format!("no file {name}"))?.1)
    }

    /// Every byte of a file, by the URI that the relay's own playlist has for it.
    fn try_file(&self, client: &mut raw::Client, name: &str) -> Result<Hint> {
        let playlist = client.get(&format!("/live/{PLAYLIST}"))?.text();
        let uri = playlist.lines().find(|line| line.starts_with(name));
        let target = format!("/live/{}", uri.with_context(|| format!("no {name} in {playlist}"))?);
        let answer = client.get(&target)?;
        ensure!(answer.status() == 200, "{target}: {:?}", answer.head);
        let file = target.trim_start_matches("/live/").split('?').next().unwrap_or_default();
        ensure!(answer.body == self.file(file)?, "{target} did not come as it is");
        Ok(Hint { target, length: Some(answer.body.len()) })
    }

    /// Every line of the playlist, but for what is added to its URIs.
    fn try_playlist(&self, client: &mut raw::Client) -> Result<Hint> {
        let target = format!("/live/{PLAYLIST}");
        let answer = client.get(&target)?;
        ensure!(answer.status() == 200, "{target}: {:?}", answer.head);
        let text = answer.text();
        let plain: Vec<_> = text.lines().filter_map(|line| line.split('?').next()).collect();
        let own = std::str::from_utf8(self.file(PLAYLIST)?)?;
        ensure!(plain == own.lines().collect::<Vec<_>>(), "{target} did not come as it is");
        Ok(Hint { target, length: Some(answer.body.len()) })
    }
}

impl Scene for Web {
    type Load = Load;
    type Origin = Origin;
    type Hint = Hint;

    fn origin(&self, load: &Load) -> Result<Origin> {
        let Load::Live(pace) = *load else {
            let root = |listen| format!("server {{ listen {listen}; root .; }}");
            return bench::nginx(&self.folder, "files", root).map(Origin::Files);
        };
        raw::Origin::start(move |_, player| feed(player, pace)).map(Origin::Live)
    }

    fn try_out(&self, load: &Load, _: &Origin, relay: &Relay) -> Result<Hint> {
        let mut client = raw::Client::connect(relay.address)?;
        match load {
            Load::File(name) => self.try_file(&mut client, name),
            Load::Playlist => self.try_playlist(&mut client),
            Load::Live(pace) => {
                let frame = pace.frame();
                client.ask("GET", "/live/warm.flv", "")?;
                let head = client.head()?;
                let body = client.body(&head, "GET", 4 * frame.len())?;
                let is_whole = body.chunks(frame.len()).all(|piece| frame.starts_with(piece));
                ensure!(head.status()? == 200 && is_whole, "the stream did not come as it is");
                Ok(Hint { target: "/live/stream".into(), length: None })
            }
        }
    }

    fn clients(&self, hint: &Hint, relay: &Relay, count: usize) -> Result<Vec<Client>> {
        (0..count).map(|number| hint.client(relay.address, number)).collect()
    }
}

impl Hint {
    /// The client of this number.
    fn client(&self, relay: SocketAddr, number: usize) -> Result<Client> {
        let Self { target, length } = self;
        let mut socket = TcpStream::connect(relay)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let ask = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {relay}\r\n\r\n");
        let Some(length) = *length else {
            socket.write_all(ask(&format!("{target}{number}.flv")).as_bytes())?;
            return Ok(Box::new(move |tally| drain(&socket, tally)));
        };
        let ask = ask(target);
        Ok(Box::new(move |tally| {
            let mut buffer = vec![0; READ];
            while !tally.is_over() {
                socket.write_all(ask.as_bytes())?;
                fetch(&mut socket, &mut buffer, length, tally)?;
                tally.answered();
            }
            Ok(())
        }))
    }
}

impl Pace {
    /// What the stream consists of, one chunk after the other.
    fn frame(self) -> Vec<u8> {
        pattern(
            7,
            match self {
                Self::Frames(bytes) => bytes,
                Self::Bulk => 64 << 10,
            },
        )
    }
}

/// Sends a stream as SRS does: in chunks, on a connection that has no other use.
fn feed(player: &mut Exchange<'_>, pace: Pace) -> Result<()> {
    player.send(
        "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Type: video/x-flv\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    )?;
    let frame = pace.frame();
    let size = format!("{:x}\r\n", frame.len());
    let chunk = [size.as_bytes(), &frame, b"\r\n"].concat();
    let (bytes, pause) = match pace {
        Pace::Frames(_) => (chunk, FRAME_TIME),
        Pace::Bulk => (chunk.repeat(8), Duration::ZERO),
    };
    let mut due = Instant::now();
    loop {
        player.send(&bytes)?;
        due += pause;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// One answer of status 200 and this length.
fn fetch(socket: &mut TcpStream, buffer: &mut [u8], length: usize, tally: &Tally) -> Result<()> {
    let mut filled = 0;
    let behind_head = loop {
        let count = socket.read(buffer.get_mut(filled..).context("a head without an end")?)?;
        ensure!(count > 0, "the server has closed the connection");
        filled += count;
        let came = buffer.get(..filled).unwrap_or_default();
        if let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = Head::parse(buffer.get(..behind_head).unwrap_or_default())?;
    let own = head.field("Content-Length").map(str::parse::<usize>).transpose()?;
    ensure!(head.status()? == 200 && own == Some(length), "{head:?}");
    let mut got = filled - behind_head;
    tally.got(got);
    while got < length {
        let count = socket.read(buffer)?;
        ensure!(count > 0, "the server has closed the connection in a body");
        got += count;
        tally.got(count);
    }
    ensure!(got == length, "more than the answer: {got} bytes of {length}");
    Ok(())
}

/// Bytes that differ from file to file and from place to place.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..251_u8).cycle().map(|byte| byte ^ seed).take(length).collect()
}

const PLAYLIST: &str = "show.m3u8";

/// As of 25 frames a second.
const FRAME_TIME: Duration = Duration::from_millis(40);

/// A client that gets nothing for so long fails.
const PATIENCE: Duration = Duration::from_secs(15);
