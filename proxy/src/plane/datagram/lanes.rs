//! The portable plane: every flow, found without a lock.

use std::sync::{Arc, Weak};

use super::{Delta, Exit, Flow, FlowKey, Lane};

/// The lanes of all flows that are installed. A clone is the same table.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Arc<papaya::HashMap<FlowKey, Installed>>);

#[derive(Debug)]
struct Installed {
    /// Of the session, which closes it: what is removed from the table is freed some time later.
    lane: Weak<Lane>,
    generation: u64,
}

impl Lanes {
    /// Does something with the lane of a flow. None if there is no such flow.
    pub fn with<R>(&self, key: &FlowKey, act: impl FnOnce(&Lane) -> R) -> Option<R> {
        let lane = self.0.pin().get(key)?.lane.upgrade()?;
        Some(act(&lane))
    }

    /// How many flows there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Carries this flow from here on, in the place of one that has the same key.
    pub(super) fn install(&self, flow: &Flow, lane: &Arc<Lane>, exit: &Exit) {
        lane.leave_by(flow.generation, exit.clone());
        let installed = Installed { lane: Arc::downgrade(lane), generation: flow.generation };
        self.0.pin().insert(flow.key, installed);
    }

    /// Carries it no longer. Another one that has taken its place stays.
    pub(super) fn remove(&self, flow: &Flow, lane: &Lane) {
        let is_this = |_: &_, installed: &Installed| installed.generation == flow.generation;
        let _another = self.0.pin().remove_if(&flow.key, is_this);
        lane.leave_no_more_by(flow.generation);
    }

    /// Gives what has come by each flow by which something has, since the last call.
    pub(super) fn counters(&self, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        for (key, installed) in &self.0.pin() {
            let delta = installed.lane.upgrade().map(|lane| lane.delta());
            if let Some(delta) = delta.filter(|delta| *delta != Delta::default()) {
                sink(key, delta);
            }
        }
    }
}
