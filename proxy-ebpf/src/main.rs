//! The programs in the kernel: they count what passes, and let all of it pass.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

/// The host has no use for these programs, but can check that they are well-formed Rust.
#[cfg(not(target_arch = "bpf"))]
fn main() -> Result<(), &'static str> {
    Err("these programs run in the kernel: build them with `cargo xtask build-ebpf`")
}
