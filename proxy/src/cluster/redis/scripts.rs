//! What Redis does in one step.

use super::link::Script;

/// Every script. `scripts/` has the code, whose first lines say what they are given and answer.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) hold: Script,
    pub(super) leave: Script,
    pub(super) part: Script,
    pub(super) read: Script,
    pub(super) swap: Script,
    pub(super) note: Script,
    pub(super) noted: Script,
    pub(super) words: Script,
    pub(super) enlist: Script,
    pub(super) tell: Script,
    pub(super) scan: Script,
}

/// Those of a stream's route have a beginning in common.
macro_rules! of_a_route {
    ($file:literal) => {
        Script::new(concat!(include_str!("scripts/route.lua"), include_str!($file)))
    };
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: of_a_route!("scripts/claim.lua"),
            hold: of_a_route!("scripts/hold.lua"),
            leave: of_a_route!("scripts/leave.lua"),
            part: Script::new(include_str!("scripts/part.lua")),
            read: Script::new(include_str!("scripts/read.lua")),
            swap: Script::new(include_str!("scripts/swap.lua")),
            note: Script::new(include_str!("scripts/note.lua")),
            noted: Script::new(include_str!("scripts/noted.lua")),
            words: Script::new(include_str!("scripts/words.lua")),
            enlist: Script::new(include_str!("scripts/enlist.lua")),
            tell: Script::new(include_str!("scripts/tell.lua")),
            scan: Script::new(include_str!("scripts/scan.lua")),
        }
    }
}
