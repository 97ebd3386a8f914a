//! A scripted HTTP origin.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use socket2::SockRef;

use super::message::{Framing, Reader, Request};
use crate::netns::Namespace;
use crate::{http, wait};

/// An origin of one thread per connection. Its connections close when dropped.
pub struct Origin {
    address: SocketAddr,
    /// Where its listener is.
    home: Namespace,
    shared: Arc<Shared>,
}

/// Answers one request. An error closes the connection; so does [`Exchange::close`].
type Answer = dyn Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    over: AtomicBool,
    accepted: AtomicUsize,
    open: Mutex<BTreeMap<usize, TcpStream>>,
    requests: Mutex<Vec<Request>>,
    faults: Mutex<Vec<String>>,
}

impl Origin {
    /// Listens on a free port of loopback, and answers every request so.
    pub fn start(
        answer: impl Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), answer)
    }

    /// Listens on a free port of this host.
    pub fn start_at(
        host: IpAddr,
        answer: impl Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            over: AtomicBool::default(),
            accepted: AtomicUsize::default(),
            open: Mutex::default(),
            requests: Mutex::default(),
            faults: Mutex::default(),
        });
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.accept(&listener));
        Ok(Self { address, home: Namespace::of_this_thread()?, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        register(self.address, proxy, name)
    }

    /// Every request so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    /// What came and was no request.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.shared.faults).clone()
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Closes every open connection, as an origin does with those it has kept long enough.
    pub fn close_all(&self) {
        for socket in lock(&self.shared.open).values() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Registers an origin of HTTP, which also is its API, with a proxy under this name. It has no RTMP,
/// which an origin must offer.
pub fn register(origin: SocketAddr, proxy: SocketAddr, name: &str) -> Result<()> {
    let body = json!({
        "ip": origin.ip(),
        "server": format!("vid-{name}"),
        "service": name,
        "pid": "1",
        "rtmp": [origin.port().to_string()],
        "http": [origin.port().to_string()],
        "api": [origin.port().to_string()],
    });
    let answer = http::post(proxy, "/api/v1/srs/register", &body.to_string())?;
    ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.body);
    Ok(())
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.close_all();
        // Wakes the listener, so that it sees that it is over.
        let _ = self.home.within(|| Ok(TcpStream::connect(self.address)?));
    }
}

/// A connection whose request waits for its answer.
pub struct Exchange<'a> {
    reader: &'a mut Reader,
    is_head: bool,
    is_last: bool,
}

impl Exchange<'_> {
    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.reader.socket.write_all(bytes.as_ref())?)
    }

    /// A whole response with a Content-Length. `status` is a code and a phrase; `lines` are
    /// further fields, each ended by CR LF.
    pub fn answer(&mut self, status: &str, lines: &str, body: impl AsRef<[u8]>) -> Result<()> {
        let body = body.as_ref();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {length}\r\n\r\n");
        let body = if self.is_head { &[] } else { body };
        // One write: a head alone would be a packet of its own.
        self.send([head.as_bytes(), body].concat())
    }

    /// The connection closes behind this answer.
    pub fn close(&mut self) {
        self.is_last = true;
    }

    /// The connection is reset behind what was sent so far, and not closed in order.
    pub fn reset(&mut self) -> Result<()> {
        self.is_last = true;
        Ok(SockRef::from(&self.reader.socket).set_linger(Some(Duration::ZERO))?)
    }

    /// Whether the other end has closed, or has sent what nobody asked for.
    pub fn is_disturbed(&self) -> Result<bool> {
        self.reader.socket.set_nonblocking(true)?;
        let seen = self.reader.socket.peek(&mut [0]);
        self.reader.socket.set_nonblocking(false)?;
        Ok(!matches!(seen, Err(error) if error.kind() == ErrorKind::WouldBlock))
    }

    /// Holds the answer until this is so; fails if the other end closes before.
    pub fn hold(&self, until: impl Fn() -> bool) -> Result<()> {
        wait::until_true("the end of a held answer", LIFE, || Ok(until() || self.is_disturbed()?))?;
        if self.is_disturbed()? {
            bail!("the other end did not wait");
        }
        Ok(())
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming().flatten() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let number = self.accepted.fetch_add(1, Ordering::Relaxed);
            let Ok(listed) = socket.try_clone() else { continue };
            lock(&self.open).insert(number, listed);
            let connection = Arc::clone(self);
            let serve = move || {
                let mut reader = Reader::new(socket);
                if let Err(error) = connection.serve(&mut reader, number) {
                    lock(&connection.faults).push(format!("{error:#}"));
                }
                // A reset must not be announced by an end in order.
                if matches!(SockRef::from(&reader.socket).linger(), Ok(None)) {
                    let _ = reader.socket.shutdown(Shutdown::Both);
                }
                lock(&connection.open).remove(&number);
            };
            if thread::Builder::new().stack_size(STACK).spawn(serve).is_err() {
                lock(&self.open).remove(&number);
            }
        }
    }

    /// Serves a connection to its end; an error is a request that is none.
    fn serve(&self, reader: &mut Reader, connection: usize) -> Result<()> {
        reader.socket.set_nodelay(true)?;
        reader.socket.set_write_timeout(Some(LIFE))?;
        for place in 0.. {
            let Some(head) = reader.head()? else { break };
            let length = head.framing(Framing::Length(0))?;
            if head.lists("expect", "100-continue") {
                reader.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = reader.body(length, usize::MAX)?;
            let request = Request { head, body, connection, place };
            lock(&self.requests).push(request.clone());
            let is_last = request.head.lists("connection", "close");
            let mut exchange = Exchange { reader, is_head: request.method() == "HEAD", is_last };
            if (self.answer)(&request, &mut exchange).is_err() || exchange.is_last {
                break;
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longer than any test, so that a connection that nobody ends is seen as one.
const LIFE: Duration = Duration::from_mins(5);
/// A thread of a connection needs little, and there may be a thousand.
const STACK: usize = 256 * 1024;
