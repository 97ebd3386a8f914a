//! What the proxy knows of a session's ICE: whom it believes, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plane::Leg;
use crate::plane::datagram::FlowKey;
use crate::proto::stun::TransactionId;
use crate::session::End;

/// ICE of one session, as far as a proxy between its agents needs it (RFC 8445, RFC 7675).
#[derive(Debug)]
pub(super) struct Ice {
    /// By name, the passwords with which the client signs its checks.
    passwords: Vec<(Box<str>, Arc<str>)>,
    /// The client's latest checks, and where they came from.
    checks: [Option<(TransactionId, FlowKey)>; CHECKS],
    next: usize,
    invited: Instant,
    consent: Option<Instant>,
    leaving: Option<Leaving>,
}

/// Checks whose answers may still be under way. An agent has one under way for each pair of
/// addresses, and sends it again a few times.
const CHECKS: usize = 32;

/// How long a peer that has closed DTLS is silent before it is believed: nothing but its address
/// tells that it was the one who closed. Who has nothing else to say asks for consent every six
/// seconds at least (RFC 7675 5.1).
const SILENCE: Duration = Duration::from_secs(7);

/// How often the table is asked, and so how late it knows what was heard.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// A leg that has said that it closes.
#[derive(Debug)]
struct Leaving {
    leg: Leg,
    since: Instant,
    /// The first tick since: what was heard up to then may have been heard before.
    told: Option<Instant>,
}

/// What a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// To be answered there.
    Valid,
    /// Sent before, from another address: by somebody who has seen it on its way.
    Replayed,
}

impl Ice {
    pub(super) fn new(name: &str, password: &str, now: Instant) -> Self {
        Self {
            passwords: vec![(name.into(), password.into())],
            checks: [None; CHECKS],
            next: 0,
            invited: now,
            consent: None,
            leaving: None,
        }
    }

    /// The password of this name. Cheap to clone: to be used without the table's lock.
    pub(super) fn password(&self, name: &str) -> Option<Arc<str>> {
        let known = self.passwords.iter().find(|(known, _)| **known == *name);
        known.map(|(_, password)| Arc::clone(password))
    }

    /// ICE begins anew with other names (RFC 8445 9): those before hold until it is done, and so at
    /// most `most` of them.
    pub(super) fn restart(&mut self, name: &str, password: &str, most: usize) {
        self.passwords.retain(|(known, _)| **known != *name);
        if self.passwords.len() >= most {
            self.passwords.remove(0);
        }
        self.passwords.push((name.into(), password.into()));
    }

    /// Notes a check that the client has signed.
    pub(super) fn check(&mut self, transaction: TransactionId, key: FlowKey) -> Check {
        match self.checks.iter().flatten().find(|(known, _)| *known == transaction) {
            Some((_, from)) if *from == key => Check::Valid,
            Some(_) => Check::Replayed,
            None => {
                if let Some(slot) = self.checks.get_mut(self.next) {
                    *slot = Some((transaction, key));
                }
                self.next = (self.next + 1) % CHECKS;
                Check::Valid
            }
        }
    }

    /// Where the check came from that the origin answers. None if it answers none of the client's.
    pub(super) fn asked_from(&self, transaction: TransactionId) -> Option<FlowKey> {
        let check = self.checks.iter().flatten().find(|(known, _)| *known == transaction);
        check.map(|(_, key)| *key)
    }

    /// The origin has answered a check: it consents to more (RFC 7675 5.1). True if it has not done
    /// so before.
    pub(super) fn consent(&mut self, now: Instant) -> bool {
        self.consent.replace(now).is_none()
    }

    /// This leg has said that it closes.
    pub(super) fn leave(&mut self, leg: Leg, now: Instant) {
        if self.leaving.is_none() {
            self.leaving = Some(Leaving { leg, since: now, told: None });
        }
    }

    /// Whether the session is over, by when each leg was heard last, in the order of [`Leg::ALL`].
    pub(super) fn judge(
        &mut self,
        heard: [Instant; Leg::ALL.len()],
        consent_timeout: Duration,
        now: Instant,
    ) -> Option<End> {
        if let Some(Leaving { leg, since, told }) = &mut self.leaving {
            let (leg, told) = (*leg, *told.get_or_insert(now));
            if now > told && now.saturating_duration_since(*since) >= SILENCE {
                let goes_on = heard.get(leg as usize).is_some_and(|&heard| heard > told);
                if !goes_on {
                    return Some(match leg {
                        Leg::Client => End::ClientClosed,
                        Leg::Origin => End::OriginClosed,
                    });
                }
                self.leaving = None;
            }
        }
        let since = self.consent.unwrap_or(self.invited);
        (now.saturating_duration_since(since) >= consent_timeout)
            .then_some(if self.consent.is_some() { End::NoConsent } else { End::NotConnected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks at these milliseconds behind an alert of the client; with those marked true something
    /// was heard of it since the tick before. How it ends, and at which tick.
    fn after_an_alert(ticks: &[(u64, bool)]) -> Option<(u64, End)> {
        let start = Instant::now();
        let mut ice = Ice::new("a:b", "password", start);
        ice.consent(start);
        ice.leave(Leg::Client, start);
        let mut heard = [start; Leg::ALL.len()];
        ticks.iter().find_map(|&(milliseconds, is_heard)| {
            let now = start + Duration::from_millis(milliseconds);
            if is_heard {
                heard[Leg::Client as usize] = now;
            }
            Some((milliseconds, ice.judge(heard, Duration::from_secs(30), now)?))
        })
    }

    #[test]
    fn a_client_that_closes_and_is_silent_is_believed_however_late_the_ticks_are() {
        for first in [1, 500, 999, 1000, 1001, 1030, 1999, 9000] {
            let ticks: Vec<_> = (0..9).map(|n| (first + n * 1000, n == 0)).collect();
            let end = after_an_alert(&ticks);
            let due = ticks.iter().skip(1).find(|tick| tick.0 >= 7000).unwrap().0;
            assert_eq!(end, Some((due, End::ClientClosed)), "the first tick after {first} ms");
        }
    }

    #[test]
    fn a_client_that_goes_on_has_not_closed() {
        let ticks = [(400, true), (1400, false), (6400, true), (7400, false), (20_400, false)];
        assert_eq!(after_an_alert(&ticks), None);
    }
}
