//! The programs that were built, loaded, with flows.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, util};
use proxy_ebpf::contract::{TC_UDP, XDP_UDP};
use proxy_ebpf::maps::{DEVICES, FLOWS_GLOBAL, Key, PORTS, Ports, WAYS, Way, sizes};

use super::packet::{Macs, Pair};

/// The object, in this kernel.
pub(super) struct Object {
    ebpf: Ebpf,
}

/// From which interface a flow comes, and where it goes on.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub(super) from: u32,
    pub(super) interface: u32,
    pub(super) macs: Macs,
}

impl Object {
    /// Loads it with room for so many sessions.
    pub(super) fn load(sessions: u32) -> Result<Self> {
        let file: PathBuf = env::var_os(OBJECT).context(NO_OBJECT)?.into();
        let object = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let cpus = u32::try_from(util::nr_cpus().map_err(|(file, error)| error_of(file, error))?)?;
        let mut loader = EbpfLoader::new();
        loader.override_global(FLOWS_GLOBAL, &sessions, true);
        // As the daemon loads it: what it does not ask for is not in the programs.
        loader.override_global(aya_log::LEVEL, &0_u8, true);
        for map in sizes(sessions, cpus) {
            loader.map_max_entries(map.name, map.capacity);
        }
        let mut ebpf = loader.load(&object)?;
        let xdp: &mut Xdp = ebpf.program_mut(XDP_UDP).context(XDP_UDP)?.try_into()?;
        xdp.load()?;
        let tc: &mut SchedClassifier = ebpf.program_mut(TC_UDP).context(TC_UDP)?.try_into()?;
        tc.load()?;
        Ok(Self { ebpf })
    }

    /// Lists a flow of the session `slot` in this direction: `here` becomes `there`, which is of the
    /// same family. To be called in the namespace of its interfaces.
    pub(super) fn add(
        &mut self,
        slot: u32,
        leg: u32,
        here: Pair,
        there: Pair,
        hop: Hop,
    ) -> Result<()> {
        let key = here.key()?;
        let way = Way::new(&key, there.from, there.to).context("a flow of two families")?;
        let way = Way {
            destination_mac: hop.macs.to,
            source_mac: hop.macs.from,
            mtu: 1500,
            interface: hop.interface,
            from_interface: hop.from,
            slot,
            leg,
            generation: 1,
            ..way
        };
        let mut ways: HashMap<&mut MapData, Key, Way> =
            self.ebpf.map_mut(WAYS.name).context(WAYS.name)?.try_into()?;
        ways.insert(key, way, 0)?;
        let mut devices: DevMapHash<&mut MapData> =
            self.ebpf.map_mut(DEVICES.name).context(DEVICES.name)?.try_into()?;
        devices.insert(hop.interface, hop.interface, None, 0)?;
        let (index, shift) = Ports::place(here.to.port());
        let mut ports: Array<&mut MapData, u64> =
            self.ebpf.map_mut(PORTS.name).context(PORTS.name)?.try_into()?;
        let word = ports.get(&index, 0)? | Ports::WEBRTC << shift;
        Ok(ports.set(index, word, 0)?)
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(XDP_UDP).context(XDP_UDP)?.try_into()?)
    }

    pub(super) fn tc(&mut self) -> Result<&mut SchedClassifier> {
        Ok(self.ebpf.program_mut(TC_UDP).context(TC_UDP)?.try_into()?)
    }
}

fn error_of(file: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("reading {file}"))
}

/// The variable that names the object.
const OBJECT: &str = "SRS_PROXY_BPF_OBJECT";
const NO_OBJECT: &str = "SRS_PROXY_BPF_OBJECT names no object: `cargo xtask bench udp` sets it";
