//! Whether an origin can be reached, learned from the connections to it.

use std::time::{Duration, Instant};

use super::origin::Listener;

/// What is found out about an origin together. An origin may have its SRT switched off, or its API
/// hidden, and serve everything else: a client that asks for what is not there must not take from
/// others what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// RTMP and HTTP.
    Streams,
    /// The HTTP API, and WebRTC by it.
    Api,
    /// SRT.
    Srt,
}

impl Service {
    /// Every one, in the order in which they are kept.
    pub const ALL: [Self; 3] = [Self::Streams, Self::Api, Self::Srt];

    /// The one that has this listener.
    pub const fn of(listener: Listener) -> Self {
        match listener {
            Listener::Rtmp | Listener::Http => Self::Streams,
            Listener::Api | Listener::Rtc => Self::Api,
            Listener::Srt => Self::Srt,
        }
    }

    /// The word used in logs and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Api => "api",
            Self::Srt => "srt",
        }
    }
}

/// The health of one origin, service by service.
#[derive(Debug, Default)]
pub(super) struct Healths([Health; Service::ALL.len()]);

impl Healths {
    /// Notes a failed connection. True if this is what takes the service down.
    pub(super) fn fail(&mut self, service: Service, now: Instant) -> bool {
        self.0.get_mut(service as usize).is_some_and(|health| health.fail(now))
    }

    /// Notes that a client is about to connect.
    pub(super) fn hand_out(&mut self, service: Service, now: Instant) {
        if let Some(health) = self.0.get_mut(service as usize) {
            health.hand_out(now);
        }
    }

    /// Notes a connection that succeeded. True if the service had been failing.
    pub(super) fn clear(&mut self, service: Service) -> bool {
        self.0.get_mut(service as usize).is_some_and(Health::clear)
    }

    /// Whether the service is to be left alone now.
    pub(super) fn is_down(&self, service: Service, now: Instant) -> bool {
        self.0.get(service as usize).is_some_and(|health| health.is_down(now))
    }

    /// Whether the last connection to this service failed.
    pub(super) fn is_failing(&self, service: Service) -> bool {
        self.0.get(service as usize).is_some_and(Health::is_failing)
    }

    /// Failed connections of this run at these addresses.
    pub(super) fn failures(&self) -> u64 {
        self.0.iter().map(Health::failures).sum()
    }
}

/// Connect failures of one service of an origin. After each, it is left alone for a while: one second at
/// first, twice as long each time, at most half a minute, until a connection succeeds.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Back-offs in a row.
    strikes: u32,
    down_until: Option<Instant>,
    /// The back-off is over, and one client is finding out what became of the origin.
    is_probed: bool,
    failures: u64,
}

impl Health {
    /// Notes a failed connection. True if this is what takes the origin down.
    ///
    /// Clients that fail together are one strike: while down, a failure is only counted.
    fn fail(&mut self, now: Instant) -> bool {
        self.failures += 1;
        if self.is_down(now) && !self.is_probed {
            return false;
        }
        self.is_probed = false;
        let back_off =
            FIRST_BACK_OFF.saturating_mul(1 << self.strikes.min(5)).min(LONGEST_BACK_OFF);
        self.strikes = self.strikes.saturating_add(1);
        self.down_until = Some(now + back_off);
        true
    }

    /// Notes that a client is about to connect. The first one behind a back-off is a probe: the
    /// others leave the origin alone until it is known what became of that.
    fn hand_out(&mut self, now: Instant) {
        if self.strikes > 0 && !self.is_down(now) {
            self.is_probed = true;
            self.down_until = Some(now + PROBE);
        }
    }

    /// Notes a connection that succeeded. True if the origin had been failing.
    fn clear(&mut self) -> bool {
        self.down_until = None;
        self.is_probed = false;
        std::mem::take(&mut self.strikes) > 0
    }

    /// Whether the origin is to be left alone now.
    fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    /// Whether the last connection failed, be the back-off over or not.
    fn is_failing(&self) -> bool {
        self.strikes > 0
    }

    /// Failed connections of this run at these addresses.
    fn failures(&self) -> u64 {
        self.failures
    }
}

const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// A probe that nobody reports on, because its client left, is over after this.
const PROBE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_in_a_row_doubles_the_back_off_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(health.fail(now));
            let back_off = Duration::from_secs(seconds);
            assert!(health.is_down(now + back_off.mul_f64(0.99)), "up before {seconds} s");
            assert!(!health.is_down(now + back_off), "still down after {seconds} s");
            now += back_off;
        }
        assert!(health.clear());
        assert!(health.fail(now));
        assert!(!health.is_down(now + FIRST_BACK_OFF), "a success starts the row anew");
    }

    #[test]
    fn behind_a_back_off_one_client_finds_out_for_all() {
        let start = Instant::now();
        let mut health = Health::default();
        health.fail(start);
        let back = start + FIRST_BACK_OFF;
        assert!(!health.is_down(back));
        health.hand_out(back);
        assert!(health.is_down(back), "others wait for the probe");
        assert!(health.fail(back), "a failed probe is the next strike");
        assert!(health.is_down(back + FIRST_BACK_OFF), "the back-off has doubled");
        let again = back + FIRST_BACK_OFF * 2;
        health.hand_out(again);
        assert!(health.clear(), "a probe that succeeds");
        assert!(!health.is_down(again));
    }

    #[test]
    fn a_hundred_clients_that_fail_together_are_one_strike() {
        let now = Instant::now();
        let mut health = Health::default();
        let strikes = (0..100).filter(|_| health.fail(now)).count();
        assert_eq!(strikes, 1);
        assert_eq!(health.failures(), 100);
        assert!(!health.is_down(now + FIRST_BACK_OFF));
    }
}
