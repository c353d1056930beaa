//! Runs of small scenarios, and what became of their requests.

use engine::Profile;
use policy::admission::{AdmissionMode, Gate};
use report::{Ending, RequestRecord};
use simulator::{Refusal, Scenario, Setup};
use types::time::Timestamp;
use workload::{Arrival, Load, Schedule};

/// Two replicas, whose knee is near thirty requests a second.
pub(crate) const SINGLE_PROMPTS: &str = "
name: single-prompts
about: prompts that share nothing, on two replicas
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  independent: { prompt_tokens: { min: 200, max: 3000 }, answer_tokens: { min: 50, max: 150 } }
load: { rates_per_s: [30], duration: 30s, warm_up: 10s }
slo: { ttft: 2s, tpot: 50ms }
";

pub(crate) const TEXTBOOK: &str = "
name: textbook
fleet:
  replicas: 1
  station: { servers: 1, service: { kind: exponential, mean: 2ms } }
policy: { strategy: least-request }
workload: { independent: {} }
load: { rates_per_s: [560], duration: 20s }
slo: { e2e: 200ms }
";

/// What became of the requests of a run, those of its warm-up left out.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) records: Vec<RequestRecord>,
    pub(crate) refusals: Vec<Refusal>,
    /// Those of the warm-up.
    pub(crate) early: Vec<RequestRecord>,
}

/// Reads `scenario` with `changes`.
pub(crate) fn read(scenario: &str, changes: &str) -> Scenario {
    let scenario: Scenario = serde_yaml::from_str(&format!("{scenario}{changes}")).unwrap();
    assert_eq!(scenario.problems(), Vec::<String>::new());
    scenario
}

/// The requests of `scenario` at `rate_per_s`.
pub(crate) fn arrivals(scenario: &Scenario, rate_per_s: f64, seed: u64) -> Vec<Arrival> {
    let (schedule, duration) = (scenario.load.at(rate_per_s), scenario.load.duration);
    scenario.plan(&Load { schedule, duration, seed }, |_| unreachable!()).unwrap().arrivals
}

/// Those of several tenants, numbered from zero, each at its rate.
pub(crate) fn of_tenants(scenario: &Scenario, rates_per_s: &[f64]) -> Vec<Arrival> {
    let mut all = Vec::new();
    for (tenant, rate_per_s) in (0..).zip(rates_per_s).filter(|it| *it.1 > 0.0) {
        let schedule = Schedule::Poisson { rate_per_s: *rate_per_s };
        let seed = u64::from(tenant) + 1;
        let load = Load { schedule, duration: scenario.load.duration, seed };
        let arrivals = scenario.plan(&load, |_| unreachable!()).unwrap().arrivals;
        all.extend(arrivals.into_iter().map(|it| Arrival { tenant: Some(tenant), ..it }));
    }
    all.sort_by_key(|it| it.at);
    all
}

/// Runs `scenario` with `changes` at `rate_per_s`.
pub(crate) fn run(scenario: &str, changes: &str, mode: AdmissionMode, rate_per_s: f64) -> Ran {
    let scenario = read(scenario, changes);
    let arrivals = arrivals(&scenario, rate_per_s, 1);
    run_with(&scenario, mode, arrivals)
}

/// Runs `arrivals` through `scenario`.
pub(crate) fn run_with(scenario: &Scenario, mode: AdmissionMode, arrivals: Vec<Arrival>) -> Ran {
    let profile = Profile::named(&scenario.fleet.profile).unwrap();
    let setup = scenario.setup(scenario.policy.strategy, mode, 1, profile);
    let setup = Setup { follow_refusals: Some(3), ..setup };
    let recording = simulator::run(&setup, arrivals).unwrap();
    let is_warm = |at: Timestamp| setup.warm_up <= at.elapsed();
    let (records, early) = recording.records.into_iter().partition(|it| is_warm(it.scheduled));
    let refusals = recording.refusals.into_iter().filter(|it| is_warm(it.at));
    Ran { records, refusals: refusals.collect(), early }
}

impl Ran {
    pub(crate) fn count(&self, what: impl Fn(&RequestRecord) -> bool) -> f64 {
        self.records.iter().filter(|it| what(it)).count() as f64
    }

    pub(crate) fn all(&self) -> f64 {
        self.count(|_| true)
    }

    pub(crate) fn good(&self) -> f64 {
        self.count(|it| it.slo.good)
    }

    pub(crate) fn good_of(&self, tenant: u32) -> f64 {
        self.count(|it| it.slo.good && it.tenant == Some(tenant))
    }

    pub(crate) fn rejected(&self) -> f64 {
        self.count(|it| it.ending == Ending::Rejected)
    }

    pub(crate) fn let_in(&self) -> f64 {
        self.all() - self.rejected()
    }

    /// Times that requests were sent to a replica.
    pub(crate) fn sent(&self) -> f64 {
        self.records.iter().filter_map(|it| it.attempts).map(f64::from).sum()
    }

    /// The time to first token that a share `quantile` of those requests do not exceed.
    pub(crate) fn ttft_ms(&self, quantile: f64, of: impl Fn(&RequestRecord) -> bool) -> f64 {
        let ttft = self.records.iter().filter(|it| of(it)).filter_map(|it| it.ttft());
        quantile_of(ttft.map(|it| it.as_secs_f64() * 1e3).collect(), quantile)
    }

    /// The gate that most of those who were turned away found closed.
    pub(crate) fn binding(&self) -> Option<Gate> {
        let at = |gate: &Gate| self.refusals.iter().filter(|it| it.gate == Some(*gate)).count();
        Gate::ALL.into_iter().filter(|it| at(it) > 0).max_by_key(at)
    }
}

/// The value that a share `quantile` of `values` does not exceed.
pub(crate) fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (last * quantile).round() as usize;
    values[at]
}
