//! What a request carries from its first byte to its last, and what happens when it is over.
//!
//! Dropping the passage ends the request, however it ended: the ticket gives back what was
//! reserved, the metrics are counted, and one line is logged.

use std::{sync::Arc, time::Duration};

use fleet::{dispatch::Ticket, replica::Replica};
use http::{HeaderMap, HeaderValue, StatusCode};
use policy::{
    admission::Gate,
    event::{Placement, Reject},
};
use tokio::time::Instant;
use types::{
    quantity::Tokens,
    request::{ModelId, Priority, Request, TenantId},
    slo::Slo,
};
use wire::{headers, openai::Endpoint, prompt::PromptHash, usage::Usage};

use crate::{
    app::{App, Settings},
    goodput::{Goodput, Left},
    quarantine::Suspect,
    reject::Refusal,
    telemetry::{ReplicaMetrics, Telemetry},
    tenants::{Grant, Tenant},
};

mod end;
mod head;

pub(crate) use self::end::End;

/// Longest piece of a model's name that is logged; a client may send any.
const MODEL_BYTES_LOGGED: usize = 128;

/// What a request was promised, and to whom.
#[derive(Debug)]
struct Promise {
    /// The class; none is everybody's.
    class: Option<Arc<str>>,
    tenant: TenantId,
    slo: Slo,
}

impl Promise {
    fn begin() -> Self {
        Self { class: None, tenant: TenantId::NONE, slo: Slo::default() }
    }

    /// Learns what the request's place on a replica was asked for with. Of an answer that comes at once
    /// nobody sees the first token.
    fn made(&mut self, request: &Request) {
        self.tenant = request.tenant;
        self.slo = if request.streamed {
            request.slo
        } else {
            let Slo { e2e, completion, .. } = request.slo;
            Slo { e2e, completion, ..Slo::default() }
        };
    }
}

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Passage {
    telemetry: Arc<Telemetry>,
    goodput: Arc<Goodput>,
    settings: Arc<Settings>,
    /// Whose key it came with.
    tenant: Option<Arc<Tenant>>,
    grant: Option<Grant>,
    endpoint: Endpoint,
    request_id: HeaderValue,
    received: Instant,
    /// When it was read, and a replica was asked for.
    read: Option<Instant>,
    /// When it was placed last.
    placed: Instant,
    /// When the head of its answer came.
    answered: Option<Instant>,
    model: String,
    prompt: Tokens,
    priority: Priority,
    /// How long it waited for a replica.
    waited: Duration,
    /// The gate that it found closed everywhere.
    gate: Option<Gate>,
    /// The model, where the prompt's length is estimated by what was learned of it.
    estimated: Option<ModelId>,
    promise: Promise,
    /// Whether its answer comes in pieces.
    is_streamed: bool,
    ticket: Option<Ticket>,
    sent: Option<(Arc<Replica>, Arc<ReplicaMetrics>)>,
    /// The status that the client was told; none where it was told nothing.
    status: Option<StatusCode>,
    dropped: Option<&'static str>,
    error: Option<&'static str>,
    ttft: Option<Duration>,
    /// The longest gap of the answer, and the shortest.
    gaps: Option<(Duration, Duration)>,
    bytes: u64,
    usage: Usage,
    /// Pieces in which the answer came.
    pieces: Option<Tokens>,
    end: End,
}

impl Passage {
    /// A request whose head has just been received.
    pub(crate) fn begin(app: &App, endpoint: Endpoint, head: &HeaderMap) -> Self {
        let received = Instant::now();
        Self {
            telemetry: Arc::clone(&app.telemetry),
            goodput: Arc::clone(&app.goodput),
            settings: app.settings.load_full(),
            tenant: None,
            grant: None,
            endpoint,
            request_id: headers::request_id(head).cloned().unwrap_or_else(|| app.request_id()),
            received,
            read: None,
            placed: received,
            answered: None,
            model: String::new(),
            prompt: Tokens::ZERO,
            priority: Priority::default(),
            waited: Duration::ZERO,
            gate: None,
            estimated: None,
            promise: Promise::begin(),
            is_streamed: false,
            ticket: None,
            sent: None,
            status: None,
            dropped: None,
            error: None,
            ttft: None,
            gaps: None,
            bytes: 0,
            usage: Usage::default(),
            pieces: None,
            end: End::ClientGone,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// What tells the request, whose body is `body`, from all others.
    pub(crate) fn suspect<'a>(&self, body: &'a [u8]) -> Suspect<'a> {
        Suspect { tenant: self.promise.tenant, endpoint: self.endpoint, body }
    }

