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
    /// For the first consent, if that is less than the consent timeout.
    proof: Option<Duration>,
    consent: Option<Instant>,
    /// The first answer since ICE began.
    first_consent: Option<Instant>,
    /// Whether the client goes on checking once it is connected (RFC 7675).
    renews: bool,
    leaving: Option<Leaving>,
}

/// Checks whose answers may still be under way. An agent has one under way for each pair of
/// addresses, and sends it again a few times.
const CHECKS: usize = 32;

/// How long a peer that has closed DTLS is silent before it is believed: nothing but its address
/// tells that it was the one who closed. One that is there checks within six seconds (RFC 7675 5.1).
const SILENCE: Duration = Duration::from_secs(7);

/// A check so long after the first one is none of those that find a way.
const CONNECTING: Duration = Duration::from_secs(3);

/// An address that was not checked for so long is not where the client is, if it checks another.
pub(super) const UNCHECKED: Duration = Duration::from_secs(8);

/// A leg that has said that it closes.
#[derive(Debug)]
struct Leaving {
    leg: Leg,
    since: Instant,
    /// The first tick since: what was heard up to then may have been heard before.
    told: Option<Instant>,
}

/// For an origin to answer a client whose session another proxy has signalled.
const PROOF: Duration = Duration::from_secs(5);

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
            proof: None,
            consent: None,
            first_consent: None,
            renews: false,
            leaving: None,
        }
    }

    /// Without any password: the origin tells whether a check is the client's.
    pub(super) fn of_guest(now: Instant) -> Self {
        Self { passwords: Vec::new(), proof: Some(PROOF), ..Self::new("", "", now) }
    }

    /// With these names and passwords, the latest last, and the origin's consent just given.
    pub(super) fn adopted(passwords: &[(String, String)], now: Instant) -> Self {
        let mut ice = Self::new("", "", now);
        ice.passwords = passwords
            .iter()
            .map(|(name, word)| (name.as_str().into(), word.as_str().into()))
            .collect();
        ice.consent(now);
        ice
    }

    /// By name, the passwords of its checks, the latest last.
    pub(super) fn passwords(&self) -> Vec<(String, String)> {
        let owned = |(name, word): &(Box<str>, Arc<str>)| (name.to_string(), word.to_string());
        self.passwords.iter().map(owned).collect()
    }

    /// The password of this name. Cheap to clone: to be used without the table's lock.
    pub(super) fn password(&self, name: &str) -> Option<Arc<str>> {
        let known = self.passwords.iter().find(|(known, _)| **known == *name);
        known.map(|(_, password)| Arc::clone(password))
    }

    /// ICE begins anew with other names (RFC 8445 9): those before hold until it is done, and so at
    /// most `most` of them.
    pub(super) fn restart(&mut self, name: &str, password: &str, most: usize) {
        (self.first_consent, self.renews) = (None, false);
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
        let before = self.consent.replace(now);
        let first = *self.first_consent.get_or_insert(now);
        self.renews |= now > first + CONNECTING;
        before.is_none()
    }

    /// Somebody who knows the password is at the client's side: it has not left.
    pub(super) fn stay(&mut self) {
        self.leaving.take_if(|leaving| leaving.leg == Leg::Client);
    }

    /// Why the session ends if its origin is not there any more: one that has closed may well not
    /// be.
    pub(super) fn end_without_origin(&self) -> End {
        self.leaving.as_ref().map_or(End::OriginLost, |leaving| left(leaving.leg))
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
                if heard.get(leg as usize).is_none_or(|&heard| heard <= told) {
                    return Some(left(leg));
                }
                self.leaving = None;
            }
        }
        let mut since = self.consent.unwrap_or(self.invited);
        if self.consent.is_some() && !self.renews {
            // A client that does not ask for consent lives by its media, and its origin's.
            since = since.max(heard.into_iter().min().unwrap_or(since));
        }
        let proof = self.proof.unwrap_or(consent_timeout).min(consent_timeout);
        let (timeout, end) = if self.consent.is_some() {
            (consent_timeout, End::NoConsent)
        } else {
            (proof, End::NotConnected)
        };
        (now.saturating_duration_since(since) >= timeout).then_some(end)
    }
}

