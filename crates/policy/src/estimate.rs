//! Predicts what a request would meet on a replica, and what it would do to others there, in
//! seconds.
//!
//! The prediction knows only what a router can know: what it placed, when first tokens came, how
//! fast answers run, how long they turned out, what replicas report. Its form is deliberately
//! simpler than any engine ([`coefficients`]): a step costs a fixed part and a part for each token
//! and each token of context. Two *scales* for each replica, one for prefill and one for decode,
//! stretch the form to what is observed ([`scale`]), so that a fleet of unlike replicas needs no
//! configuration; two *margins* ([`margin`]) say by how much predictions must be raised for only a
//! few to be broken. How long an answer will be is learned for each tenant and model ([`output`]).
//!
//! Learning stops under load, where what is observed tells of queues and no longer of speed.

pub mod coefficients;
pub(crate) mod decay;
pub mod eviction;
pub(crate) mod fleet_speed;
pub mod margin;
pub mod output;
pub mod overrun;
pub mod replica;
pub mod scale;
pub mod seats;

use serde::{Deserialize, Serialize};
use types::quantity::Tokens;

pub use self::{
    coefficients::Coefficients,
    eviction::Evictions,
    output::OutputLengths,
    overrun::Overrun,
    replica::{Forecast, ReplicaEstimate},
    seats::Seats,
};

/// What estimates start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EstimateConfig {
    /// The form's coefficients; those of a replica that was measured, or a guess that is scaled to
    /// what is observed.
    pub coefficients: Coefficients,
    /// Whether the scales stay as they are, for replicas that were measured and do not change.
    pub frozen: bool,
}

impl EstimateConfig {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.coefficients.problems()
    }
}

/// What is asked of every replica about one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Length of the prompt.
    pub prompt: Tokens,
    /// How long its answer is expected to be.
    pub output: f64,
    /// Time until its first token is due, seconds; `None` where nothing was promised.
    pub ttft_max_s: Option<f64>,
    /// Time per output token at which a replica counts as full, seconds; `None` where nothing was
    /// promised.
    pub tpot_max_s: Option<f64>,
    /// Whether prefill counts for what it costs in the end, because of what its blocks push out.
    pub memory: bool,
    /// How far utilisation is what follows from the requests there, instead of what was measured; 0 to 1.
    pub foresight: f64,
    /// What a replica's utilisation is while the request's work lasts, instead of now.
    pub lasting: Lasting,
}

/// How far a replica's utilisation is the fleet's in the end.
///
/// A prompt that takes ten seconds has its replica look full while it is computed, and idle after. What another
/// one adds lasts longer than either, and costs those who come later what the fleet as a whole leaves them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lasting {
    /// Utilisation of the fleet.
    pub fleet: f64,
    /// How far a replica's own has become the fleet's by the time that the request is done; 0 to 1.
    pub faded: f64,
}

/// Length of a prompt for which a replica's utilisation becomes the fleet's but for 1/e, seconds: the time over which
/// prefill counts there. With the square of it, since short ones meet the replica as it is.
const FADING_S: f64 = 4.0;

impl Lasting {
    /// Of a prompt that takes `whole_s` where nothing of it is cached, in a fleet with utilisation `fleet`.
    #[must_use]
    pub fn new(whole_s: f64, fleet: f64) -> Self {
        Self { fleet, faded: 1.0 - (-(whole_s / FADING_S).powi(2)).exp() }
    }

    /// The utilisation that counts of a replica with `own`; no less where `own` is more.
    #[must_use]
    pub fn of(&self, own: f64) -> f64 {
        own + self.faded * (self.fleet - own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_prompt_takes_the_more_the_fleet_counts() {
        let at = |whole_s| Lasting::new(whole_s, 0.4).of(2.0);
        assert!((Lasting::default().of(2.0) - 2.0).abs() < 1e-12);
        assert!(1.9 < at(0.2), "of a chat the replica's own: {}", at(0.2));
        assert!(at(10.0) < 0.7, "of a long prompt the fleet's: {}", at(10.0));
        assert!(0.3 < Lasting::new(10.0, 0.4).of(0.0), "an idle replica is not idle for long");
    }
}
