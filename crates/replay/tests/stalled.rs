//! A server that stands still for a second in every ten, in virtual time: what is recorded is what
//! arithmetic says, on any machine.
//!
//! A request that is due while the server stands still waits for the rest of that second, and then its
//! service. A tenth of evenly spaced requests are; their waits are spread evenly over the second, so the
//! 99th percentile of all is the 90th of those: 0.9 s and a service time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::post};
use common::{arrivals, options};
use replay::{ReplayOptions, Wake};
use report::{Ending, Histogram, Run, RunInfo};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

const SERVICE: Duration = Duration::from_millis(5);
const EVERY: Duration = Duration::from_secs(10);
const FROZEN_FROM: Duration = Duration::from_secs(9);
const GAP: Duration = Duration::from_millis(5);
const REQUESTS: u32 = 4_000;

const ANSWER: &str = "data: {\"choices\":[{\"delta\":{\"content\":\" cat\"}}]}\n\ndata: [DONE]\n\n";

async fn answer(State(started): State<Instant>) -> impl IntoResponse {
    let into = Duration::from_nanos(
        u64::try_from(started.elapsed().as_nanos() % EVERY.as_nanos()).unwrap(),
    );
    if into >= FROZEN_FROM {
        sleep_until(Instant::now() + (EVERY - into)).await;
    }
    sleep(SERVICE).await;
    ([(header::CONTENT_TYPE, "text/event-stream")], ANSWER)
}

#[tokio::test(start_paused = true)]
async fn the_recorded_p99_of_a_server_that_stands_still_is_the_true_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let routes =
        Router::new().route("/v1/chat/completions", post(answer)).with_state(Instant::now());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let options = ReplayOptions { wake: Wake::Timers, ..options(target) };
    let plan = arrivals(REQUESTS, GAP);
    let began = Instant::now();
    let recording = replay::run(&options, plan, CancellationToken::new(), |_| {}).await.unwrap();
    assert!(began.elapsed() >= GAP * (REQUESTS - 1), "the clock is the paused one");
    assert!(recording.records.iter().all(|it| it.ending == Ending::Completed));
    let run = Run::measure(&RunInfo::default(), &recording.records, &Histogram::new());
    let (ttft, lag) = (run.ttft_ms.unwrap(), run.generator_lag_ms.unwrap());
    let within = |actual: f64, truth: f64| (actual / truth - 1.0).abs() < 0.02;
    assert!(within(ttft.p99, 905.0), "{ttft:?}");
    assert!(within(ttft.max, 1_005.0), "{ttft:?}");
    assert!(lag.p99 <= 1.0, "{lag:?}");
    // Whoever waits for answers sends nothing while the server stands still, and never sees it do so.
    assert!(ttft.p50 < 10.0, "{ttft:?}");
}
