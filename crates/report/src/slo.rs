//! The `--goodput` notation: `time_to_first_token:1500 time_per_output_token:60`.
//!
//! Names and units are those of AIPerf, so that a command line can be carried over: milliseconds, and
//! tokens per second for `output_token_throughput_per_user`. What AIPerf has no bound for follows its
//! manner: `inter_chunk_latency` bounds the 95th percentile of an answer's gaps, and
//! `inter_chunk_latency_jitter` the longest minus the shortest of them.

use std::time::Duration;

use types::slo::Slo;

/// Largest bound that makes sense, in milliseconds: a day.
const BOUND_MS_MAX: f64 = 86_400_000.0;

/// Why a list of bounds cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSlo {
    /// Not a name, a colon and a number.
    #[error("'{0}' is not NAME:MILLISECONDS, as in time_to_first_token:1500")]
    Form(String),
    /// A name that bounds nothing.
    #[error(
        "'{0}' is no bound; use time_to_first_token, inter_token_latency (or \
         time_per_output_token), output_token_throughput_per_user, inter_chunk_latency, \
         inter_chunk_latency_jitter, request_latency or completion_window"
    )]
    Name(String),
    /// Not a sensible number.
    #[error("'{0}' needs milliseconds above 0 and up to 86400000 (a day)")]
    Value(String),
    /// A bound that is given twice.
    #[error("'{0}' is bounded twice; give each bound once")]
    Twice(String),
    /// Bounds of somebody who waits, on work that nobody waits for.
    #[error("completion_window is for work that nobody waits for, so no other bound goes with it")]
    Mixed,
    /// Nothing at all.
    #[error("no bound given; write for example time_to_first_token:1500")]
    Empty,
}

/// Reads bounds, separated by blanks or commas.
///
/// # Errors
/// The first item that is not a bound, or an empty list.
pub fn parse(text: &str) -> Result<Slo, BadSlo> {
    let mut slo = Slo::default();
    let items = text.split(|c: char| c == ',' || c.is_whitespace());
    for item in items.filter(|it| !it.is_empty()) {
        let (name, value) = item.split_once(':').ok_or_else(|| BadSlo::Form(item.to_owned()))?;
        let bound = match name {
            "time_to_first_token" => &mut slo.ttft,
            "time_per_output_token"
            | "inter_token_latency"
            | "output_token_throughput_per_user" => &mut slo.tpot,
            "inter_chunk_latency" => &mut slo.itl_p95,
            "inter_chunk_latency_jitter" => &mut slo.jitter,
            "request_latency" => &mut slo.e2e,
            "completion_window" => &mut slo.completion,
            _ => return Err(BadSlo::Name(name.to_owned())),
        };
        let max = if name == "output_token_throughput_per_user" {
            // So many tokens a second for each user, at least: the inverse of the time per token.
            value.parse().ok().and_then(|it: f64| millis_to_duration(1_000.0 / it))
        } else {
            duration(value)
        };
        let max = max.ok_or_else(|| BadSlo::Value(item.to_owned()))?;
        if bound.replace(max).is_some() {
            return Err(BadSlo::Twice(name.to_owned()));
        }
    }
    let is_mixed = slo.is_batch() && Slo { completion: None, ..slo } != Slo::default();
    if is_mixed {
        return Err(BadSlo::Mixed);
    }
    if slo == Slo::default() { Err(BadSlo::Empty) } else { Ok(slo) }
}

fn duration(millis: &str) -> Option<Duration> {
    millis_to_duration(millis.parse().ok()?)
}

fn millis_to_duration(millis: f64) -> Option<Duration> {
    let sensible = millis > 0.0 && millis <= BOUND_MS_MAX;
    sensible.then(|| Duration::try_from_secs_f64(millis / 1_000.0).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_in_aiperfs_notation() {
        let slo = parse("time_to_first_token:1500 inter_token_latency:62.5,request_latency:9000");
        let millis = |it| Some(Duration::from_micros(it));
        assert_eq!(
            slo.unwrap(),
            Slo {
                ttft: millis(1_500_000),
                tpot: millis(62_500),
                e2e: millis(9_000_000),
                ..Slo::default()
            }
        );
        let slo = parse("output_token_throughput_per_user:25 inter_chunk_latency:90").unwrap();
        assert_eq!((slo.tpot, slo.itl_p95), (millis(40_000), millis(90_000)));
        assert_eq!(parse("inter_chunk_latency_jitter:80").unwrap().jitter, millis(80_000));
        let batch = parse("completion_window:14400000").unwrap();
        assert_eq!(batch.completion, Some(Duration::from_secs(4 * 3_600)));
    }

    #[test]
    fn mistakes_are_told_apart() {
        let error = |text: &str| parse(text).unwrap_err();
        assert_eq!(error(" "), BadSlo::Empty);
        assert_eq!(error("completion_window:9 request_latency:9"), BadSlo::Mixed);
        let none_a_second = "output_token_throughput_per_user:0";
        assert_eq!(error(none_a_second), BadSlo::Value(none_a_second.to_owned()));
        assert_eq!(error("1500"), BadSlo::Form("1500".to_owned()));
        assert_eq!(error("ttft:1500"), BadSlo::Name("ttft".to_owned()));
        for value in ["0", "-1", "NaN", "inf", "1e300", "2s", ""] {
            let item = format!("request_latency:{value}");
            assert_eq!(error(&item), BadSlo::Value(item));
        }
        let twice = "time_per_output_token:60 inter_token_latency:70";
        assert_eq!(error(twice), BadSlo::Twice("inter_token_latency".to_owned()));
    }
}
