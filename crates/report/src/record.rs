//! What one request went through, as its client saw it: a line of `requests.jsonl`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::{quantity::Tokens, time::Timestamp};

use crate::cost::WorkloadClass;

/// What one request went through, as its client saw it.
///
/// Times are seconds from the run's start. Latencies count from the *scheduled* send, so that a
/// sender that falls behind cannot hide the wait it causes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestRecord {
    /// The request's `x-request-id`.
    pub request_id: String,
    /// Conversation it belongs to.
    pub session: Option<u64>,
    /// Place within the conversation, from zero.
    pub turn: u32,
    /// Turns that the conversation was to have, also those that the run did not come to; absent where
    /// nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<u32>,
    /// Tenant it belongs to.
    pub tenant: Option<u32>,
    /// The promise it was under, by name; absent where there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo_class: Option<String>,
    /// The kind of work it is; absent where nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_class: Option<WorkloadClass>,
    /// When it was to be sent.
    #[serde(rename = "scheduled_s", with = "seconds")]
    pub scheduled: Timestamp,
    /// When it was sent; absent where the sender never came to it.
    #[serde(rename = "sent_s", with = "seconds::optional")]
    pub sent: Option<Timestamp>,
    /// When the first token came.
    #[serde(rename = "first_token_s", with = "seconds::optional")]
    pub first_token: Option<Timestamp>,
    /// When the last token came.
    #[serde(rename = "last_token_s", with = "seconds::optional")]
    pub last_token: Option<Timestamp>,
    /// When the client was done with it, however it ended.
    #[serde(rename = "ended_s", with = "seconds")]
    pub ended: Timestamp,
    /// Length of the prompt: the engine's count, else the workload's.
    pub input_tokens: Tokens,
    /// Length of the answer: the engine's count, else the number of chunks that bore text.
    pub output_tokens: Tokens,
    /// Prompt tokens that the engine took from its cache; absent where it does not say.
    pub cached_tokens: Option<Tokens>,
    /// Gaps between chunks of the answer; absent where there were fewer than two.
    pub itl: Option<Gaps>,
    /// Replica that answered, as the router calls it.
    pub replica: Option<String>,
    /// Why the router chose it.
    pub decision: Option<String>,
    /// Times the router sent it, where it says.
    pub attempts: Option<u32>,
    /// How much later than predicted its first token came, from the router's decision; sooner where
    /// negative; absent where the router does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_error_ms: Option<f64>,
    /// Prompt tokens computed that the router believed another replica to hold; absent where it does not
    /// say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recomputed_tokens: Option<Tokens>,
    /// How it ended.
    pub ending: Ending,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// Why it was rejected or failed.
    pub error: Option<String>,
    /// The quality label it was given; absent where nobody judged it.
    pub accepted: Option<bool>,
    /// The grade it was given, where somebody graded it; it explains the label and decides nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
    /// Whether it kept the promises that were set.
    pub slo: Verdicts,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The whole answer came.
    Completed,
    /// It was turned away before any work was done on it.
    Rejected,
    /// Its client hung up on purpose: neither good nor anybody's failure.
    Cancelled,
    /// Anything else: an error, a broken or endless stream, a deadline.
    #[default]
    Failed,
}

/// The gaps between the chunks of one answer, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaps {
    /// Mean gap.
    pub mean_ms: f64,
    /// Shortest gap.
    pub min_ms: f64,
    /// The gap that 95 % do not exceed.
    pub p95_ms: f64,
    /// Longest gap.
    pub max_ms: f64,
}

/// Whether a request kept the promises that were set; absent where none was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdicts {
    /// Time to first token.
    pub ttft: Option<bool>,
    /// Time per output token.
    pub tpot: Option<bool>,
    /// 95th percentile of the gaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_p95: Option<bool>,
    /// Longest gap minus shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
    /// Time to the last token.
    pub e2e: Option<bool>,
    /// The window of work for later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<bool>,
    /// All of them and the rest of what makes a request good.
    pub good: bool,
}

