//! The textbook's load test of a single server: every figure that it prints, through the whole of
//! the simulator's world.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use flate2::read::GzDecoder;
use report::{Run, RunInfo, Terms};
use simulator::{ServiceTime, Setup};
use types::{slo::Slo, time::Timestamp};

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
        let rounded = figures.map(|it| it.round() as u32);
        [rate, rounded[0], rounded[1], rounded[2], rounded[3], rounded[4]]
    });
    assert_eq!(computed, PRINTED);
}