/// The end of a session that this leg has left.
fn left(leg: Leg) -> End {
    match leg {
        Leg::Client => End::ClientClosed,
        Leg::Origin => End::OriginClosed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn consent_is_the_origins_answer_and_lasts_its_time() {
        let start = Instant::now();
        let mut ice = Ice::new("a:o", "password", start);
        let judge =
            |ice: &mut Ice, heard, now| ice.judge([at(start, heard); 2], PATIENCE, at(start, now));
        assert_eq!(judge(&mut ice, 29, 29), None);
        assert_eq!(judge(&mut ice, 30, 30), Some(End::NotConnected), "media is no check");
        assert!(ice.consent(at(start, 1)));
        assert!(!ice.consent(at(start, 6)));
        assert_eq!(judge(&mut ice, 35, 35), None);
        // It checks, and so it is believed when it does so no more, whatever the origin sends.
        assert_eq!(judge(&mut ice, 36, 36), Some(End::NoConsent));
    }

    #[test]
    fn a_guest_has_to_be_answered_soon_and_has_the_time_of_all_then() {
        let start = Instant::now();
        let mut ice = Ice::of_guest(start);
        assert_eq!(ice.password(""), None);
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 4)), None);
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 5)), Some(End::NotConnected));
        assert!(ice.consent(start));
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 29)), None);
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 30)), Some(End::NoConsent));
    }

    #[test]
    fn one_that_was_taken_over_has_the_time_of_one_consent_and_is_checked_as_before() {
        let start = Instant::now();
        let passwords = [("a:o", "one"), ("b:o", "two")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let mut ice = Ice::adopted(&passwords, start);
        assert_eq!(ice.passwords(), passwords);
        assert_eq!(ice.password("b:o").as_deref(), Some("two"));
        assert_eq!(ice.password(""), None);
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 29)), None);
        assert_eq!(ice.judge([start; 2], PATIENCE, at(start, 30)), Some(End::NoConsent));
    }

    #[test]
    fn a_client_that_asks_often_is_believed_when_it_asks_no_more() {
        let start = Instant::now();
        let mut ice = Ice::new("a:o", "password", start);
        // As browsers do.
        for n in 0..20 {
            ice.consent(start + Duration::from_millis(2500) * n);
        }
        let last = start + Duration::from_millis(2500) * 19;
        let end = ice.judge([last + PATIENCE; 2], PATIENCE, last + PATIENCE);
        assert_eq!(end, Some(End::NoConsent));
        // One that does not, and begins anew, goes on as before.
        let mut ice = Ice::new("a:o", "password", start);
        ice.consent(start);
        ice.restart("b:o", "password", 4);
        ice.consent(at(start, 100));
        assert_eq!(ice.judge([at(start, 140); 2], PATIENCE, at(start, 140)), None);
    }

    #[test]
    fn a_client_that_never_asks_again_lives_by_media_of_both_sides() {
        let start = Instant::now();
        let mut ice = Ice::new("a:o", "password", start);
        // Checks of several ways at the start.
        ice.consent(at(start, 1));
        ice.consent(at(start, 2));
        let mut judge = |client, origin, now| {
            ice.judge([at(start, origin), at(start, client)], PATIENCE, at(start, now))
        };
        assert_eq!(judge(100, 100, 101), None);
        assert_eq!(judge(100, 130, 130), Some(End::NoConsent), "the client is silent");
        assert_eq!(judge(130, 100, 130), Some(End::NoConsent), "the origin is silent");
    }

    /// Ticks at these milliseconds behind an alert of the client; with those marked true something
    /// was heard of it since the tick before. How it ends, and at which tick.
    fn after_an_alert(ticks: &[(u64, bool)]) -> Option<(u64, End)> {
        let start = Instant::now();
        let mut ice = Ice::new("a:o", "password", start);
        ice.consent(start);
        ice.leave(Leg::Client, start);
        assert_eq!(ice.end_without_origin(), End::ClientClosed);
        let mut heard = [start; Leg::ALL.len()];
        ticks.iter().find_map(|&(milliseconds, is_heard)| {
            let now = start + Duration::from_millis(milliseconds);
            if is_heard {
                heard[Leg::Client as usize] = now;
            }
            Some((milliseconds, ice.judge(heard, PATIENCE, now)?))
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
    fn a_client_that_goes_on_or_checks_again_has_not_closed() {
        let ticks = [(400, true), (1400, false), (6400, true), (7400, false), (20_400, false)];
        assert_eq!(after_an_alert(&ticks), None);
        let start = Instant::now();
        let mut ice = Ice::new("a:o", "password", start);
        ice.consent(start);
        ice.leave(Leg::Client, start);
        ice.stay();
        assert_eq!(ice.end_without_origin(), End::OriginLost);
        ice.leave(Leg::Origin, start);
        ice.stay();
        assert_eq!(ice.end_without_origin(), End::OriginClosed, "a check is the client's");
    }
}
