//! Pieces in which bytes may come.

/// Cuts in places that look random and depend on the bytes alone, so that a failure repeats.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [low, high, kind, ..] = (state >> 24).to_le_bytes();
        let length = match kind % 3 {
            0 => usize::from(low % 4),
            1 => usize::from(low),
            _ => usize::from(u16::from_le_bytes([low, high % 8])),
        };
        let (now, later) = rest.split_at(length.min(rest.len()));
        pieces.push(now);
        rest = later;
    }
    pieces
}

/// Two pieces, for every place between them.
pub(crate) fn in_two(bytes: &[u8]) -> impl Iterator<Item = [&[u8]; 2]> {
    (0..=bytes.len()).map(|at| {
        let (before, behind) = bytes.split_at(at);
        [before, behind]
    })
}
