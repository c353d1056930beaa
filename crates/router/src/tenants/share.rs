//! How much a tenant may ask for: requests and tokens a minute, and requests at once.
//!
//! Tokens are reserved when a request comes, for its prompt and for the longest answer that it may have,
//! so that requests which come together can't take the same ones; and settled when it ends, however it
//! ends, as what it came to. An answer that is cancelled costs what had come of it.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;
use types::quantity::Tokens;

use crate::{config::Tenant as Configured, reject::Refusal};

/// What is reserved for an answer whose request does not bound it, before any answer was seen.
const OUTPUT_AT_FIRST: Tokens = Tokens(256);

/// Tokens that are taken at once for an answer that is longer than what was reserved.
const STREAMED_STEP: u32 = 64;

/// Share of the latest answer in what is known of answers.
const LATEST_COUNTS: f64 = 0.125;

/// One tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrency: Option<u32>,
    in_flight: Mutex<u32>,
    learned: Mutex<Learned>,
}

impl Tenant {
    pub(super) fn new(configured: &Configured) -> Self {
        Self {
            name: configured.name.clone(),
            requests: configured.requests_per_minute.map(Bucket::new),
            tokens: configured.tokens_per_minute.map(Bucket::new),
            concurrency: configured.concurrency,
            in_flight: Mutex::new(0),
            learned: Mutex::default(),
        }
    }

    pub(super) fn is_as(&self, configured: &Configured) -> bool {
        let per_minute = |bucket: &Option<Bucket>| bucket.as_ref().map(|it| it.per_minute);
        per_minute(&self.requests) == configured.requests_per_minute
            && per_minute(&self.tokens) == configured.tokens_per_minute
            && self.concurrency == configured.concurrency
    }

    /// Takes a request out of the tenant's share: its `prompt`, and of its answer the `output_max` that it
    /// may have, or where nothing is said of that as much as answers had of late. No more is reserved
    /// than ever is there at once.
    ///
    /// # Errors
    ///
    /// When its share is used up; nothing is taken then.
    pub(crate) fn admit(
        self: &Arc<Self>,
        prompt: Tokens,
        output_max: Option<Tokens>,
    ) -> Result<Grant, Refusal> {
        let now = Instant::now();
        let refuse = |what, after| Err(Refusal::Quota { what, after });
        let room = self.tokens.as_ref().map_or(0, |it| it.per_minute).saturating_sub(prompt.0);
        let output = output_max.unwrap_or_else(|| self.learned.lock().output()).0.min(room);
        let tokens = prompt.0.saturating_add(output);
        {
            let mut in_flight = self.in_flight.lock();
            if self.concurrency.is_some_and(|most| most <= *in_flight) {
                return refuse("requests at once", Duration::from_secs(1));
            }
            if let Some(wait) = self.tokens.as_ref().and_then(|it| it.take(now, tokens)) {
                return refuse("tokens a minute", wait);
            }
            if let Some(wait) = self.requests.as_ref().and_then(|it| it.take(now, 1)) {
                if let Some(bucket) = &self.tokens {
                    bucket.give_back(tokens);
                }
                return refuse("requests a minute", wait);
            }
            *in_flight = in_flight.saturating_add(1);
        }
        Ok(Grant { tenant: Arc::clone(self), prompt: prompt.0, output })
    }

    /// Says in OpenAI's headers what is left of the share.
    pub(crate) fn write_headers(&self, head: &mut HeaderMap) {
        let now = Instant::now();
        let buckets = [("requests", &self.requests), ("tokens", &self.tokens)];
        for (what, bucket) in
            buckets.into_iter().filter_map(|(what, it)| Some((what, it.as_ref()?)))
        {
            let (left, full_in) = bucket.left(now);
            let values = [
                ("limit", bucket.per_minute.to_string()),
                ("remaining", left.to_string()),
                ("reset", format!("{}ms", full_in.as_millis())),
            ];
            for (part, value) in values {
                let name = HeaderName::try_from(format!("x-ratelimit-{part}-{what}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                    head.insert(name, value);
                }
            }
        }
    }
}

/// A request that was taken out of its tenant's share; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    tenant: Arc<Tenant>,
    /// Tokens of the prompt that were taken.
    prompt: u32,
    /// Tokens of the answer that were taken, be it in advance.
    output: u32,
}

impl Grant {
    /// Learns that so much of the answer has come by now. What is more than was reserved is taken while it
    /// comes, which may put the tenant in debt: the next one is then not let in.
    pub(crate) fn streamed(&mut self, tokens: Tokens) {
        if self.output < tokens.0 {
            let more = tokens.0.saturating_sub(self.output).max(STREAMED_STEP);
            self.take(0, more);
        }
    }

