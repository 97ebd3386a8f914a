//! Which contract an object was built for, and the names of its programs.

/// Version of everything in this crate that the daemon relies on. Whoever changes a map, a
/// reason or a program's name raises it.
pub const CONTRACT: u32 = 3;

/// The program for an interface's XDP hook. At most 15 bytes, as all names in the kernel.
pub const XDP_UDP: &str = "srs_xdp_udp";

/// The program for an interface's TC ingress hook.
pub const TC_UDP: &str = "srs_tc_udp";

/// What stands once in every object: a text to find it by, then [`CONTRACT`] in little endian.
pub const MARK: [u8; MARK_LEN] = {
    let mut mark = *b"srs-proxy contract \0\0\0\0";
    let (_, version) = mark.split_at_mut(MARK_TEXT.len());
    version.copy_from_slice(&CONTRACT.to_le_bytes());
    mark
};

/// The contract that `object` was built for; `None` if it is none of our objects.
pub fn contract_of(object: &[u8]) -> Option<u32> {
    object.windows(MARK_LEN).find_map(|window| {
        let version = window.strip_prefix(MARK_TEXT)?;
        Some(u32::from_le_bytes(version.try_into().ok()?))
    })
}

const MARK_TEXT: &[u8] = b"srs-proxy contract ";
const MARK_LEN: usize = MARK_TEXT.len() + size_of::<u32>();

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{CONTRACT, MARK, contract_of};

    #[test]
    fn the_contract_is_found_wherever_the_mark_stands() {
        for before in 0..9 {
            let object: Vec<u8> = [&[0x7f; 9][..before], &MARK, b"srs-proxy contract"].concat();
            assert_eq!(contract_of(&object), Some(CONTRACT), "{before} bytes before the mark");
        }
    }

    #[test]
    fn bytes_without_a_whole_mark_are_no_object_of_ours() {
        for len in 0..MARK.len() {
            assert_eq!(contract_of(&MARK[..len]), None, "{len} bytes of the mark");
        }
    }
}
