//! What a request carries from its first byte to its last, and what happens when it is over.
//!
//! Dropping the passage ends the request, however it ended: the ticket gives back what was
//! reserved, the metrics are counted, and one line is logged.

use std::{sync::Arc, time::Duration};

use fleet::{dispatch::Ticket, replica::Replica};
use http::{HeaderMap, HeaderValue, StatusCode};
use policy::event::{Placement, Reject};
use tokio::time::Instant;
use types::{
    outcome::Outcome,
    quantity::Tokens,
    request::{ModelId, Request},
};
use wire::{headers, openai::Endpoint, prompt::PromptHash, usage::Usage};

use crate::{
    app::App,
    reject::Refusal,
    telemetry::{ReplicaMetrics, Telemetry},
    token_ratio::TokenRatios,
};

/// Longest piece of a model's name that is logged; a client may send any.
const MODEL_BYTES_LOGGED: usize = 128;

/// How a request came to its end, as the log and the metrics say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was relayed to its last byte.
    Complete,
    /// The client hung up.
    ClientGone,
    /// The replica failed before or within its answer.
    ReplicaFailed,
    /// The router had to end.
    Cut,
    /// The request was turned away, by the router or by every replica that was asked.
    Refused,
}

impl End {
    pub(crate) const ALL: [Self; 5] =
        [Self::Complete, Self::ClientGone, Self::ReplicaFailed, Self::Cut, Self::Refused];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client-gone",
            Self::ReplicaFailed => "replica-failed",
            Self::Cut => "cut",
            Self::Refused => "refused",
        }
    }

    const fn outcome(self) -> Outcome {
        match self {
            Self::Complete => Outcome::Finished,
            Self::ReplicaFailed => Outcome::Failed,
            Self::ClientGone | Self::Cut | Self::Refused => Outcome::Cancelled,
        }
    }
}

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Passage {
    telemetry: Arc<Telemetry>,
    endpoint: Endpoint,
    request_id: HeaderValue,
    received: Instant,
    model: String,
    prompt: Tokens,
    /// The model, where the prompt's length is estimated by what was learned of it.
    estimated: Option<ModelId>,
    ratios: TokenRatios,
    ticket: Option<Ticket>,
    sent: Option<(Arc<Replica>, Arc<ReplicaMetrics>)>,
    status: StatusCode,
    dropped: Option<&'static str>,
    error: Option<&'static str>,
    ttft: Option<Duration>,
    bytes: u64,
    usage: Usage,
    /// Pieces in which the answer came.
    pieces: Option<Tokens>,
    end: End,
}

