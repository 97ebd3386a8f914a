//! The kernel programs, as far as this binary carries them.

/// The object that `cargo xtask build-ebpf` had built before this binary was; always of the
/// contract that this binary speaks, and aligned as an ELF file wants it. `None` without one,
/// and on every system but Linux.
pub static OBJECT: Option<&[u8]> = if EMBEDDED.0.is_empty() { None } else { Some(&EMBEDDED.0) };

/// Written by the build script: a copy of the object, or nothing.
static EMBEDDED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/srs-proxy.bpf.o")));

/// A 64-bit ELF file is read in words of eight bytes.
#[derive(Debug)]
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

#[cfg(test)]
mod tests {
    use proxy_ebpf::CONTRACT;

    use super::OBJECT;

    #[test]
    fn an_embedded_object_is_one_of_this_contract() {
        let Some(object) = OBJECT else { return };
        assert!(object.starts_with(b"\x7fELF"), "no ELF file was embedded");
        assert_eq!(object.as_ptr().align_offset(8), 0, "the object is not aligned");
        assert_eq!(proxy_ebpf::contract::contract_of(object), Some(CONTRACT));
    }
}
