//! The plane where there is one: what it is told, and what it hears of this host.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proxy_ebpf::Reason;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::flows::{Flows, paths};
use super::hops::{Answer, Event, Hops, Link, Path};
use super::programs::{KernelMaps, Programs, Settings};
use super::{InterfaceView, KernelView};
use crate::config;
use crate::plane::Leg;
use crate::plane::datagram::{Course, Delta, Engine, Flow, FlowKey, Medium, Progress, Refused};

/// Programs, and the flows that they carry.
///
/// All writes to the maps are made under the one lock of `flows`, each of one or two microseconds.
/// Whoever holds both locks has taken that of `programs` first.
#[derive(Debug)]
pub(super) struct On {
    flows: Mutex<Flows<KernelMaps>>,
    programs: Mutex<Programs>,
    hops: OnceLock<Hops>,
    /// Interfaces that the operator has named; none if they follow from the routes.
    named: Option<BTreeSet<String>>,
    /// There are interfaces of which nothing was known so far.
    wanted: Notify,
}

/// How often it is looked whether the programs are still there.
const CHECK: Duration = Duration::from_secs(1);

/// How long to wait when the system does not say what it knows.
const PAUSE: Duration = Duration::from_secs(1);

impl On {
    /// Loads the programs and attaches them where flows will come by.
    pub(super) fn load(
        settings: &config::Kernel,
        listeners: &[IpAddr],
    ) -> Result<Self, Refused> {
        let programs = Programs::load(settings).map_err(|error| Refused::from(error.to_string()))?;
        let on = Self {
            flows: Mutex::new(Flows::new(programs.maps(), settings.flows)),
            programs: Mutex::new(programs),
            hops: OnceLock::new(),
            watch: Mutex::new(None),
            named: settings.interfaces.clone(),
            wanted: Mutex::default(),
            news: Notify::new(),
        };
        let found = system(listeners).map_err(|error| Refused::from(format!("netlink: {error}")))?;
        on.arrange(&found.links, &found.wanted);
        Ok(on)
    }

    /// Learns what this host knows of its neighbours, and listens from here on.
    pub(super) async fn open(&self) -> Result<(), Refused> {
        let (hops, watch) =
            Hops::open().await.map_err(|error| Refused::from(format!("netlink: {error}")))?;
        let _is_first = self.hops.set(hops);
        *self.watch.lock() = Some(watch);
        Ok(())
    }
}
