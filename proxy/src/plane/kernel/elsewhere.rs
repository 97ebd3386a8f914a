//! Systems whose kernel has no such plane.

use std::sync::Arc;

use super::{KernelView, Secret};
use crate::config::Config;
use crate::plane::Leg;
use crate::plane::datagram::{Course, Delta, Flow, FlowKey, Medium, Progress, Refused};

/// There is none.
#[derive(Debug)]
pub(super) enum On {}

impl On {
    pub(super) fn load(_: &Config) -> Result<Self, Refused> {
        Err("only Linux carries datagrams in the kernel".into())
    }

    pub(super) fn install(&self, _: Medium, _: &Flow, _: &Arc<Course>) {
        match *self {}
    }

    pub(super) fn remove(&self, _: &Flow) {
        match *self {}
    }

    pub(super) fn hold(&self, _: &Flow, _: &'static str) -> Progress {
        match *self {}
    }

    pub(super) fn release(&self, _: &Flow) {
        match *self {}
    }

    pub(super) fn has_heard(&self, _: &Flow, _: Leg) -> bool {
        match *self {}
    }

    pub(super) fn counters(&self, _: Medium, _: &mut dyn FnMut(&FlowKey, Delta)) {
        match *self {}
    }

    pub(super) fn replaced(&self) -> Option<usize> {
        match *self {}
    }

    pub(super) fn keeps(&self) -> bool {
        match *self {}
    }

    pub(super) fn keep(&self, _: &Flow, _: &[u8]) {
        match *self {}
    }

    pub(super) fn left(&self) -> Vec<Vec<u8>> {
        match *self {}
    }

    pub(super) fn inherit(&self, _: Secret) -> Secret {
        match *self {}
    }

    pub(super) fn sweep(&self) {
        match *self {}
    }

    pub(super) async fn open(&self) -> Result<(), Refused> {
        match *self {}
    }

    pub(super) async fn watch(self: &Arc<Self>) {
        match **self {}
    }

    pub(super) fn view(&self) -> KernelView {
        match *self {}
    }

    pub(super) fn close(&self) {
        match *self {}
    }
}
