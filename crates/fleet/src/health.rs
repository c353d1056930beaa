//! When a replica is ejected, and when it is taken back.
//!
//! Two witnesses are heard: probes of the health path, and the requests themselves. A refused
//! connection ejects at once, for nothing listens there; anything else must happen several times in
//! a row. A refusal by the engine (4xx, or 429 and 503 when it is full) is an answer and never
//! counts. Nor does a probe that times out while the replica's answers flow: busy is not dead.

use std::time::Duration;

use types::{replica::Health, time::Timestamp};

/// When a replica is ejected and readmitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Time between two probes of a replica that is well.
    pub interval: Duration,
    /// Longest time a probe may take.
    pub timeout: Duration,
    /// Failed probes in a row that eject.
    pub probe_failures: u32,
    /// Failed requests in a row that eject.
    pub request_failures: u32,
    /// Answered probes in a row that readmit.
    pub probe_successes: u32,
    /// Shortest ejection; doubles each time, up to eight times this, until a request succeeds.
    pub ejection: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            probe_failures: 3,
            request_failures: 5,
            probe_successes: 2,
            ejection: Duration::from_secs(1),
        }
    }
}

/// Most doublings of the ejection time.
const DOUBLINGS_MAX: u32 = 3;

/// Probes of a replica that is not ready come this many times as often.
const RECOVERY_HASTE: u32 = 5;

/// What befell a probe or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens at the replica's address.
    Refused,
    /// It took the connection and fell silent, broke off, or answered garbage or a server error.
    Broken,
    /// It took too long.
    TimedOut,
}

/// What is known of one replica's health.
#[derive(Debug)]
pub struct HealthTracker {
    config: HealthConfig,
    health: Health,
    probe_failures: u32,
    probe_successes: u32,
    request_failures: u32,
    ejections: u32,
    ejected_until: Timestamp,
    last_byte: Option<Timestamp>,
}

impl HealthTracker {
    /// A replica of which nothing has been heard.
    #[must_use]
    pub fn new(config: HealthConfig) -> Self {
        Self {
            config,
            health: Health::Starting,
            probe_failures: 0,
            probe_successes: 0,
            request_failures: 0,
            ejections: 0,
            ejected_until: Timestamp::ZERO,
            last_byte: None,
        }
    }

    /// The state as it stands.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Time until the next probe is due.
    #[must_use]
    pub fn probe_in(&self) -> Duration {
        match self.health {
            Health::Ready | Health::Draining => self.config.interval,
            Health::Starting | Health::Ejected => self.config.interval / RECOVERY_HASTE,
        }
    }

    /// Learns the result of a probe; `Some` when the state changed.
    pub fn probed(&mut self, now: Timestamp, result: Result<(), Failure>) -> Option<Health> {
        match result {
            Ok(()) => {
                self.probe_failures = 0;
                self.probe_successes = self.probe_successes.saturating_add(1);
                let needed = match self.health {
                    Health::Starting => 1,
                    Health::Ejected => self.config.probe_successes,
                    Health::Ready | Health::Draining => return None,
                };
                let due = needed <= self.probe_successes && self.ejected_until <= now;
                due.then(|| self.become_ready())
            }
            Err(Failure::TimedOut) if self.answers_flow(now) => None,
            Err(failure) => {
                self.probe_successes = 0;
                self.probe_failures = self.probe_failures.saturating_add(1);
                let enough = self.config.probe_failures <= self.probe_failures;
                (failure == Failure::Refused || enough).then(|| self.eject(now)).flatten()
            }
        }
    }

    /// Learns that a request failed on the replica; `Some` when the state changed.
    pub fn request_failed(&mut self, now: Timestamp, failure: Failure) -> Option<Health> {
        self.request_failures = self.request_failures.saturating_add(1);
        let enough = self.config.request_failures <= self.request_failures;
        (failure == Failure::Refused || enough).then(|| self.eject(now)).flatten()
    }

