//! Tokens, of which each has to be told from all others.

use std::collections::HashSet;

use super::*;

#[test]
fn a_token_gives_back_what_it_was_made_of() {
    let mut tokens = HashSet::from([BELL.0, u64::MAX]);
    for slot in [0, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1] {
        for generation in [0, 1, 0x4000_0000, GENERATIONS] {
            for leg in Leg::ALL {
                let token = token(slot, generation, leg);
                assert_eq!(parts(token), (slot, generation, leg));
                assert!(tokens.insert(token.0), "{token:?} is another's");
            }
        }
    }
}

#[test]
fn behind_the_last_generation_comes_the_first() {
    assert_eq!(GENERATIONS.wrapping_add(1) & GENERATIONS, 0);
}
