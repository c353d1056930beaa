//! Steps planned together are the steps that come one by one.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use types::{block::BlockHash, quantity::Tokens, replica::LoadReport, request::RequestId};

use crate::{
    Answer, Counters, Engine, Job, KvMessage, Profile, Progress, Release, Spread, StepNoise,
};

/// What happens to an engine so long after the move before.
#[derive(Clone, Debug)]
struct Move {
    gap: Duration,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Submit { prompt: u32, output: u32, family: u64, known: bool },
    Abort { back: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let submit = (1..50_u32, 1..40_u32, 0..4_u64, any::<bool>())
        .prop_map(|(prompt, output, family, known)| What::Submit { prompt, output, family, known });
    let abort = (1..6_u64).prop_map(|back| What::Abort { back });
    // A step of the profile takes a little over 7.5 ms; some moves come at one moment.
    let gap =
        prop_oneof![Just(0), 1..20_000_u64, 20_000..400_000_u64].prop_map(Duration::from_micros);
    let what = prop_oneof![6 => submit, 1 => abort];
    prop::collection::vec((gap, what).prop_map(|(gap, what)| Move { gap, what }), 1..60)
}

fn job(id: u64, what: &What) -> Option<Job> {
    let What::Submit { prompt, output, family, known } = *what else { return None };
    let names = |from: u32, to: u32| -> Arc<[BlockHash]> {
        (from..to).map(|it| BlockHash(family * 1000 + u64::from(it))).collect()
    };
    let full = prompt / 4;
    let answer = if known { Answer::Known(names(full, full + 20)) } else { Answer::Private };
    let (prompt, output) = (Tokens(prompt), Tokens(output));
    Some(Job { id: RequestId(id), prompt, blocks: names(0, full), output, answer })
}

/// What shows of an engine from outside.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// First and last tokens with their times.
    tokens: Vec<(Duration, Progress)>,
    messages: Vec<KvMessage>,
    loads: Vec<LoadReport>,
    counters: Counters,
}

struct Driver {
    engine: Engine,
    together: bool,
    /// When the steps under way began.
    begun: Duration,
    seen: Seen,
}

impl Driver {
    fn begin(&mut self, now: Duration) {
        self.begun = now;
        if self.together {
            self.engine.begin_steps();
        } else {
            self.engine.begin_step();
        }
    }

    /// Ends steps that end before `until`.
    fn run(&mut self, until: Duration) {
        while let Some(end) = self.engine.planned().last().map(|end| self.begun + *end)
            && end < until
        {
            let mut progress = Vec::new();
            if self.together {
                self.engine.finish_steps(&mut progress);
            } else {
                self.engine.finish_step(&mut progress);
                progress.retain(|it| it.last || it.generated == Tokens(1));
            }
            self.seen.tokens.extend(progress.into_iter().map(|it| (end, it)));
            self.seen.messages.extend(self.engine.drain_kv_messages());
            self.engine.batch_check();
            self.begin(end);
        }
    }
}

fn drive(moves: &[Move], profile: Profile, sigma: f64, together: bool) -> Seen {
    let mut engine = Engine::new(profile).unwrap();
    engine.vary_steps(StepNoise { spread: Spread::LogNormal { sigma }, seed: 3 });
    engine.record_kv_events();
    let mut driver = Driver { engine, together, begun: Duration::ZERO, seen: Seen::default() };
    let mut now = Duration::ZERO;
    for (id, it) in moves.iter().enumerate() {
        now += it.gap;
        driver.run(now);
        let elapsed = now - driver.begun;
        let load = if together { driver.engine.load_during(elapsed) } else { driver.engine.load() };
        driver.seen.loads.push(load);
        match (job(id as u64, &it.what), &it.what) {
            (Some(job), _) => driver.engine.submit_during(job, elapsed).unwrap(),
            (None, What::Abort { back }) => {
                let id = RequestId((id as u64).saturating_sub(*back));
                driver.engine.abort_during(id, elapsed);
            }
            (None, What::Submit { .. }) => {}
        }
        if driver.engine.planned().is_empty() {
            driver.begin(now);
        }
    }
    driver.run(Duration::MAX);
    driver.seen.counters = *driver.engine.counters();
    driver.seen
}

fn profile(kv_blocks: u32, release: Release) -> Profile {
    Profile {
        block_size: Tokens(4),
        kv_tokens: Tokens(kv_blocks * 4),
        max_model_len: Tokens(4 * 64),
        max_num_batched_tokens: Tokens(16),
        max_num_seqs: 4,
        release,
        ..Profile::named("llama-3-8b-h100").unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// However steps are planned, the tokens come at the same times, and the same blocks are stored
    /// and removed in the same order.
    #[test]
    fn steps_planned_together_are_the_steps_one_by_one(
        moves in moves(),
        kv_blocks in 23..60_u32,
        sigma in prop_oneof![Just(0.0), Just(0.2)],
        release in prop_oneof![Just(Release::V0_11), Just(Release::V0_32)],
        steps_ahead in 0..2_u32,
    ) {
        let profile = Profile { steps_ahead, ..profile(kv_blocks, release) };
        let single = drive(&moves, profile.clone(), sigma, false);
        let together = drive(&moves, profile, sigma, true);
        prop_assert_eq!(single, together);
    }
}

#[test]
fn a_batch_that_only_decodes_is_planned_to_its_first_end() {
    let mut engine = Engine::new(profile(60, Release::V0_32)).unwrap();
    for (id, output) in [(1, 30), (2, 20)] {
        let what = What::Submit { prompt: 4, output, family: id, known: false };
        engine.submit(job(id, &what).unwrap()).unwrap();
    }
    assert_eq!(engine.begin_steps().len(), 1, "prompts are computed");
    let mut progress = Vec::new();
    engine.finish_steps(&mut progress);
    assert_eq!(engine.begin_steps().len(), 19);
    let fourth = engine.planned()[3];
    let late = What::Submit { prompt: 4, output: 1, family: 3, known: false };
    engine.submit_during(job(3, &late).unwrap(), fourth).unwrap();
    assert_eq!(engine.planned().len(), 4, "the new one joins after the fourth step");
    progress.clear();
    engine.finish_steps(&mut progress);
    assert_eq!(progress, []);
    assert_eq!(engine.counters().generation_tokens, 2 * 5);
}

#[test]
fn those_who_wait_for_a_seat_do_not_cut_a_plan_short() {
    let mut engine = Engine::new(profile(60, Release::V0_32)).unwrap();
    for id in 0..6 {
        let what = What::Submit { prompt: 2, output: 30, family: id, known: false };
        engine.submit(job(id, &what).unwrap()).unwrap();
    }
    engine.begin_steps();
    engine.finish_steps(&mut Vec::new());
    assert_eq!(engine.begin_steps().len(), 29);
    let late = What::Submit { prompt: 2, output: 1, family: 6, known: false };
    engine.submit_during(job(6, &late).unwrap(), Duration::from_micros(1)).unwrap();
    assert_eq!(engine.planned().len(), 29);
}
