//! What the programs have to say of single packets, for the log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use proxy_ebpf::Reason;
use tracing::debug;

/// Rare events of the programs, at level debug. The programs write at most one a second for each CPU.
pub(super) struct Events(EbpfLogger<Listener>);

/// The level at which the programs are loaded: nothing, which takes the code out, or all that there
/// is ([`log::Level::Debug`]).
pub(super) const fn level(are_wanted: bool) -> u8 {
    if are_wanted { 4 } else { 0 }
}

impl Events {
    /// Those of programs that were loaded with a level. None if they write none.
    pub(super) fn of(programs: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(programs, Listener).ok().map(Self)
    }

    /// Writes what has come since the last call.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

struct Listener;

impl Log for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        debug!("a packet of a flow passes up: {}", word(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// The word of a reason, of which the programs write the number.
fn word(number: &str) -> &str {
    let reason = number.trim().parse().ok().and_then(|index: usize| Reason::ALL.get(index));
    reason.map_or(number, |reason| reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::{Reason, word};

    #[test]
    fn an_event_is_told_in_the_word_of_its_reason() {
        for reason in Reason::ALL {
            assert_eq!(word(&(reason as u32).to_string()), reason.as_str());
        }
        assert_eq!(word("no number"), "no number");
    }
}
