//! An endpoint of a known profile, measured.

use emulator::EmulatorConfig;
use engine::StepTime;
use tokio::net::TcpListener;

use super::*;

/// So slow that timers of a millisecond do not matter.
fn slow() -> Profile {
    let built_in = Profile::named("qwen3-14b-h100").unwrap();
    let step = StepTime {
        overhead_ms: 6.0,
        weights_ms: 24.0,
        token_us: 260.0,
        sequence_us: 1_500.0,
        context_ns: 4_000.0,
        attention_ns: 60.0,
        ..built_in.step
    };
    Profile { step, api_overhead_ms: 15.0, ..built_in }
}

const EXTENT: Extent = Extent { prompt_max: Tokens(1024), concurrency_max: 8, output: Tokens(12) };

async fn endpoint(profile: Profile) -> (emulator::Handle, ReplayOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handle = emulator::spawn(EmulatorConfig::new("slow", profile), listener).unwrap();
    let target: Target = format!("http://{}", handle.address()).parse().unwrap();
    let options = ReplayOptions {
        targets: vec![target],
        model: "slow".to_owned(),
        endpoint: Endpoint::Completions,
        session_header: false,
        ..ReplayOptions::default()
    };
    (handle, options)
}

/// What can be told from outside: a step's base, a token of prefill, a sequence in the batch with
/// its context, and the API. How the base divides into overhead and weights can't.
#[tokio::test]
async fn the_profile_of_a_live_endpoint_is_recovered() {
    let truth = slow();
    let (_handle, options) = endpoint(truth.clone()).await;
    let base = Profile::named("llama-3-8b-h100").unwrap();
    let (sweeps, fit) =
        probed(&options, &EXTENT, 7, &base, CancellationToken::new()).await.unwrap();
    let told = table::recording("slow", &fit);
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let read = |profile: &Profile| {
        let StepTime { overhead_ms, weights_ms, token_us, sequence_us, context_ns, .. } =
            profile.step;
        let attention_us = profile.step.attention_ns * 1e-3 * 512.0;
        [
            ("base", overhead_ms + weights_ms, 0.04),
            ("token of 512", token_us + attention_us, 0.08),
            ("sequence of 256", sequence_us + context_ns * 0.256, 0.25),
            ("API", profile.api_overhead_ms, 0.25),
        ]
    };
    for ((name, ours, tolerance), (_, true_value, _)) in
        read(&fit.profile).into_iter().zip(read(&truth))
    {
        let error = ours / true_value - 1.0;
        assert!(error.abs() < tolerance, "{name}: {ours} is not {true_value}\n{told}");
    }
    for compared in &fit.compared {
        assert!(compared.held_out_error < 0.05, "{}: {told}", compared.name);
    }
    let (new, again) = sweeps.repeat.unwrap();
    assert!(again < new / 2.0, "a prompt that is asked again is found: {new} s, {again} s");
    assert!(sweeps.cached.unwrap() >= Tokens(1000), "{sweeps:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_named() {
    let (handle, options) = endpoint(slow()).await;
    drop(handle);
    let unknown = ReplayOptions { model: "other".to_owned(), ..options };
    let base = slow();
    let stop = CancellationToken::new();
    let error = probed(&unknown, &EXTENT, 7, &base, stop).await.unwrap_err().to_string();
    assert!(error.contains("the endpoint did not answer"), "{error}");
}