impl Passage {
    /// A request whose head has just been received.
    pub(crate) fn begin(app: &App, endpoint: Endpoint, head: &HeaderMap) -> Self {
        Self {
            telemetry: Arc::clone(&app.telemetry),
            endpoint,
            request_id: headers::request_id(head).cloned().unwrap_or_else(|| app.request_id()),
            received: Instant::now(),
            model: String::new(),
            prompt: Tokens::ZERO,
            estimated: None,
            ratios: app.reader.ratios.clone(),
            ticket: None,
            sent: None,
            status: StatusCode::OK,
            dropped: None,
            error: None,
            ttft: None,
            bytes: 0,
            usage: Usage::default(),
            pieces: None,
            end: End::ClientGone,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(crate) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// Learns what the body asks for.
    pub(crate) fn describe(&mut self, model: &str, prompt: &PromptHash) {
        self.model.push_str(model.get(..MODEL_BYTES_LOGGED).unwrap_or(model));
        self.prompt = prompt.prompt;
        self.estimated = prompt.is_estimated.then(|| ModelId::from_name(model));
    }

    /// Has a replica chosen and the request's place on it reserved.
    pub(crate) fn place(&mut self, app: &App, request: Request) -> Result<(), Refusal> {
        let started = Instant::now();
        let placed = app.fleet.dispatch().place(request);
        self.telemetry.decided(started.elapsed(), placed.as_ref().ok().map(|it| it.placement()));
        self.ticket = Some(placed?);
        Ok(())
    }

    /// Has another replica chosen.
    pub(crate) fn retry(&mut self) -> Result<(), Reject> {
        self.ticket.as_mut().map_or(Err(Reject::NoReplicas), Ticket::retry)?;
        self.telemetry.retried();
        Ok(())
    }

    /// Where the request was placed last.
    pub(crate) fn placement(&self) -> Result<Placement, Refusal> {
        let ticket = self.ticket.as_ref().ok_or(Refusal::Dispatcher(Reject::NoReplicas))?;
        Ok(*ticket.placement())
    }

    /// Learns to whom the request is sent.
    pub(crate) fn sent_to(&mut self, replica: &Arc<Replica>) {
        let metrics = self.telemetry.replica(replica);
        self.sent = Some((Arc::clone(replica), metrics));
    }

    /// Learns the status of the answer that is relayed.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// Learns that the request is turned away.
    pub(crate) fn refused(
        &mut self,
        end: End,
        status: StatusCode,
        code: &'static str,
        dropped: Option<&'static str>,
    ) {
        (self.status, self.error, self.dropped) = (status, Some(code), dropped);
        self.ended(end, Usage::default());
    }

    /// Learns that the first token has come.
    pub(crate) fn first_token(&mut self, now: Instant) {
        let ttft = now.duration_since(self.received);
        self.ttft = Some(ttft);
        if let Some((_, metrics)) = &self.sent {
            metrics.ttft.record(ttft);
        }
        if let Some(ticket) = &self.ticket {
            ticket.first_token();
        }
    }

    /// Learns the time between two pieces of the answer.
    pub(crate) fn gap(&self, gap: Duration) {
        if let Some((_, metrics)) = &self.sent {
            metrics.itl.record(gap);
        }
    }

    /// Learns how much was relayed.
    pub(crate) fn relayed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Learns in how many pieces the answer came; engines send a token in each.
    pub(crate) fn streamed(&mut self, pieces: Option<Tokens>) {
        self.pieces = pieces;
    }

    /// Learns how the answer ended and what it says that it cost.
    pub(crate) fn ended(&mut self, end: End, usage: Usage) {
        (self.end, self.usage) = (end, usage);
        if let Some(ticket) = &mut self.ticket {
            if let Some(cached) = usage.cached.filter(|_| end == End::Complete) {
                ticket.found(cached);
            }
            ticket.leave_as(end.outcome());
            ticket.generated(usage.completion.or(self.pieces));
        }
    }

    /// Adds what is known of the decision to the answer's head.
    pub(crate) fn write_headers(&self, head: &mut HeaderMap) {
        head.insert(headers::REQUEST_ID, self.request_id.clone());
        let Some(placement) = self.ticket.as_ref().map(Ticket::placement) else { return };
        head.insert(headers::POLICY, HeaderValue::from_static(placement.strategy.as_str()));
        head.insert(headers::DECISION, HeaderValue::from_static(placement.reason.as_str()));
        head.insert(headers::ATTEMPTS, HeaderValue::from(placement.attempt));
        if let Some((_, metrics)) = &self.sent {
            head.insert(headers::REPLICA, metrics.name.clone());
        }
        let hit = format!("{}/{}", placement.cached, self.prompt);
        if let Ok(hit) = HeaderValue::try_from(hit) {
            head.insert(headers::PREFIX_HIT, hit);
        }
    }

    fn log(&self) {
        let placement = self.ticket.as_ref().map(Ticket::placement);
        let ms = |it: Duration| it.as_micros() as f64 / 1e3;
        tracing::info!(
            request_id = self.request_id.to_str().unwrap_or_default(),
            endpoint = self.endpoint.path(),
            model = self.model,
            status = self.status.as_u16(),
            end = self.end.as_str(),
            error = self.error,
            replica = self.sent.as_ref().map(|it| it.0.name()),
            decision = placement.map(|it| it.reason.as_str()),
            attempts = placement.map_or(0, |it| it.attempt),
            prompt_tokens = self.usage.prompt.unwrap_or(self.prompt).0,
            expected_hit_tokens = placement.map(|it| it.cached.0),
            cached_tokens = self.usage.cached.map(|it| it.0),
            output_tokens = self.usage.completion.map(|it| it.0),
            ttft_ms = self.ttft.map(ms),
            e2e_ms = ms(self.received.elapsed()),
            bytes = self.bytes,
            "request"
        );
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let replica = self.sent.as_ref().map(|it| &*it.1);
        self.telemetry.ended(self.end, self.dropped);
        if let (End::Complete, Some((replica, _)), Some(ticket)) =
            (self.end, &self.sent, &self.ticket)
        {
            if let Some((model, prompt)) = self.estimated.zip(self.usage.prompt) {
                self.ratios.learn(model, self.prompt, prompt);
            }
            let cached = self.usage.cached.unwrap_or(ticket.placement().cached);
            replica.computed(self.usage.prompt.unwrap_or(self.prompt).saturating_sub(cached));
        }
        if let Some(replica) = replica {
            replica.duration.record(self.received.elapsed());
            replica.used(&self.usage);
        }
        self.log();
    }
}
