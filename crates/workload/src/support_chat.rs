//! A support chatbot: many tenants, each with its own long system prompt, and conversations of a few
//! turns.
//!
//! Every turn sends the whole conversation again, as the OpenAI API asks: system prompt, first
//! question, first answer, and so on to the newest question. A tenant's system prompt is shared by
//! all its sessions and a session's history by all its later turns, so most of what is sent was sent
//! before; whether the KV cache can reuse it depends on where the router sends it.
//!
//! The load is open: the next turn leaves after an allowance for the answer and the time the user
//! thinks, both counted from the *scheduled* time of the turn before, whether or not the answer has
//! come. A slow fleet is therefore offered no less than a fast one. (A simulator may close the loop
//! instead: each turn says how long its user thinks.) The history carries answers of the drawn
//! length with a text of their own, since what a live model will say is not known when the schedule
//! is drawn: its engine will not find what it generated again. A modelled engine can, since each
//! turn names the text that stands for its answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::{quantity::Tokens, time::Timestamp};

use crate::{
    arrival::Arrival,
    prompt::{Message, Prompt, Role, Segment},
    range::{DurationRange, TOKENS_MAX, TokenRange},
    schedule::Schedule,
    seed::{Kind, Purpose, generator, segment_id},
    zipf::Zipf,
};

/// Most turns that a conversation may have.
const TURNS_MAX: u32 = 1_000;

/// Most tenants that a workload may have.
const TENANTS_MAX: u32 = 1_000_000;

/// Shape of a support chatbot's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupportChat {
    /// Tenants, each with a system prompt of its own.
    pub tenants: u32,
    /// How unequal tenants are: the n-th most active starts sessions in proportion to 1/n^skew, so
    /// that at 0 all are equal (Zipf's law).
    pub tenant_skew: f64,
    /// Length of a tenant's system prompt and tools, in tokens.
    pub prefix_tokens: u32,
    /// Questions in a conversation.
    pub turns: u32,
    /// Length of a question.
    pub question_tokens: TokenRange,
    /// Length of an answer.
    pub answer_tokens: TokenRange,
    /// Allowance for the answer before the user starts to think, for each of its tokens.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub answer_time_per_token: Duration,
    /// How long the user thinks before the next question.
    pub think_time: DurationRange,
}

impl Default for SupportChat {
    fn default() -> Self {
        Self {
            tenants: 40,
            tenant_skew: 0.0,
            prefix_tokens: 6_000,
            turns: 4,
            question_tokens: TokenRange { min: 60, max: 200 },
            answer_tokens: TokenRange { min: 100, max: 200 },
            answer_time_per_token: Duration::from_millis(30),
            think_time: DurationRange { min: Duration::from_secs(2), max: Duration::from_secs(6) },
        }
    }
}

