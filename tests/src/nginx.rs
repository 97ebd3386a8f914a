//! nginx with its RTMP module: a real origin.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::process::{self, Process};
use crate::{http, ports, wait};

/// An origin with RTMP, HLS and DASH. Killed when dropped.
///
/// Its application `live` has the files `/live/<stream>.m3u8` and `/live/<stream>.mpd`; the
/// application `nested` has a folder for each stream, with `index.m3u8` and `index.mpd`.
#[derive(Debug)]
pub struct Nginx {
    name: String,
    folder: PathBuf,
    rtmp: SocketAddr,
    http: SocketAddr,
    /// Behind the address in `listen` of RTMP.
    listen_options: &'static str,
    stat: SocketAddr,
    /// None while it is down.
    process: Option<Process>,
    /// How often it was started.
    lives: u32,
}

impl Nginx {
    /// Starts an origin of this name and waits until it listens.
    pub fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_listening(folder, name, "")
    }

    /// The same; its RTMP connections begin with a PROXY header of version 1.
    pub fn start_behind_proxies(folder: &Path, name: &str) -> Result<Self> {
        Self::start_listening(folder, name, "proxy_protocol")
    }

    fn start_listening(folder: &Path, name: &str, listen_options: &'static str) -> Result<Self> {
        let mut origin = Self {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
            rtmp: ports::free()?,
            listen_options,
            http: ports::free()?,
            stat: ports::free()?,
            process: None,
            lives: 0,
        };
        for media in ["hls", "dash"] {
            fs::create_dir_all(origin.home().join(media))?;
        }
        fs::write(origin.home().join("nginx.conf"), origin.config())?;
        origin.start_again()?;
        Ok(origin)
    }

    /// Starts it on the same ports, as a new process.
    pub fn start_again(&mut self) -> Result<()> {
        let home = self.home();
        let mut nginx = Command::new(process::find("nginx")?);
        // The RTMP module takes its paths from where it was started, not from the prefix.
        nginx.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(&home).current_dir(&home);
        let process = self.process.insert(Process::start(&mut nginx, &self.folder, &self.name)?);
        self.lives += 1;
        process.wait_until_ready(Duration::from_secs(10), || {
            Ok(http::get(self.stat, "/")?.status == 200)
        })
    }

    /// Ends it at once; its sockets are closed by the system.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the origin is down already")?.kill()
    }

    /// How it ended, if it has without being told to.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().map(Process::ended).transpose()?.flatten())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it takes RTMP.
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    /// Where it serves HLS and DASH.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The RTMP URL of one of its streams.
    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.rtmp)
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What it has written so far, over all its lives.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// What an SRS origin in its place would send as a heartbeat.
    pub fn heartbeat(&self) -> String {
        json!({
            "device_id": self.name,
            "ip": self.rtmp.ip(),
            "server": format!("vid-{}", self.name),
            "service": format!("service-{}", self.lives),
            "pid": self.id().unwrap_or_default().to_string(),
            "rtmp": [self.rtmp.port().to_string()],
            "http": [self.http.port().to_string()],
        })
        .to_string()
    }

    /// Registers it with a proxy, by the address of the proxy's system API.
    pub fn register_at(&self, proxy: SocketAddr) -> Result<()> {
        let answer = http::post(proxy, "/api/v1/srs/register", &self.heartbeat())?;
        if answer.status != 200 || answer.json()?.get("code") != Some(&json!(0)) {
            bail!("{} was not registered: {} {}", self.name, answer.status, answer.body);
        }
        Ok(())
    }

    /// Streams it knows, with how many clients it counts for each, publisher included.
    pub fn streams(&self) -> Result<Vec<(String, usize)>> {
        let page = http::get(self.stat, "/")?.body;
        let streams = page.split("<stream>").skip(1).map(|part| {
            let own = part.split("</stream>").next().unwrap_or_default();
            // The first name is the stream's; the clients' data follow.
            let name = between(own, "<name>", "</name>").unwrap_or_default();
            (name.to_owned(), own.matches("<client>").count())
        });
        Ok(streams.collect())
    }

    /// Whether somebody publishes this stream here.
    pub fn has_publisher(&self, stream: &str) -> Result<bool> {
        let page = http::get(self.stat, "/")?.body;
        let name = format!("<name>{stream}</name>");
        let mut streams = page.split("<stream>").skip(1);
        Ok(streams.any(|part| {
            let own = part.split("</stream>").next().unwrap_or_default();
            own.contains(&name) && own.contains("<publishing/>")
        }))
    }

    /// Waits until it serves this playlist or MPD with some segments: FFmpeg asks for one that
    /// is not there yet, again and again, when there are fewer.
    pub fn wait_for(&self, path: &str) -> Result<()> {
        wait::until_true(&format!("{path} has segments"), Duration::from_secs(20), || {
            let answer = http::get(self.http, path)?;
            let segments = ["#EXTINF:", "<S t="].map(|mark| answer.body.matches(mark).count());
            Ok(answer.status == 200 && segments.iter().any(|&count| count >= 3))
        })
    }

    fn home(&self) -> PathBuf {
        self.folder.join(format!("nginx-{}", self.name))
    }

    fn config(&self) -> String {
        let Self { rtmp, listen_options, http, stat, .. } = self;
        let load = module("rtmp").map(|path| format!("load_module {};", path.display()));
        let load = load.unwrap_or_default();
        // One process, in the foreground, with all that it writes below its own folder.
        format!(
            "{load}
daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 4096; }}
rtmp {{
    access_log off;
    server {{
        listen {rtmp} {listen_options};
        chunk_size 4096;
        publish_notify on;
        wait_key on; wait_video on;
        hls_fragment 1s; hls_playlist_length 6s;
        dash_fragment 1s; dash_playlist_length 6s;
        application live {{
            live on;
            hls on; hls_path hls/live;
            dash on; dash_path dash/live;
        }}
        application nested {{
            live on;
            hls on; hls_nested on; hls_path hls/nested;
            dash on; dash_nested on; dash_path dash/nested;
        }}
    }}
}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    types {{
        application/vnd.apple.mpegurl m3u8; video/mp2t ts;
        application/dash+xml mpd; video/mp4 m4v; audio/mp4 m4a;
    }}
    server {{ listen {stat}; location / {{ rtmp_stat all; }} }}
    server {{
        listen {http};
        location / {{ root hls; }}
        location ~ [.](mpd|m4v|m4a)$ {{ root dash; }}
    }}
}}
"
        )
    }
}

/// The module of this name as a file, where a system keeps it; none if it is linked in.
pub(crate) fn module(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/etc/nginx/modules"];
    let file = format!("ngx_{name}_module.so");
    let mut files = folders.map(|folder| Path::new(folder).join(&file)).into_iter();
    files.find(|file| file.is_file())
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    Some(text.split_once(open)?.1.split_once(close)?.0)
}
