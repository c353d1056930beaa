//! Where a replay sends its requests, how, and how long it waits.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderName, HeaderValue};
use report::Terms;
use wire::openai::Endpoint;
use workload::Arrival;

use crate::{hang_up::HangUps, target::Target};

/// Most requests that may be open at once: more than a machine has ports for.
const OPEN_REQUESTS_MAX: usize = 1_000_000;

/// How a workload is sent.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Servers that take turns.
    pub targets: Vec<Target>,
    /// Certificate authorities, in PEM, that vouch for https targets; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// Model to ask for; requests that a file gave name their own.
    pub model: String,
    /// [`Endpoint::ChatCompletions`], [`Endpoint::Messages`], or [`Endpoint::Completions`] for
    /// prompts of one message, whose length no chat template changes.
    pub endpoint: Endpoint,
    /// Key to send as `authorization: Bearer`, and to Anthropic's endpoint as `x-api-key` too.
    pub api_key: Option<String>,
    /// Whether engines are asked to go on to the length wanted (`ignore_eos`), which is not in
    /// OpenAI's API and which strict servers refuse.
    pub exact_lengths: bool,
    /// Starts every request's and session's name, so that two runs against one router do not meet.
    pub run_id: String,
    /// Whether to send `x-session-id`.
    pub session_header: bool,
    /// When a conversation's next turn leaves.
    pub conversations: Conversations,
    /// How long requests are sent, where turns follow answers: those that come later are left out.
    pub send_for: Option<Duration>,
    /// Clients that hang up; none when absent.
    pub hang_ups: Option<HangUps>,
    /// What random draws of the sender follow from.
    pub seed: u64,
    /// Most requests open at once; what is due beyond it is recorded as failed. Each takes a file
    /// descriptor and the memory of its body.
    pub open_requests_max: usize,
    /// Longest time from a request's schedule to its last token.
    pub request_deadline: Duration,
    /// Start of the run whose requests are sent and do not count.
    pub warm_up: Duration,
    /// Longest time from the last scheduled send to the last token of any request.
    pub drain_max: Duration,
    /// The terms on which requests are judged.
    pub terms: Terms,
    /// The terms of each SLO class, in place of `terms`.
    pub classes: BTreeMap<String, Terms>,
    /// Class of the requests that name none; it is sent along (`x-sluice-slo-class`).
    pub slo_class: Option<String>,
    /// More headers for every request, by name.
    pub headers: Vec<(String, String)>,
    /// Who wakes for each request.
    pub wake: Wake,
}

/// Who wakes for each request when it is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// A thread of its own, within some 50 µs.
    #[default]
    Thread,
    /// The runtime's timers, to a millisecond: they keep to a clock that is paused, so that a run can be
    /// had in virtual time.
    Timers,
}

/// When a conversation's next turn leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conversations {
    /// At its scheduled time, whether or not the answer has come: a slow fleet is offered no less
    /// than a fast one.
    #[default]
    Open,
    /// When the answer has come and the user has thought. Conversations still begin on schedule.
    Closed,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            ca_pem: None,
            model: String::new(),
            endpoint: Endpoint::ChatCompletions,
            api_key: None,
            exact_lengths: true,
            run_id: "replay".to_owned(),
            session_header: true,
            conversations: Conversations::Open,
            send_for: None,
            hang_ups: None,
            seed: 1,
            open_requests_max: 5_000,
            request_deadline: Duration::from_secs(120),
            warm_up: Duration::ZERO,
            drain_max: Duration::from_secs(120),
            terms: Terms::default(),
            classes: BTreeMap::new(),
            slo_class: None,
            headers: Vec::new(),
            wake: Wake::Thread,
        }
    }
}

/// Everything that keeps a replay from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Invalid(pub Vec<String>);

impl ReplayOptions {
    /// Everything wrong with the values, for the requests they are to send.
    #[must_use]
    pub fn problems(&self, arrivals: &[Arrival]) -> Vec<String> {
        let mut problems = Vec::new();
        if self.targets.is_empty() {
            problems.push("no target; pass --target http://HOST:PORT".to_owned());
        }
        if self.model.is_empty() && arrivals.iter().any(|it| it.prompt.given.is_none()) {
            problems.push("no model; pass --model NAME".to_owned());
        }
        if !(1..=OPEN_REQUESTS_MAX).contains(&self.open_requests_max) {
            let has = self.open_requests_max;
            problems.push(format!("open_requests_max: needs 1 to {OPEN_REQUESTS_MAX}, has {has}"));
        }
        if header(&self.run_id).is_none() {
            problems.push(format!("run id {:?}: needs plain ASCII", self.run_id));
        }
        if self.api_key.as_deref().is_some_and(|key| header(key).is_none()) {
            problems.push("api key: holds characters that no header may".to_owned());
        }
        let classes = arrivals.iter().filter_map(|it| it.slo_class.as_deref());
        if let Some(class) =
            classes.chain(self.slo_class.as_deref()).find(|it| header(it).is_none())
        {
            problems.push(format!("SLO class {class:?}: holds characters that no header may"));
        }
        for (name, value) in &self.headers {
            if name.parse::<HeaderName>().is_err() || header(value).is_none() {
                problems.push(format!("header {name:?}: is none; write it as NAME: VALUE"));
            }
        }
        if !ENDPOINTS.contains(&self.endpoint) {
            problems.push(format!(
                "{} cannot be replayed; use chat completions, completions or messages",
                self.endpoint.path()
            ));
        }
        let dialogues =
            arrivals.iter().any(|it| it.prompt.given.is_none() && it.prompt.messages.len() != 1);
        if self.endpoint == Endpoint::Completions && dialogues {
            problems.push(
                "the workload holds conversations, which /v1/completions cannot carry; use chat \
                 completions"
                    .to_owned(),
            );
        }
        problems.extend(self.hang_ups.and_then(HangUps::problem));
        problems
    }
}

/// The endpoints that a replay can send to.
pub(crate) const ENDPOINTS: [Endpoint; 3] =
    [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Messages];

fn header(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hang_up::HangUpAfter;

    #[test]
    fn every_problem_is_reported_at_once() {
        let options = ReplayOptions {
            endpoint: Endpoint::Embeddings,
            api_key: Some("a\nb".to_owned()),
            run_id: "\u{7f}".to_owned(),
            hang_ups: Some(HangUps { share: 2.0, after: HangUpAfter::Tokens(1) }),
            open_requests_max: 0,
            slo_class: Some("\n".to_owned()),
            headers: vec![("a b".to_owned(), "c".to_owned())],
            ..ReplayOptions::default()
        };
        assert_eq!(options.problems(&[]).len(), 8, "{:?}", options.problems(&[]));
    }
}
