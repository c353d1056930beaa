//! On a clock that jumps from timer to timer, latencies are those of the step-time formula.

use std::sync::Arc;

use types::quantity::Tokens;

use super::*;

/// Tokio's timers fire up to this long after their time.
const TICK: Duration = Duration::from_millis(1);

fn replica() -> Arc<Replica> {
    let replica = Arc::new(Replica::new(Profile::named("llama-3-8b-h100").unwrap(), None).unwrap());
    let driven = Arc::clone(&replica);
    tokio::spawn(async move { driven.drive().await });
    replica
}

fn job(output: u32) -> Planned {
    let job = Job {
        id: RequestId(0),
        prompt: Tokens(1000),
        blocks: (0..62).map(types::block::BlockHash).collect(),
        output: Tokens(output),
        answer: engine::Answer::Private,
    };
    Planned { job, finish_reason: FinishReason::Length, content: Content::default() }
}

fn submit(replica: &Arc<Replica>, output: u32) -> Ticket {
    let now = Instant::now();
    replica.submit([job(output)].into_iter(), now, now).unwrap()
}

/// Waits for `count` tokens and returns how long that took.
async fn until(ticket: &Ticket, count: u32) -> Duration {
    let start = Instant::now();
    let seen = [Tokens(count - 1)];
    std::future::poll_fn(|context| ticket.inbox.poll_news(context, &seen)).await;
    start.elapsed()
}

/// The formula for a prompt of 1000 tokens, and for a token after `context`.
fn prefill() -> Duration {
    Duration::from_secs_f64((1.5 + 0.026 * 1000.0 + 1.06e-6 * 500_000.0) * 1e-3)
}

fn decode(context: u32) -> Duration {
    Duration::from_secs_f64((1.5 + 6.0 + 0.012 + 52e-6 * f64::from(context)) * 1e-3)
}

fn assert_within_a_tick(measured: Duration, expected: Duration) {
    let late = measured.checked_sub(expected);
    assert!(late.is_some_and(|late| late <= TICK), "{measured:?}, expected {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_has_the_ttft_and_tpot_of_the_formula() {
    let replica = replica();
    let ticket = submit(&replica, 400);
    let mut measured = until(&ticket, 1).await;
    let mut expected = prefill();
    assert_within_a_tick(measured, expected);
    for context in 1000..1399 {
        measured += until(&ticket, context - 998).await;
        expected += decode(context);
        assert_within_a_tick(measured, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_starts_anew_after_a_rest() {
    let replica = replica();
    ticket_ends(&submit(&replica, 2)).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    replica.reset_prefix_cache();
    let ticket = submit(&replica, 2);
    assert_within_a_tick(until(&ticket, 1).await, prefill());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_does_not_rush_through_the_steps_it_missed() {
    let replica = replica();
    let ticket = submit(&replica, 1000);
    until(&ticket, 10).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    let before = until(&ticket, 11).await;
    let after = until(&ticket, 21).await;
    assert!(before + after > decode(1000) * 10, "{before:?} and {after:?} for 11 tokens");
}

async fn ticket_ends(ticket: &Ticket) {
    ticket.inbox.ended().await;
}

#[tokio::test(start_paused = true)]
async fn latencies_are_recorded_on_the_clock_of_the_engine() {
    let replica = replica();
    ticket_ends(&submit(&replica, 3)).await;
    let profile = Profile::named("llama-3-8b-h100").unwrap();
    let page = crate::metrics::render("m", &profile, &replica.snapshot());
    let sum = |name: &str| -> f64 {
        let prefix = format!("vllm:{name}_sum{{");
        let line = page.lines().find(|it| it.starts_with(&prefix)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let decodes = decode(1000) + decode(1001);
    for (name, expected) in [
        ("time_to_first_token_seconds", prefill()),
        ("inter_token_latency_seconds", decodes),
        ("e2e_request_latency_seconds", prefill() + decodes),
    ] {
        assert!((sum(name) - expected.as_secs_f64()).abs() < 1e-6, "{name}: {}", sum(name));
    }
}

#[tokio::test(start_paused = true)]
async fn a_ticket_dropped_before_the_first_step_leaves_nothing() {
    let replica = replica();
    drop(submit(&replica, 5));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.counters.aborted), (0, 1));
    assert_eq!(snapshot.counters.generation_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_loses_everything() {
    let replica = replica();
    let ticket = submit(&replica, 50);
    until(&ticket, 10).await;
    replica.restart();
    drop(ticket);
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.counters), (0, Counters::default()));
    let ticket = submit(&replica, 1);
    ticket_ends(&ticket).await;
    assert_eq!(replica.snapshot().counters.prefix_hits, 0);
}
