//! The shipped profiles against the measurements that they were fitted to.
//!
//! A fit takes minutes in a test build, so the profiles are files, made by the commands in their heads;
//! what is tested is that the engine still does with them what was measured.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::Read as _;

use calibration::{
    requests,
    requests_fit::{self, Recording, RecordingFit},
    run::Setting,
    stage::{Figures, Stage},
    stage_file,
    stage_fit::{self, error, median_error},
    timeline,
};
use engine::Profile;
use flate2::read::GzDecoder;
use workload::trace::{Trace, mooncake};

/// Seconds of each stage that are simulated; the figures of the whole differ by their noise. A queue
/// that grows without end takes longer to show.
const HORIZON_S: f64 = 60.0;
const OVERLOAD_HORIZON_S: f64 = 400.0;

const STAGES: &str = include_str!("data/vllm_h100_stage_percentiles.csv");

const TIMELINE: &str = include_str!("data/RTX4090_Llama-3.1-8B_timeseries.csv");

fn profile(text: &str) -> Profile {
    serde_yaml::from_str(text).unwrap()
}

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

/// Every measured stage with what the profile of its model makes of it.
fn stages() -> Vec<(Stage, Figures)> {
    let profiles = [
        ("Llama-2-7b", include_str!("../../../config/profiles/llama-2-7b-h100-tp1.yaml")),
        ("Llama-2-70b", include_str!("../../../config/profiles/llama-2-70b-h100-tp4.yaml")),
        ("Mixtral", include_str!("../../../config/profiles/mixtral-8x7b-h100-tp2.yaml")),
        ("CodeLlama", include_str!("../../../config/profiles/codellama-34b-h100-tp2.yaml")),
    ];
    let groups = stage_fit::groups(stage_file::read(STAGES).unwrap().stages);
    let mut all = Vec::new();
    for group in groups {
        let (_, text) = profiles.iter().find(|it| group.model.contains(it.0)).unwrap();
        let profile = profile(text);
        for stage in group.stages {
            let is_overloaded = stage.measured.overloaded();
            let horizon_s = if is_overloaded { OVERLOAD_HORIZON_S } else { HORIZON_S };
            let simulated = stage.simulate_warm(&profile, horizon_s).unwrap();
            all.push((stage, simulated));
        }
    }
    all
}

#[test]
fn measured_stages_come_out_within_their_bounds() {
    let stages = stages();
    assert_eq!(stages.len(), 17);
    let median = |figure: fn(&Figures) -> Option<f64>| {
        let kept_up = stages.iter().filter(|it| !it.0.measured.overloaded());
        median_error(kept_up.map(|(stage, ours)| error(figure(ours), figure(&stage.measured))))
            .unwrap()
    };
    let (tpot, ttft, e2e) =
        (median(|it| it.tpot.mean), median(|it| it.ttft.p90), median(|it| it.e2e.mean));
    assert!(tpot < 0.05 && ttft < 0.15 && e2e < 0.07, "TPOT {tpot}, TTFT p90 {ttft}, E2E {e2e}");
    for (stage, ours) in &stages {
        let (name, model) = (&stage.name, &stage.model);
        assert_eq!(ours.overloaded(), stage.measured.overloaded(), "{name} of {model}: {ours:?}");
    }
}

/// A recorded run, served again by `profile`.
fn served(packed: &[u8], profile: &Profile) -> RecordingFit {
    let measured = requests::read(&unpacked(packed)).unwrap();
    let trace = Trace { block_tokens: Some(16), ..Trace::new("sharegpt".to_owned()) };
    let text = unpacked(include_bytes!("data/sharegpt_300_hash16.jsonl.gz"));
    let trace = mooncake::read(&trace, &text).unwrap();
    let workload = requests::workload(&measured, &trace, profile.block_size);
    let recording = Recording { workload, measured, setting: Setting::default() };
    requests_fit::compare(&recording, profile).unwrap()
}

/// Mean and 90th percentile of TTFT, TPOT and E2E within 3, 2 and 3 %.
#[track_caller]
fn within_bounds(fit: &RecordingFit) {
    for (latency, bound) in fit.compared.iter().zip([0.03, 0.02, 0.03]) {
        let (ours, theirs) = (latency.simulated, latency.measured);
        for (ours, theirs) in [(ours.mean, theirs.mean), (ours.p90, theirs.p90)] {
            let off = (ours / theirs - 1.0).abs();
            assert!(off < bound, "{}: {ours} s where {theirs} s was measured", latency.name);
        }
    }
}

#[test]
fn a_run_short_of_memory_comes_out_request_by_request_and_over_time() {
    let profile = profile(include_str!("../../../config/profiles/llama-3.1-8b-rtx4090-tp1.yaml"));
    let fit = served(include_bytes!("data/RTX4090_Llama-3.1-8B.jsonl.gz"), &profile);
    within_bounds(&fit);
    assert!(fit.preemptions > 100, "{} preemptions", fit.preemptions);
    let timeline = timeline::compare(&timeline::read(TIMELINE).unwrap(), &fit.samples);
    let [running, waiting, kv] = timeline.tracks.as_slice() else { panic!("{timeline:?}") };
    assert!(running.off_mean < 0.05 * running.measured_max, "{running:?}");
    assert!(waiting.off_mean < 0.05 * waiting.measured_max, "{waiting:?}");
    assert!(kv.off_mean < 0.05, "{kv:?}");
}

#[test]
fn a_run_short_of_seats_comes_out_request_by_request() {
    let profile =
        profile(include_str!("../../../config/profiles/llama-3.1-8b-rtxpro6000-tp1.yaml"));
    within_bounds(&served(include_bytes!("data/RTXPRO6000_Llama-3.1-8B.jsonl.gz"), &profile));
}
