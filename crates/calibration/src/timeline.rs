//! The load of a real engine second by second, beside that of the simulated one.

use serde::Deserialize;

use crate::run::Sample;

/// The load that an engine reported at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Seconds since the first request.
    pub at_s: f64,
    /// What was reported; several ranks are summed, their KV use averaged.
    pub load: Sample,
}

/// A line of LLMServingSim's time series.
#[derive(Deserialize)]
struct Line {
    t: f64,
    running: f64,
    waiting: f64,
    kv_cache_pct: f64,
}

/// Why a time series cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTimeline {
    /// A line is not what it should be.
    #[error("{0}; needs the columns t, running, waiting and kv_cache_pct")]
    Csv(#[from] csv::Error),
    /// Times go back, or a figure is none.
    #[error("line {line}: needs times that ascend and figures of 0 or more; correct the line")]
    Value {
        /// Line, from 1.
        line: usize,
    },
    /// There is nothing in it.
    #[error("holds no line below the header")]
    Empty,
}

/// Reads a time series as LLMServingSim writes it: CSV, a line a second.
///
/// # Errors
/// The first line that cannot be used, or no line.
pub fn read(text: &str) -> Result<Vec<Moment>, BadTimeline> {
    let mut moments: Vec<Moment> = Vec::new();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    for (line, read) in (2..).zip(reader.deserialize::<Line>()) {
        let Line { t, running, waiting, kv_cache_pct } = read?;
        let is_later = moments.last().is_none_or(|it| it.at_s < t);
        let figures = [t, running, waiting, kv_cache_pct];
        if !is_later || !figures.iter().all(|it| it.is_finite() && *it >= 0.0) {
            return Err(BadTimeline::Value { line });
        }
        let load = Sample { running, waiting, kv_usage: kv_cache_pct / 100.0 };
        moments.push(Moment { at_s: t, load });
    }
    if moments.is_empty() { Err(BadTimeline::Empty) } else { Ok(moments) }
}

/// How one figure of the load compares over the whole time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Track {
    /// What is compared.
    pub name: &'static str,
    /// Mean over the moments, as the real engine reported.
    pub measured_mean: f64,
    /// Mean over the same moments, simulated.
    pub simulated_mean: f64,
    /// Mean size of the difference at a moment.
    pub off_mean: f64,
    /// Largest figure that was reported.
    pub measured_max: f64,
    /// Largest figure that was simulated.
    pub simulated_max: f64,
}

/// A time series, measured and simulated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Running, waiting and KV use; one that the engine never reported is left out.
    pub tracks: Vec<Track>,
    /// Each moment: measured, then simulated.
    pub moments: Vec<(Moment, Sample)>,
}

/// Puts `samples`, taken once a second from the first request on, beside what was measured. Behind
/// the end of the shorter one both are idle.
#[must_use]
pub fn compare(measured: &[Moment], samples: &[Sample]) -> Timeline {
    let at = |at_s: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let place = (at_s.round() - 1.0).clamp(0.0, 1e9) as usize;
        samples.get(place).copied().unwrap_or_default()
    };
    let moments: Vec<(Moment, Sample)> = measured.iter().map(|it| (*it, at(it.at_s))).collect();
    let tracks = [
        track("running", |it| it.running, &moments),
        track("waiting", |it| it.waiting, &moments),
        track("KV use", |it| it.kv_usage, &moments),
    ];
    Timeline { tracks: tracks.into_iter().flatten().collect(), moments }
}

fn track(
    name: &'static str,
    figure: fn(&Sample) -> f64,
    moments: &[(Moment, Sample)],
) -> Option<Track> {
    let both = || moments.iter().map(|(real, ours)| (figure(&real.load), figure(ours)));
    let count = moments.len().max(1) as f64;
    let measured_max = both().map(|it| it.0).fold(0.0, f64::max);
    (measured_max > 0.0).then(|| Track {
        name,
        measured_mean: both().map(|it| it.0).sum::<f64>() / count,
        simulated_mean: both().map(|it| it.1).sum::<f64>() / count,
        off_mean: both().map(|(real, ours)| (real - ours).abs()).sum::<f64>() / count,
        measured_max,
        simulated_max: both().map(|it| it.1).fold(0.0, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "t,prompt_throughput,running,waiting,kv_cache_pct\n";

    #[test]
    fn moments_are_compared_with_the_samples_of_their_second() {
        let measured = read(&format!("{HEAD}1.0,5,2,0,0\n2.0,5,4,3,0\n3.0,5,0,0,0\n")).unwrap();
        let sample = |running| Sample { running, ..Sample::default() };
        let timeline = compare(&measured, &[sample(2.0), sample(2.0)]);
        let names: Vec<&str> = timeline.tracks.iter().map(|it| it.name).collect();
        assert_eq!(names, ["running", "waiting"], "KV use was never reported");
        let running = timeline.tracks[0];
        assert!((running.off_mean - 2.0 / 3.0).abs() < 1e-12, "{running:?}");
        assert!((running.measured_max - 4.0).abs() < 1e-12);
        assert_eq!(timeline.moments[2].1, Sample::default());
    }

    #[test]
    fn a_series_that_cannot_be_used_is_told_why() {
        for (text, told) in [
            (HEAD.to_owned(), "no line"),
            (format!("{HEAD}1,1,1,1,1\n1,1,1,1,1\n"), "line 3"),
            (format!("{HEAD}1,1,-1,1,1\n"), "line 2"),
            (format!("{HEAD}1,1,x,1,1\n"), "running"),
            ("t,running\n1,1\n".to_owned(), "kv_cache_pct"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(told), "{told} is not in: {error}");
        }
    }
}
