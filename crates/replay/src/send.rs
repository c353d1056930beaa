//! One request: sent, answered, recorded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::ResponseFuture;
use report::{Ending, RequestRecord};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use wire::{headers, openai::Endpoint};
use workload::{Api, Arrival};

use crate::{
    body::Frame,
    client::{BadTrust, HttpClient, client, is_out_of_files, with_causes},
    hang_up::{HangUpAfter, HangUps},
    observe::{Observation, excerpt},
    options::{ENDPOINTS, ReplayOptions},
    schedule::Plan,
};

/// Longest wait for the end of a body whose stream has said that it is over; a connection that is
/// not read to its end cannot be used again.
const TRAILING_TIMEOUT: Duration = Duration::from_secs(1);

/// Most that is read of an answer which is no stream and was to be one.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;

/// Most that is read of an answer which is not to be a stream.
const WHOLE_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most times that a router can have sent a request again before its deadline; what says more says
/// nothing, and would be paid for.
const ATTEMPTS_MAX: u32 = 1_000;

/// The version of Anthropic's API that its endpoint wants to be named.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// A request that has ended, and the gaps between the chunks of its answer in microseconds.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) record: RequestRecord,
    pub(crate) gaps_us: Vec<u32>,
    /// Whether it did not leave, because the generator could open no more.
    pub(crate) is_unsent: bool,
    /// Whether the engine counted more tokens than its answer can have had.
    pub(crate) is_miscounted: bool,
    /// The policy that its answer names.
    pub(crate) policy: Option<String>,
}

/// Sends requests on their own tasks.
pub(crate) struct Sender {
    plan: Plan,
    client: HttpClient,
    /// Each endpoint on each target.
    uris: Vec<[Uri; ENDPOINTS.len()]>,
    /// What each target is called where its answers do not say who gave them; nothing where there is
    /// only one.
    names: Vec<String>,
    frame: Frame,
    /// What goes into every request's head.
    common: HeaderMap,
    api_key: Option<HeaderValue>,
    run_id: String,
    session_header: bool,
    slo_class: Option<String>,
    hang_ups: Option<HangUps>,
    seed: u64,
    request_deadline: Duration,
    open: Arc<Semaphore>,
    ended: mpsc::Sender<Ended>,
}

/// A request that waits for its time. It stays in one place until it has ended: a task would hold a
/// copy for each function that it is handed through.
pub(crate) struct Outgoing {
    request: Option<Request<Full<Bytes>>>,
    record: RequestRecord,
    endpoint: Endpoint,
    /// Whether an answer that is no stream may be one that was asked for.
    may_be_whole: bool,
    hang_up: Option<HangUpAfter>,
}

/// How a request that brought no whole answer ended, and why.
struct Refusal {
    ending: Ending,
    reason: String,
    /// Whether it did not leave, because the generator could open no more.
    is_unsent: bool,
}

impl Refusal {
    fn failed(reason: impl Into<String>) -> Self {
        Self { ending: Ending::Failed, reason: reason.into(), is_unsent: false }
    }

    fn unsent(reason: &str) -> Self {
        Self { is_unsent: true, ..Self::failed(format!("generator limit: {reason}")) }
    }

    fn hung_up(after: HangUpAfter) -> Self {
        let reason = match after {
            HangUpAfter::Time(time) => format!("the client hung up after {time:?}"),
            HangUpAfter::Tokens(count) => format!("the client hung up after {count} tokens"),
        };
        Self { ending: Ending::Cancelled, reason, is_unsent: false }
    }
}

