//! Requests that share nothing: the workload on which no cache helps.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::time::Timestamp;

use crate::{
    arrival::Arrival,
    prompt::{Prompt, Segment},
    range::TokenRange,
    schedule::Schedule,
    seed::{Kind, Purpose, generator, segment_id},
};

/// Requests that share nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Independent {
    /// Lengths of prompts.
    pub prompt_tokens: TokenRange,
    /// Lengths of answers.
    pub answer_tokens: TokenRange,
}

impl Default for Independent {
    fn default() -> Self {
        Self {
            prompt_tokens: TokenRange { min: 500, max: 1_500 },
            answer_tokens: TokenRange { min: 100, max: 200 },
        }
    }
}

impl Independent {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let ranges = [("prompt_tokens", self.prompt_tokens), ("answer_tokens", self.answer_tokens)];
        ranges.into_iter().filter_map(|(key, range)| range.problem(key)).collect()
    }

    /// The requests of a run; none where the schedule is a trace's.
    pub(crate) fn arrivals(
        &self,
        schedule: &Schedule,
        duration: Duration,
        seed: u64,
    ) -> Vec<Arrival> {
        let end = Timestamp::from_elapsed(duration);
        let mut lengths = generator(seed, Purpose::Lengths);
        let times = schedule.times(seed).into_iter().flatten().take_while(|at| *at < end);
        (0..)
            .zip(times)
            .map(|(index, at)| {
                let id = segment_id(seed, Kind::Unique, index);
                let tokens = self.prompt_tokens.draw(&mut lengths);
                Arrival {
                    at,
                    session: None,
                    turn: 0,
                    turns: None,
                    tenant: None,
                    slo_class: None,
                    workload_class: None,
                    prompt: Prompt::from_user(vec![Segment { id, tokens }]),
                    output: self.answer_tokens.draw(&mut lengths),
                    answer: None,
                    think: Duration::ZERO,
                }
            })
            .collect()
    }
}
