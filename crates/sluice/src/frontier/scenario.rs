//! The frontier of a scenario, in virtual time.
//!
//! Every run is a world of its own, so rates know nothing of each other and nothing has to drain.

use anyhow::bail;
use parking_lot::Mutex;
use policy::config::StrategyName;
use report::{
    RequestRecord, Run,
    disruption::Disruption,
    frontier::{Frontier, Measured, Point, State, Warmth},
    html::Detail,
};
use simulator::Scenario;
use types::time::Timestamp;

use super::{
    STATES_LOAD,
    search::{LOADS, Next, Search, rounded},
    split::split,
    warmth,
};
use crate::simulate::cases::{Case, Cases, Done};

/// What is to be found out.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Rates to measure; found where none are given.
    pub(super) rates: Vec<f64>,
    /// Runs at each rate.
    pub(super) seeds: u64,
    /// First seed.
    pub(super) seed: u64,
    /// State of the caches; the scenario's own when absent.
    pub(super) warmth: Option<Warmth>,
    /// Whether the states are compared.
    pub(super) states: bool,
    /// Disruptions a day.
    pub(super) per_day: f64,
    /// Runs at once.
    pub(super) jobs: Option<usize>,
}

/// Measures the frontier of `strategy`; the first run's details are for the page.
pub(super) fn measure(
    cases: &Cases,
    strategy: StrategyName,
    wanted: &Wanted,
    progress: impl Fn(&str),
) -> anyhow::Result<(Frontier, Vec<Detail>)> {
    let warmth = wanted.warmth.unwrap_or_else(|| warmth::stated(&cases.scenario));
    let (scenario, warmth_produced) = warmth::produced(&cases.scenario, warmth);
    let world = cases.under(scenario);
    let rates = if wanted.rates.is_empty() {
        let knee = guess(&world, strategy, wanted.seed, &progress)?;
        LOADS.map(|load| rounded(load * knee)).to_vec()
    } else {
        wanted.rates.clone()
    };
    progress(&format!("{strategy}: {} runs at {} rates", wanted.seeds, rates.len()));
    let (measured, mut details) = runs(&world, strategy, &rates, wanted)?;
    let Measured { points, knee_by_goodput, knee_by_throughput, collapse_ratio } = measured;
    let scenario = &world.scenario;
    let mut frontier = Frontier {
        workload: scenario.name.clone(),
        policy: strategy.to_string(),
        clock: "virtual".to_owned(),
        warmth,
        warmth_produced,
        replicas: Some(scenario.fleet.replicas),
        slo: scenario.terms().slo,
        currency: scenario.costs.as_ref().map(|it| it.currency.clone()),
        points,
        knee_by_goodput,
        knee_by_throughput,
        collapse_ratio,
        states: Vec::new(),
        disruption: None,
        blend: None,
        doubts: Vec::new(),
    };
    // A queueing station has no caches to be warm.
    if wanted.states && scenario.fleet.station.is_none() {
        progress(&format!("{strategy}: {} states of the caches", Warmth::ALL.len()));
        details.extend(states(cases, strategy, wanted, &mut frontier)?);
    }
    Ok((frontier, details))
}

/// The rate at which the promise breaks, roughly.
fn guess(
    world: &Cases,
    strategy: StrategyName,
    seed: u64,
    progress: impl Fn(&str),
) -> anyhow::Result<f64> {
    let start = world.scenario.load.rates_per_s.first().copied().unwrap_or(1.0);
    let mut search = Search::new(start);
    loop {
        match search.next() {
            Next::Try(rate) => {
                let run = world.run_one(&world.case(strategy, rounded(rate), seed))?.run;
                let good = run.good_request_fraction.unwrap_or_default();
                progress(&format!("{strategy}: {:.0} % good at {rate:.3}/s", good * 100.0));
                search.learn(rate, good);
            }
            Next::Found(rate) => return Ok(rate),
            Next::Hopeless => bail!(
                "{}: no rate keeps the promise; loosen the SLO or pass --rates",
                world.scenario.name
            ),
            Next::Endless => bail!(
                "{}: no rate that was tried breaks the promise; tighten the SLO or pass --rates",
                world.scenario.name
            ),
        }
    }
}

