//! The classifier on the host. That the kernel agrees is shown in the package `tests`.

mod frames;

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proxy_ebpf::parse::MAX_HEADERS;
use proxy_ebpf::{Frame, Reason, classify};

use self::frames::{any_frame, samples};

#[test]
fn every_frame_is_taken_for_what_it_is() {
    for sample in samples() {
        assert_eq!(classify(&sample.frame[..]), sample.reason, "{}", sample.story);
    }
}

#[test]
fn no_reason_is_without_a_frame() {
    for reason in Reason::ALL {
        let shown = samples().iter().any(|sample| sample.reason == reason);
        assert!(shown, "no sample is {}", reason.as_str());
    }
}

#[test]
fn any_frame_meets_every_reason() {
    let mut runner = TestRunner::deterministic();
    let mut draw = || any_frame().new_tree(&mut runner).expect("a frame").current();
    let met: HashSet<_> = (0..2048).map(|_| classify(&draw()[..])).collect();
    for reason in Reason::ALL {
        assert!(met.contains(&reason), "no frame was {}", reason.as_str());
    }
}

#[test]
fn every_prefix_of_a_frame_is_cut_short_or_already_known() {
    for sample in samples() {
        for len in 0..sample.frame.len() {
            assert_prefix(&sample.frame, len);
        }
    }
}

#[test]
fn a_read_ends_with_the_frame() {
    let frame: &[u8] = &[1, 2, 3];
    assert_eq!(frame.read(1), Some([2, 3]));
    assert_eq!(frame.read::<2>(2), None, "one byte is left");
    assert_eq!(frame.read::<2>(4), None, "the offset is behind the frame");
    assert_eq!(frame.read::<2>(usize::MAX), None, "the offset is the last there is");
}

proptest! {
    #[test]
    fn no_bytes_bring_the_classifier_down(frame in vec(any::<u8>(), 0..128)) {
        let _ = classify(&frame[..]);
    }

    #[test]
    fn more_bytes_only_complete_what_was_cut_short(frame in any_frame(), len in 0_usize..128) {
        assert_prefix(&frame, len.min(frame.len()));
    }

    #[test]
    fn nothing_is_read_behind_the_headers(frame in any_frame()) {
        let headers = frame.len().min(MAX_HEADERS as usize);
        prop_assert_eq!(classify(&frame[..headers]), classify(&frame[..]));
    }
}

#[track_caller]
fn assert_prefix(frame: &[u8], len: usize) {
    let (whole, prefix) = (classify(frame), classify(frame.get(..len).unwrap_or(frame)));
    assert!(
        prefix == Reason::Truncated || prefix == whole,
        "{len} bytes are {}, all of them {}: {frame:02x?}",
        prefix.as_str(),
        whole.as_str()
    );
}