impl RequestRecord {
    /// Time to first token, from the scheduled send.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|at| at.since(self.scheduled))
    }

    /// Time to the last token of a whole answer, from the scheduled send.
    #[must_use]
    pub fn e2e(&self) -> Option<Duration> {
        let last = self.last_token.filter(|_| self.ending == Ending::Completed);
        last.map(|at| at.since(self.scheduled))
    }

    /// Mean time per output token after the first, of a whole answer:
    /// `TPOT = (E2E − TTFT)/(output_tokens − 1)`; absent for answers of fewer than two tokens.
    #[must_use]
    pub fn tpot(&self) -> Option<Duration> {
        let decoding = self.e2e()?.checked_sub(self.ttft()?)?;
        decoding.checked_div(self.output_tokens.0.saturating_sub(1))
    }

    /// Longest gap of a whole answer minus the shortest; absent for answers of fewer than two pieces.
    #[must_use]
    pub fn jitter(&self) -> Option<Duration> {
        let gaps = self.itl.filter(|_| self.ending == Ending::Completed)?;
        Some(millis(gaps.max_ms - gaps.min_ms))
    }

    /// The gap that 95 % of a whole answer's gaps do not exceed.
    #[must_use]
    pub fn itl_p95(&self) -> Option<Duration> {
        let gaps = self.itl.filter(|_| self.ending == Ending::Completed)?;
        Some(millis(gaps.p95_ms))
    }

    /// Times that it was sent again.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.attempts.unwrap_or(1).saturating_sub(1)
    }

    /// How late the generator sent it.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        self.sent.map(|at| at.since(self.scheduled))
    }
}

/// Milliseconds as a time, to the nanosecond; what is no time is none.
fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1_000.0).unwrap_or_default()
}

/// Timestamps as seconds, to the nanosecond.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use types::time::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(at.elapsed().as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        timestamp(f64::deserialize(from)?)
    }

    fn timestamp<E: Error>(seconds: f64) -> Result<Timestamp, E> {
        Duration::try_from_secs_f64(seconds).map(Timestamp::from_elapsed).map_err(E::custom)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Serializer, Timestamp};

        pub(in super::super) fn serialize<S: Serializer>(
            at: &Option<Timestamp>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => super::serialize(at, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            Option::<f64>::deserialize(from)?.map(super::timestamp).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(millis))
    }

    fn completed() -> RequestRecord {
        RequestRecord {
            scheduled: at(1_000),
            sent: Some(at(1_250)),
            first_token: Some(at(1_500)),
            last_token: Some(at(2_500)),
            ended: at(2_501),
            output_tokens: Tokens(11),
            ending: Ending::Completed,
            ..RequestRecord::default()
        }
    }

    #[test]
    fn latencies_count_from_the_schedule() {
        let record = completed();
        assert_eq!(record.ttft(), Some(Duration::from_millis(500)));
        assert_eq!(record.e2e(), Some(Duration::from_millis(1_500)));
        assert_eq!(record.tpot(), Some(Duration::from_millis(100)));
        assert_eq!(record.lag(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn an_answer_of_one_token_has_no_tpot() {
        let record = RequestRecord { output_tokens: Tokens(1), ..completed() };
        assert_eq!(record.tpot(), None);
    }

    #[test]
    fn half_an_answer_has_no_end() {
        let record = RequestRecord { ending: Ending::Failed, ..completed() };
        assert_eq!((record.e2e(), record.tpot()), (None, None));
    }

    #[test]
    fn a_record_survives_its_line() {
        let record = completed();
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.contains(r#""scheduled_s":1.0,"sent_s":1.25"#), "{line}");
        assert_eq!(serde_json::from_str::<RequestRecord>(&line).unwrap(), record);
        let negative = line.replace("\"scheduled_s\":1.0", "\"scheduled_s\":-1.0");
        assert!(serde_json::from_str::<RequestRecord>(&negative).is_err());
    }
}
