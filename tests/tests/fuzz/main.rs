//! Every parser that reads bytes from outside, under every input that could be thought of.
//!
//! Each target is a test: it replays its corpus, beside it in `__fuzz__`, and some random inputs.
//! `cargo bolero` runs the same targets under a fuzzing engine. The machines and parsers that the
//! proxy keeps to itself have their targets beside them, in `fuzz.rs`.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target says what it found by panicking"
)]

mod amf;
mod chunk;
mod corpus;
mod frame;
mod handshake;
mod http;
mod ice;
mod manifests;
mod memo;
mod names;
mod oracle;
mod proxy_protocol;
mod records;
mod signalling;
mod split;
mod srt;

/// Random inputs of each target where no fuzzing engine runs.
const RANDOM: usize = 1000;
