//! What a replica's estimate predicts and learns, on histories made by hand.

use super::*;

const ALONE: Sharing = Sharing { own: 0, all: 0 };

fn at(ms: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(ms))
}

fn asked(prompt: u32) -> Asked {
    let (prompt, tpot_max_s) = (Tokens(prompt), Some(0.05));
    Asked { prompt, output: 100.0, tpot_max_s, ..Asked::default() }
}

fn estimate() -> ReplicaEstimate {
    ReplicaEstimate::new(&EstimateConfig::default())
}

fn own(own: u32) -> Sharing {
    Sharing { own, all: own }
}

#[test]
fn an_idle_replica_answers_after_its_prefill_and_a_cached_prompt_at_once() {
    let estimate = estimate();
    let cold = estimate.forecast(at(0), &asked(10_000), Tokens(0), 1.0, ALONE);
    let warm = estimate.forecast(at(0), &asked(10_000), Tokens(9_984), 1.0, ALONE);
    assert!((0.35..0.45).contains(&cold.ttft_s), "{cold:?}");
    assert!(warm.ttft_s < 0.03, "{warm:?}");
    assert!(warm.work_s < cold.work_s);
}

#[test]
fn what_waits_is_waited_for_less_what_was_computed_meanwhile() {
    let mut estimate = estimate();
    let first = estimate.forecast(at(0), &asked(10_000), Tokens(0), 1.0, ALONE);
    estimate.place(at(0), RequestId(1), &first);
    let second = |estimate: &ReplicaEstimate, now| {
        estimate.forecast(now, &asked(1_000), Tokens(0), 1.0, own(1)).ttft_s
    };
    let at_once = second(&estimate, at(0));
    assert!(first.ttft_s < at_once, "{at_once}");
    let later = second(&estimate, at(200));
    assert!((0.1..0.2).contains(&(at_once - later)), "{at_once} then {later}");
    let never_less = second(&estimate, at(60_000));
    assert!(0.03 < never_less, "its own prefill remains: {never_less}");
    estimate.computed(at(400), RequestId(1));
    assert!(estimate.queued_s().abs() < 1e-12);
}

#[test]
fn prefill_of_late_slows_the_tokens_that_come() {
    let mut estimate = estimate();
    let quiet = estimate.forecast(at(0), &asked(1_000), Tokens(0), 1.0, own(10)).tpot_s;
    for second in 0..8 {
        let forecast = estimate.forecast(at(second * 500), &asked(8_000), Tokens(0), 1.0, own(10));
        estimate.place(at(second * 500), RequestId(second), &forecast);
        estimate.computed(at(second * 500 + 300), RequestId(second));
    }
    let busy = estimate.forecast(at(4_000), &asked(1_000), Tokens(0), 1.0, own(10));
    assert!(1.3 * quiet < busy.tpot_s, "{quiet} then {busy:?}");
    assert!(0.3 < busy.utilisation, "{busy:?}");
}

#[test]
fn two_prompts_at_once_slow_a_short_answer_beyond_its_promise_and_not_a_long_one() {
    let mut estimate = estimate();
    for id in 0..2 {
        let forecast = estimate.forecast(at(0), &asked(8_000), Tokens(0), 1.0, own(10));
        estimate.place(at(0), RequestId(id), &forecast);
    }
    let answer = |output, now| {
        let asked = Asked { output, ..asked(100) };
        estimate.forecast(now, &asked, Tokens(0), 1.0, own(10))
    };
    let (short, long) = (answer(20.0, at(0)), answer(400.0, at(0)));
    assert!(0.05 < short.brief_tpot_s && short.tpot_s < 0.025, "{short:?}");
    assert!(long.brief_tpot_s.abs() < 1e-12, "{long:?}");
    // It is over sooner, too.
    let later = answer(20.0, at(2_000));
    assert!(later.brief_tpot_s < later.tpot_s, "{later:?}");
}

