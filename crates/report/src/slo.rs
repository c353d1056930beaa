//! The `--goodput` notation: `time_to_first_token:1500 time_per_output_token:60`.
//!
//! Names and unit (milliseconds) are those of AIPerf, so that a command line can be carried over.

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
        "'{0}' is no bound; use time_to_first_token, time_per_output_token (or \
         inter_token_latency) or request_latency"
    )]
    Name(String),
    /// Not a sensible number.
    #[error("'{0}' needs milliseconds above 0 and up to 86400000 (a day)")]
    Value(String),
    /// A bound that is given twice.
    #[error("'{0}' is bounded twice; give each bound once")]
    Twice(String),
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
            "time_per_output_token" | "inter_token_latency" => &mut slo.tpot,
            "request_latency" => &mut slo.e2e,
            _ => return Err(BadSlo::Name(name.to_owned())),
        };
        let max = duration(value).ok_or_else(|| BadSlo::Value(item.to_owned()))?;
        if bound.replace(max).is_some() {
            return Err(BadSlo::Twice(name.to_owned()));
        }
    }
    if slo == Slo::default() { Err(BadSlo::Empty) } else { Ok(slo) }
}

fn duration(millis: &str) -> Option<Duration> {
    let millis: f64 = millis.parse().ok()?;
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
            Slo { ttft: millis(1_500_000), tpot: millis(62_500), e2e: millis(9_000_000) }
        );
    }

    #[test]
    fn mistakes_are_told_apart() {
        let error = |text: &str| parse(text).unwrap_err();
        assert_eq!(error(" "), BadSlo::Empty);
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
