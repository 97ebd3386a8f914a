//! Every plane that carries the datagrams of one protocol.

use std::sync::Arc;

use super::{Delta, Exit, Flow, FlowKey, Lane, Lanes, Medium, Offload, Progress};
use crate::plane::Leg;
use crate::plane::kernel::Kernel;

/// The relay, which has every flow, and the kernel, which has those that it can carry: what it
/// does not carry comes up to the relay.
#[derive(Debug)]
pub struct Planes {
    lanes: Lanes,
    kernel: Kernel,
    medium: Medium,
}

impl Planes {
    /// These two, for flows of this medium.
    pub fn new(lanes: Lanes, kernel: Kernel, medium: Medium) -> Self {
        Self { lanes, kernel, medium }
    }

    /// Whether sessions outlive this process, so that it is worth to say what they are.
    pub fn keeps(&self) -> bool {
        self.kernel.keeps()
    }

    /// Keeps what another process needs to take over the session of a flow that is installed.
    pub fn keep(&self, flow: &Flow, memo: &[u8]) {
        self.kernel.keep(&self.of_all(flow), memo);
    }

    /// A flow as the kernel knows it, which has those of all protocols: each of these counts its
    /// generations on its own.
    fn of_all(&self, flow: &Flow) -> Flow {
        Flow { generation: flow.generation << 1 | self.medium as u64, ..*flow }
    }
}

impl Offload<Arc<Lane>, Exit> for Planes {
    fn install(&mut self, flow: &Flow, lane: &Arc<Lane>, exit: &Exit) {
        self.lanes.install(flow, lane, exit);
        self.kernel.install(self.medium, &self.of_all(flow), lane.course());
    }

    fn remove(&mut self, flow: &Flow, lane: &Arc<Lane>) {
        self.kernel.remove(&self.of_all(flow));
        self.lanes.remove(flow, lane);
    }

    fn hold(&mut self, flow: &Flow, why: &'static str) -> Progress {
        self.kernel.hold(&self.of_all(flow), why)
    }

    fn release(&mut self, flow: &Flow) {
        self.kernel.release(&self.of_all(flow));
    }

    fn has_heard(&self, flow: &Flow, lane: &Arc<Lane>, leg: Leg) -> bool {
        lane.has_heard(leg) || self.kernel.has_heard(&self.of_all(flow), leg)
    }

    fn counters(&mut self, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        self.lanes.counters(sink);
        self.kernel.counters(self.medium, sink);
    }
}
