//! Lengths of time in results files: milliseconds, as their names say.
//!
//! Older files have seconds and nanoseconds in an object each; those are read too.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::slo::Slo;

/// A length of time as a file has it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of milliseconds of 0 or more")]
enum Written {
    Millis(f64),
    Parts(Duration),
}

impl Written {
    fn duration<E: serde::de::Error>(self) -> Result<Duration, E> {
        match self {
            Self::Millis(millis) => Duration::try_from_secs_f64(millis / 1_000.0)
                .map_err(|error| E::custom(format!("{millis} milliseconds: {error}"))),
            Self::Parts(duration) => Ok(duration),
        }
    }
}

fn of(duration: Duration) -> f64 {
    duration.div_duration_f64(Duration::from_millis(1))
}

/// A length of time in milliseconds.
pub(crate) mod required {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(it: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(of(*it))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Written::deserialize(from)?.duration()
    }
}

/// One that may be absent.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        it: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        it.map(of).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<Written>::deserialize(from)?.map(Written::duration).transpose()
    }
}

/// A promise as results have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloMillis {
    #[serde(rename = "ttft_ms", alias = "ttft", with = "optional")]
    ttft: Option<Duration>,
    #[serde(rename = "tpot_ms", alias = "tpot", with = "optional")]
    tpot: Option<Duration>,
    #[serde(rename = "itl_p95_ms", alias = "itl_p95", with = "optional")]
    #[serde(skip_serializing_if = "Option::is_none")]
    itl_p95: Option<Duration>,
    #[serde(rename = "jitter_ms", alias = "jitter", with = "optional")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<Duration>,
    #[serde(rename = "e2e_ms", alias = "e2e", with = "optional")]
    e2e: Option<Duration>,
    #[serde(rename = "completion_ms", alias = "completion", with = "optional")]
    #[serde(skip_serializing_if = "Option::is_none")]
    completion: Option<Duration>,
}

impl From<Slo> for SloMillis {
    fn from(Slo { ttft, tpot, itl_p95, jitter, e2e, completion }: Slo) -> Self {
        Self { ttft, tpot, itl_p95, jitter, e2e, completion }
    }
}

impl From<SloMillis> for Slo {
    fn from(SloMillis { ttft, tpot, itl_p95, jitter, e2e, completion }: SloMillis) -> Self {
        Self { ttft, tpot, itl_p95, jitter, e2e, completion }
    }
}

/// A promise among other things.
pub(crate) mod slo {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(it: &Slo, to: S) -> Result<S::Ok, S::Error> {
        SloMillis::from(*it).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Slo, D::Error> {
        SloMillis::deserialize(from).map(Slo::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_written_in_milliseconds() {
        let slo = Slo {
            ttft: Some(Duration::from_micros(1_500_100)),
            completion: Some(Duration::from_secs(14_400)),
            ..Slo::default()
        };
        let text = serde_json::to_string(&SloMillis::from(slo)).unwrap();
        let expected =
            r#"{"ttft_ms":1500.1,"tpot_ms":null,"e2e_ms":null,"completion_ms":14400000.0}"#;
        assert_eq!(text, expected);
        assert_eq!(Slo::from(serde_json::from_str::<SloMillis>(&text).unwrap()), slo);
    }

    #[test]
    fn files_of_before_are_read() {
        let text = r#"{"ttft":{"secs":1,"nanos":500000000},"tpot":null,"e2e":null}"#;
        let slo = Slo::from(serde_json::from_str::<SloMillis>(text).unwrap());
        assert_eq!(slo, Slo { ttft: Some(Duration::from_millis(1_500)), ..Slo::default() });
        assert!(serde_json::from_str::<SloMillis>(r#"{"ttft_ms":-1}"#).is_err());
    }
}
