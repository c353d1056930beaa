//! `sluice compare --explain`: why one request went where it went, under each policy.

use std::fmt::Write as _;

use anyhow::bail;
use parking_lot::Mutex;
use policy::{
    config::StrategyName,
    event::{Placement, Reason},
    explanation::{Considered, Explanation},
};
use report::table;
use serde_json::json;
use types::replica::LoadReport;

use crate::simulate::{What, cases::Cases, load};

/// Replicas shown of a decision, the best first.
const SHOWN_MAX: usize = 16;

/// What is said of one policy.
#[derive(Debug)]
pub(crate) struct Told {
    /// The policy, with the admission mode where there is one.
    pub(crate) policy: String,
    /// Each decision on the request, the first first.
    pub(crate) explanations: Vec<Explanation>,
}

/// Simulates the first seed of each policy and explains request `number` in each.
///
/// # Errors
/// When the simulation can't be run, or no request has that number.
pub(crate) fn simulated(what: &What, number: u64, is_json: bool) -> anyhow::Result<()> {
    let what = What { no_limits: true, ..what.clone() };
    let scenario = load::scenario(&what)?;
    let cases = Cases::new(&what, scenario, 1)?.explaining(number);
    let kept = Mutex::new(Vec::new());
    let runs = cases.run(what.jobs, |case, done| {
        let requests = done.recording.records.len() as u64;
        if number >= requests {
            let last = requests.saturating_sub(1);
            bail!("--explain: the requests have the numbers 0 to {last}, not {number}");
        }
        let mut explanations = done.recording.explanations.clone();
        explanations.reverse();
        let policy = done.run.rules();
        let told = Told { policy, explanations };
        kept.lock().push((done.info.workload.clone(), case.place, told));
        Ok(())
    })?;
    let mut kept = kept.into_inner();
    kept.sort_by_key(|it| it.1);
    let first = runs.first().map(|it| it.workload.clone()).unwrap_or_default();
    let told = kept.into_iter().filter(|it| it.0 == first).map(|it| it.2).collect();
    show(&format!("{first}, seed {}", what.seed), number, told, is_json)
}

/// Prints what is said of request `number` of `source`.
///
/// # Errors
/// When no policy decided on it.
#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
pub(crate) fn show(
    source: &str,
    number: u64,
    told: Vec<Told>,
    is_json: bool,
) -> anyhow::Result<()> {
    let Some(asked) = told.iter().find_map(|it| it.explanations.first()) else {
        bail!("--explain: {source} has no decision on a request {number}");
    };
    if is_json {
        let runs: Vec<_> = told
            .iter()
            .map(|it| json!({ "policy": it.policy, "decisions": it.explanations }))
            .collect();
        println!("{:#}", json!({ "source": source, "request": number, "runs": runs }));
        return Ok(());
    }
    println!("{source}: request {number}, {} prompt tokens", asked.prompt);
    for it in told {
        print!("\n{}", page(&it));
    }
    Ok(())
}

/// What is said of one policy.
fn page(told: &Told) -> String {
    let mut out = String::new();
    if told.explanations.is_empty() {
        return format!("{}: it never came to a decision\n", told.policy);
    }
    for it in &told.explanations {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", headline(&told.policy, it));
        if !it.candidates.is_empty() {
            let _ = writeln!(out, "{}", candidates(it));
        }
        let hidden = it.candidates.len().saturating_sub(SHOWN_MAX);
        let others = hidden.saturating_add(usize::try_from(it.others).unwrap_or(usize::MAX));
        if others > 0 {
            let _ = writeln!(out, "and {others} more");
        }
        if let Some(outcome) = it.verdict.ok().map(|placement| outcome(it, &placement)) {
            let _ = writeln!(out, "{outcome}");
        }
    }
    out
}

fn headline(policy: &str, it: &Explanation) -> String {
    let at_s = it.at.elapsed().as_secs_f64();
    match &it.verdict {
        Ok(Placement { replica, reason, attempt, .. }) => {
            let hashes = it.strategy == StrategyName::ConsistentHash;
            let why = match reason {
                Reason::Session if hashes => "its conversation hashes to it".to_owned(),
                Reason::Prefix if hashes => "the beginning of its prompt hashes to it".to_owned(),
                Reason::Session => "it served the conversation before".to_owned(),
                Reason::Prefix => "of what it holds of the prompt".to_owned(),
                Reason::Load => "of its load, its turn or by lot".to_owned(),
                Reason::Cost => "it costs least".to_owned(),
                Reason::Fallback => match it.instead_of {
                    Some(favourite) => format!("{favourite}, the favourite, is saturated"),
                    None => "the favourite is saturated".to_owned(),
                },
                Reason::Retry => format!("an attempt failed; this is number {attempt}"),
            };
            format!("{policy}, at {at_s:.3} s: to {replica} because {why}")
        }
        Err(reject) => format!("{policy}, at {at_s:.3} s: turned away because {reject}"),
    }
}

