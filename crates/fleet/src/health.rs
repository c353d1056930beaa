//! When a replica is ejected, and when it is taken back.
//!
//! Two witnesses are heard: probes of the health path, and the requests themselves. A refused
//! connection ejects at once, for nothing listens there; anything else must happen several times in
//! a row. A refusal by the engine (4xx, or 429 and 503 when it is full) is an answer and never
//! counts. Nor does a server error that another replica gives to the same request (the router compares),
//! nor a probe that times out while the replica's answers flow: busy is not dead. What requests meet
//! ejects no more than half of the replicas whose probes are answered.
//!
//! A replica that has requests and gives no sign of life, be it a byte or an answered probe, is
//! suspect: it is probed at once, and ejected after [`HealthConfig::silence`]. One whose server
//! answers while every stream behind it stands still is ejected too, after a longer time.

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
    /// Longest time without a sign of life from a replica that has requests.
    pub silence: Duration,
    /// Longest time in which no stream of a replica gets a byte, though each has had its first
    /// token: an engine that decodes gives every one of them a token at each step.
    pub standstill: Duration,
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
            silence: Duration::from_secs(3),
            standstill: Duration::from_secs(15),
        }
    }
}

/// Most doublings of the ejection time.
const DOUBLINGS_MAX: u32 = 3;

/// Probes of a replica that is not ready come this many times as often.
const RECOVERY_HASTE: u32 = 5;

/// Parts of [`HealthConfig::silence`]: one until a replica is suspect, one until that is noticed, one
/// between two probes, and two for each of these.
const SILENCE_PARTS: u32 = 7;
const PROBE_PARTS: u32 = 2;

/// Probes of a suspect that must fail before it is ejected.
const SUSPECT_FAILURES: u32 = 2;

/// Streams that must stand still together: one alone may be a tool call that its engine holds back
/// until it is whole.
const STREAMS_STANDING_MIN: u32 = 2;

/// Requests on a replica, as the dispatcher counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Requests whose last byte has not come.
    pub in_flight: u32,
    /// Whether any of them waits for its first token.
    pub is_prefilling: bool,
}

/// What befell a probe or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens at the replica's address.
    Refused,
    /// No connection came about, though something is there: it could not be trusted, did not trust the
    /// router, or no way leads to it. It has seen nothing of a request.
    Unconnected,
    /// It took the connection and fell silent, broke off, or answered garbage or a server error.
    Broken,
    /// It took too long.
    TimedOut,
    /// The router has no file descriptor left for a connection, which says nothing of the replica.
    OutOfFiles,
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
    /// When it last gave a sign of life: a byte or an answered probe.
    last_sign: Timestamp,
    suspect_failures: u32,
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
            last_sign: Timestamp::ZERO,
            suspect_failures: 0,
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

    /// How often to look whether the replica has become suspect.
    #[must_use]
    pub fn look_every(&self) -> Duration {
        self.config.silence / SILENCE_PARTS
    }

    /// Longest time that a probe of a suspect may take.
    #[must_use]
    pub fn suspect_timeout(&self) -> Duration {
        self.config.timeout.min(self.config.silence * PROBE_PARTS / SILENCE_PARTS)
    }

    /// Whether a replica with `work` has been silent for so long that it should be probed at once.
    #[must_use]
    pub fn is_suspect(&self, now: Timestamp, work: Work) -> bool {
        self.health == Health::Ready
            && work.in_flight > 0
            && self.look_every() <= now.since(self.last_sign)
    }

    /// Learns that a probe of a suspect failed; `Some` when the state changed.
    pub fn suspect_failed(&mut self, now: Timestamp, failure: Failure) -> Option<Health> {
        if failure == Failure::OutOfFiles {
            return None;
        }
        self.suspect_failures = self.suspect_failures.saturating_add(1);
        let enough = SUSPECT_FAILURES <= self.suspect_failures;
        (failure == Failure::Refused || enough).then(|| self.eject(now)).flatten()
    }

    /// Looks whether every stream of `work` stands still; `Some` when the state changed.
    pub fn look(&mut self, now: Timestamp, work: Work) -> Option<Health> {
        let stands = STREAMS_STANDING_MIN <= work.in_flight
            && !work.is_prefilling
            && self.last_byte.is_some_and(|last| self.config.standstill <= now.since(last));
        (stands && self.health == Health::Ready).then(|| self.eject(now)).flatten()
    }

    fn sign_of_life(&mut self, now: Timestamp) {
        self.last_sign = now;
        self.suspect_failures = 0;
    }

    /// Learns the result of a probe; `Some` when the state changed.
    pub fn probed(&mut self, now: Timestamp, result: Result<(), Failure>) -> Option<Health> {
        match result {
            Ok(()) => {
                self.sign_of_life(now);
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
            Err(Failure::OutOfFiles) => None,
            Err(failure) => {
                self.probe_successes = 0;
                self.probe_failures = self.probe_failures.saturating_add(1);
                let enough = self.config.probe_failures <= self.probe_failures;
                (failure == Failure::Refused || enough).then(|| self.eject(now)).flatten()
            }
        }
    }

    /// Learns that a request failed on the replica; `Some` when the state changed. Unless it `may_eject`,
    /// failures in a row eject a replica only whose probes fail too: there are too few others.
    pub fn request_failed(
        &mut self,
        now: Timestamp,
        failure: Failure,
        may_eject: bool,
    ) -> Option<Health> {
        if failure == Failure::OutOfFiles {
            return None;
        }
        self.request_failures = self.request_failures.saturating_add(1);
        let enough = self.has_failed_enough() && (may_eject || 0 < self.probe_failures);
        (failure == Failure::Refused || enough).then(|| self.eject(now)).flatten()
    }

    /// Whether as many requests failed in a row as eject.
    #[must_use]
    pub const fn has_failed_enough(&self) -> bool {
        self.config.request_failures <= self.request_failures
    }

    /// Learns that the replica answered a request, be it with a refusal.
    pub fn answered(&mut self, now: Timestamp) {
        self.request_failures = 0;
        self.ejections = 0;
        self.byte(now);
    }

    /// Learns that bytes of an answer came.
    pub fn byte(&mut self, now: Timestamp) {
        self.last_byte = Some(now);
        self.sign_of_life(now);
    }

    /// Takes the replica out for good: a drain is not undone by a probe.
    pub fn drain(&mut self) -> Option<Health> {
        let changes = self.health != Health::Draining;
        self.health = Health::Draining;
        changes.then_some(Health::Draining)
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
                self.suspect_failures = 0;
                self.health = Health::Ejected;
                Some(self.health)
            }
            Health::Ejected | Health::Draining => None,
        }
    }
}

#[cfg(test)]
mod tests;
