//! Engines that run few requests at once, which nobody told the router, and little memory.

use policy::admission::{AdmissionMode, Gate};

use crate::ran::run;

/// Conversations on engines of 48 seats: 22 a second find one, 28 do not.
const CHAT: &str = "
name: chat-few-seats
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048, max_num_seqs: 48 } }
policy: { strategy: least-latency }
workload:
  support-chat:
    tenants: 2
    prefix_tokens: 1000
    turns: 8
    question_tokens: { min: 60, max: 300 }
    answer_tokens: { min: 100, max: 400 }
    think_time: { min: 3s, max: 8s }
load: { rates_per_s: [22], duration: 80s, warm_up: 40s }
slo: { ttft: 2s, tpot: 50ms }
";

/// Prompts that share nothing on engines of eight seats, which serve eight a second.
const FEW: &str = "
name: few-seats
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048, max_num_seqs: 8 } }
policy: { strategy: least-latency }
workload:
  independent: { prompt_tokens: { min: 200, max: 1000 }, answer_tokens: { min: 150, max: 350 } }
load: { rates_per_s: [8], duration: 90s, warm_up: 30s }
slo: { ttft: 1500ms, tpot: 60ms }
";

/// Agents, whose turns follow each other at once.
const AGENTS: &str = "
name: agents
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  support-chat:
    tenants: 2
    prefix_tokens: 4000
    turns: 20
    question_tokens: { min: 300, max: 3000 }
    answer_tokens: { min: 50, max: 400 }
    think_time: { min: 500ms, max: 3s }
load: { rates_per_s: [4], duration: 100s, warm_up: 40s }
conversations: closed
slo: { ttft: 2s, tpot: 50ms }
";

/// Contexts of which six fit into a second's memory, a quarter of them urgent.
const MEMORY: &str = "
name: memory
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048, kv_tokens: 60000 } }
policy: { strategy: least-latency }
workload:
  mix:
    - share: 1
      slo_class: interactive
      independent: { prompt_tokens: { min: 2000, max: 6000 }, answer_tokens: { min: 200, max: 400 } }
    - share: 3
      independent: { prompt_tokens: { min: 2000, max: 6000 }, answer_tokens: { min: 200, max: 400 } }
load: { rates_per_s: [12], duration: 80s, warm_up: 20s }
slo: { default: { ttft: 2s, tpot: 100ms }, classes: { interactive: { ttft: 2s, tpot: 100ms } } }
";

/// The same contexts in caches of which twice as much is stated as there is, and which do not say how full they are.
const OVERSTATED: &str = "
name: overstated
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048, kv_tokens: 60000 } }
policy: { strategy: least-latency }
workload:
  independent: { prompt_tokens: { min: 2000, max: 6000 }, answer_tokens: { min: 200, max: 400 } }
load: { rates_per_s: [6], duration: 120s, warm_up: 40s }
slo: { ttft: 2s, tpot: 100ms }
";

#[test]
fn conversations_stay_where_they_are_though_seats_are_few() {
    let below = run(CHAT, "", AdmissionMode::Knee, 22.0);
    assert!(below.rejected() < 0.01 * below.all(), "{} of {}", below.rejected(), below.all());
    assert!(0.99 * below.all() <= below.good(), "{} of {}", below.good(), below.all());
    let off = run(CHAT, "", AdmissionMode::Off, 22.0).good();
    let beyond = run(CHAT, "", AdmissionMode::Knee, 28.0);
    assert!(0.97 * off <= beyond.good(), "{} beyond the knee, {off} below it", beyond.good());
    assert!(0.97 * beyond.let_in() <= beyond.good(), "{} of {}", beyond.good(), beyond.let_in());
    assert_eq!(beyond.binding(), Some(Gate::Seats));
}