/// Measures every rate, each run with a seed of its own.
fn runs(
    world: &Cases,
    strategy: StrategyName,
    rates: &[f64],
    wanted: &Wanted,
) -> anyhow::Result<(Measured, Vec<Detail>)> {
    let mut rates: Vec<f64> = rates.to_vec();
    rates.sort_unstable_by(f64::total_cmp);
    rates.dedup();
    let seed = |number: u64| wanted.seed.saturating_add(number);
    let cases: Vec<Case> = (0_u64..)
        .zip(&rates)
        .flat_map(|(at, rate)| {
            let first = at.saturating_mul(wanted.seeds);
            (first..first.saturating_add(wanted.seeds)).map(move |it| (*rate, it))
        })
        .map(|(rate, number)| world.case(strategy, rate, seed(number)))
        .collect();
    // The first run of each rate is shown, of all policies' rates no more than the page has room for.
    let details = Mutex::new(Vec::new());
    let shown = |case: &Case, done: &Done| {
        let is_first = case.seed.wrapping_sub(wanted.seed).checked_rem(wanted.seeds) == Some(0);
        if is_first && let Some(rate) = case.rate {
            let name = format!("{strategy} @ {rate}/s");
            let detail = Detail::of(&name, &done.recording.records, &[]);
            details.lock().push((rate, detail));
        }
        Ok(())
    };
    let runs = world.run_all(&cases, wanted.jobs, shown)?;
    let mut runs = runs.into_iter();
    let by_rate: Vec<(f64, Vec<Run>)> = rates
        .iter()
        .map(|rate| {
            let seeds = usize::try_from(wanted.seeds).unwrap_or(usize::MAX);
            (*rate, runs.by_ref().take(seeds).collect())
        })
        .collect();
    let measured = Measured::of(&by_rate);
    let mut details = details.into_inner();
    details.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let knee = measured.knee_by_goodput.rate_per_s.map_or(f64::INFINITY, |it| it.value);
    // One that is at ease, the last below the knee, and the first beyond.
    let below = details.iter().filter(|it| it.0 <= knee).count();
    let kept = [1, below.saturating_sub(1), below.saturating_add(1)];
    let mut numbered = 0_usize..;
    details.retain(|_| numbered.next().is_some_and(|number| kept.contains(&number)));
    Ok((measured, details.into_iter().map(|it| it.1).collect()))
}

/// Measures the same rate in every state of the caches.
fn states(
    cases: &Cases,
    strategy: StrategyName,
    wanted: &Wanted,
    frontier: &mut Frontier,
) -> anyhow::Result<Option<Detail>> {
    let rate = rounded(frontier.knee_or_best().unwrap_or(1.0) * STATES_LOAD);
    let mut detail = None;
    for warmth in Warmth::ALL {
        let (scenario, _) = warmth::produced(&cases.scenario, warmth);
        let world = cases.under(scenario);
        let seeds = wanted.seed..wanted.seed.saturating_add(wanted.seeds);
        let list: Vec<Case> = seeds.map(|seed| world.case(strategy, rate, seed)).collect();
        let kept = Mutex::new(Vec::new());
        let runs = world.run_all(&list, wanted.jobs, |case, done| {
            if warmth == Warmth::Disrupted {
                kept.lock().push((case.seed, done.recording.records.clone()));
            }
            Ok(())
        })?;
        frontier.states.push(State { warmth, point: Point::of(rate, &runs) });
        let mut kept = kept.into_inner();
        kept.sort_unstable_by_key(|it| it.0);
        if let Some((_, first)) = kept.first() {
            let befell = disruptions(&world.scenario, first);
            let name = format!("{strategy} @ {rate}/s, disrupted");
            detail = Some(Detail::of(&name, first, &befell));
            let load = &world.scenario.load;
            let runs = kept.into_iter().map(|(_, records)| {
                let befell = disruptions(&world.scenario, &records);
                (records, befell)
            });
            let costs = world.costs();
            let split = split(runs.collect(), load.warm_up, load.duration, costs.as_ref());
            frontier.blend = split.blended(wanted.per_day);
            frontier.disruption = Some(split);
        }
    }
    Ok(detail)
}

