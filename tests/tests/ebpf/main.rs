//! The kernel programs in this kernel: the object keeps its contract, the verifier takes it, and
//! of every frame becomes what the packet core makes of it on the host, byte by byte.
//!
//! Needs the object of `cargo xtask build-ebpf` (`SRS_PROXY_BPF_OBJECT` names another one) and
//! the right to load it. `SRS_PROXY_SKIP_EBPF=1` skips these tests, and says so.
#![cfg(target_os = "linux")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "all frames are made here, and a wrong one is to fail the test"
)]

mod forwarding;
#[path = "../../../proxy-ebpf/tests/frames/mod.rs"]
mod frames;
mod kernel;
mod object;
mod wire;