    /// Learns that the replica answered a request, be it with a refusal.
    pub fn answered(&mut self, now: Timestamp) {
        self.request_failures = 0;
        self.ejections = 0;
        self.last_byte = Some(now);
    }

    /// Learns that bytes of an answer came.
    pub fn byte(&mut self, now: Timestamp) {
        self.last_byte = Some(now);
    }

    fn answers_flow(&self, now: Timestamp) -> bool {
        let recent = self.config.interval + self.config.timeout;
        self.last_byte.is_some_and(|last| now.since(last) <= recent)
    }

    fn become_ready(&mut self) -> Health {
        self.request_failures = 0;
        self.health = Health::Ready;
        self.health
    }

    fn eject(&mut self, now: Timestamp) -> Option<Health> {
        match self.health {
            Health::Ready | Health::Starting => {
                let doublings = self.ejections.min(DOUBLINGS_MAX);
                self.ejections = self.ejections.saturating_add(1);
                self.ejected_until = now + self.config.ejection * 2_u32.pow(doublings);
                self.probe_successes = 0;
                self.health = Health::Ejected;
                Some(self.health)
            }
            Health::Ejected | Health::Draining => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(secs))
    }

    fn ready() -> HealthTracker {
        let mut tracker = HealthTracker::new(HealthConfig::default());
        assert_eq!(tracker.probed(at(0), Ok(())), Some(Health::Ready));
        tracker
    }

    #[test]
    fn a_refused_connection_ejects_at_once() {
        let ejected = Some(Health::Ejected);
        assert_eq!(ready().request_failed(at(1), Failure::Refused), ejected);
        assert_eq!(ready().probed(at(1), Err(Failure::Refused)), ejected);
    }

    #[test]
    fn other_failures_eject_when_they_come_in_a_row() {
        let mut tracker = ready();
        for _ in 0..4 {
            assert_eq!(tracker.request_failed(at(1), Failure::Broken), None);
        }
        tracker.answered(at(1));
        for _ in 0..4 {
            assert_eq!(tracker.request_failed(at(1), Failure::TimedOut), None);
        }
        assert_eq!(tracker.request_failed(at(1), Failure::Broken), Some(Health::Ejected));
    }

    #[test]
    fn busy_is_not_dead() {
        let mut tracker = ready();
        for second in 1..100 {
            tracker.byte(at(second));
            assert_eq!(tracker.probed(at(second + 2), Err(Failure::TimedOut)), None);
        }
        let silent: Vec<_> =
            (0..3).map(|it| tracker.probed(at(200 + it), Err(Failure::TimedOut))).collect();
        assert_eq!(silent, [None, None, Some(Health::Ejected)]);
    }

    #[test]
    fn it_returns_after_its_time_and_two_answers() {
        let mut tracker = ready();
        tracker.request_failed(at(10), Failure::Refused);
        assert_eq!(tracker.probed(at(10), Ok(())), None);
        assert_eq!(tracker.probed(at(10), Ok(())), None, "its time is not over");
        assert_eq!(tracker.probed(at(11), Ok(())), Some(Health::Ready));
    }

    #[test]
    fn one_that_keeps_failing_stays_away_longer_each_time() {
        let mut tracker = ready();
        let mut now = at(10);
        let away: Vec<u64> = (0..5)
            .map(|_| {
                tracker.request_failed(now, Failure::Refused);
                let gone = now;
                while tracker.health() == Health::Ejected {
                    now = now + Duration::from_secs(1);
                    tracker.probed(now, Ok(()));
                }
                now.since(gone).as_secs()
            })
            .collect();
        assert_eq!(away, [2, 2, 4, 8, 8]);
    }

    #[test]
    fn it_is_probed_more_often_until_it_is_ready() {
        let mut tracker = HealthTracker::new(HealthConfig::default());
        assert_eq!(tracker.probe_in(), Duration::from_secs(1));
        tracker.probed(at(0), Ok(()));
        assert_eq!(tracker.probe_in(), Duration::from_secs(5));
    }
}
