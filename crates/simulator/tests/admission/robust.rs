//! Predictions that are wrong, signals that are late, replicas that differ, promises of each kind.

use policy::admission::{AdmissionMode, Gate};

use crate::ran::{Ran, SINGLE_PROMPTS, run};

/// Nearly twice the knee.
const RATE: f64 = 55.0;

#[track_caller]
fn holds(changes: &str, rate_per_s: f64, knee: f64) {
    let held = run(SINGLE_PROMPTS, changes, AdmissionMode::Knee, rate_per_s).good();
    assert!(0.95 * knee <= held, "{held} at {rate_per_s}/s, {knee} at the knee: {changes}");
}

fn at_knee(changes: &str, rate_per_s: f64) -> f64 {
    run(SINGLE_PROMPTS, changes, AdmissionMode::Off, rate_per_s).good()
}

#[test]
fn a_model_that_is_wrong_by_three_tenths_holds_the_knee() {
    let knee = at_knee("", 30.0);
    for (prefill, decode) in [(0.7, 0.7), (1.3, 1.3), (0.7, 1.3), (1.3, 0.7)] {
        // The scenario has a policy block; a key of it can be replaced only as text.
        let estimate = format!(
            "policy: {{ strategy: least-latency, estimate: {{ frozen: true, coefficients: {{ \
             step_ms: {}, sequence_us: {}, context_ns: {}, prefill_us: {}, attention_ns: {} }} }} }}",
            7.5 * decode,
            38.0 * decode,
            52.0 * decode,
            26.0 * prefill,
            1.06 * prefill,
        );
        let scenario = SINGLE_PROMPTS.replace("policy: { strategy: least-latency }", &estimate);
        let held = run(&scenario, "", AdmissionMode::Knee, RATE).good();
        assert!(0.95 * knee <= held, "{held}, {knee} at the knee: {prefill}, {decode}");
    }
}

#[test]
fn late_signals_and_answers_in_one_piece_hold_the_knee() {
    let knee = at_knee("", 30.0);
    holds("signals: { scrape_delay: 1s, event_lag: 1s }\n", RATE, knee);
    holds("signals: { scrape_interval: null }\n", RATE, knee);
    holds("unstreamed: 0.5\n", RATE, knee);
}

#[test]
fn a_replica_of_half_the_speed_holds_the_knee() {
    let unlike = "faults: [{ kind: slow, at: 0s, replica: 0, for: 1h, factor: 2 }]\n";
    holds(unlike, 40.0, at_knee(unlike, 22.0));
}

/// Runs prompts and answers of these lengths, with these promises, at `rate_per_s`.
fn bound(workload: &str, slo: &str, overrides: &str, mode: AdmissionMode, rate_per_s: f64) -> Ran {
    let scenario = format!(
        "
name: bound
fleet: {{ replicas: 2, profile: llama-3-8b-h100, overrides: {{ max_num_batched_tokens: 2048{overrides} }} }}
policy: {{ strategy: least-latency }}
workload: {{ independent: {{ {workload} }} }}
load: {{ rates_per_s: [30], duration: 40s, warm_up: 15s }}
slo: {{ {slo} }}
"
    );
    run(&scenario, "", mode, rate_per_s)
}

#[test]
fn each_kind_of_promise_is_kept_and_what_binds_is_named() {
    for (workload, slo, overrides, knee_per_s, gate) in [
        (
            "prompt_tokens: { min: 2000, max: 8000 }, answer_tokens: { min: 5, max: 30 }",
            "ttft: 800ms, tpot: 500ms",
            "",
            9.0,
            Gate::Ttft,
        ),
        (
            "prompt_tokens: { min: 50, max: 300 }, answer_tokens: { min: 200, max: 600 }",
            "ttft: 2s, tpot: 14ms",
            "",
            34.0,
            Gate::Tpot,
        ),
        (
            "prompt_tokens: { min: 2000, max: 6000 }, answer_tokens: { min: 200, max: 400 }",
            "ttft: 2s, tpot: 100ms",
            ", kv_tokens: 60000",
            6.0,
            Gate::KvCache,
        ),
    ] {
        let with = |mode, rate| bound(workload, slo, overrides, mode, rate);
        let knee = with(AdmissionMode::Off, knee_per_s).good();
        let held = with(AdmissionMode::Knee, 2.0 * knee_per_s);
        assert!(0.97 * knee <= held.good(), "{gate:?}: {}, {knee} at the knee", held.good());
        assert_eq!(held.binding(), Some(gate));
    }
}
