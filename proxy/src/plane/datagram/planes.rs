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

    /// The kernel's.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// A flow as the kernel's plane knows it: that has the flows of every medium, and each medium
    /// counts its own generations.
    fn in_kernel(&self, flow: &Flow) -> Flow {
        Flow { generation: flow.generation << 1 | self.medium as u64, ..*flow }
    }
}

impl Offload<Arc<Lane>, Exit> for Planes {
    fn install(&mut self, flow: &Flow, lane: &Arc<Lane>, exit: &Exit) {
        self.lanes.install(flow, lane, exit);
        self.kernel.install(self.medium, &self.in_kernel(flow), lane.course());
    }

    fn remove(&mut self, flow: &Flow, lane: &Arc<Lane>) {
        self.kernel.remove(&self.in_kernel(flow));
        self.lanes.remove(flow, lane);
    }

    fn hold(&mut self, flow: &Flow, why: &'static str) -> Progress {
        self.kernel.hold(&self.in_kernel(flow), why)
    }

    fn release(&mut self, flow: &Flow) {
        self.kernel.release(&self.in_kernel(flow));
    }

    fn has_heard(&self, flow: &Flow, lane: &Arc<Lane>, leg: Leg) -> bool {
        lane.has_heard(leg) || self.kernel.has_heard(&self.in_kernel(flow), leg)
    }

    fn counters(&mut self, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        self.lanes.counters(sink);
        self.kernel.counters(self.medium, sink);
    }
}
