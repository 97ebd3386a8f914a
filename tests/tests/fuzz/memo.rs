//! What one process has left to the next: bytes in a map that others may write to as well.

use bolero::check;
use srs_proxy::session::memo::{BadMemo, Memo};

use crate::{RANDOM, corpus};

#[test]
fn decode() {
    check!().with_iterations(RANDOM).with_max_len(2 * Memo::MAX).for_each(|input: &[u8]| {
        let Ok(memo) = Memo::decode(input) else { return };
        assert!(input.len() <= Memo::MAX, "{} bytes", input.len());
        // Numbers may be written longer than they have to be.
        let written = memo.encode().expect("no longer than it was");
        assert!(written.len() <= input.len(), "{memo:?}");
        assert_eq!(Memo::decode(&written).as_ref(), Ok(&memo));
        let (key, ends) = (memo.key(), memo.flow_ends());
        assert_eq!([key.client, key.local], memo.client);
        assert_eq!([ends.near, ends.origin], memo.ends);
        if let Ok(origin) = memo.origin.origin() {
            assert!(!origin.host().as_str().is_empty());
        }
    });
}

#[test]
fn every_memo_is_whole_or_none() {
    let mut read = 0;
    for (name, bytes) in corpus::of("memo__decode") {
        if Memo::decode(&bytes).is_err() {
            continue;
        }
        read += 1;
        for length in 1..bytes.len() {
            assert_eq!(Memo::decode(&bytes[..length]), Err(BadMemo::Malformed), "{name}");
        }
        for place in 0..bytes.len() {
            let mut garbled = bytes.clone();
            garbled[place] ^= 0xff;
            // Nobody can see that a port is another one; what must not be is a panic.
            let _ = Memo::decode(&garbled).map(|memo| memo.origin.origin());
        }
    }
    assert!(read >= 2, "{read} memos in the corpus can be read");
}
