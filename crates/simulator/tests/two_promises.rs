//! Two promises on one stream of requests: which one breaks first, and why.
//!
//! A request is a prefill and 64 tokens, with gaps that are exponential around the step's length. With
//! seats for everybody nobody waits for the first token: steps grow instead, because each computes
//! the prompts that came during the one before. Gaps pass 40 ms near the load that the fluid knee
//! names, where the overhead of a step is all that is left of it beside work; only beyond, when the
//! seats are taken as well, does the first token come late. With few seats it is the other way round:
//! a small batch keeps every gap short, and whoever finds no seat waits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use engine::{Profile, Spread};
use policy::config::{DispatcherConfig, StrategyName};
use report::Terms;
use simulator::{Kind, Setup, Signals};
use types::slo::Slo;
use workload::{Arrival, Load, Schedule, Workload, independent::Independent, range::TokenRange};

const TTFT_MAX: Duration = Duration::from_millis(500);
const ITL_MAX: Duration = Duration::from_millis(40);

/// Loads that are tried, in requests per second.
const RATES: [f64; 12] = [16.0, 20.0, 24.0, 28.0, 32.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0, 60.0];

fn setup(seats: u32) -> Setup {
    let profile = Profile {
        max_num_seqs: seats,
        spread: Some(Spread::Exponential),
        ..Profile::named("llama-3-8b-h100").unwrap()
    };
    let slo = Slo { ttft: Some(TTFT_MAX), tpot: Some(ITL_MAX), ..Slo::default() };
    Setup {
        seed: 1,
        replicas: 1,
        kind: Kind::Engine(Box::new(profile)),
        routers: 1,
        dispatcher: DispatcherConfig::new(StrategyName::LeastRequest, 0),
        comes_again: 0,
        classes: std::collections::BTreeMap::new(),
        unstreamed: 0.0,
        follow_refusals: None,
        ranks: std::collections::BTreeMap::new(),
        attempts_max: 1,
        closed_conversations: false,
        quoted_answers: false,
        patience: None,
        warm_up: Duration::ZERO,
        signals: Signals { scrape_interval: None, ..Signals::default() },
        faults: Vec::new(),
        terms: Terms { slo, retries_max: None },
    }
}

fn stream(rate_per_s: f64) -> Vec<Arrival> {
    let fixed = |tokens| TokenRange { min: tokens, max: tokens };
    let workload = Independent { prompt_tokens: fixed(512), answer_tokens: fixed(64) };
    let schedule = Schedule::Poisson { rate_per_s };
    let load = Load { schedule, duration: Some(Duration::from_secs(120)), seed: 1 };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    Workload::Independent(workload).plan(&load, none).unwrap().arrivals
}

/// Where each promise collapses: the lowest load at which a quarter of the requests break it.
#[derive(Debug, PartialEq)]
struct Collapse {
    ttft: Option<f64>,
    itl: Option<f64>,
}

fn collapse(setup: &Setup) -> Collapse {
    let mut found = Collapse { ttft: None, itl: None };
    for rate in RATES {
        let records = simulator::run(setup, stream(rate)).unwrap().records;
        let late = records.iter().filter(|it| it.ttft().unwrap() > TTFT_MAX).count();
        let slow = records.iter().filter(|it| it.tpot().unwrap() > ITL_MAX).count();
        if late * 4 > records.len() {
            found.ttft.get_or_insert(rate);
        }
        if slow * 4 > records.len() {
            found.itl.get_or_insert(rate);
        }
    }
    found
}

#[test]
fn with_seats_for_all_the_gaps_collapse_first_and_where_the_knee_is() {
    let setup = setup(1_024);
    let found = collapse(&setup);
    let (itl, ttft) = (found.itl.unwrap(), found.ttft.unwrap());
    assert!(itl < ttft, "{found:?}");
    let arrivals = stream(50.0);
    let records = simulator::run(&setup, arrivals.clone()).unwrap().records;
    let knee = simulator::limits(&setup, &arrivals, &records).unwrap().knee_rps.unwrap();
    assert!((itl / knee - 1.0).abs() < 0.1, "gaps collapse at {itl}/s, the knee is {knee}/s");
}

#[test]
fn with_few_seats_the_first_token_collapses_and_the_gaps_never_do() {
    let found = collapse(&setup(16));
    // Sixteen seats, each taken for 64 steps of some 8 ms, serve no more than 31 requests a second.
    assert_eq!((found.itl, found.ttft), (None, Some(24.0)));
}
