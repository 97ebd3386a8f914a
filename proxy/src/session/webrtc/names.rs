//! Which names are looked up: few at a time, however many are made up.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::proto::sdp;

/// Names that were looked up lately. Bounded: so many begin in a [`TURN`], and none stays for longer
/// than twice [`LONGEST`].
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those that were not there.
    unknown: HashMap<Box<str>, Unknown>,
    under_way: HashSet<(Box<str>, IpAddr)>,
    begun: HashMap<IpAddr, usize>,
    turn: Option<Instant>,
}

/// Look-ups that begin in one turn, and that are under way.
pub(super) const LOOK_UPS: usize = 64;

/// Of those, of one client.
const OF_CLIENT: usize = 16;

/// As long as the store may take.
const TURN: Duration = Duration::from_millis(200);

/// A name that is not there is looked up again after this: another proxy may just be writing it.
const SHORTEST: Duration = Duration::from_millis(40);

/// After every further look-up it takes twice as long, up to this.
const LONGEST: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Unknown {
    until: Instant,
    pause: Duration,
}

impl Names {
    /// Whether this name may be looked up now, for this client: once at a time, whoever else asks for
    /// the same one.
    pub(super) fn begin(&mut self, name: &str, client: IpAddr, now: Instant) -> bool {
        if self.turn.is_none_or(|turn| now.saturating_duration_since(turn) >= TURN) {
            self.turn = Some(now);
            self.begun.clear();
            self.unknown.retain(|_, unknown| unknown.until + LONGEST > now);
        }
        let is_unknown = |unknown: &Unknown| unknown.until > now;
        let of_client = self.begun.get(&client).copied().unwrap_or_default();
        if self.unknown.get(name).is_some_and(is_unknown)
            || of_client >= OF_CLIENT
            || self.begun.values().sum::<usize>() >= LOOK_UPS
            || !self.under_way.insert((name.into(), client))
        {
            return false;
        }
        self.begun.insert(client, of_client + 1);
        true
    }

    /// The look-up of this name for this client is done: whether the name is there.
    pub(super) fn done(&mut self, name: &str, client: IpAddr, is_there: bool, now: Instant) {
        self.under_way.remove(&(name.into(), client));
        if is_there {
            self.unknown.remove(name);
            return;
        }
        let first = Unknown { until: now, pause: SHORTEST };
        let unknown = self.unknown.entry(name.into()).or_insert(first);
        unknown.until = now + unknown.pause;
        unknown.pause = (unknown.pause * 2).min(LONGEST);
    }
}

/// Whether a text can be the names of two agents.
pub(super) fn is_name(text: &str) -> bool {
    text.split_once(':').is_some_and(|(one, other)| sdp::is_ufrag(one) && sdp::is_ufrag(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn a_name_that_is_not_there_is_asked_for_more_and_more_seldom() {
        let start = Instant::now();
        let mut names = Names::default();
        let mut asked = 0;
        // As a client asks that takes no answer for no.
        for n in 0..1000 {
            let now = start + Duration::from_millis(20) * n;
            if names.begin("a:b", client(1), now) {
                assert!(!names.begin("a:b", client(1), now), "under way");
                names.done("a:b", client(1), false, now);
                assert!(!names.begin("a:b", client(2), now), "for nobody");
                asked += 1;
            }
        }
        assert_eq!(asked, 11, "in twenty seconds");
        let later = start + Duration::from_mins(1);
        assert!(names.begin("a:b", client(1), later));
        names.done("a:b", client(1), true, later);
        assert!(names.unknown.is_empty() && names.under_way.is_empty());
    }

    #[test]
    fn a_name_that_is_there_is_asked_for_by_each_client_within_its_share() {
        let now = Instant::now();
        let mut names = Names::default();
        for _ in 0..OF_CLIENT {
            assert!(names.begin("a:b", client(1), now));
            assert!(names.begin("a:b", client(2), now) || names.begun[&client(2)] > 0);
            names.done("a:b", client(1), true, now);
        }
        assert!(!names.begin("a:b", client(1), now));
        assert!(!names.begin("a:b", client(2), now), "under way");
        names.done("a:b", client(2), true, now);
        assert!(names.begin("a:b", client(2), now));
    }

    #[test]
    fn a_flood_of_names_is_few_look_ups_and_little_memory() {
        let start = Instant::now();
        let mut names = Names::default();
        let (mut asked, mut most) = (0, 0);
        for n in 0..100_000_u32 {
            // Ten seconds.
            let now = start + Duration::from_micros(100) * n;
            let name = format!("a:{n}");
            let client = client(u8::try_from(n % 200).unwrap());
            if names.begin(&name, client, now) {
                names.done(&name, client, false, now);
                asked += 1;
            }
            most = most.max(names.unknown.len());
        }
        assert!(asked <= 51 * LOOK_UPS, "{asked}");
        assert!(most <= 64 * 22, "{most}");
        let one =
            (0..100).filter(|n| names.begin(&format!("b:{n}"), client(9), start + LONGEST * 9));
        assert_eq!(one.count(), OF_CLIENT, "of one client");
    }

    #[test]
    fn a_name_is_two_user_names() {
        assert!(is_name("ans:off"));
        for text in ["", ":", "ans", "ans:", ":off", "ans:off:x", "a ns:off", "an*s:off"] {
            assert!(!is_name(text), "{text}");
        }
        assert!(!is_name(&format!("{}:off", "a".repeat(257))));
    }
}