/// The windows of what goes wrong in a run of `scenario`.
pub(crate) fn disruptions(scenario: &Scenario, records: &[RequestRecord]) -> Vec<Disruption> {
    if scenario.faults.is_empty() {
        return Vec::new();
    }
    let windows = report::windows::windows(records);
    let window = |fault: &simulator::Fault| {
        let from = Timestamp::from_elapsed(fault.at());
        let ends = fault.ends(scenario.fleet.replicas, scenario.signals.health_delay);
        Disruption::seen(fault.kind().to_owned(), &windows, from, Timestamp::from_elapsed(ends))
    };
    scenario.faults.iter().map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::What;

    fn cases(yaml: &str) -> Cases {
        Cases::new(&What::default(), serde_yaml::from_str(yaml).unwrap(), 1).unwrap()
    }

    fn wanted(seeds: u64) -> Wanted {
        Wanted {
            rates: Vec::new(),
            seeds,
            seed: 1,
            warmth: None,
            states: true,
            per_day: 2.0,
            jobs: None,
        }
    }

    #[test]
    fn the_textbook_queue_has_its_knee_where_queueing_theory_says() {
        let cases = cases(include_str!("../../../../config/scenarios/textbook-queue.yaml"));
        let strategy = cases.scenario.policy.strategy;
        let (frontier, _) = measure(&cases, strategy, &wanted(5), |_| {}).unwrap();
        // λ(1 − e^(−(μ − λ)·200 ms)) is largest at 477.2/s, with 472.2 good ones; at 520/s a fleet of
        // twenty seconds has 130 left of them. The throughput levels off at 500.
        let knee = frontier.knee_by_goodput.rate_per_s.unwrap();
        assert!((460.0..=490.0).contains(&knee.value), "{knee:?}");
        assert!(knee.low.unwrap() < 480.0 && knee.high.unwrap() > 465.0, "{knee:?}");
        let by_throughput = frontier.knee_by_throughput.rate_per_s.unwrap().value;
        assert!((480.0..=515.0).contains(&by_throughput), "{by_throughput}");
        assert!(frontier.collapse_ratio.unwrap().value < 0.15, "{:?}", frontier.collapse_ratio);
        let bands: std::collections::BTreeSet<_> =
            frontier.points.iter().map(|it| it.band).collect();
        assert_eq!(bands.len(), 5, "{bands:?}");
        assert!(frontier.states.is_empty());
    }

    #[test]
    fn states_of_the_caches_differ_as_they_should() {
        let cases = cases(
            "name: small
fleet: { replicas: 2 }
workload: { support-chat: { tenants: 6, prefix_tokens: 4000 } }
load: { rates_per_s: [4], duration: 60s, warm_up: 20s }
slo: { ttft: 1s }
costs: { replica_hour: 2.5 }
signals: { health_delay: 1s }",
        );
        let strategy = StrategyName::PrefixAware;
        let rates = vec![2.0, 4.0];
        let wanted = Wanted { rates, ..wanted(1) };
        let (frontier, details) = measure(&cases, strategy, &wanted, |_| {}).unwrap();
        let hits = |warmth| frontier.state(warmth).unwrap().cache_hit_rate.unwrap();
        assert!(hits(Warmth::WarmModelColdCache) < hits(Warmth::Warm));
        assert!(hits(Warmth::Disrupted) < hits(Warmth::HotSteadyState));
        let split = frontier.disruption.unwrap();
        assert!(split.inside.cache_hit_rate < split.outside.cache_hit_rate, "{split:?}");
        assert!(split.inside.requests > 0 && split.outside.requests > 0);
        let blend = frontier.blend.unwrap();
        assert!(blend.cost_per_accepted > split.outside.cost_per_accepted, "{blend:?}");
        assert!(details.last().is_some_and(|it| !it.disruptions.is_empty()));
    }
}