impl Sender {
    pub(crate) fn new(
        options: &ReplayOptions,
        plan: Plan,
        ended: mpsc::Sender<Ended>,
    ) -> Result<Self, BadTrust> {
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok();
            value.iter_mut().for_each(|it| it.set_sensitive(true));
            value
        };
        let mut common = HeaderMap::new();
        common.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        common.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let bearer = options.api_key.as_deref().and_then(|it| secret(&format!("Bearer {it}")));
        bearer.into_iter().for_each(|it| drop(common.insert(header::AUTHORIZATION, it)));
        for (name, value) in &options.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
                common.insert(name, value);
            }
        }
        let uri = |target: &crate::Target, endpoint: Endpoint| target.uri(endpoint.path());
        let names = options.targets.iter().map(ToString::to_string);
        let names = if options.targets.len() > 1 { names.collect() } else { Vec::new() };
        Ok(Self {
            plan,
            client: client(&options.targets, options.ca_pem.as_deref())?,
            uris: options
                .targets
                .iter()
                .map(|target| ENDPOINTS.map(|it| uri(target, it).unwrap_or_default()))
                .collect(),
            names,
            frame: Frame {
                model: serde_json::Value::from(options.model.as_str()).to_string(),
                endpoint: options.endpoint,
                exact_lengths: options.exact_lengths,
            },
            common,
            api_key: options.api_key.as_deref().and_then(secret),
            run_id: options.run_id.clone(),
            session_header: options.session_header,
            slo_class: options.slo_class.clone(),
            hang_ups: options.hang_ups,
            seed: options.seed,
            request_deadline: options.request_deadline,
            open: Arc::new(Semaphore::new(options.open_requests_max)),
            ended,
        })
    }

    /// Makes the `index`-th request ready to leave.
    pub(crate) fn prepare(&self, index: usize, arrival: &Arrival) -> Box<Outgoing> {
        let given = arrival.prompt.given.as_deref();
        let endpoint = match given.and_then(|it| it.api) {
            Some(Api::Chat) => Endpoint::ChatCompletions,
            Some(Api::Completions) => Endpoint::Completions,
            Some(Api::Messages) => Endpoint::Messages,
            None => self.frame.endpoint,
        };
        let body = self.frame.body(&arrival.prompt, arrival.output);
        let slo_class = arrival.slo_class.as_deref().or(self.slo_class.as_deref());
        let request_id = format!("{}-{index:06}", self.run_id);
        let record = RequestRecord {
            session: arrival.session,
            turn: arrival.turn,
            turns: arrival.turns,
            tenant: arrival.tenant,
            slo_class: slo_class.map(str::to_owned),
            workload_class: arrival.workload_class,
            scheduled: arrival.at,
            input_tokens: arrival.prompt.tokens(),
            replica: index.checked_rem(self.names.len()).and_then(|it| self.names.get(it)).cloned(),
            request_id,
            ..RequestRecord::default()
        };
        Box::new(Outgoing {
            request: self.request(index, endpoint, &record, body),
            record,
            endpoint,
            may_be_whole: given.is_some(),
            hang_up: self.hang_ups.and_then(|it| it.of(self.seed, index)),
        })
    }

    /// None where it cannot be formed.
    fn request(
        &self,
        index: usize,
        endpoint: Endpoint,
        record: &RequestRecord,
        body: Bytes,
    ) -> Option<Request<Full<Bytes>>> {
        let target = index.checked_rem(self.uris.len()).and_then(|it| self.uris.get(it))?;
        let place = ENDPOINTS.iter().position(|it| *it == endpoint)?;
        let mut request = Request::post(target.get(place)?.clone()).body(Full::from(body)).ok()?;
        let headers = request.headers_mut();
        headers.clone_from(&self.common);
        headers.insert(headers::REQUEST_ID, HeaderValue::from_str(&record.request_id).ok()?);
        if let Some(session) = record.session.filter(|_| self.session_header) {
            let name = format!("{}-session-{session}", self.run_id);
            headers.insert(SESSION_ID, HeaderValue::from_str(&name).ok()?);
        }
        if let Some(class) = record.slo_class.as_deref() {
            headers.insert(headers::SLO_CLASS, HeaderValue::from_str(class).ok()?);
        }
        if endpoint == Endpoint::Messages {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
            self.api_key.iter().for_each(|it| drop(headers.insert("x-api-key", it.clone())));
        }
        Some(request)
    }

    /// Sends `outgoing` now, unless too many requests are open; never waits.
    pub(crate) fn send(self: &Arc<Self>, runtime: &Handle, outgoing: Box<Outgoing>) {
        let sender = Arc::clone(self);
        let permit = Arc::clone(&self.open).try_acquire_owned().ok();
        runtime.spawn(async move { sender.carry_out(outgoing, permit).await });
    }

    async fn carry_out(&self, mut outgoing: Box<Outgoing>, permit: Option<OwnedSemaphorePermit>) {
        let hang_up = outgoing.hang_up;
        let mut policy = None;
        let mut seen = Observation::new(outgoing.endpoint);
        let result = match (outgoing.request.take(), &permit) {
            (Some(request), Some(_)) => {
                let record = &mut outgoing.record;
                record.sent = Some(self.plan.now());
                let answer = self.client.request(request);
                let deadline = self.plan.deadline(record.scheduled, self.request_deadline);
                let patience = match hang_up {
                    Some(HangUpAfter::Time(time)) => self.plan.instant(record.scheduled + time),
                    Some(HangUpAfter::Tokens(_)) | None => deadline,
                };
                let tokens_max = match hang_up {
                    Some(HangUpAfter::Tokens(count)) => Some(count),
                    Some(HangUpAfter::Time(_)) | None => None,
                };
                let exchange = Exchange {
                    sender: self,
                    record,
                    seen: &mut seen,
                    policy: &mut policy,
                    may_be_whole: outgoing.may_be_whole,
                    tokens_max,
                };
                let late = match hang_up {
                    Some(after) if patience < deadline => Refusal::hung_up(after),
                    Some(_) | None => Refusal::failed("the deadline passed"),
                };
                tokio::select! {
                    biased;
                    result = exchange.run(answer) => result,
                    () = time::sleep_until(patience.min(deadline)) => Err(late),
                    () = self.plan.stop.cancelled() => Err(Refusal::failed("the run was stopped")),
                }
            }
            (_, None) => Err(Refusal::unsent("too many requests are open")),
            (None, _) => Err(Refusal::failed("the request could not be formed")),
        };
        let mut ended = self.record(std::mem::take(&mut outgoing.record), seen, result);
        ended.policy = policy;
        // Whoever no longer listens has dropped the run.
        let _ = self.ended.send(ended).await;
        drop(permit);
    }

    fn record(
        &self,
        mut record: RequestRecord,
        seen: Observation,
        result: Result<(), Refusal>,
    ) -> Ended {
        record.ended = self.plan.now();
        record.first_token = seen.first_token;
        record.last_token = seen.last_token;
        record.input_tokens = seen.usage().prompt.unwrap_or(record.input_tokens);
        record.output_tokens = seen.output_tokens();
        record.cached_tokens = seen.usage().cached;
        let is_miscounted = seen.is_miscounted();
        let gaps_us = seen.gaps_us;
        let mut ended = Ended { record, gaps_us, is_unsent: false, is_miscounted, policy: None };
        match result {
            Ok(()) => ended.record.ending = Ending::Completed,
            Err(Refusal { ending, reason, is_unsent }) => {
                ended.record.ending = ending;
                ended.record.error = Some(reason);
                ended.is_unsent = is_unsent;
            }
        }
        ended
    }
}

