//! Queues with known answers, through the dispatcher and the simulator's world.
//!
//! Mean waiting times are compared with formulas, within four standard errors of the mean over
//! independent seeds (a test of a dozen figures fails by chance once in a thousand sets of seeds; the
//! seeds are fixed). Each run starts empty, so its beginning is left out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use policy::config::{DispatcherConfig, StrategyName};
use simulator::{Kind, ServiceTime, Setup};
use workload::{Arrival, Load, Schedule, Workload, independent::Independent};

use crate::common::station;

/// Mean service time, the unit of every figure.
const MEAN: Duration = Duration::from_secs(1);

/// Times of `count` arrivals on average at `rate_per_s`, without content.
fn arrivals(rate_per_s: f64, seconds: f64, seed: u64) -> Vec<Arrival> {
    let schedule = Schedule::Poisson { rate_per_s };
    let load = Load { schedule, duration: Some(Duration::from_secs_f64(seconds)), seed };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let planned = Workload::Independent(Independent::default()).plan(&load, none).unwrap();
    let bare = |it: Arrival| common::arrival(it.at);
    planned.arrivals.into_iter().map(bare).collect()
}

/// The mean response in units of the mean service, over the requests of one run after the first
/// tenth of it.
fn response(setup: &Setup, rate_per_s: f64, seconds: f64, seed: u64) -> f64 {
    let setup = Setup { seed, ..setup.clone() };
    let recording = simulator::run(&setup, arrivals(rate_per_s, seconds, seed)).unwrap();
    let warm = recording.records.iter().skip(recording.records.len() / 10);
    let e2e: Vec<f64> = warm.map(|it| it.e2e().unwrap().as_secs_f64()).collect();
    e2e.iter().sum::<f64>() / e2e.len() as f64
}

/// Mean and standard error over `seeds` runs of about `requests` requests each.
fn over_seeds(setup: &Setup, rate_per_s: f64, requests: f64, seeds: u64) -> (f64, f64) {
    let each: Vec<f64> =
        (1..=seeds).map(|seed| response(setup, rate_per_s, requests / rate_per_s, seed)).collect();
    let n = each.len() as f64;
    let mean = each.iter().sum::<f64>() / n;
    let variance = each.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

#[track_caller]
fn within_four_errors(name: &str, (mean, error): (f64, f64), expected: f64, known_to: f64) {
    let error = error.hypot(known_to);
    assert!(
        (mean - expected).abs() < 4.0 * error && error < 0.05 * expected,
        "{name}: {mean} ± {error}, expected {expected}"
    );
}

#[test]
fn one_server_waits_as_pollaczek_and_khinchine_say() {
    // Wq = ρ/(1−ρ)·(1+C²)/2 at ρ = 0.8, with C² the squared coefficient of variation.
    for (name, service, wait) in [
        ("constant", ServiceTime::Constant { mean: MEAN }, 2.0),
        ("erlang", ServiceTime::Erlang { mean: MEAN, shape: 4 }, 2.5),
        ("exponential", ServiceTime::Exponential { mean: MEAN }, 4.0),
        ("log-normal", ServiceTime::LogNormal { mean: MEAN, sigma: 1.0 }, 5.436_56),
    ] {
        let mean = over_seeds(&station(1, service), 0.8, 10_000.0, 30);
        within_four_errors(name, mean, 1.0 + wait, 0.0);
    }
}

#[test]
fn k_servers_wait_as_erlang_says() {
    // Wq of M/M/k with μ = 1.
    for (servers, load, wait) in [
        (2, 0.8, 1.777_778),
        (4, 0.7, 0.357_212),
        (8, 0.8, 0.286_028),
        (16, 0.9, 0.369_590),
        (32, 0.9, 0.143_186),
    ] {
        let service = ServiceTime::Exponential { mean: MEAN };
        let rate = load * f64::from(servers);
        let mean = over_seeds(&station(servers, service), rate, 10_000.0, 20);
        within_four_errors(&format!("M/M/{servers}"), mean, 1.0 + wait, 0.0);
    }
}

/// Eight single servers behind one router.
fn eight(strategy: StrategyName) -> Setup {
    let service = ServiceTime::Exponential { mean: MEAN };
    Setup {
        replicas: 8,
        kind: Kind::Fcfs { servers: 1, service },
        dispatcher: DispatcherConfig::new(strategy, 0),
        ..station(1, ServiceTime::Constant { mean: MEAN })
    }
}

#[test]
fn eight_queues_are_as_long_as_the_choice_among_them_makes_them() {
    // Mean response: least-request joins the shortest queue; the figures of two choices and of the
    // shortest queue are simulated ones, known to half a percent. Splitting at random gives eight
    // M/M/1, and no choice beats one queue for all, M/M/8.
    for (strategy, load, expected, share_known) in [
        (StrategyName::Random, 0.7, 1.0 / 0.3, 0.0),
        (StrategyName::PowerOfTwo, 0.5, 1.2917, 0.005),
        (StrategyName::PowerOfTwo, 0.8, 2.1117, 0.005),
        (StrategyName::PowerOfTwo, 0.9, 3.0929, 0.005),
        (StrategyName::LeastRequest, 0.5, 1.0425, 0.005),
        (StrategyName::LeastRequest, 0.8, 1.4569, 0.005),
        (StrategyName::LeastRequest, 0.9, 2.1272, 0.005),
    ] {
        let mean = over_seeds(&eight(strategy), 8.0 * load, 10_000.0, 20);
        let known_to = share_known / 2.0 * expected;
        within_four_errors(&format!("{strategy} at {load}"), mean, expected, known_to);
    }
    let (shortest, _) = over_seeds(&eight(StrategyName::LeastRequest), 7.2, 10_000.0, 20);
    assert!(shortest > 1.8769, "{shortest} beats one queue for all");
}