fn candidates(it: &Explanation) -> String {
    let chosen = it.verdict.ok().map(|it| it.replica);
    let has_cost = it.candidates.iter().any(|it| it.cost.is_some());
    let has_forecast = it.candidates.iter().any(|it| it.predicted.is_some());
    let unit = it.strategy.ranks_in().filter(|_| !has_cost);
    let is_reported = it.candidates.iter().any(|it| it.reported != LoadReport::default());
    let mut header = vec!["replica", "requests", "queued", "hit tokens"];
    if is_reported {
        header.extend(["waiting", "KV"]);
    }
    if has_cost {
        header.extend(["wait s", "harm s", "price s", "cost s"]);
    } else if has_forecast {
        header.push("TTFT s");
    }
    header.extend(unit);
    header.push("");
    let row = |candidate: &Considered| {
        let Considered { replica, requests, queued_prefill, cached, .. } = candidate;
        let mut row = vec![
            replica.to_string(),
            requests.to_string(),
            queued_prefill.to_string(),
            cached.to_string(),
        ];
        if is_reported {
            let LoadReport { waiting, kv_usage, .. } = candidate.reported;
            row.extend([waiting.to_string(), format!("{:.0} %", 100.0 * kv_usage)]);
        }
        if has_cost {
            let terms = candidate.cost.unwrap_or_default();
            let total = candidate.score.unwrap_or_default();
            row.extend([terms.wait_s, terms.harm_s, terms.price_s, total].map(seconds));
        } else if has_forecast {
            row.push(candidate.predicted.map_or_else(String::new, |it| seconds(it.ttft_s)));
        }
        if unit.is_some() {
            let score = |score: f64| match unit {
                Some("s") => seconds(score),
                Some("points lacking") => format!("{score:.2}"),
                Some(_) | None => format!("{score:.0}"),
            };
            row.push(candidate.score.map_or_else(String::new, score));
        }
        row.push(note(it, candidate, chosen == Some(*replica)).to_owned());
        row
    };
    table::rows(&header, it.candidates.iter().take(SHOWN_MAX).map(row))
}

fn note(it: &Explanation, candidate: &Considered, is_chosen: bool) -> &'static str {
    if is_chosen {
        "← chosen"
    } else if it.instead_of == Some(candidate.replica) {
        "saturated"
    } else if let Some(gate) = candidate.gate {
        gate.as_str()
    } else if let Some(why) = candidate.passed_over {
        why.as_str()
    } else if !candidate.has_room {
        "full"
    } else {
        ""
    }
}

fn outcome(it: &Explanation, placement: &Placement) -> String {
    let or_none = |it: Option<String>| it.unwrap_or_else(|| "-".to_owned());
    let predicted = or_none(placement.ttft.map(|it| seconds(it.as_secs_f64())));
    let came = or_none(it.observed.ttft_s.map(seconds));
    let found = or_none(it.observed.cached.map(|it| it.to_string()));
    let most = or_none(placement.most_cached.map(|it| it.to_string()));
    format!(
        "TTFT predicted {predicted} s, came {came} s; hit tokens expected {}, found {found}, best \
         anywhere {most}",
        placement.cached
    )
}

fn seconds(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.4}") } else { format!("{seconds:.1}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use policy::{
        admission::Gate,
        event::Reject,
        explanation::{CostTerms, Observed, PassedOver, Predicted},
    };
    use types::{
        quantity::Tokens,
        replica::ReplicaId,
        request::{ModelId, RequestId},
        time::Timestamp,
    };

    use super::*;

    fn considered(replica: u32, score: f64) -> Considered {
        Considered {
            replica: ReplicaId(replica),
            passed_over: (replica == 2).then_some(PassedOver::Admission),
            gate: (replica == 2).then_some(Gate::Seats),
            has_room: replica != 3,
            requests: 1_000 + replica,
            queued_prefill: Tokens(1_000_000),
            cached: Tokens(100_000),
            reported: LoadReport::default(),
            score: Some(score),
            predicted: Some(Predicted { ttft_s: 1.5, tpot_s: 0.02, work_s: 0.3, utilisation: 0.4 }),
            cost: Some(CostTerms { wait_s: 1_234.5, harm_s: 99.25, price_s: 1_000.0 }),
        }
    }

    fn explanation(verdict: Result<Placement, Reject>) -> Explanation {
        Explanation {
            at: Timestamp::from_elapsed(Duration::from_millis(4_100)),
            request: RequestId(7),
            model: ModelId(1),
            prompt: Tokens(120_000),
            strategy: StrategyName::LeastLatency,
            verdict,
            instead_of: None,
            candidates: (0..20).map(|it| considered(it, 2_333.75 + f64::from(it))).collect(),
            others: 4,
            observed: Observed { ttft_s: Some(1.25), ..Observed::default() },
        }
    }

    #[test]
    fn a_decision_fits_a_terminal_and_says_who_won_and_why() {
        let placement = Placement {
            replica: ReplicaId(0),
            strategy: StrategyName::LeastLatency,
            reason: Reason::Cost,
            cached: Tokens(100_000),
            attempt: 1,
            most_cached: Some(Tokens(110_000)),
            ttft: Some(Duration::from_millis(1_500)),
        };
        let explanations = vec![explanation(Ok(placement)), explanation(Err(Reject::NoReplicas))];
        let page = page(&Told { policy: "least-latency + knee".to_owned(), explanations });
        let widest = page.lines().map(|it| it.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest}\n{page}");
        for part in [
            "to replica 0 because it costs least",
            "← chosen",
            "seats",
            "full",
            "and 8 more",
            "TTFT predicted 1.5000 s, came 1.2500 s",
            "best anywhere 110000",
            "turned away because no replica is ready",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
