//! Workloads whose knee is looked for first: promises of each kind that bind, agents, and recorded traffic.

use std::time::Duration;

use policy::admission::AdmissionConfig;

use crate::{
    Terms,
    case::{Case, Ran, mean},
    goodput::{at_knee, beyond, knee_of},
    line::{Bar, put, say},
};

/// Long prompts with short answers: what breaks is the time to first token.
const FIRST_TOKENS: &str = "
name: first-tokens
fleet: { replicas: 8, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
workload: { independent: { prompt_tokens: { min: 2000, max: 8000 }, answer_tokens: { min: 5, max: 30 } } }
load: { rates_per_s: [40], duration: 60s, warm_up: 20s }
slo: { ttft: 800ms, tpot: 500ms }
";

/// Short prompts with long answers: what breaks is the pace of answers.
const PACE: &str = "
name: pace
fleet: { replicas: 8, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
workload: { independent: { prompt_tokens: { min: 50, max: 300 }, answer_tokens: { min: 200, max: 600 } } }
load: { rates_per_s: [100], duration: 60s, warm_up: 20s }
slo: { ttft: 2s, tpot: 14ms }
";

/// Long contexts in a small cache: what breaks is memory, and first tokens because of it.
const MEMORY: &str = "
name: memory
fleet: { replicas: 8, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048, kv_tokens: 60000 } }
workload: { independent: { prompt_tokens: { min: 2000, max: 6000 }, answer_tokens: { min: 200, max: 400 } } }
load: { rates_per_s: [25], duration: 60s, warm_up: 20s }
slo: { ttft: 2s, tpot: 100ms }
";

pub(crate) fn binding(terms: &Terms) {
    for (text, guess, gate) in
        [(FIRST_TOKENS, 40.0, "ttft"), (PACE, 120.0, "tpot"), (MEMORY, 25.0, "kv-cache")]
    {
        let case = Case::of(text, guess).on(terms);
        if !terms.wants(&case.name) {
            continue;
        }
        let mut case = with_its_knee(case, "binding");
        beyond(&case, terms.seeds, "binding");
        if text == MEMORY {
            told_of_memory(&case, terms.seeds);
        }
        case.follow = Some(1);
        let ran = case.run(AdmissionConfig::default(), 2.0, 1);
        names(&case, &ran, gate);
    }
}

/// Engines that state a cache of twice its size, and say more or less of how it goes with it.
fn told_of_memory(case: &Case, seeds: u64) {
    let knee = at_knee(case, seeds).iter().map(|it| it.0).sum::<f64>() / seeds as f64;
    for (told, kv_usage_told, preemptions_told) in [
        ("usage and preemptions told", true, true),
        ("usage told", true, false),
        ("preemptions told", false, true),
        ("neither told", false, false),
    ] {
        let mut case = case.clone();
        let signals = &mut case.scenario.signals;
        (signals.kv_usage_told, signals.preemptions_told) = (kv_usage_told, preemptions_told);
        signals.cache_stated = 2.0;
        for times in [1.4, 2.0] {
            let runs = case.runs(AdmissionConfig::default(), times, seeds);
            let line = |what: &str, figure, bar| {
                let what = format!("cache stated twice, {told}: {what} at {times} x");
                put("binding", &case.name, &what, figure, bar);
            };
            let good = mean(&runs, Ran::good_per_s);
            line("goodput, % of the knee's", 100.0 * good / knee, Bar::None);
            line("served as promised of those let in, %", mean(&runs, Ran::attained), Bar::None);
        }
    }
}

/// Says what was named as binding.
fn names(case: &Case, ran: &Ran, expected: &str) {
    let Some((gate, share)) = ran.binding() else { return };
    let said =
        format!("{} ({:.0} % of the refusals; {expected} was meant)", gate.as_str(), 100.0 * share);
    say("binding", &case.name, "what the metric names", &said);
}

fn with_its_knee(mut case: Case, row: &str) -> Case {
    case.knee = knee_of(&case, 1);
    put(row, &case.name, "knee without admission", case.knee, Bar::None);
    case
}

/// Scenarios with a rate, or a speed of the trace, near which the knee is looked for.
const TRACES: [(&str, f64); 5] = [
    ("agent", 30.0),
    ("mooncake", 8.0),
    ("mooncake-conversation", 3.0),
    ("azure-conversation", 25.0),
    ("azure-code", 20.0),
];

pub(crate) fn traces(terms: &Terms) {
    for (name, guess) in TRACES.into_iter().filter(|it| terms.wants(it.0)) {
        // Conversations take a while to grow.
        let longest = if name == "agent" { 2 } else { 1 };
        let duration = terms.duration.saturating_mul(longest).max(Duration::from_secs(60));
        let case = with_its_knee(Case::named(name, guess).on(terms).lasting(duration), "traces");
        beyond(&case, terms.seeds_of(&case), "traces");
    }
}
