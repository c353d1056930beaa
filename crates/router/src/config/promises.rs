//! What requests are promised, and how urgent they may say they are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderMap;
use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly;
use serde::{Deserialize, Serialize};
use types::{request::Priority, slo::Slo};
use wire::headers;

/// Most classes; each is a name that clients may send.
const CLASSES_MAX: usize = 64;

/// Longest bound that a client may ask for, milliseconds: a day.
const BOUND_MS_MAX: u64 = 86_400_000;

/// What requests are promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Promises {
    /// To those who name no class.
    pub default: Bounds,
    /// To those who name one, with `x-sluice-slo-class` or by their priority.
    pub classes: BTreeMap<String, Bounds>,
}

/// Bounds on what one request may experience; one that is absent always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Longest time to first token.
    #[serde(with = "friendly", skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Duration>,
    /// Longest time per output token, averaged over the answer.
    #[serde(with = "friendly", skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Duration>,
    /// Longest time to the last token.
    #[serde(with = "friendly", skip_serializing_if = "Option::is_none")]
    pub e2e: Option<Duration>,
    /// Window in which work that nobody waits for is to be done.
    #[serde(with = "friendly", skip_serializing_if = "Option::is_none")]
    pub completion: Option<Duration>,
}

impl From<Bounds> for Slo {
    fn from(Bounds { ttft, tpot, e2e, completion }: Bounds) -> Self {
        Self { ttft, tpot, e2e, completion, ..Self::default() }
    }
}

impl Default for Promises {
    fn default() -> Self {
        let ms = |it| Some(Duration::from_millis(it));
        let bounds = |ttft, tpot| Bounds { ttft: ms(ttft), tpot: ms(tpot), ..Bounds::default() };
        let batch =
            Bounds { completion: Some(Duration::from_secs(4 * 3_600)), ..Bounds::default() };
        let classes = [("interactive".to_owned(), bounds(500, 50)), ("batch".to_owned(), batch)];
        Self { default: bounds(1_500, 60), classes: classes.into() }
    }
}

/// How urgent requests may say they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Priorities {
    /// The most urgent class that a tenant may claim.
    pub max: Priority,
    /// The same for single tenants, by the name that `tenant_header` brings.
    pub tenants: BTreeMap<String, Priority>,
}

impl Default for Priorities {
    fn default() -> Self {
        Self { max: Priority::Interactive, tenants: BTreeMap::new() }
    }
}

impl Promises {
    /// Everything wrong with the values.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if CLASSES_MAX < self.classes.len() {
            let classes = self.classes.len();
            problems.push(format!("slo.classes: at most {CLASSES_MAX}, not {classes}"));
        }
        let named = self.classes.iter().map(|(name, it)| (format!("classes.{name}"), it));
        for (name, bounds) in named.chain([("default".to_owned(), &self.default)]) {
            let all = [bounds.ttft, bounds.tpot, bounds.e2e, bounds.completion];
            if all.into_iter().flatten().any(|it| it.is_zero()) {
                problems.push(format!("slo.{name}: a bound of zero can't be kept; leave it out"));
            }
            if bounds.completion.is_some() && all.into_iter().flatten().count() > 1 {
                problems.push(format!("slo.{name}: completion is for work that nobody waits for"));
            }
        }
        problems
    }
}

/// What a request is promised, and how urgent it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The class whose promise it gets; none is everybody's.
    pub(crate) class: Option<Arc<str>>,
    /// The promise.
    pub(crate) slo: Slo,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// Whether it asked to be more urgent than its tenant may be.
    pub(crate) is_clamped: bool,
}

