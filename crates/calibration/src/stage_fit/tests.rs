//! Stages of a known profile, simulated, and what cannot be fitted.

use engine::Profile;
use types::quantity::Tokens;

use super::*;
use crate::stage::{Limits, Shape};

const OPTIONS: Options = Options { horizon_s: 10.0, trials_max: 60 };

/// A stage at `rate_per_s`, short, of which nothing was measured.
fn stage(rate_per_s: f64) -> Stage {
    Stage {
        name: format!("stage at {rate_per_s}"),
        model: "org/Llama-2-7b-hf".to_owned(),
        gpu: "H100".to_owned(),
        tp: 1,
        shape: Shape {
            groups: 4,
            prompts_per_group: 2,
            system: Tokens(96),
            prompt: Tokens(400),
            output: Tokens(60),
            rate_per_s,
            duration_s: 20.0,
        },
        limits: Limits::default(),
        measured: Figures::default(),
    }
}

/// Stages as an engine of `profile` serves them.
fn measured(profile: &Profile, rates_per_s: &[f64]) -> Group {
    let one = |rate: &f64| {
        let stage = stage(*rate);
        Stage { measured: stage.simulate_warm(profile, 20.0).unwrap(), ..stage }
    };
    let stages: Vec<Stage> = rates_per_s.iter().map(one).collect();
    let Stage { model, gpu, tp, .. } = stages[0].clone();
    Group { model, gpu, tp, stages }
}

fn truth() -> Profile {
    let mut truth = start(&measured_nothing(), None).unwrap();
    truth.step.weights_ms *= 1.2;
    truth.step.token_us *= 0.8;
    truth.step.sequence_us *= 1.5;
    truth.api_overhead_ms *= 1.5;
    truth
}

fn measured_nothing() -> Group {
    let Stage { model, gpu, tp, .. } = stage(1.0);
    Group { model, gpu, tp, stages: Vec::new() }
}

#[test]
fn the_profile_behind_the_stages_is_found_and_foretells_those_left_out() {
    let group = measured(&truth(), &[4.0, 10.0, 20.0]);
    let start = start(&group, None).unwrap();
    let fit = fit(&group, &start, &OPTIONS).unwrap();
    for StageFit { stage, fitted, held_out } in &fit.stages {
        let theirs = &stage.measured;
        for (name, ours, bound) in
            [("fitted", fitted, 0.03), ("held out", held_out.as_ref().unwrap(), 0.05)]
        {
            let off = error(ours.tpot.mean, theirs.tpot.mean).unwrap().abs();
            assert!(off < bound, "{}, {name}: TPOT is off by {off}", stage.name);
            let off = error(ours.ttft.p90, theirs.ttft.p90).unwrap().abs();
            assert!(off < 0.15, "{}, {name}: TTFT p90 is off by {off}", stage.name);
        }
    }
    assert_ne!(fit.profile, start);
}

#[test]
fn the_same_stages_give_the_same_fit() {
    let group = measured(&truth(), &[4.0, 12.0]);
    let start = start(&group, None).unwrap();
    let options = Options { trials_max: 15, ..OPTIONS };
    let fitted = || fit(&group, &start, &options).unwrap().profile;
    assert_eq!(fitted(), fitted());
}

#[test]
fn stages_that_tell_too_little_are_refused() {
    let start = start(&measured_nothing(), None).unwrap();
    for rates in [&[4.0][..], &[4.0, 4.0]] {
        let error = fit(&measured(&truth(), rates), &start, &OPTIONS).unwrap_err().to_string();
        assert!(error.contains("two at different loads"), "{error}");
    }
    // One that the replica did not keep up with tells nothing of its steps.
    let mut group = measured(&truth(), &[4.0, 10.0]);
    group.stages[1].measured.failed_share = 0.5;
    assert!(matches!(fit(&group, &start, &OPTIONS), Err(FitError::TooFew { usable: 1, .. })));
}

#[test]
fn a_replica_that_gets_faster_with_load_is_a_mistake() {
    let start = start(&measured_nothing(), None).unwrap();
    let mut group = measured(&truth(), &[4.0, 10.0]);
    let tpot = &mut group.stages[1].measured.tpot;
    tpot.mean = tpot.mean.map(|it| it * 0.7);
    let error = fit(&group, &start, &OPTIONS).unwrap_err().to_string();
    for part in ["TPOT falls", "stage at 10", "measure again"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn a_model_that_nobody_knows_needs_a_profile_to_start_from() {
    let unknown = Group { model: "org/gpt-9".to_owned(), ..measured_nothing() };
    let error = start(&unknown, None).unwrap_err().to_string();
    assert!(error.contains("--profile") && error.contains("llama-2-7b"), "{error}");
    let named = Profile::named("qwen2.5-7b-h100").unwrap();
    assert_eq!(start(&unknown, Some(&named)).unwrap(), named);
}

#[test]
fn a_stage_that_no_engine_takes_is_named() {
    let group = measured(&truth(), &[4.0, 10.0]);
    let small = Profile { kv_tokens: Tokens(64), ..truth() };
    let error = fit(&group, &small, &OPTIONS).unwrap_err().to_string();
    assert!(error.contains("Llama-2-7b-hf H100") && error.contains("KV cache"), "{error}");
}

#[test]
fn groups_keep_the_order_of_their_stages() {
    let other = Stage { gpu: "A100".to_owned(), ..stage(3.0) };
    let groups = groups(vec![stage(1.0), other, stage(2.0)]);
    let names: Vec<String> = groups.iter().map(Group::name).collect();
    assert_eq!(names, ["Llama-2-7b-hf H100 TP1", "Llama-2-7b-hf A100 TP1"]);
    assert_eq!(groups[0].stages.len(), 2);
}
