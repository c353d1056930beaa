//! One request: sent, answered, recorded.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use report::{Ending, RequestRecord};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use types::time::Timestamp;
use wire::{headers, openai::Endpoint};
use workload::Arrival;

use crate::{
    body,
    observe::{Observation, excerpt},
    options::ReplayOptions,
    schedule::Plan,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the end of a body whose stream has said that it is over; a connection that is
/// not read to its end cannot be used again.
const TRAILING_TIMEOUT: Duration = Duration::from_secs(1);

/// Most that is read of an answer which is no stream.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;

/// The system's number for "too many open files".
const EMFILE: i32 = 24;

pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// The client that a replay sends with.
pub(crate) fn client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// A request that has ended, and the gaps between the chunks of its answer.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) record: RequestRecord,
    pub(crate) gaps: Vec<Duration>,
}

/// Sends requests on their own tasks.
pub(crate) struct Sender {
    plan: Plan,
    client: HttpClient,
    /// The endpoint on each target.
    uris: Vec<Uri>,
    endpoint: Endpoint,
    /// As a JSON string.
    model: String,
    authorization: Option<HeaderValue>,
    run_id: String,
    session_header: bool,
    request_deadline: Duration,
    open: Arc<Semaphore>,
    ended: mpsc::Sender<Ended>,
}

/// A request that waits for its time.
pub(crate) struct Outgoing {
    request: Option<Request<Full<Bytes>>>,
    record: RequestRecord,
}

impl Outgoing {
    pub(crate) const fn scheduled(&self) -> Timestamp {
        self.record.scheduled
    }
}

/// How a request that brought no whole answer ended, and why.
struct Refusal {
    ending: Ending,
    reason: String,
}

impl Refusal {
    fn failed(reason: impl Into<String>) -> Self {
        Self { ending: Ending::Failed, reason: reason.into() }
    }
}

impl Sender {
    pub(crate) fn new(options: &ReplayOptions, plan: Plan, ended: mpsc::Sender<Ended>) -> Self {
        let bearer = |key| HeaderValue::from_str(&format!("Bearer {key}"));
        let mut authorization = options.api_key.as_deref().and_then(|key| bearer(key).ok());
        authorization.iter_mut().for_each(|it| it.set_sensitive(true));
        let path = options.endpoint.path();
        Self {
            plan,
            client: client(),
            uris: options.targets.iter().filter_map(|it| it.uri(path)).collect(),
            endpoint: options.endpoint,
            model: serde_json::Value::from(options.model.as_str()).to_string(),
            authorization,
            run_id: options.run_id.clone(),
            session_header: options.session_header,
            request_deadline: options.request_deadline,
            open: Arc::new(Semaphore::new(options.open_requests_max)),
            ended,
        }
    }

    /// Makes the `index`-th request ready to leave.
    pub(crate) fn prepare(&self, index: usize, arrival: &Arrival) -> Outgoing {
        let body = body::write(&self.model, self.endpoint, &arrival.prompt, arrival.output);
        let request_id = format!("{}-{index:06}", self.run_id);
        let mut request = Request::post(self.uri(index))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .header(headers::REQUEST_ID, &request_id);
        if let Some(session) = arrival.session.filter(|_| self.session_header) {
            request = request.header(SESSION_ID, format!("{}-session-{session}", self.run_id));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let record = RequestRecord {
            request_id,
            session: arrival.session,
            turn: arrival.turn,
            tenant: arrival.tenant,
            scheduled: arrival.at,
            input_tokens: arrival.prompt.tokens(),
            ..RequestRecord::default()
        };
        Outgoing { request: request.body(Full::from(body)).ok(), record }
    }

    fn uri(&self, index: usize) -> Uri {
        let turn = index.checked_rem(self.uris.len()).and_then(|it| self.uris.get(it));
        turn.cloned().unwrap_or_default()
    }

    /// Sends `outgoing` now, unless too many requests are open; never waits.
    pub(crate) fn send(self: &Arc<Self>, runtime: &Handle, outgoing: Outgoing) {
        let sender = Arc::clone(self);
        let permit = Arc::clone(&self.open).try_acquire_owned().ok();
        runtime.spawn(async move { sender.carry_out(outgoing, permit).await });
    }

    async fn carry_out(&self, outgoing: Outgoing, permit: Option<OwnedSemaphorePermit>) {
        let Outgoing { request, mut record } = outgoing;
        let mut seen = Observation::new(self.endpoint);
        let result = match (request, &permit) {
            (Some(request), Some(_)) => {
                let deadline = self.plan.deadline(record.scheduled, self.request_deadline);
                record.sent = Some(self.plan.now());
                tokio::select! {
                    biased;
                    result = self.exchange(request, &mut record, &mut seen) => result,
                    () = time::sleep_until(deadline.into()) => Err(Refusal::failed("the deadline passed")),
                    () = self.plan.stop.cancelled() => Err(Refusal::failed("the run was stopped")),
                }
            }
            (_, None) => Err(Refusal::failed("generator limit: too many requests are open")),
            (None, _) => Err(Refusal::failed("the request could not be formed")),
        };
        record.ended = self.plan.now();
        record.first_token = seen.first_token;
        record.last_token = seen.last_token;
        record.input_tokens = seen.usage().prompt.unwrap_or(record.input_tokens);
        record.output_tokens = seen.output_tokens();
        record.cached_tokens = seen.usage().cached;
        match result {
            Ok(()) => record.ending = Ending::Completed,
            Err(Refusal { ending, reason }) => {
                record.ending = ending;
                record.error = Some(reason);
            }
        }
        // Whoever no longer listens has dropped the run.
        let _ = self.ended.send(Ended { record, gaps: seen.gaps }).await;
        drop(permit);
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        record: &mut RequestRecord,
        seen: &mut Observation,
    ) -> Result<(), Refusal> {
        let response = self.client.request(request).await.map_err(|error| {
            if is_out_of_files(&error) {
                Refusal::failed("generator limit: too many open files; raise `ulimit -n`")
            } else {
                Refusal::failed(with_causes(&error))
            }
        })?;
        let text = |name: HeaderName| header_text(response.headers(), &name);
        record.status = Some(response.status().as_u16());
        record.replica = text(headers::REPLICA);
        record.decision = text(headers::DECISION);
        record.attempts = text(headers::ATTEMPTS).and_then(|it| it.parse().ok());
        if response.status() != StatusCode::OK || !is_stream(response.headers()) {
            return Err(refusal(response).await);
        }
        let mut body = response.into_body();
        while !seen.has_ended() {
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|error| Refusal::failed(with_causes(&error)))?;
            if let Some(bytes) = frame.data_ref() {
                seen.read(self.plan.now(), bytes);
            }
        }
        read_to_end(body, seen, self).await;
        seen.fault().map_or(Ok(()), |fault| Err(Refusal::failed(fault)))
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
    Refusal { ending, reason }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|it| it.starts_with(b"text/event-stream"))
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
}

/// The error and what caused it, the part that tells a refused connection from a broken one.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn is_out_of_files(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let system = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if system == Some(EMFILE) {
            return true;
        }
        cause = error.source();
    }
    false
}