/// One request and what becomes of it.
struct Exchange<'a> {
    sender: &'a Sender,
    record: &'a mut RequestRecord,
    seen: &'a mut Observation,
    policy: &'a mut Option<String>,
    may_be_whole: bool,
    /// Tokens after which the client hangs up.
    tokens_max: Option<u32>,
}

impl Exchange<'_> {
    /// What ends early or seldom happens is boxed, so that a stream that is open does not keep room
    /// for it.
    async fn run(mut self, answer: ResponseFuture) -> Result<(), Refusal> {
        let response = answer.await.map_err(|error| {
            if is_out_of_files(&error) {
                Refusal::unsent("too many open files; raise `ulimit -n`")
            } else {
                Refusal::failed(with_causes(&error))
            }
        })?;
        let text = |name: HeaderName| header_text(response.headers(), &name);
        self.record.status = Some(response.status().as_u16());
        if let Some(replica) = text(headers::REPLICA) {
            self.record.replica = Some(replica);
        }
        self.record.decision = text(headers::DECISION);
        *self.policy = text(headers::POLICY);
        self.record.attempts = text(headers::ATTEMPTS).and_then(|it| it.parse().ok());
        self.record.attempts = self.record.attempts.filter(|it| *it <= ATTEMPTS_MAX);
        let is_stream = is_stream(response.headers());
        if response.status() != StatusCode::OK || !(is_stream || self.may_be_whole) {
            return Err(Box::pin(refusal(response)).await);
        }
        let body = response.into_body();
        if is_stream {
            self.read_stream(body).await?;
        } else {
            Box::pin(self.read_whole(body)).await?;
        }
        self.seen.fault().map_or(Ok(()), |fault| Err(Refusal::failed(fault)))
    }

    async fn read_stream(&mut self, mut body: Incoming) -> Result<(), Refusal> {
        while !self.seen.has_ended() {
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|error| Refusal::failed(with_causes(&error)))?;
            if let Some(bytes) = frame.data_ref() {
                self.seen.read(self.sender.plan.now(), bytes);
            }
            if let Some(max) = self.tokens_max.filter(|max| self.seen.chunks() >= *max) {
                return Err(Refusal::hung_up(HangUpAfter::Tokens(max)));
            }
        }
        Box::pin(read_to_end(body, self.seen, self.sender)).await;
        Ok(())
    }

    async fn read_whole(&mut self, body: Incoming) -> Result<(), Refusal> {
        let body = Limited::new(body, WHOLE_BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Refusal::failed(error.to_string()))?.to_bytes();
        self.seen.read_whole(self.sender.plan.now(), &body);
        Ok(())
    }
}

/// Lets a stream that is over bring its last bytes, which free the connection for the next request.
/// What an error event is followed by is read here too, so that a later `[DONE]` changes nothing.
async fn read_to_end(mut body: Incoming, seen: &mut Observation, sender: &Sender) {
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(bytes) = frame.data_ref() {
                seen.read(sender.plan.now(), bytes);
            }
        }
    };
    // A server that keeps the stream open after its end costs a connection and nothing else.
    let _ = time::timeout(TRAILING_TIMEOUT, rest).await;
}

const SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");

/// Why the target sent no stream.
async fn refusal(response: Response<Incoming>) -> Refusal {
    let status = response.status();
    let reason = header_text(response.headers(), &headers::DROPPED_REASON);
    let body = Limited::new(response.into_body(), ERROR_BODY_BYTES_MAX).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let turned_away =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let ending = if turned_away { Ending::Rejected } else { Ending::Failed };
    let reason = match reason {
        Some(reason) => reason,
        None if status == StatusCode::OK => format!("no event stream: {}", excerpt(&body)),
        None => excerpt(&body),
    };
    Refusal { ending, ..Refusal::failed(reason) }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|it| it.starts_with(b"text/event-stream"))
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
}
