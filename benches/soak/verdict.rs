//! Whether the router has kept what it should not have.

use crate::{clients::Tally, sample::Sample};

/// By how much memory may grow from the second quarter of the time to the last: by so many hundredths, or by so many KiB.
const GROWTH_PERCENT_MAX: u64 = 3;
const GROWTH_KB_MAX: u64 = 1_024;

/// Prints what was found beside its bound, and returns whether all of it is within.
pub(crate) fn judge(start: &Sample, samples: &[Sample], last: &Sample, tally: &Tally) -> bool {
    let quarter = samples.len() / 4;
    let rss = |from: usize| {
        let part = samples.iter().skip(from).take(quarter);
        median(part.map(|it| it.rss_kb).collect())
    };
    let (second, fourth) = (rss(quarter), rss(3 * quarter));
    let room = (second * GROWTH_PERCENT_MAX / 100).max(GROWTH_KB_MAX);
    let stuck = tally.stuck();
    let whole = tally.whole();
    println!("{}", tally.table());
    println!("requests that the router counted: {}", last.requests);
    let found = [
        (
            fourth <= second + room,
            format!(
                "memory, median of each quarter: {} → {second} → {} → {fourth} KB; at the end {} KB (start {} KB; bound {})",
                rss(0),
                rss(2 * quarter),
                last.rss_kb,
                start.rss_kb,
                second + room
            ),
        ),
        (
            last.is_idle_as(start),
            format!(
                "at the end: {} descriptors (start {}), {} tasks (start {})",
                last.descriptors, start.descriptors, last.tasks, start.tasks
            ),
        ),
        (
            last.reserved() == 0,
            format!(
                "at the end: {} requests in flight, {} tokens reserved, {} requests waiting",
                last.in_flight, last.queued_prefill, last.waiting
            ),
        ),
        (stuck == 0, format!("clients that waited for more than a minute: {stuck}")),
        (0 < whole && start.requests < last.requests, format!("whole answers: {whole}")),
    ];
    for (is_within, text) in &found {
        println!("{}  {text}", if *is_within { "ok  " } else { "FAIL" });
    }
    found.iter().all(|it| it.0)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
