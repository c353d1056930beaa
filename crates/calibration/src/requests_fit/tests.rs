//! Recordings of a known engine, and those that make no sense.

use std::time::Duration;

use types::{quantity::Tokens, request::RequestId, time::Timestamp};

use super::*;

/// Thirty requests in bursts, as an engine of `profile` serves them.
fn recording(profile: &Profile) -> Recording {
    let sent = |id: u64| Sent {
        at: Timestamp::ZERO + Duration::from_millis(id / 6 * 700),
        job: engine::Job {
            id: RequestId(id),
            prompt: Tokens(10),
            blocks: std::sync::Arc::new([]),
            output: Tokens(u32::try_from(20 + id % 5).unwrap()),
            answer: engine::Answer::Private,
        },
    };
    let workload: Vec<Sent> = (0..30).map(sent).collect();
    let setting = Setting::default();
    let served = run(profile, &workload, &setting).unwrap();
    let measured = served.answers.iter().zip(&workload).map(|(answer, sent)| {
        let answer = answer.unwrap();
        MeasuredRequest {
            sent_s: sent.at.elapsed().as_secs_f64(),
            first_s: answer.first.elapsed().as_secs_f64(),
            last_s: answer.last.elapsed().as_secs_f64(),
            input: sent.job.prompt,
            output: sent.job.output,
        }
    });
    let measured = measured.collect();
    Recording { workload, measured, setting }
}

fn built_in() -> Profile {
    Profile::named("llama-3-8b-h100").unwrap()
}

#[test]
fn an_engine_compared_with_itself_is_off_by_nothing() {
    let fit = compare(&recording(&built_in()), &built_in()).unwrap();
    let names: Vec<&str> = fit.compared.iter().map(|it| it.name).collect();
    assert_eq!(names, ["TTFT", "TPOT", "E2E"]);
    assert!(fit.compared.iter().all(|it| it.median_error < 1e-9), "{:?}", fit.compared);
}

#[test]
fn a_slower_engine_is_found_and_what_was_not_seen_comes_out_too() {
    let mut slower = built_in();
    slower.step.weights_ms *= 1.4;
    slower.api_overhead_ms *= 1.3;
    let recording = recording(&slower);
    let before = compare(&recording, &built_in()).unwrap();
    let fit = fit(&recording, &built_in(), 240).unwrap();
    for (after, before) in fit.compared.iter().zip(&before.compared) {
        assert!(after.held_out_error < 0.02 && after.held_out_error < before.held_out_error / 4.0);
    }
}

#[test]
fn recordings_that_make_no_sense_are_refused() {
    let told = |recording: &Recording, profile: &Profile| {
        fit(recording, profile, 10).unwrap_err().to_string()
    };
    let whole = recording(&built_in());
    let mut short = whole.clone();
    short.measured.truncate(19);
    assert!(told(&short, &built_in()).contains("at least 20"));
    let mut backwards = whole.clone();
    backwards.measured[4].first_s = backwards.measured[4].sent_s - 1.0;
    assert!(told(&backwards, &built_in()).contains("request 4"));
    let small = Profile { kv_tokens: Tokens(16), ..built_in() };
    assert!(told(&whole, &small).contains("request 0"));
    let setting =
        Setting { until: Timestamp::from_elapsed(Duration::from_secs(1)), ..whole.setting };
    let broken_off = Recording { setting, ..whole };
    assert!(told(&broken_off, &built_in()).contains("did not answer request"));
}
