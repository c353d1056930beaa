//! The textbook's load test of a single server: every figure that it prints, through the whole of
//! the simulator's world.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use flate2::read::GzDecoder;
use report::{Run, RunInfo, Terms};
use simulator::{ServiceTime, Setup};
use types::{slo::Slo, time::Timestamp};
use workload::{Load, Schedule, Workload, independent::Independent};

use crate::common::{arrival, station};

/// Length of each load test.
const WINDOW: Duration = Duration::from_secs(20);

/// Offered rate, then what the book prints: throughput, goodput, p50, p95, p99 (ms).
const PRINTED: [[u32; 6]; 9] = [
    [100, 101, 101, 2, 8, 12],
    [200, 202, 202, 2, 10, 15],
    [300, 298, 298, 4, 15, 23],
    [400, 398, 398, 7, 31, 47],
    [450, 455, 455, 14, 63, 101],
    [480, 483, 448, 64, 212, 249],
    [500, 506, 72, 367, 630, 656],
    [520, 518, 123, 524, 925, 968],
    [560, 560, 82, 1287, 2379, 2499],
];

/// Arrival and service times in milliseconds, by offered rate.
fn draws() -> BTreeMap<u32, Vec<[f64; 2]>> {
    let packed = include_bytes!("data/textbook_queue/arrivals_and_service.csv.gz");
    let mut text = String::new();
    GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    let mut draws: BTreeMap<u32, Vec<[f64; 2]>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let times = [1, 2].map(|it: usize| cells[it].parse().unwrap());
        draws.entry(cells[0].parse().unwrap()).or_default().push(times);
    }
    draws
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1_000.0)
}

/// Offered rate, then goodput and fraction within the bound of such load tests: mean and standard
/// deviation over 2,000 seeds of another program.
const OVER_SEEDS: [[f64; 5]; 15] = [
    [100.0, 100.0, 2.2, 1.0, 0.0],
    [200.0, 199.9, 3.2, 1.0, 0.0],
    [300.0, 300.0, 3.9, 1.0, 0.0],
    [400.0, 400.0, 4.4, 1.0, 0.0],
    [440.0, 440.0, 4.7, 1.0, 0.0],
    [450.0, 450.0, 4.8, 1.0, 0.0011],
    [460.0, 459.9, 5.2, 0.9997, 0.0036],
    [470.0, 468.9, 7.4, 0.9978, 0.0133],
    [480.0, 474.4, 19.8, 0.9884, 0.0418],
    [490.0, 451.9, 67.2, 0.9228, 0.1393],
    [500.0, 358.7, 128.3, 0.7189, 0.2595],
    [510.0, 212.9, 124.1, 0.4188, 0.2466],
    [520.0, 131.2, 79.3, 0.2530, 0.1544],
    [540.0, 66.2, 31.5, 0.1227, 0.0589],
    [560.0, 46.3, 18.1, 0.0828, 0.0326],
];

/// Goodput and fraction within the bound of one load test of the simulator's own drawing.
fn own(rate_per_s: f64, seed: u64) -> [f64; 2] {
    let load = Load { schedule: Schedule::Poisson { rate_per_s }, duration: Some(WINDOW), seed };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let planned = Workload::Independent(Independent::default()).plan(&load, none).unwrap();
    let arrivals = planned.arrivals.into_iter().map(|it| arrival(it.at)).collect();
    let service = ServiceTime::Exponential { mean: Duration::from_millis(2) };
    let setup = Setup { seed, ..station(1, service) };
    let records = simulator::run(&setup, arrivals).unwrap().records;
    let bound = Duration::from_millis(200);
    let good = records.iter().filter(|it| it.e2e().is_some_and(|it| it <= bound)).count() as f64;
    [good / WINDOW.as_secs_f64(), good / records.len() as f64]
}

/// Compares means over `seeds` seeds with those over 2,000, within four standard errors of both and
/// half a unit of the last digit that is known.
fn compare(seeds: u64, rows: impl Iterator<Item = [f64; 5]>) {
    for [rate, goodput, goodput_sd, fraction, fraction_sd] in rows {
        let runs: Vec<[f64; 2]> = (1..=seeds).map(|seed| own(rate, seed)).collect();
        let n = seeds as f64;
        for (figure, mean, deviation, digit) in
            [(0, goodput, goodput_sd, 0.05), (1, fraction, fraction_sd, 0.000_05)]
        {
            let ours = runs.iter().map(|it| it[figure]).sum::<f64>() / n;
            let bound = 4.0 * deviation * (1.0 / n + 1.0 / 2_000.0).sqrt() + digit;
            assert!((ours - mean).abs() <= bound, "at {rate}/s: {ours} is not {mean} ± {bound}");
        }
    }
}

#[test]
fn own_draws_have_the_known_means() {
    compare(25, OVER_SEEDS.into_iter().step_by(3));
}

#[test]
#[ignore = "2,000 load tests at each rate take a minute in a release build"]
fn own_draws_have_the_known_means_over_two_thousand_seeds() {
    compare(2_000, OVER_SEEDS.into_iter());
}

#[test]
fn every_figure_comes_out_as_printed() {
    let draws = draws();
    let computed = PRINTED.map(|[rate, ..]| {
        let draws = &draws[&rate];
        let arrivals = draws.iter().map(|it| arrival(Timestamp::from_elapsed(millis(it[0]))));
        let service = ServiceTime::Listed(draws.iter().map(|it| millis(it[1])).collect());
        let slo = Slo { e2e: Some(Duration::from_millis(200)), ..Slo::default() };
        let terms = Terms { slo, retries_max: None };
        let setup = Setup { terms, ..station(1, service) };
        let recording = simulator::run(&setup, arrivals.collect()).unwrap();
        let info = RunInfo { scheduled_for: Some(WINDOW), ..RunInfo::default() };
        let run = Run::measure(&info, &recording.records, &recording.gaps);
        let e2e = run.e2e_ms.unwrap();
        let figures = [run.request_throughput, run.request_goodput, e2e.p50, e2e.p95, e2e.p99];
        figures.map(|it| format!("{it:.0}"))
    });
    let printed = PRINTED.map(|[_, figures @ ..]| figures.map(|it| it.to_string()));
    assert_eq!(computed, printed);
}
