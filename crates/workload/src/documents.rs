//! Questions about documents: long prefixes that many unrelated requests share.
//!
//! A prompt is a document and a question about it. Which document is drawn by popularity; there are no
//! conversations, so nothing but the document itself leads a request to a replica that holds it. Few
//! popular documents are the workload on which pure affinity overloads a replica; many equally popular
//! ones, more than the fleet's caches hold, the one on which scattering them loses every hit.

use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use types::{quantity::Tokens, time::Timestamp};

use crate::{
    arrival::Arrival,
    prompt::{Message, Prompt, Role, Segment},
    range::TokenRange,
    schedule::Schedule,
    seed::{Kind, Purpose, generator, segment_id},
    zipf::Zipf,
};

/// Most documents that a workload may have.
const DOCUMENTS_MAX: u32 = 1_000_000;

/// Shape of questions about documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Documents {
    /// Documents.
    pub documents: u32,
    /// How unequal they are: the n-th most popular is asked about in proportion to 1/n^skew, so that
    /// at 0 all are equal (Zipf's law).
    pub skew: f64,
    /// Lengths of documents.
    pub document_tokens: TokenRange,
    /// Questions that are asked again and again about each document; 0 means that none is.
    pub questions: u32,
    /// Lengths of questions.
    pub question_tokens: TokenRange,
    /// Lengths of answers.
    pub answer_tokens: TokenRange,
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            documents: 100,
            skew: 0.8,
            document_tokens: TokenRange { min: 4_000, max: 12_000 },
            questions: 0,
            question_tokens: TokenRange { min: 50, max: 200 },
            answer_tokens: TokenRange { min: 50, max: 250 },
        }
    }
}

impl Documents {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let documents = self.documents;
        [
            (documents == 0 || documents > DOCUMENTS_MAX)
                .then(|| format!("documents: needs 1 to {DOCUMENTS_MAX}, has {documents}")),
            Zipf::problem("skew", self.skew),
            self.document_tokens.problem("document_tokens"),
            self.question_tokens.problem("question_tokens"),
            self.answer_tokens.problem("answer_tokens"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The requests of a run; none where the schedule is a trace's.
    pub(crate) fn arrivals(
        &self,
        schedule: &Schedule,
        duration: Duration,
        seed: u64,
    ) -> Vec<Arrival> {
        let end = Timestamp::from_elapsed(duration);
        let zipf = Zipf::new(self.documents, self.skew);
        let mut document_draws = generator(seed, Purpose::Tenants);
        let mut lengths = generator(seed, Purpose::Lengths);
        let times = schedule.times(seed).into_iter().flatten().take_while(|at| *at < end);
        (0..)
            .zip(times)
            .map(|(index, at)| {
                let document = zipf.draw(&mut document_draws);
                let question = match self.questions {
                    0 => Question { id: segment_id(seed, Kind::Unique, index), tokens: None },
                    questions => {
                        let place = document_draws.random_range(0..questions);
                        let pair = u64::from(document) << 32 | u64::from(place);
                        Question::fixed(segment_id(seed, Kind::User, pair), self.question_tokens)
                    }
                };
                let drawn = self.question_tokens.draw(&mut lengths);
                let id = segment_id(seed, Kind::TenantPrefix, document.into());
                let document = Segment { id, tokens: self.document_tokens.of(id) };
                let question =
                    Segment { id: question.id, tokens: question.tokens.unwrap_or(drawn) };
                Arrival {
                    at,
                    session: None,
                    turn: 0,
                    turns: None,
                    tenant: None,
                    slo_class: None,
                    workload_class: None,
                    prompt: Prompt::new(vec![
                        Message::new(Role::System, document),
                        Message::new(Role::User, question),
                    ]),
                    output: self.answer_tokens.draw(&mut lengths),
                    answer: None,
                    think: Duration::ZERO,
                }
            })
            .collect()
    }
}

/// A question's text, and its length where the text has one of its own.
struct Question {
    id: u64,
    tokens: Option<Tokens>,
}

impl Question {
    fn fixed(id: u64, range: TokenRange) -> Self {
        Self { id, tokens: Some(range.of(id)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn arrivals(documents: &Documents) -> Vec<Arrival> {
        let schedule = Schedule::Constant { rate_per_s: 100.0 };
        documents.arrivals(&schedule, Duration::from_secs(100), 3)
    }

    fn segments(arrival: &Arrival) -> [Segment; 2] {
        [0, 1].map(|it: usize| arrival.prompt.messages[it].segments[0])
    }

    #[test]
    fn a_document_is_the_same_text_every_time() {
        let all = arrivals(&Documents::default());
        let mut lengths = BTreeMap::new();
        for arrival in &all {
            let [document, _] = segments(arrival);
            let known = lengths.insert(document.id, document.tokens);
            assert!(known.is_none_or(|it| it == document.tokens));
        }
        assert_eq!(lengths.len(), 100);
        let mean = lengths.values().map(|it| f64::from(it.0)).sum::<f64>() / 100.0;
        assert!((7_000.0..9_000.0).contains(&mean), "{mean}");
    }

    #[test]
    fn popular_documents_are_asked_about_by_zipfs_law() {
        let all = arrivals(&Documents { skew: 1.0, ..Documents::default() });
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for arrival in &all {
            *counts.entry(segments(arrival)[0].id).or_default() += 1;
        }
        // The share of the first of a hundred is 1 / (1 + 1/2 + … + 1/100) = 0.193.
        let share = *counts.values().max().unwrap() as f64 / all.len() as f64;
        assert!((share - 0.193).abs() < 0.015, "{share}");
    }

    #[test]
    fn questions_are_new_unless_there_are_few() {
        let count = |questions| {
            let all = arrivals(&Documents { documents: 4, questions, ..Documents::default() });
            let ids: BTreeMap<u64, Tokens> =
                all.iter().map(|it| (segments(it)[1].id, segments(it)[1].tokens)).collect();
            let is_fixed = all.iter().all(|it| ids[&segments(it)[1].id] == segments(it)[1].tokens);
            assert!(is_fixed);
            ids.len()
        };
        assert_eq!((count(0), count(5)), (9_999, 20));
    }
}
