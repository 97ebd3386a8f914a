//! The programs in the kernel: they send packets of known flows on, and let all others pass up.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod programs;

/// The host has no use for these programs, but can check that they are well-formed Rust.
#[cfg(not(target_arch = "bpf"))]
fn main() -> Result<(), &'static str> {
    Err("these programs run in the kernel: build them with `cargo xtask build-ebpf`")
}
