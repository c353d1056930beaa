//! Who gets what: a tenant that floods, urgent work beside work for later, clients that come again.

use policy::admission::AdmissionConfig;
use report::RequestRecord;
use types::time::Timestamp;
use workload::Arrival;

use crate::{
    Terms,
    case::{self, Case, Ran, mean, ttft_ms},
    goodput::at_knee,
    line::{Bar, put},
};

pub(crate) fn flood(terms: &Terms) {
    case::synthetic(terms).iter().for_each(|it| one_floods(it, terms.seeds));
}

pub(crate) fn beside_batch(terms: &Terms) {
    case::synthetic(terms).iter().for_each(|it| urgent_beside_batch(it, terms.seeds));
}

pub(crate) fn storm(terms: &Terms) {
    case::synthetic(terms).iter().for_each(|it| each_comes_again(it, terms.seeds));
}

/// Conversations of other streams get other names.
const STREAMS: u64 = 1 << 40;

/// The requests of `case` at `times` the knee, of a tenant each.
fn stream(
    case: &Case,
    times: f64,
    seed: u64,
    name: u64,
    tenant: impl Fn(u32) -> u32,
) -> Vec<Arrival> {
    let mut arrivals = case.arrivals(times, seed.wrapping_add(name.wrapping_mul(1_000)));
    for (at, arrival) in (0..).zip(&mut arrivals) {
        // One conversation is one tenant's.
        let of = arrival.session.and_then(|it| u32::try_from(it).ok()).unwrap_or(at);
        arrival.tenant = Some(tenant(of));
        arrival.session = arrival.session.map(|it| it + name * STREAMS);
    }
    arrivals
}

fn together(mut one: Vec<Arrival>, other: Vec<Arrival>) -> Vec<Arrival> {
    one.extend(other);
    one.sort_by_key(|it| it.at);
    one
}

/// The one that floods.
const FLOOD: u32 = 0;

/// How many others there are, and what they ask for together, in times the knee.
const OTHERS: u32 = 4;
const OTHERS_ASK: f64 = 0.6;

/// Each of four tenants asks for 0.15 times the knee; a fifth asks for ten times as much as each.
fn one_floods(case: &Case, seeds: u64) {
    let others = |seed| stream(case, OTHERS_ASK, seed, 1, |at| 1 + at % OTHERS);
    let flood_asks = 10.0 * OTHERS_ASK / f64::from(OTHERS);
    let config = AdmissionConfig::default();
    let is_other = |it: &RequestRecord| it.tenant != Some(FLOOD);
    let good = |ran: &Ran| ran.count(|it| it.slo.good && is_other(it));
    let (mut alone, mut beside, mut flooded, mut offered) = (0.0, 0.0, 0.0, 0.0);
    for seed in 1..=seeds {
        let without = case.run_with(config, seed, others(seed));
        let with = stream(case, flood_asks, seed, 2, |_| FLOOD);
        let with = case.run_with(config, seed, together(others(seed), with));
        alone += good(&without);
        beside += good(&with);
        flooded += with.count(|it| it.slo.good && !is_other(it));
        offered += with.count(|it| !is_other(it));
    }
    let line = |what: &str, figure, bar| put("flood", &case.name, what, figure, bar);
    line("others' goodput, % of what they had alone", 100.0 * beside / alone, Bar::Least(90.0));
    line("  of what the flooding tenant asks, % good", 100.0 * flooded / offered, Bar::None);
}

/// Work for later, and the tenant it is of.
const BATCH: u32 = 0;
const BATCH_RANK: &str = "{ priority: batch, slo: { completion: 4h } }";

/// Everybody else.
const URGENT: u32 = 1;
const URGENT_RANK: &str = "{ priority: interactive }";

/// What the urgent ask for, and what is there to be done some time, in times the knee.
const URGENT_ASK: f64 = 0.5;
const BATCH_ASKS: f64 = 1.2;

fn urgent_beside_batch(case: &Case, seeds: u64) {
    let mut case = case.clone();
    case.scenario.ranks.insert(BATCH, serde_yaml::from_str(BATCH_RANK).unwrap());
    case.scenario.ranks.insert(URGENT, serde_yaml::from_str(URGENT_RANK).unwrap());
    let config = AdmissionConfig::default();
    let interactive = |seed| stream(&case, URGENT_ASK, seed, 1, |_| 1);
    let is_urgent = |it: &RequestRecord| it.tenant == Some(1);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for seed in 1..=seeds {
        alone.push(case.run_with(config, seed, interactive(seed)));
        let later = stream(&case, BATCH_ASKS, seed, 2, |_| BATCH);
        beside.push(case.run_with(config, seed, together(interactive(seed), later)));
    }
    let knee = at_knee(&case, seeds).iter().map(|it| it.0).sum::<f64>() / seeds as f64;
    let over = Timestamp::from_elapsed(case.scenario.load.duration.unwrap());
    let urgent_good = mean(&beside, |it| it.count(|it| it.slo.good && is_urgent(it)) / it.window_s);
    // What waited since before the window and is done within it counts.
    let batch_good = mean(&beside, |ran| {
        let all = ran.early.iter().chain(&ran.records);
        let done = all.filter(|it| ran.warm_up <= it.ended && it.ended <= over);
        done.filter(|it| it.slo.good && !is_urgent(it)).count() as f64 / ran.window_s
    });
    let (quiet, busy) = (ttft_ms(&alone, 0.99, is_urgent), ttft_ms(&beside, 0.99, is_urgent));
    let line = |what: &str, figure, bar| put("batch", &case.name, what, figure, bar);
    line("TTFT p99 of the urgent, of that alone", busy / quiet, Bar::Most(1.2));
    line("  alone, ms", quiet, Bar::None);
    line("  beside batch, ms", busy, Bar::None);
    let kept = mean(&beside, |it| it.count(|it| it.slo.good && is_urgent(it)))
        / mean(&alone, |it| it.count(|it| it.slo.good && is_urgent(it)));
    line("urgent goodput, % of that alone", 100.0 * kept, Bar::Least(97.0));
    line(
        "batch done, % of what the urgent leave of the knee",
        100.0 * batch_good / (knee - urgent_good),
        Bar::Least(90.0),
    );
}

/// Each that is turned away comes again up to three times.
fn each_comes_again(case: &Case, seeds: u64) {
    let knee = at_knee(case, seeds).iter().map(|it| it.0).sum::<f64>() / seeds as f64;
    let mut case = case.clone();
    case.scenario.comes_again = 3;
    for (times, least) in [(1.4, 98.0), (2.0, 97.0), (3.0, 95.0)] {
        let runs = case.runs(AdmissionConfig::default(), times, seeds);
        let line = |what: &str, figure, bar| {
            put("storm", &case.name, &format!("{what} at {times} x"), figure, bar);
        };
        let good = mean(&runs, |it| it.good_per_s());
        line(
            "each refusal retried 3 times: goodput, % of the knee's",
            100.0 * good / knee,
            Bar::Least(least),
        );
        let sent = mean(&runs, |ran| {
            let sent: u32 = ran.records.iter().filter_map(|it| it.attempts).sum();
            f64::from(sent) / ran.records.len() as f64
        });
        line("  attempts at replicas, of what is offered", sent, Bar::Most(1.2));
        line("  served as promised of those let in, %", mean(&runs, |it| it.attained()), Bar::None);
    }
}