    /// The settings that were in force when the request came.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Learns whose request it is.
    pub(crate) fn came_from(&mut self, tenant: &Arc<Tenant>) {
        self.tenant = Some(Arc::clone(tenant));
    }

    /// When its head had been received.
    pub(crate) const fn received(&self) -> Instant {
        self.received
    }

    /// Keeps what was taken out of a tenant's share until the request is over.
    pub(crate) fn grant(&mut self, grant: Grant) {
        self.grant = Some(grant);
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

    /// Learns what class the request is of and how urgent it is.
    pub(crate) fn ranked(&mut self, class: Option<Arc<str>>, priority: Priority) {
        (self.promise.class, self.priority) = (class, priority);
    }

    /// Has a replica chosen and the request's place on it reserved, as soon as one has room.
    pub(crate) async fn place(&mut self, app: &App, request: Request) -> Result<(), Refusal> {
        self.promise.made(&request);
        let model = request.model;
        self.is_streamed = request.streamed;
        app.request_names.add(request.id, self.request_id.to_str().unwrap_or_default());
        let started = Instant::now();
        self.read = Some(started);
        let placed = tokio::select! {
            biased;
            placed = app.fleet.dispatch().place(request) => placed,
            () = app.cut.comes() => return Err(Refusal::ShuttingDown),
        };
        self.placed = Instant::now();
        self.waited = self.placed.duration_since(started);
        self.telemetry.decided(self.waited, placed.as_ref().ok().map(|it| it.placement()));
        if let Err(reject) = &placed {
            self.gate = reject.gate();
        }
        self.ticket = Some(placed.map_err(|reject| {
            match reject {
                Reject::UnknownModel => Refusal::unknown_model(&self.model),
                Reject::NoReplicas => app
                    .fleet
                    .cools_for(model)
                    .map_or(Refusal::Dispatcher(reject), |after| Refusal::Cooling { after }),
                Reject::TooLong { .. }
                | Reject::AllTried
                | Reject::RetriesUsedUp { .. }
                | Reject::Saturated { .. }
                | Reject::Infeasible { .. }
                | Reject::OverShare { .. }
                | Reject::Expired { .. }
                | Reject::Evicted { .. } => Refusal::Dispatcher(reject),
            }
        })?);
        Ok(())
    }

    /// Has another replica chosen.
    pub(crate) fn retry(&mut self) -> Result<(), Reject> {
        self.ticket.as_mut().map_or(Err(Reject::NoReplicas), Ticket::retry)?;
        self.placed = Instant::now();
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
        self.status = Some(status);
        self.answered = Some(Instant::now());
    }

    /// Learns that the request is turned away.
    pub(crate) fn refused(
        &mut self,
        end: End,
        status: Option<StatusCode>,
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
            if let Some(predicted) = ticket.placement().ttft.filter(|_| self.prompt.0 > 0) {
                self.telemetry.predicted(predicted, now.duration_since(self.placed));
            }
        }
    }

    /// Learns the time between two pieces of the answer.
    pub(crate) fn gap(&mut self, gap: Duration) {
        let (longest, shortest) = self.gaps.unwrap_or((gap, gap));
        self.gaps = Some((longest.max(gap), shortest.min(gap)));
        if let Some((_, metrics)) = &self.sent {
            metrics.itl.record(gap);
        }
    }

    /// Learns how much was relayed.
    pub(crate) fn relayed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Learns in how many pieces the answer came until now; engines send a token in each.
    pub(crate) fn streamed(&mut self, pieces: Tokens) {
        self.pieces = Some(pieces);
        if let Some(grant) = &mut self.grant {
            grant.streamed(pieces);
        }
    }

    /// Learns that the end of the answer may have been there for so long: its client was slow to take it.
    pub(crate) fn was_held(&mut self, held: Duration) {
        if let Some(ticket) = &mut self.ticket {
            ticket.was_held(held);
        }
    }

    /// Learns what the answer had said that it cost when its client hung up.
    pub(crate) fn left_off(&mut self, usage: Usage) {
        if self.end == End::ClientGone {
            self.usage = usage;
        }
    }

    /// Learns how the answer ended and what it says that it cost.
    pub(crate) fn ended(&mut self, end: End, usage: Usage) {
        (self.end, self.usage) = (end, usage);
        if let Some(ticket) = &mut self.ticket {
            ticket.leave_as(end.outcome());
            ticket.used(usage.completion.or(self.pieces), usage.cached);
        }
    }