#[test]
fn the_number_of_seats_is_found_by_itself() {
    // All seats are taken by eight a second, so that chance alone has promises broken with nobody turned away.
    let off = run(FEW, "", AdmissionMode::Off, 8.0).good();
    for rate_per_s in [8.0, 16.0, 24.0] {
        let held = run(FEW, "", AdmissionMode::Knee, rate_per_s);
        assert!(1.05 * off <= held.good(), "{} at {rate_per_s}/s, {off} at 8", held.good());
        assert!(0.97 * held.let_in() <= held.good(), "{} of {}", held.good(), held.let_in());
    }
}

#[test]
fn the_number_of_seats_is_found_where_engines_tell_nothing() {
    let silent = "signals: { scrape_interval: null }\n";
    let off = run(FEW, silent, AdmissionMode::Off, 8.0).good();
    for rate_per_s in [8.0, 24.0] {
        let held = run(FEW, silent, AdmissionMode::Knee, rate_per_s);
        assert!(1.05 * off <= held.good(), "{} at {rate_per_s}/s, {off} at 8", held.good());
        assert!(0.97 * held.let_in() <= held.good(), "{} of {}", held.good(), held.let_in());
    }
    let chats = run(CHAT, silent, AdmissionMode::Knee, 22.0);
    assert!(0.99 * chats.all() <= chats.good(), "{} of {}", chats.good(), chats.all());
    let beyond = run(CHAT, silent, AdmissionMode::Knee, 28.0);
    assert!(0.97 * beyond.let_in() <= beyond.good(), "{} of {}", beyond.good(), beyond.let_in());
    assert!(0.97 * chats.good() <= beyond.good(), "{} {}", beyond.good(), chats.good());
}

#[test]
fn agents_are_not_turned_away_below_the_knee() {
    let held = run(AGENTS, "", AdmissionMode::Knee, 4.0);
    assert!(held.rejected() < 0.01 * held.all(), "{} of {}", held.rejected(), held.all());
    assert!(0.99 * held.let_in() <= held.good(), "{} of {}", held.good(), held.let_in());
}

#[test]
fn the_less_urgent_are_turned_away_first_where_memory_binds() {
    let held = run(MEMORY, "", AdmissionMode::Knee, 12.0);
    let of = |class: Option<&str>| {
        let all = held.count(|it| it.slo_class.as_deref() == class);
        held.count(|it| it.slo_class.as_deref() == class && it.slo.good) / all
    };
    assert!(0.95 <= of(Some("interactive")), "{}", of(Some("interactive")));
    assert!(of(None) < 0.5, "{}", of(None));
    assert_eq!(held.binding(), Some(Gate::KvCache));
}

#[test]
fn requests_that_lose_their_memory_tell_how_much_there_is() {
    let with = |kv_usage: bool, preemptions: bool| {
        let signals = format!(
            "signals: {{ cache_stated: 2, kv_usage_told: {kv_usage}, preemptions_told: {preemptions} }}\n"
        );
        run(OVERSTATED, &signals, AdmissionMode::Knee, 12.0)
    };
    let knee = run(OVERSTATED, "", AdmissionMode::Off, 6.0).good();
    let (by_usage, by_preemptions) = (with(true, false), with(false, true));
    for held in [&by_usage, &by_preemptions, &with(true, true)] {
        assert!(0.97 * knee <= held.good(), "{} of {knee} at the knee", held.good());
        assert!(0.97 * held.let_in() <= held.good(), "{} of {}", held.good(), held.let_in());
        assert_eq!(held.binding(), Some(Gate::KvCache));
    }
    // Nothing tells of memory then, and yet the fleet does not tip over.
    let (blind, off) = (with(false, false), run(OVERSTATED, "", AdmissionMode::Off, 12.0));
    assert!(blind.good() < by_preemptions.good(), "{} {}", blind.good(), by_preemptions.good());
    assert!(0.6 * knee <= blind.good(), "{} of {knee} at the knee", blind.good());
    assert!(off.good() < 0.3 * knee, "{} of {knee} without admission", off.good());
}