impl SupportChat {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let bounded = |key: &str, value: u32, max: u32| {
            (value == 0 || value > max).then(|| format!("{key}: needs 1 to {max}, has {value}"))
        };
        [
            bounded("tenants", self.tenants, TENANTS_MAX),
            bounded("prefix_tokens", self.prefix_tokens, TOKENS_MAX),
            bounded("turns", self.turns, TURNS_MAX),
            Zipf::problem("tenant_skew", self.tenant_skew),
            self.question_tokens.problem("question_tokens"),
            self.answer_tokens.problem("answer_tokens"),
            self.think_time.problem("think_time"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The mean length of a prompt, in tokens, without what a chat template adds.
    #[must_use]
    pub fn prompt_tokens_mean(&self) -> f64 {
        let earlier_turns = f64::from(self.turns.saturating_sub(1)) / 2.0;
        f64::from(self.prefix_tokens)
            + self.question_tokens.mean()
            + earlier_turns * (self.question_tokens.mean() + self.answer_tokens.mean())
    }

    /// The requests of a run, none where the schedule is a trace's; its rate is that of requests,
    /// all turns counted.
    ///
    /// Sessions start for one session's length before the run does and the run cuts into them, so
    /// that its load is steady from the first second on and not a ramp.
    pub(crate) fn arrivals(
        &self,
        schedule: &Schedule,
        duration: Duration,
        seed: u64,
    ) -> Vec<Arrival> {
        let lead = self.session_duration_max();
        let end = Timestamp::from_elapsed(lead.saturating_add(duration));
        let starts = schedule.scaled(1.0 / f64::from(self.turns)).delayed(lead).times(seed);
        let mut sessions = Sessions::new(self, seed);
        let mut arrivals = Vec::new();
        for start in starts.into_iter().flatten().take_while(|at| *at < end) {
            sessions.next_session(start, &mut arrivals);
        }
        arrivals.retain(|it| it.at.elapsed() >= lead && it.at < end);
        for arrival in &mut arrivals {
            arrival.at = Timestamp::from_elapsed(arrival.at.elapsed().saturating_sub(lead));
        }
        arrivals.sort_by_key(|it| (it.at, it.session));
        arrivals
    }

    /// The longest time from a session's first turn to its last.
    fn session_duration_max(&self) -> Duration {
        let pause = self.pause(Tokens(self.answer_tokens.max), self.think_time.max);
        pause.saturating_mul(self.turns.saturating_sub(1))
    }

    /// The time from one turn to the next.
    fn pause(&self, answer: Tokens, think: Duration) -> Duration {
        self.answer_time_per_token.saturating_mul(answer.0).saturating_add(think)
    }
}

/// Draws one session after another.
struct Sessions<'a> {
    chat: &'a SupportChat,
    seed: u64,
    sessions: u64,
    tenants: Zipf,
    lengths: rand::rngs::Xoshiro256PlusPlus,
    think_times: rand::rngs::Xoshiro256PlusPlus,
    tenant_draws: rand::rngs::Xoshiro256PlusPlus,
}

impl<'a> Sessions<'a> {
    fn new(chat: &'a SupportChat, seed: u64) -> Self {
        Self {
            chat,
            seed,
            sessions: 0,
            tenants: Zipf::new(chat.tenants, chat.tenant_skew),
            lengths: generator(seed, Purpose::Lengths),
            think_times: generator(seed, Purpose::ThinkTimes),
            tenant_draws: generator(seed, Purpose::Tenants),
        }
    }

    /// Appends the turns of a session that starts at `at`.
    fn next_session(&mut self, mut at: Timestamp, arrivals: &mut Vec<Arrival>) {
        let session = self.sessions;
        self.sessions += 1;
        let tenant = self.tenants.draw(&mut self.tenant_draws);
        let prefix = segment_id(self.seed, Kind::TenantPrefix, tenant.into());
        let prefix = Segment { id: prefix, tokens: Tokens(self.chat.prefix_tokens) };
        let mut messages = vec![Message::new(Role::System, prefix)];
        let mut think = Duration::ZERO;
        for turn in 0..self.chat.turns {
            let said = |kind| {
                let first_turn = session.wrapping_mul(TURNS_MAX.into());
                segment_id(self.seed, kind, first_turn.wrapping_add(turn.into()))
            };
            let tokens = self.chat.question_tokens.draw(&mut self.lengths);
            messages.push(Message::new(Role::User, Segment { id: said(Kind::User), tokens }));
            let output = self.chat.answer_tokens.draw(&mut self.lengths);
            let answer = Segment { id: said(Kind::Assistant), tokens: output };
            arrivals.push(Arrival {
                at,
                session: Some(session),
                turn,
                turns: Some(self.chat.turns),
                tenant: Some(tenant),
                slo_class: None,
                workload_class: None,
                prompt: Prompt::new(messages.clone()),
                output,
                answer: Some(answer.id),
                think,
            });
            messages.push(Message::new(Role::Assistant, answer));
            think = self.chat.think_time.draw(&mut self.think_times);
            at = at + self.chat.pause(output, think);
        }
    }
}

#[cfg(test)]
mod tests;