    fn count(&self, now: Instant) {
        let Some(ending) = self.end.ending() else { return };
        let class = self.promise.class.as_deref();
        let left = Left {
            request_id: self.request_id.to_str().unwrap_or_default(),
            model: &self.model,
            slo_class: class.unwrap_or_default(),
            tenant: self.promise.tenant,
            slo: self.promise.slo,
            received: self.received,
            ttft: self.ttft,
            gaps: self.gaps,
            ending,
            attempts: self.ticket.as_ref().map_or(1, |it| it.placement().attempt),
            prompt: self.usage.prompt.unwrap_or(self.prompt),
            output: self.usage.completion.or(self.pieces),
            cached: self.usage.cached,
        };
        let is_good = self.goodput.left(now, &left, self.settings.prices.as_ref());
        self.telemetry.judged(class, is_good);
    }

    /// Tokens of the answer that came of the request; none where that can't be known, as of an answer in
    /// one piece whose client did not wait for it.
    fn produced(&self) -> Option<Tokens> {
        if self.end == End::ClientTimeout && self.sent.is_some() && !self.is_streamed {
            return None;
        }
        let is_answered = self.status.is_none_or(|it| it.is_success());
        if self.sent.is_none() || !is_answered {
            return Some(self.usage.completion.unwrap_or_default());
        }
        let said = self.usage.completion;
        let seen = self.pieces.or(self.is_streamed.then_some(Tokens::ZERO));
        match self.end {
            End::Complete => said.or(seen),
            // What it says in the middle may be how it began.
            End::ClientGone => said.max(seen),
            End::ReplicaFailed | End::ClientTimeout | End::Cut | End::Refused | End::BadRequest => {
                Some(said.max(seen).unwrap_or_default())
            }
        }
    }

    /// Has the tenant's share charged for what the request came to. One that was sent nowhere costs
    /// nothing.
    fn settle(&mut self) {
        let produced = self.produced();
        let Some(grant) = &mut self.grant else { return };
        let took = self.placed.elapsed();
        if let (End::Complete, Some(output), true) = (self.end, produced, self.endpoint.generates())
        {
            grant.learn(output, took);
        }
        let prompt = if self.sent.is_some() { self.usage.prompt } else { Some(Tokens::ZERO) };
        let output = produced.unwrap_or_else(|| grant.guess(took));
        grant.settle(prompt, output);
    }

    fn log(&self, now: Instant) {
        let placement = self.ticket.as_ref().map(Ticket::placement);
        let ms = |it: Duration| it.as_micros() as f64 / 1e3;
        tracing::info!(
            request_id = self.request_id.to_str().unwrap_or_default(),
            endpoint = self.endpoint.path(),
            tenant = self.tenant.as_ref().map(|it| it.name.as_str()),
            model = self.model,
            status = self.status.map(|it| it.as_u16()),
            end = self.end.as_str(),
            error = self.error,
            replica = self.sent.as_ref().map(|it| it.0.name()),
            decision = placement.map(|it| it.reason.as_str()),
            priority = self.priority.as_str(),
            queue_ms = ms(self.waited),
            attempts = placement.map_or(0, |it| it.attempt),
            prompt_tokens = self.usage.prompt.unwrap_or(self.prompt).0,
            expected_hit_tokens = placement.map(|it| it.cached.0),
            cached_tokens = self.usage.cached.map(|it| it.0),
            output_tokens = self.usage.completion.map(|it| it.0),
            ttft_ms = self.ttft.map(ms),
            e2e_ms = ms(now.duration_since(self.received)),
            bytes = self.bytes,
            "request"
        );
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let now = Instant::now();
        self.settle();
        let replica = self.sent.as_ref().map(|it| &*it.1);
        self.telemetry.ended(self.end, self.dropped, self.priority, self.gate);
        if let (End::Complete, Some((replica, _)), Some(ticket)) =
            (self.end, &self.sent, &self.ticket)
        {
            if let Some((model, prompt)) = self.estimated.zip(self.usage.prompt) {
                self.settings.reader.ratios.learn(model, self.prompt, prompt);
            }
            let cached = self.usage.cached.unwrap_or(ticket.placement().cached);
            replica.computed(self.usage.prompt.unwrap_or(self.prompt).saturating_sub(cached));
            self.telemetry.recomputed(ticket.placement().recomputed(cached));
        }
        if let Some(replica) = replica {
            replica.duration.record(now.duration_since(self.received));
            replica.used(&self.usage);
        }
        self.count(now);
        self.log(now);
    }
}
