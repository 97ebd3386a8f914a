//! The contract of the kernel programs.
#![no_std]
