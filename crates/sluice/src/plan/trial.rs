//! Tries a plan out: the fleet that arithmetic came to, in virtual time, at its busiest and with as many
//! replicas lost as it is to bear.
//!
//! Arithmetic takes goodput to grow with the number of replicas, which caches, routing and bursts may not
//! grant. So the planned fleet meets the peak rate, loses its replicas when counting begins, and must have
//! as large a share of good requests as one replica's fleet had at its knee. Where it has not, more replicas
//! are tried.

use std::{path::Path, time::Duration};

use policy::config::StrategyName;
use report::{
    Run,
    frontier::Frontier,
    plan::{Plan, Trial, Trials},
};
use simulator::{Fault, Scenario};

use crate::simulate::{
    What,
    cases::{Case, Cases},
    load,
};

/// Runs of each fleet, each with a seed of its own.
const SEEDS: u64 = 2;

/// Requests of a run, about: a run is shortened to it, down to a least time.
const REQUESTS_MAX: f64 = 40_000.0;

/// Shortest time that is counted.
const COUNTED_MIN: Duration = Duration::from_secs(10);

/// Time that is counted where the scenario does not say.
const COUNTED: Duration = Duration::from_secs(60);

/// Most fleets that are tried.
const TRIALS_MAX: u64 = 6;

/// Most replicas that are simulated.
const REPLICAS_MAX: u64 = 2_000;

/// Share of the knee's good fraction that may be missing: what seeds scatter by.
const TOLERANCE: f64 = 0.01;

/// Tries out the fleet of `plan` and, while it does not hold, larger ones; none where it is too large to
/// simulate.
pub(super) fn trials(
    file: &Path,
    policy: Option<StrategyName>,
    plan: &Plan,
    frontier: &Frontier,
) -> anyhow::Result<Option<Trials>> {
    let knee = frontier.knee_by_goodput;
    let at_knee = knee.value.zip(knee.rate_per_s).map(|(good, rate)| good / rate.value);
    let needed = at_knee.unwrap_or(1.0).min(1.0) * (1.0 - TOLERANCE);
    let rate_per_s = plan.demand.rate_per_s * plan.demand.burst;
    let what = What { scenario: Some(file.to_owned()), no_limits: true, ..What::default() };
    let scenario = load::scenario(&what)?;
    let strategy = policy.unwrap_or(scenario.policy.strategy);
    let cases = Cases::new(&what, scenario, 1)?;
    let mut all = Trials {
        rate_per_s,
        lost: plan.demand.failures,
        good_fraction_needed: needed,
        runs: SEEDS,
        counted_s: 0.0,
        trials: Vec::new(),
        replicas: None,
    };
    let step = (plan.replicas / 20).max(1);
    for number in 0..TRIALS_MAX {
        let replicas = plan.replicas.saturating_add(number.saturating_mul(step));
        let Some(fleet) = u32::try_from(replicas).ok().filter(|_| replicas <= REPLICAS_MAX) else {
            break;
        };
        let world = cases.under(tried(&cases.scenario, fleet, &all));
        let block = &world.scenario.load;
        let counted = block.duration.map(|it| it.saturating_sub(block.warm_up));
        all.counted_s = counted.unwrap_or_default().as_secs_f64();
        let runs = runs(&world, strategy, rate_per_s)?;
        let fractions: Vec<f64> = runs.iter().filter_map(|it| it.good_request_fraction).collect();
        let good_request_fraction = fractions.iter().sum::<f64>() / fractions.len().max(1) as f64;
        let holds = good_request_fraction >= needed;
        all.trials.push(Trial { replicas, good_request_fraction, holds });
        if holds {
            all.replicas = Some(replicas);
            break;
        }
    }
    Ok((!all.trials.is_empty()).then_some(all))
}

fn runs(world: &Cases, strategy: StrategyName, rate_per_s: f64) -> anyhow::Result<Vec<Run>> {
    let list: Vec<Case> = (1..=SEEDS).map(|seed| world.case(strategy, rate_per_s, seed)).collect();
    world.run_all(&list, None, |_, _| Ok(()))
}

/// `scenario` with a fleet of so many, some of which are lost when counting begins and stay away.
fn tried(scenario: &Scenario, replicas: u32, trials: &Trials) -> Scenario {
    let mut made = scenario.clone();
    made.fleet.replicas = replicas;
    let warm_up = made.load.warm_up;
    made.faults = (0..trials.lost.min(replicas.saturating_sub(1)))
        .map(|replica| Fault::Crash { at: warm_up, replica, down_for: None })
        .collect();
    let own = made.load.duration.map_or(COUNTED, |it| it.saturating_sub(warm_up));
    let enough = Duration::try_from_secs_f64(REQUESTS_MAX / trials.rate_per_s).unwrap_or(own);
    made.load.duration = Some(warm_up.saturating_add(own.min(enough.max(COUNTED_MIN))));
    made
}
