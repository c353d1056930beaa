//! Capacity: how many replicas a rate needs.
//!
//! A fleet is sized by what one replica gives *within the promise*, its goodput at the knee. Sizing by
//! throughput, what a replica completes when it is pushed, needs fewer replicas and runs each of them
//! past its knee, where answers still come and are no longer good. Replicas are taken to be alike and
//! goodput to grow with their number.

use serde::{Deserialize, Serialize};

use crate::{
    frontier::{Frontier, Point},
    knee,
};

/// What `plan.json` calls its own layout.
pub const SCHEMA: &str = "sluice.plan/1";

/// Most replicas that a plan may come to.
const REPLICAS_MAX: f64 = 1e9;

/// What one replica gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerReplica {
    /// Good requests per second at the knee.
    pub goodput_per_s: f64,
    /// Requests per second that it completes when pushed, where that is known.
    pub throughput_per_s: Option<f64>,
}

/// What is asked of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Useful requests per second, on average.
    pub rate_per_s: f64,
    /// The busiest time over the average, 1 or more.
    pub burst: f64,
    /// Replicas that may be gone without a promise being broken.
    pub failures: u32,
}

/// How many replicas, and why not fewer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// What is asked.
    pub demand: Demand,
    /// What one replica gives.
    pub per_replica: PerReplica,
    /// Replicas for the average rate by throughput: what not to buy.
    pub by_throughput: Option<u64>,
    /// Good requests per second of so many, where the frontier tells.
    pub goodput_by_throughput: Option<f64>,
    /// Replicas for the average rate by goodput.
    pub by_goodput: u64,
    /// With room for bursts.
    pub with_bursts: u64,
    /// With room for failures on top: what to buy.
    pub replicas: u64,
    /// Share of its knee at which each replica runs on average.
    pub load: f64,
    /// How the fleet did when it was tried out; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<Trials>,
}

/// A planned fleet, tried out at its busiest with replicas lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trials {
    /// Requests per second that it met.
    pub rate_per_s: f64,
    /// Replicas that were lost when counting began, for good.
    pub lost: u32,
    /// Share of good requests that it had to reach: that at the knee, less what seeds scatter by.
    pub good_fraction_needed: f64,
    /// Runs of each fleet.
    pub runs: u64,
    /// Time that counted in each, in seconds.
    pub counted_s: f64,
    /// The fleets that were tried, the planned one first.
    pub trials: Vec<Trial>,
    /// The first of them that was enough; none where none was.
    pub replicas: Option<u64>,
}

/// One fleet that was tried out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its replicas, the lost ones included.
    pub replicas: u64,
    /// Good requests over all, the mean of the runs.
    pub good_request_fraction: f64,
    /// Whether that is enough.
    pub holds: bool,
}

/// Why nothing can be planned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unplannable {
    /// A value that makes no sense.
    #[error("{name}: needs {needs}, has {has}")]
    Value {
        /// Which.
        name: &'static str,
        /// What it needs.
        needs: &'static str,
        /// What it has.
        has: f64,
    },
    /// Nobody knows how many replicas were measured.
    #[error("the frontier does not say how many replicas it measured; pass --replicas-measured N")]
    Replicas,
    /// The frontier has no knee.
    #[error("the frontier has no knee by goodput: {0}")]
    NoKnee(knee::NoKnee),
}

impl PerReplica {
    /// What one of the replicas of `frontier` gives; `replicas` is how many there were, where the
    /// frontier does not say.
    ///
    /// # Errors
    /// A frontier without a knee, or a fleet of unknown size.
    pub fn of(frontier: &Frontier, replicas: Option<u32>) -> Result<Self, Unplannable> {
        let replicas = replicas.or(frontier.replicas).filter(|it| *it > 0);
        let replicas = f64::from(replicas.ok_or(Unplannable::Replicas)?);
        let knee = frontier.knee_by_goodput;
        if let Some(none) = knee.none {
            return Err(Unplannable::NoKnee(none));
        }
        let goodput = knee.value.ok_or(Unplannable::NoKnee(knee::NoKnee::NoBend))?;
        let throughput = frontier.knee_by_throughput.value;
        Ok(Self {
            goodput_per_s: goodput / replicas,
            throughput_per_s: throughput.map(|it| it / replicas),
        })
    }
}

impl Plan {
    /// Whether sizing by throughput would buy fewer replicas than the promise needs; it does not where
    /// the promise holds for as long as the fleet keeps up.
    #[must_use]
    pub fn throughput_misleads(&self) -> bool {
        self.by_throughput.is_some_and(|it| it < self.by_goodput)
    }

