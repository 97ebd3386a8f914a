//! Handshakes of FFmpeg with SRS, as they were on the wire.

/// The four packets of one.
#[derive(Clone, Copy)]
pub(super) struct Recorded {
    pub(super) induction: &'static [u8],
    pub(super) induction_answer: &'static [u8],
    pub(super) conclusion: &'static [u8],
    pub(super) conclusion_answer: &'static [u8],
}

macro_rules! recorded {
    ($name:literal) => {
        Recorded {
            induction: include_bytes!(concat!("recorded/", $name, "-induction")),
            induction_answer: include_bytes!(concat!("recorded/", $name, "-induction-answer")),
            conclusion: include_bytes!(concat!("recorded/", $name, "-conclusion")),
            conclusion_answer: include_bytes!(concat!("recorded/", $name, "-conclusion-answer")),
        }
    };
}

/// `#!::r=live/srtstream,m=publish`
pub(super) const PUBLISH: Recorded = recorded!("publish");

/// `#!::r=live/srtstream,m=request`
pub(super) const PLAY: Recorded = recorded!("play");

/// A caller with a passphrase, of which the origin knows nothing.
pub(super) const REFUSED: Recorded = recorded!("refused");

/// The first 200 packets behind [`PUBLISH`]: whether it is the origin's, and its first 20 bytes.
pub(super) const PUBLISH_PACKETS: &[[u8; 21]] =
    include_bytes!("recorded/publish-packets").as_chunks().0;

/// The same behind [`PLAY`].
pub(super) const PLAY_PACKETS: &[[u8; 21]] = include_bytes!("recorded/play-packets").as_chunks().0;
