//! A real browser without a window: headless Chromium, driven over its debugging port.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client};

use crate::process::{self, Process};
use crate::{http, wait};

/// One browser with one page. Ended when dropped.
#[derive(Debug)]
pub struct Browser {
    socket: WebSocket<TcpStream>,
    last_id: u64,
    complaints: Vec<String>,
    process: Process,
}

impl Browser {
    /// Starts one of this name; its profile is new and lies in the folder.
    pub fn start(folder: &Path, name: &str) -> Result<Self> {
        let profile = folder.join(format!("{name}-profile"));
        let mut chromium = Command::new(find()?);
        chromium.env("HOME", folder).args(FLAGS);
        chromium.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let mut process = Process::start(&mut chromium, folder, name)?;
        let address = wait::until("the browser listens", START, || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(status)));
            }
            // Its first line is the port; the second one tells that the first is whole.
            let said = fs::read_to_string(profile.join("DevToolsActivePort"))?;
            let (port, _) = said.split_once('\n').context("half a file")?;
            Ok(Some(Ok(([127, 0, 0, 1], port.parse::<u16>()?).into())))
        })?;
        let address = match address {
            Ok(address) => address,
            Err(status) => bail!("the browser ended with {status}: {}", process.log()),
        };
        let url = wait::until("the browser has a page", START, || {
            let list = http::get(address, "/json/list")?.json()?;
            let pages = list.as_array().context("no list")?;
            let page = pages.iter().find(|target| at(target, "/type") == "page");
            Ok(page.and_then(|page| at(page, "/webSocketDebuggerUrl").as_str()).map(str::to_owned))
        })?;
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let (socket, _) = client(url, stream).map_err(|error| anyhow!("{error}"))?;
        // From now on a pause is not the end: each command has a deadline of its own.
        socket.get_ref().set_read_timeout(Some(PAUSE))?;
        let mut browser = Self { socket, last_id: 0, complaints: Vec::new(), process };
        for domain in ["Page", "Runtime", "Log"] {
            browser.command(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.command("Page.navigate", &json!({"url": url}))?;
        if let Some(error) = at(&answer, "/errorText").as_str() {
            bail!("{url}: {error}");
        }
        wait::until_true("the page is loaded", ANSWER, || {
            Ok(self.evaluate("document.readyState")? == "complete")
        })
    }

    /// Opens a player page and waits until its video has shown so many seconds of media; an error
    /// tells what the page says.
    pub fn play(&mut self, url: &str, seconds: f64, limit: Duration) -> Result<()> {
        self.open(url)?;
        wait::until_true(&format!("{url} plays for {seconds} s"), limit, || {
            let said = self.evaluate(PLAYED)?;
            let played = at(&said, "/seconds").as_f64().context("no video")?;
            ensure!(played >= seconds, "{played} s, and the page says: {}", at(&said, "/text"));
            Ok(true)
        })
    }

    /// Runs this script in every page that is opened from now on, before the page's own.
    pub fn run_first(&mut self, script: &str) -> Result<()> {
        let script = json!({"source": script});
        self.command("Page.addScriptToEvaluateOnNewDocument", &script).map(drop)
    }

    /// The value of a JavaScript expression in the page; a promise is waited for.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let answer = self.command(
            "Runtime.evaluate",
            &json!({"expression": expression, "awaitPromise": true, "returnByValue": true}),
        )?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {}", at(thrown, "/exception/description"));
        }
        Ok(at(&answer, "/result/value").clone())
    }

    /// Makes the page as large as this, in pixels.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", &size).map(drop)
    }

    /// Writes what is seen as PNG.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        let answer = self.command("Page.captureScreenshot", &json!({"format": "png"}))?;
        let picture = at(&answer, "/data").as_str().context("no picture")?;
        Ok(fs::write(path, BASE64.decode(picture.as_bytes())?)?)
    }

    /// Errors of the console so far: uncaught exceptions, refused loads and answers.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// One command and its result. Events in between are looked through for complaints.
    fn command(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last_id += 1;
        let command = json!({"id": self.last_id, "method": method, "params": parameters});
        self.socket.send(Message::text(command.to_string()))?;
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            let text = match self.socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error).context("the browser's connection"),
            };
            let message: Value = serde_json::from_str(&text)?;
            if at(&message, "/id") == self.last_id {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(at(&message, "/result").clone());
            }
            self.complaints.extend(complaint(&message));
        }
        bail!("{method}: no answer within {ANSWER:?}")
    }
}

/// Where the browser is: `chromium`, or what Ubuntu users have instead of its snap.
fn find() -> Result<PathBuf> {
    process::find("chromium").or_else(|_| process::find("google-chrome"))
}

fn is_timeout(error: &tungstenite::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error, tungstenite::Error::Io(error) if matches!(error.kind(), TimedOut | WouldBlock))
}

fn complaint(event: &Value) -> Option<String> {
    match at(event, "/method").as_str()? {
        "Runtime.exceptionThrown" => Some(at(event, "/params/exceptionDetails").to_string()),
        "Log.entryAdded" if at(event, "/params/entry/level") == "error" => {
            Some(at(event, "/params/entry").to_string())
        }
        _ => None,
    }
}

/// What is there, or null.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

const FLAGS: [&str; 14] = [
    "--headless",
    // Containers and root have no user namespaces for the sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // A test picture for a camera, and nobody who has to allow it.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    // WebRTC leaves loopback out, and has no other.
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
];

/// Time that was shown, wherever in the media it lies, and all words of the page.
const PLAYED: &str = "(({played}) => ({
    seconds: Array.from({length: played.length}, (_, i) => played.end(i) - played.start(i)).reduce((a, b) => a + b, 0),
    text: document.body.innerText,
}))(document.querySelector('video'))";

const START: Duration = Duration::from_secs(30);
/// For one command; a promise is part of it.
const ANSWER: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