    /// Learns at the end what the request came to, and takes or gives back what was taken too little or too
    /// much. Where the prompt was not counted, what was taken for it stays.
    pub(crate) fn settle(&mut self, prompt: Option<Tokens>, output: Tokens) {
        let prompt = prompt.map_or(self.prompt, |it| it.0);
        self.take(prompt.saturating_sub(self.prompt), output.0.saturating_sub(self.output));
        let over =
            self.prompt.saturating_sub(prompt).saturating_add(self.output.saturating_sub(output.0));
        if let Some(bucket) = &self.tenant.tokens {
            bucket.give_back(over);
        }
        (self.prompt, self.output) = (prompt, output.0);
    }

    /// Learns from an answer that came to its end `took` after it was asked for.
    pub(crate) fn learn(&self, output: Tokens, took: Duration) {
        self.tenant.learned.lock().learn(output, took);
    }

    /// What an answer came to of which nothing is known but that it was computed for `took`: as much as
    /// others had come to by then, and no more than was reserved.
    pub(crate) fn guess(&self, took: Duration) -> Tokens {
        let known = self.tenant.learned.lock().by_then(took);
        known.map_or(Tokens(self.output), |it| it.min(Tokens(self.output)))
    }

    fn take(&mut self, prompt: u32, output: u32) {
        self.prompt = self.prompt.saturating_add(prompt);
        self.output = self.output.saturating_add(output);
        if let Some(bucket) = &self.tenant.tokens {
            bucket.charge(Instant::now(), prompt.saturating_add(output));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut in_flight = self.tenant.in_flight.lock();
        *in_flight = in_flight.saturating_sub(1);
    }
}

/// What a tenant's answers are like.
#[derive(Debug, Default)]
struct Learned {
    /// Mean length, in tokens.
    output: Option<f64>,
    /// Mean pace over whole answers, the time to the first token included, in tokens a second.
    per_s: Option<f64>,
}

impl Learned {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "means of 32-bit numbers that are not negative; the cast saturates"
    )]
    fn output(&self) -> Tokens {
        self.output.map_or(OUTPUT_AT_FIRST, |it| Tokens(it.ceil() as u32))
    }

    fn learn(&mut self, output: Tokens, took: Duration) {
        let output = f64::from(output.0);
        let mean = |before: Option<f64>, now: f64| {
            Some(before.map_or(now, |before| (now - before).mul_add(LATEST_COUNTS, before)))
        };
        self.output = mean(self.output, output);
        if !took.is_zero() {
            self.per_s = mean(self.per_s, output / took.as_secs_f64());
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "neither a pace nor a time is negative; the cast saturates"
    )]
    fn by_then(&self, took: Duration) -> Option<Tokens> {
        self.per_s.map(|it| Tokens((it * took.as_secs_f64()).ceil() as u32))
    }
}

/// Holds as much as comes in a minute, and fills evenly.
#[derive(Debug)]
struct Bucket {
    per_minute: u32,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Below zero when more was produced than was there.
    amount: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_minute: u32) -> Self {
        let level = Level { amount: f64::from(per_minute), at: Instant::now() };
        Self { per_minute, level: Mutex::new(level) }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.per_minute) / 60.0
    }

    fn fill(&self, level: &mut Level, now: Instant) {
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * self.per_second();
        level.amount = (level.amount + gained).min(f64::from(self.per_minute));
        level.at = now;
    }

    /// Takes `amount`, or says when there will be as much. What is more than the bucket holds waits
    /// for a full one.
    fn take(&self, now: Instant, amount: u32) -> Option<Duration> {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        let amount = f64::from(amount);
        let missing = amount.min(f64::from(self.per_minute)) - level.amount;
        if missing <= 0.0 {
            level.amount -= amount;
            return None;
        }
        Some(Duration::try_from_secs_f64(missing / self.per_second()).unwrap_or(Duration::MAX))
    }

    fn give_back(&self, amount: u32) {
        self.level.lock().amount += f64::from(amount);
    }

    fn charge(&self, now: Instant, amount: u32) {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        level.amount -= f64::from(amount);
    }

    /// What is left, and the time until it is full again.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most what comes in a minute, at least zero"
    )]
    fn left(&self, now: Instant) -> (u32, Duration) {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        let missing = f64::from(self.per_minute) - level.amount;
        let full_in = Duration::try_from_secs_f64(missing / self.per_second());
        (level.amount.max(0.0) as u32, full_in.unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests;
