//! What the head of an answer says of the way that the request took.

use fleet::dispatch::Ticket;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use wire::{
    digits::{push_thousandths, push_whole},
    headers,
};

use super::Passage;

/// Room for what `server-timing` says.
const TIMING_BYTES: usize = 96;

/// A number as a header has it; most are small, and then nothing is written.
fn number(value: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let small = usize::try_from(value).ok().and_then(|it| SMALL.get(it));
    small.map_or_else(|| HeaderValue::from(value), |it| HeaderValue::from_static(it))
}

impl Passage {
    /// Adds what is known of the decision to the answer's head.
    pub(crate) fn write_headers(&self, head: &mut HeaderMap) {
        head.insert(headers::REQUEST_ID, self.request_id.clone());
        let mut text = String::with_capacity(TIMING_BYTES);
        self.write_timing(&mut text);
        if let Ok(timing) = HeaderValue::from_str(&text) {
            head.insert(headers::SERVER_TIMING, timing);
        }
        // A request that is refused for a used-up share needs them most.
        if let Some(tenant) = &self.tenant {
            tenant.write_headers(head);
        }
        let Some(placement) = self.ticket.as_ref().map(Ticket::placement) else {
            head.insert(headers::ATTEMPTS, HeaderValue::from_static("0"));
            return;
        };
        head.insert(headers::POLICY, HeaderValue::from_static(placement.strategy.as_str()));
        head.insert(headers::DECISION, HeaderValue::from_static(placement.reason.as_str()));
        head.insert(headers::ATTEMPTS, number(placement.attempt.into()));
        let waited_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        head.insert(headers::QUEUE_MS, number(waited_ms));
        if let Some((_, metrics)) = &self.sent {
            head.insert(headers::REPLICA, metrics.name.clone());
        }
        text.clear();
        push_whole(&mut text, placement.cached.0.into());
        text.push('/');
        push_whole(&mut text, self.prompt.0.into());
        if let Ok(hit) = HeaderValue::from_str(&text) {
            head.insert(headers::PREFIX_HIT, hit);
        }
    }

    /// Writes where the time went until now, in milliseconds, as `server-timing` has it: `read` for the request
    /// to come and be understood, `queue` until a replica had room, `replica` until the head of its
    /// answer, failed attempts included, and `total`.
    fn write_timing(&self, text: &mut String) {
        let now = self.answered.unwrap_or_else(Instant::now);
        let read = self.read.unwrap_or(now).duration_since(self.received);
        let (queue, total) = (self.waited, now.duration_since(self.received));
        let replica = total.saturating_sub(read).saturating_sub(queue);
        let of_replica = self.answered.map(|_| (", replica;dur=", replica));
        let parts = [
            Some(("read;dur=", read)),
            Some((", queue;dur=", queue)),
            of_replica,
            Some((", total;dur=", total)),
        ];
        for (name, took) in parts.into_iter().flatten() {
            text.push_str(name);
            push_thousandths(text, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }
}
