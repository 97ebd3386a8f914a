//! The pieces in which bytes come to a machine that is fuzzed.

/// Lengths of pieces. Without a seed everything comes at once.
#[derive(Clone, Copy)]
pub(super) struct Dice(pub(super) Option<u64>);

impl Dice {
    /// Looks random, and depends on the bytes alone, so that a failure repeats.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Some(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })))
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        let Some(state) = &mut self.0 else { return sides - 1 };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x9e37_79b9);
        (*state >> 33) % sides
    }

    /// From one byte up to all of `most`, which is not zero as long as there are bytes.
    pub(super) fn piece(&mut self, most: usize) -> usize {
        if self.0.is_none() {
            return most;
        }
        let largest = [4, 64, 2048][usize::try_from(self.roll(3)).unwrap()];
        usize::try_from(1 + self.roll(largest)).unwrap().min(most)
    }
}