/// What a request is promised and how urgent it is: what its headers ask for, as far as its tenant
/// may.
pub(crate) fn read(
    promises: &Promises,
    priorities: &Priorities,
    headers: &HeaderMap,
    tenant: Option<&str>,
) -> Asked {
    let text =
        |name: http::HeaderName| headers.get(name).and_then(|it| it.to_str().ok()).map(str::trim);
    let class = text(headers::SLO_CLASS);
    let named = text(headers::PRIORITY).or(class).and_then(Priority::named);
    let most = tenant.and_then(|it| priorities.tenants.get(it)).copied().unwrap_or(priorities.max);
    let wanted = named.unwrap_or_default();
    let priority = wanted.min(most);
    let class = class.unwrap_or(priority.as_str());
    let known = promises.classes.get_key_value(class);
    let mut slo = Slo::from(*known.map_or(&promises.default, |it| it.1));
    let bound = |names: &[http::HeaderName]| {
        let ms = headers::whole_number(headers, names)?;
        (1..=BOUND_MS_MAX).contains(&ms).then(|| Duration::from_millis(ms))
    };
    slo.ttft = bound(&headers::SLO_TTFT_MS).or(slo.ttft);
    slo.tpot = bound(&headers::SLO_TPOT_MS).or(slo.tpot);
    let class = known.map(|it| it.0.as_str().into());
    // Who has hours goes before nobody whose client waits, whatever it calls itself.
    let priority = if slo.is_batch() { priority.min(Priority::Batch) } else { priority };
    Asked { class, slo, priority, is_clamped: priority < wanted && named.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)], tenant: Option<&str>) -> (Slo, Priority) {
        let Asked { slo, priority, .. } = all_asked(pairs, tenant);
        (slo, priority)
    }

    fn all_asked(pairs: &[(&str, &str)], tenant: Option<&str>) -> Asked {
        let headers = pairs
            .iter()
            .map(|(name, value)| {
                (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())
            })
            .collect();
        let priorities = Priorities {
            tenants: [("ops".to_owned(), Priority::System)].into(),
            ..Priorities::default()
        };
        read(&Promises::default(), &priorities, &headers, tenant)
    }

    const MS: fn(u64) -> Option<Duration> = |it| Some(Duration::from_millis(it));

    #[test]
    fn a_request_gets_the_promise_of_its_class_and_may_ask_for_another() {
        let (slo, priority) = asked(&[], None);
        assert_eq!((slo.ttft, slo.tpot, priority), (MS(1_500), MS(60), Priority::Default));
        let (slo, priority) = asked(&[("x-sluice-priority", "interactive")], None);
        assert_eq!((slo.ttft, priority), (MS(500), Priority::Interactive));
        let (slo, priority) = asked(&[("x-sluice-slo-class", "batch")], None);
        assert!(slo.is_batch() && priority == Priority::Batch);
        let (slo, _) = asked(&[("x-slo-ttft-ms", "250"), ("x-llm-d-slo-tpot-ms", "0")], None);
        assert_eq!((slo.ttft, slo.tpot), (MS(250), MS(60)));
    }

    #[test]
    fn work_with_a_window_is_never_urgent() {
        let class = ("x-sluice-slo-class", "batch");
        for more in [("x-sluice-priority", "interactive"), ("x-sluice-slo-ttft-ms", "9000")] {
            let asked = all_asked(&[class, more], None);
            assert!(asked.slo.is_batch() && asked.priority == Priority::Batch, "{asked:?}");
        }
        let asked = all_asked(&[class, ("x-sluice-priority", "interactive")], None);
        assert!(asked.is_clamped && asked.class.as_deref() == Some("batch"));
    }

    #[test]
    fn a_class_that_is_not_listed_is_nobodys() {
        let class = |name| all_asked(&[("x-sluice-slo-class", name)], None).class;
        assert_eq!((class("batch").as_deref(), class("made-up")), (Some("batch"), None));
        let by_priority = all_asked(&[("x-sluice-priority", "interactive")], None).class;
        assert_eq!(by_priority.as_deref(), Some("interactive"));
    }

    #[test]
    fn nobody_is_more_urgent_than_its_tenant_may_be() {
        let claim = [("x-sluice-priority", "system")];
        assert_eq!(asked(&claim, None).1, Priority::Interactive);
        assert_eq!(asked(&claim, Some("ops")).1, Priority::System);
        assert!(all_asked(&claim, None).is_clamped && !all_asked(&claim, Some("ops")).is_clamped);
        assert!(!all_asked(&[], None).is_clamped);
        assert_eq!(asked(&[("x-sluice-priority", "urgent!")], None).1, Priority::Default);
    }
}
