//! Thresholds for CI: `good_request_fraction>=0.99`.
//!
//! A gate names a figure as `summary.json` does, a part of a structure after a dot (`ttft_ms.p99`), and
//! what it must be. A figure that a run has no value for does not pass: nothing was shown.

use std::{fmt, str::FromStr};

use serde::Serialize;
use serde_json::Value;

/// A threshold on one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    figure: String,
    relation: Relation,
    value: f64,
}

/// How a figure must stand to the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    AtLeast,
    AtMost,
    MoreThan,
    LessThan,
}

/// Longer spellings first, so that `>=` is not read as `>`.
const RELATIONS: [(&str, Relation); 4] = [
    (">=", Relation::AtLeast),
    ("<=", Relation::AtMost),
    (">", Relation::MoreThan),
    ("<", Relation::LessThan),
];

/// Why a threshold cannot be read, or did not hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failed {
    /// Not a figure, a relation and a number.
    #[error("'{0}' is not FIGURE>=NUMBER (or <=, >, <), as in good_request_fraction>=0.99")]
    Form(String),
    /// A figure that there is not.
    #[error("'{0}' is no figure of the results; use a key of summary.json, as in ttft_ms.p99")]
    Unknown(String),
    /// It was missed.
    #[error("{gate} does not hold: it is {actual}")]
    Missed {
        /// The threshold.
        gate: Gate,
        /// What was measured.
        actual: f64,
    },
    /// There is nothing to compare.
    #[error("{0} does not hold: the run has no such figure")]
    Absent(Gate),
}

impl Gate {
    /// The figure that it is on, or the structure that the figure is a part of.
    #[must_use]
    pub fn of(&self) -> &str {
        self.figure.split('.').next().unwrap_or_default()
    }

    /// Whether the threshold holds for `figures`, a structure of the results.
    ///
    /// # Errors
    /// A figure that there is not, has no value, or misses the threshold.
    pub fn check(&self, figures: &impl Serialize) -> Result<(), Failed> {
        let all = serde_json::to_value(figures).unwrap_or_default();
        let mut at = &all;
        for part in self.figure.split('.') {
            at = match at {
                Value::Object(fields) => {
                    fields.get(part).ok_or_else(|| Failed::Unknown(self.figure.clone()))?
                }
                Value::Null => return Err(Failed::Absent(self.clone())),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    return Err(Failed::Unknown(self.figure.clone()));
                }
            };
        }
        if at.is_null() {
            return Err(Failed::Absent(self.clone()));
        }
        let actual = at.as_f64().ok_or_else(|| Failed::Unknown(self.figure.clone()))?;
        let holds = match self.relation {
            Relation::AtLeast => actual >= self.value,
            Relation::AtMost => actual <= self.value,
            Relation::MoreThan => actual > self.value,
            Relation::LessThan => actual < self.value,
        };
        if holds { Ok(()) } else { Err(Failed::Missed { gate: self.clone(), actual }) }
    }
}

impl FromStr for Gate {
    type Err = Failed;

    fn from_str(text: &str) -> Result<Self, Failed> {
        let form = || Failed::Form(text.to_owned());
        let (figure, relation, value) = RELATIONS
            .into_iter()
            .find_map(|(sign, relation)| {
                let (figure, value) = text.split_once(sign)?;
                Some((figure.trim(), relation, value.trim()))
            })
            .ok_or_else(form)?;
        let value: f64 = value.parse().map_err(|_| form())?;
        if figure.is_empty() || !value.is_finite() {
            return Err(form());
        }
        Ok(Self { figure: figure.to_owned(), relation, value })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = RELATIONS.into_iter().find(|it| it.1 == self.relation).map_or("", |it| it.0);
        write!(f, "{}{sign}{}", self.figure, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    fn check(gate: &str) -> Result<(), Failed> {
        gate.parse::<Gate>()?.check(&run(&records()))
    }

    #[test]
    fn a_threshold_holds_or_says_by_how_much_not() {
        for held in ["good_request_fraction>=0.4", "ttft_ms.p50 <= 300", "failed<2", "good > 1"] {
            assert_eq!(check(held), Ok(()), "{held}");
        }
        let error = check("good_request_fraction>=0.99").unwrap_err().to_string();
        assert_eq!(error, "good_request_fraction>=0.99 does not hold: it is 0.4");
    }

    #[test]
    fn what_is_no_threshold_or_no_figure_is_told_the_cure() {
        for text in ["", "good", "good>=", ">=1", "good>=many", "good>=NaN"] {
            assert!(matches!(check(text), Err(Failed::Form(_))), "{text}");
        }
        for text in ["goodness>=1", "good.p99>=1", "ttft_ms>=1", "policy>=1"] {
            assert!(matches!(check(text), Err(Failed::Unknown(_))), "{text}");
        }
    }

    #[test]
    fn nothing_shown_is_not_passed() {
        let gate: Gate = "ttft_ms.p99<=9".parse().unwrap();
        assert_eq!(gate.check(&run(&[])), Err(Failed::Absent(gate)));
    }
}
