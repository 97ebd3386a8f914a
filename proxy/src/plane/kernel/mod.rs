//! The plane in the kernel: flows whose media never reaches this process.
//!
//! It is a cache of what userspace has decided. [`Kernel`] is told of every flow, as any plane is;
//! `flows` decides which of them the kernel can carry, and why not the others; `hops` knows where
//! their packets leave this host; `programs` are what carries them. Where there is none of this,
//! everything is refused, and the relay carries all.

#[cfg(target_os = "linux")]
mod flows;
#[cfg(target_os = "linux")]
pub mod hops;
#[cfg(target_os = "linux")]
mod on;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod on;
#[cfg(target_os = "linux")]
pub mod privilege;
#[cfg(target_os = "linux")]
pub mod programs;

use std::sync::Arc;
use std::time::Instant;

use proxy_ebpf::Reason;
use serde::Serialize;
use tracing::{info, warn};

use self::on::On;
use super::Leg;
use super::datagram::{Course, Delta, Engine, Flow, FlowKey, Medium, Progress, Refused};
use crate::config::{self, Config, KernelMode};

/// The plane, or why there is none. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Kernel(Result<Arc<On>, Refused>);

/// What all processes that follow each other have to know, beside the sessions.
pub type Secret = [u8; 32];

/// What there is of the plane, as the API and the metrics show it.
#[derive(Clone, Debug, Serialize)]
pub struct KernelView {
    /// What carries flows, unless something is in the way of one.
    pub engine: &'static str,
    /// Why it is not the fastest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Interfaces that were considered.
    pub interfaces: Vec<InterfaceView>,
    /// Flows in the kernel.
    pub flows: usize,
    /// Flows for which it has room.
    pub capacity: u32,
    /// What became of packets that came by these interfaces, in the order of [`Reason::ALL`].
    #[serde(serialize_with = "by_reason")]
    pub packets: [u64; Reason::ALL.len()],
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The engine of its program; the relay if it has none.
    pub engine: &'static str,
    /// Why it is not a faster one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Kernel {
    /// None, and this is why.
    pub fn off(why: impl Into<Refused>) -> Self {
        Self(Err(why.into()))
    }

    /// Loads and attaches the programs, as far as this host lets it. To be called before there is
    /// any other thread: what the process may do is given up behind it, and each thread has its own
    /// rights.
    pub fn load(config: &Config) -> Self {
        Self(On::load(config).map(Arc::new))
    }

    /// Tells the operator what there is: aloud, if there is less than was asked for by name.
    pub fn introduce(&self, settings: &config::Kernel) {
        let KernelView { engine, reason, interfaces, capacity, .. } = self.view();
        let is_missed = match settings.mode {
            KernelMode::Off => false,
            KernelMode::Auto => settings.pin.is_some() && capacity == 0,
            KernelMode::Xdp | KernelMode::XdpGeneric | KernelMode::Tc => capacity == 0,
        };
        if is_missed {
            warn!(engine, reason, "the kernel packet path is not there: see `srs-proxy doctor`");
        } else {
            info!(engine, reason, capacity, "datagrams are carried");
        }
        if let Some(sessions) = self.0.as_ref().ok().and_then(|on| on.replaced()) {
            warn!(sessions, "pinned by another version, or for another PROXY_EBPF_FLOWS: ended");
        }
        for InterfaceView { name, engine, reason, .. } in interfaces {
            if engine == Engine::Relay.as_str() {
                warn!(interface = name, engine, reason, "kernel packet path");
            } else {
                info!(interface = name, engine, reason, "kernel packet path");
            }
        }
    }

    /// Carries this flow from here on, if it can. The course tells.
    pub fn install(&self, medium: Medium, flow: &Flow, course: &Arc<Course>) {
        match &self.0 {
            Ok(on) => on.install(medium, flow, course),
            Err(why) => {
                course.change(Engine::Relay, Some(why.clone()), Instant::now());
            }
        }
    }

    /// Carries it no longer: from here on nothing is forwarded by it, and all is counted.
    pub fn remove(&self, flow: &Flow) {
        if let Ok(on) = &self.0 {
            on.remove(flow);
        }
    }

    /// Lets packets of a flow come up until it is released.
    pub fn hold(&self, flow: &Flow, why: &'static str) -> Progress {
        self.0.as_ref().map(|on| on.hold(flow, why)).unwrap_or_default()
    }

    /// Ends a hold.
    pub fn release(&self, flow: &Flow) {
        if let Ok(on) = &self.0 {
            on.release(flow);
        }
    }

    /// Whether something has come of a leg since the counters were read.
    pub fn has_heard(&self, flow: &Flow, leg: Leg) -> bool {
        self.0.as_ref().is_ok_and(|on| on.has_heard(flow, leg))
    }

    /// Counts what has come by the flows of a medium, and gives it.
    pub fn counters(&self, medium: Medium, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        if let Ok(on) = &self.0 {
            on.counters(medium, sink);
        }
    }

    /// Whether sessions outlive this process, so that it is worth to say what they are.
    pub fn keeps(&self) -> bool {
        self.0.as_ref().is_ok_and(|on| on.keeps())
    }

    /// Keeps what another process needs to take over the session of a flow. What is too long is
    /// not kept.
    pub fn keep(&self, flow: &Flow, memo: &[u8]) {
        if let Ok(on) = &self.0 {
            on.keep(flow, memo);
        }
    }

    /// What an earlier process has kept, once. Its flows go on until [`Self::sweep`].
    pub fn left(&self) -> Vec<Vec<u8>> {
        self.0.as_ref().map(|on| on.left()).unwrap_or_default()
    }

    /// A secret that outlives this process as its flows do: the one of an earlier process, else
    /// `fresh`.
    pub fn inherit(&self, fresh: Secret) -> Secret {
        self.0.as_ref().map_or(fresh, |on| on.inherit(fresh))
    }

    /// Takes away what an earlier process has left and this one has not taken over.
    pub fn sweep(&self) {
        if let Ok(on) = &self.0 {
            on.sweep();
        }
    }

    /// Learns where packets leave this host. If the system does not tell, there is no such plane.
    pub async fn open(self) -> Self {
        let opened = match &self.0 {
            Ok(on) => on.open().await,
            Err(_) => return self,
        };
        match opened {
            Ok(()) => self,
            Err(why) => {
                self.close();
                Self(Err(why))
            }
        }
    }

    /// Follows what changes on this host. Returns never.
    pub async fn watch(&self) {
        match &self.0 {
            Ok(on) => on.watch().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// What there is.
    pub fn view(&self) -> KernelView {
        match &self.0 {
            Ok(on) => on.view(),
            Err(why) => KernelView::none(why.to_string()),
        }
    }

    /// Leaves nothing behind in the kernel.
    pub fn close(&self) {
        if let Ok(on) = &self.0 {
            on.close();
        }
    }
}

impl KernelView {
    fn none(why: String) -> Self {
        Self {
            engine: Engine::Relay.as_str(),
            reason: Some(why),
            interfaces: Vec::new(),
            flows: 0,
            capacity: 0,
            packets: [0; Reason::ALL.len()],
        }
    }
}

fn by_reason<S: serde::Serializer>(
    packets: &[u64; Reason::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Reason::ALL.iter().map(|reason| reason.as_str()).zip(packets))
}
