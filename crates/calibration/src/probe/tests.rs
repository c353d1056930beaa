//! An endpoint of a known profile, asked in virtual time.

use engine::StepTime;

use super::*;
use crate::{run, table};

const EXTENT: Extent = Extent { prompt_max: Tokens(1024), concurrency_max: 8, output: Tokens(12) };

fn truth() -> Profile {
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

/// What an endpoint of `profile` makes of every burst of [`EXTENT`].
fn answered(profile: &Profile) -> Vec<(Burst, Vec<Reply>)> {
    EXTENT.bursts(7).into_iter().map(|burst| (burst.clone(), replies(profile, &burst))).collect()
}

fn replies(profile: &Profile, burst: &Burst) -> Vec<Reply> {
    let job = |(id, question): (u64, &Question)| Job {
        id: RequestId(id),
        prompt: question.prompt,
        blocks: blocks(question, question.prompt, profile.block_size),
        output: question.output,
        answer: Answer::Private,
    };
    let sent = |job| Sent { at: Timestamp::ZERO, job };
    let workload: Vec<Sent> = (0..).zip(&burst.questions).map(job).map(sent).collect();
    let served = run::run(profile, &workload, &Setting::default()).unwrap();
    let reply = |(answer, sent): (&Option<run::Answered>, &Sent)| {
        let answer = answer.unwrap();
        Reply {
            sent_s: 0.0,
            first_s: answer.first.elapsed().as_secs_f64(),
            last_s: answer.last.elapsed().as_secs_f64(),
            input: sent.job.prompt,
            output: answer.output,
            cached: Some(answer.cached),
        }
    };
    served.answers.iter().zip(&workload).map(reply).collect()
}

/// What can be told from outside: a step's base, a token of prefill, a sequence in the batch with
/// its context, and the API. How the base divides into overhead and weights can't.
#[test]
fn the_profile_of_an_endpoint_is_recovered() {
    let truth = truth();
    let base = Profile::named("llama-3-8b-h100").unwrap();
    let (_, fit) = fit(&answered(&truth), &base, "slow", 1_200).unwrap();
    let told = table::recording("slow", &fit);
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let read = |profile: &Profile| {
        let StepTime { overhead_ms, weights_ms, token_us, sequence_us, context_ns, .. } =
            profile.step;
        let attention_us = profile.step.attention_ns * 1e-3 * 512.0;
        [
            ("base", overhead_ms + weights_ms, 0.02),
            ("token of 512", token_us + attention_us, 0.04),
            ("sequence of 256", sequence_us + context_ns * 0.256, 0.10),
            ("API", profile.api_overhead_ms, 0.15),
        ]
    };
    for ((name, ours, tolerance), (_, true_value, _)) in
        read(&fit.profile).into_iter().zip(read(&truth))
    {
        let error = ours / true_value - 1.0;
        assert!(error.abs() < tolerance, "{name}: {ours} is not {true_value}\n{told}");
    }
    for compared in &fit.compared {
        assert!(compared.held_out_error < 0.03, "{}: {told}", compared.name);
    }
}

#[test]
fn latencies_that_fall_where_they_must_rise_are_named() {
    let mut answered = answered(&truth());
    let of_length = |it: &&mut (Burst, Vec<Reply>)| {
        it.0.sweep == Sweep::Length && it.0.questions[0].prompt == EXTENT.prompt_max
    };
    for (_, replies) in answered.iter_mut().filter(of_length) {
        replies[0].first_s = 1e-3;
    }
    let error = sweeps(&answered).unwrap_err().to_string();
    assert!(error.contains("TTFT falls") && error.contains("grows from 512 to 1024"), "{error}");
}

#[test]
fn an_answer_that_is_missing_or_short_is_named() {
    let mut missing = answered(&truth());
    missing[5].1.clear();
    let error = sweeps(&missing).unwrap_err().to_string();
    assert!(error.contains("0 of 1 requests"), "{error}");
    let mut short = answered(&truth());
    short[5].1[0].output = Tokens(1);
    let error = sweeps(&short).unwrap_err().to_string();
    assert!(error.contains("ignore_eos"), "{error}");
}