/// A replica `slowness` times slower than the form serves a request at a time.
fn serve(estimate: &mut ReplicaEstimate, requests: u64, slowness: f64) {
    for id in 0..requests {
        let now = at(id * 4_000);
        let forecast = estimate.forecast(now, &asked(6_000), Tokens(0), 1.0, ALONE);
        estimate.place(now, RequestId(id), &forecast);
        let took_s = 0.01 + slowness * (forecast.prefill_form_s + 0.012);
        let came = now + Duration::from_secs_f64(took_s);
        estimate.computed(came, RequestId(id));
        let placed = Timestamp::ZERO;
        let now = placed + Duration::from_secs_f64(took_s);
        estimate.learn_ttft(now, placed, &forecast);
        for piece in 1..10 {
            let gap = Duration::from_secs_f64(0.0084 * slowness);
            let then = came + gap * (10 * piece);
            estimate.learn_gaps(then, 10, gap * 10, own(1));
        }
        estimate.left(&forecast, true);
    }
}

#[test]
fn a_slow_replica_is_known_for_it_without_configuration() {
    let mut estimate = estimate();
    serve(&mut estimate, 30, 3.0);
    let Observed { prefill, decode, .. } = estimate.observed();
    assert!((2.7..3.3).contains(&prefill.unwrap()), "{prefill:?}");
    assert!((2.7..3.3).contains(&decode.unwrap()), "{decode:?}");
}

#[test]
fn under_load_a_settled_estimate_learns_nothing_but_margins() {
    let mut estimate = estimate();
    serve(&mut estimate, 40, 1.0);
    let before = estimate.observed();
    let margin = estimate.margins().0.value();
    for id in 100..200 {
        let now = at(200_000 + id * 10);
        let forecast = estimate.forecast(now, &asked(6_000), Tokens(0), 1.0, own(50));
        estimate.place(now, RequestId(id), &forecast);
    }
    let forecast = estimate.forecast(at(202_000), &asked(6_000), Tokens(0), 1.0, own(50));
    assert!(1.0 < forecast.utilisation);
    let late = Timestamp::ZERO + Duration::from_secs_f64(3.0 * forecast.ttft_s);
    (0..100).for_each(|_| estimate.learn_ttft(late, Timestamp::ZERO, &forecast));
    assert_eq!(estimate.observed(), before);
    assert!(margin < estimate.margins().0.value());
}

#[test]
fn what_others_place_counts_as_far_as_it_is_seen() {
    let mut estimate = estimate();
    for id in 0..4 {
        let forecast = estimate.forecast(at(0), &asked(4_000), Tokens(0), 1.0, own(4));
        estimate.place(at(0), RequestId(id), &forecast);
        estimate.computed(at(100), RequestId(id));
    }
    let alone = estimate.forecast(at(200), &asked(100), Tokens(0), 1.0, own(4));
    let shared =
        estimate.forecast(at(200), &asked(100), Tokens(0), 1.0, Sharing { own: 4, all: 8 });
    assert!(alone.tpot_s < shared.tpot_s && alone.utilisation < shared.utilisation);
}

#[test]
fn an_answer_is_exposed_to_a_pause_until_it_has_run_ahead_for_as_long() {
    let mut estimate = estimate();
    let forecast = |estimate: &ReplicaEstimate, now, prompt| {
        estimate.forecast(at(now), &asked(prompt), Tokens(0), 1.0, own(2)).exposed
    };
    let first = estimate.forecast(at(0), &asked(100), Tokens(0), 1.0, ALONE);
    estimate.place(at(0), RequestId(1), &first);
    assert!((forecast(&estimate, 10, 100) - 1.0).abs() < 1e-9, "it has yet to begin");
    estimate.computed(at(20), RequestId(1));
    estimate.begins(at(20));
    assert!((forecast(&estimate, 30, 10_000) - 1.0).abs() < 1e-9);
    assert!(forecast(&estimate, 5_000, 10_000).abs() < 1e-9, "by now it may wait");
    assert!((forecast(&estimate, 40, 10_000) - 1.0).abs() < 1e-9);
    estimate.ends(at(20));
    assert!(forecast(&estimate, 40, 10_000).abs() < 1e-9);
}