    /// Plans for `demand`; `frontier`, of `measured` replicas, tells what a fleet sized by throughput
    /// would give.
    ///
    /// # Errors
    /// Values that make no sense, or more than a billion replicas.
    pub fn new(
        demand: Demand,
        per_replica: PerReplica,
        frontier: Option<(&[Point], u32)>,
    ) -> Result<Self, Unplannable> {
        let positive = |name, value: f64| {
            let needs = "a number above 0";
            let is_sane = value.is_finite() && value > 0.0;
            if is_sane { Ok(value) } else { Err(Unplannable::Value { name, needs, has: value }) }
        };
        let rate = positive("rate", demand.rate_per_s)?;
        let knee = positive("knee", per_replica.goodput_per_s)?;
        if !(demand.burst.is_finite() && demand.burst >= 1.0) {
            let needs = "1 or more: the busiest time over the average";
            return Err(Unplannable::Value { name: "burst", needs, has: demand.burst });
        }
        let by_goodput = replicas_for(rate, knee)?;
        let with_bursts = replicas_for(rate * demand.burst, knee)?;
        let replicas = with_bursts.saturating_add(u64::from(demand.failures));
        let by_throughput = match per_replica.throughput_per_s {
            Some(it) => Some(replicas_for(rate, positive("throughput", it)?)?),
            None => None,
        };
        let goodput_by_throughput = by_throughput.zip(frontier).and_then(|(bought, measured)| {
            let (points, measured) = (measured.0, f64::from(measured.1));
            let curve: Vec<(f64, f64)> =
                points.iter().map(|it| (it.rate_per_s, it.request_goodput)).collect();
            let bought = bought as f64;
            let at = knee::value_at(&curve, rate / bought * measured)?;
            Some(at / measured * bought)
        });
        Ok(Self {
            schema: SCHEMA.to_owned(),
            demand,
            per_replica,
            by_throughput,
            goodput_by_throughput,
            by_goodput,
            with_bursts,
            replicas,
            load: rate / (knee * replicas as f64),
            trials: None,
        })
    }
}

/// Replicas that give `rate` at `each`; what rounding leaves of one is none.
fn replicas_for(rate: f64, each: f64) -> Result<u64, Unplannable> {
    let exact = rate / each;
    if exact > REPLICAS_MAX {
        let needs = "a rate that a billion replicas can serve";
        return Err(Unplannable::Value { name: "rate", needs, has: rate });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to a billion"
    )]
    let whole = (exact - 1e-9).ceil().max(1.0) as u64;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frontier::tests::frontier;

    fn demand(rate_per_s: f64) -> Demand {
        Demand { rate_per_s, burst: 1.0, failures: 0 }
    }

    const KNEE: PerReplica = PerReplica { goodput_per_s: 450.0, throughput_per_s: Some(500.0) };

    #[test]
    fn nine_thousand_useful_requests_need_twenty_replicas_and_not_eighteen() {
        let plan = Plan::new(demand(9_000.0), KNEE, None).unwrap();
        assert_eq!((plan.by_goodput, plan.by_throughput), (20, Some(18)));
        assert_eq!(plan.replicas, 20);
    }

    #[test]
    fn bursts_and_failures_come_on_top() {
        let demand = Demand { burst: 1.2, failures: 1, ..demand(9_000.0) };
        let plan = Plan::new(demand, KNEE, None).unwrap();
        assert_eq!((plan.by_goodput, plan.with_bursts, plan.replicas), (20, 24, 25));
        assert!((plan.load - 0.8).abs() < 1e-9, "{}", plan.load);
    }

    #[test]
    fn a_fleet_sized_by_throughput_collapses() {
        let frontier = frontier();
        let per_replica = PerReplica::of(&frontier, None).unwrap();
        let points = frontier.points.as_slice();
        let plan = Plan::new(demand(9_000.0), per_replica, Some((points, 1))).unwrap();
        assert!(plan.by_throughput.unwrap() < plan.by_goodput, "{plan:?}");
        assert!(plan.goodput_by_throughput.unwrap() < 0.9 * 9_000.0, "{plan:?}");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let plan = |demand| Plan::new(demand, KNEE, None).unwrap_err().to_string();
        assert!(plan(demand(-1.0)).starts_with("rate: needs"));
        assert!(plan(Demand { burst: 0.5, ..demand(1.0) }).starts_with("burst: needs 1"));
        let unknown = Frontier { replicas: None, ..frontier() };
        assert_eq!(PerReplica::of(&unknown, None), Err(Unplannable::Replicas));
        assert!(PerReplica::of(&unknown, Some(1)).is_ok());
    }

    proptest! {
        /// The replicas planned give the rate, and one fewer would not.
        #[test]
        fn a_plan_is_enough_and_no_more(rate in 0.1..1e6_f64, knee in 0.1..1e4_f64) {
            let per_replica = PerReplica { goodput_per_s: knee, throughput_per_s: None };
            let plan = Plan::new(demand(rate), per_replica, None).unwrap();
            let gives = |replicas: u64| replicas as f64 * knee;
            prop_assert!(gives(plan.by_goodput) >= rate * (1.0 - 1e-6));
            prop_assert!(plan.by_goodput == 1 || gives(plan.by_goodput - 1) < rate);
        }
    }
}
