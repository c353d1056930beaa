//! Sends a request to its replica, and to another one as long as no byte of an answer has come.
//!
//! A request is sent again when the replica said no (429, 503, a server error, or an error in place
//! of a stream's first token), when the connection failed before the answer began, or when the
//! replica was found hung. It is never sent to more replicas than `attempts_max`, and one that broke
//! two of them, or that two of them answered with a server error, is not sent again at all: were it the
//! request that does it, it would go through the whole fleet. A replica that is merely slow is not given
//! up for another, for its work would be
//! done twice.
//!
//! A server error says as much of the request as of the replica. It counts against the replica once
//! another one has served the same request; an error that a second one gives too counts against neither.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fleet::{
    client::{Body, failure_of},
    health::Failure,
    replica::Replica,
};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use policy::event::Reject;
use tokio::time::Instant;
use wire::{
    error_body, headers,
    openai::Endpoint,
    sse::Scanner,
    usage::{self, Answer as Account},
};

use crate::{
    app::App, intake::Outbound, passage::Passage, quarantine::Strike, reject::Refusal, relay,
};

/// Longest error of a replica that is read before it is relayed.
const ERROR_BYTES_READ: u64 = 4 << 10;

/// Longest time that its first piece is waited for.
const ERROR_READ_WITHIN: Duration = Duration::from_secs(1);

/// How long a replica is left alone that says that it drains; it seldom comes back before its end.
const DRAINING_LEFT_ALONE: Duration = Duration::from_secs(5);

/// Most of a stream that is held back while it is not known whether it begins with an error: bytes, and
/// time since the first of them.
const HELD_BYTES_MAX: usize = 16 << 10;
const HELD_LONGEST: Duration = Duration::from_millis(100);

/// The answer of a replica, its head received, and of a stream its beginning.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) begun: Begun,
    pub(crate) replica: Arc<Replica>,
}

/// An answer that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) response: Response<Body>,
    /// The beginning of a stream, which was looked at before the client is told anything.
    pub(crate) first: Option<Bytes>,
    /// Whether it is an error of which it was decided what it says of the replica.
    pub(crate) is_weighed: bool,
}

/// What came of one attempt.
enum Attempt {
    /// An answer to be relayed.
    Answered(Begun),
    /// The replica said no, in an answer that is relayed if nobody else takes the request.
    Declined(Begun),
    /// The same, but with an error that may be the replica's fault or the request's.
    Erred(Begun),
    /// No answer came.
    Failed(Failure),
    /// The replica has the request and stayed silent for as long as an answer may take.
    Silent,
    /// Or for as long as the client wanted to wait, from when it came.
    Unawaited { within: Duration },
    /// The router's own end came first.
    Cut,
}

/// Sends the request of `passage` until a replica answers or no more may be tried.
pub(crate) async fn send(
    app: &App,
    passage: &mut Passage,
    outbound: &Outbound,
) -> Result<Answer, Refusal> {
    let suspect = passage.suspect(outbound.request.body());
    if app.quarantine.holds(suspect) {
        return Err(Refusal::Poison);
    }
    app.retries.earn();
    let mut erred: Vec<Arc<Replica>> = Vec::new();
    loop {
        let placement = passage.placement()?;
        // A replica can leave between the decision and here; the request then goes elsewhere.
        let Some(replica) = app.fleet.replica(placement.replica) else {
            passage.retry()?;
            continue;
        };
        passage.sent_to(&replica);
        let attempt = attempt(app, passage.endpoint(), &replica, outbound).await;
        let may_retry = placement.attempt < passage.settings().attempts_max;
        match attempt {
            Attempt::Answered(begun) => {
                app.quarantine.absolve(suspect);
                if begun.response.status().is_success() {
                    erred.iter().for_each(|it| it.request_failed(Failure::Broken));
                }
                return Ok(Answer { begun, replica });
            }
            Attempt::Declined(begun) => {
                if !may_retry || !retried(app, passage).await {
                    return Ok(Answer { begun, replica });
                }
            }
            Attempt::Erred(begun) => {
                let begun = Begun { is_weighed: true, ..begun };
                if passage.settings().attempts_max <= 1 {
                    // No other replica is ever heard.
                    replica.request_failed(Failure::Broken);
                    return Ok(Answer { begun, replica });
                }
                if app.quarantine.strike(suspect, replica.id(), Strike::Erred)
                    || !may_retry
                    || !retried(app, passage).await
                {
                    return Ok(Answer { begun, replica });
                }
                erred.push(replica);
            }
            Attempt::Failed(failure) => {
                if failure == Failure::Broken
                    && app.quarantine.strike(suspect, replica.id(), Strike::Broke)
                {
                    return Err(Refusal::Poison);
                }
                if failure == Failure::OutOfFiles {
                    return Err(Refusal::OutOfFiles);
                }
                let refusal = Refusal::Upstream { failure, attempts: placement.attempt };
                if !may_retry {
                    return Err(refusal);
                }
                passage.retry().map_err(|reject| given_up(reject, refusal))?;
            }
            Attempt::Cut => return Err(Refusal::ShuttingDown),
            Attempt::Unawaited { within } => {
                return Err(Refusal::ClientTimeout { within, attempts: placement.attempt });
            }
            Attempt::Silent => {
                let (failure, attempts) = (Failure::TimedOut, placement.attempt);
                return Err(Refusal::Upstream { failure, attempts });
            }
        }
    }
}

/// Has another replica chosen after an answer that says no, where that has been earned. The answer is kept
/// meanwhile: it is relayed if nobody else takes the request. That somebody could have, had there been room, is
/// counted.
async fn retried(app: &App, passage: &mut Passage) -> bool {
    let Some(wait) = app.retries.spend() else { return false };
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let Err(reject) = passage.retry() else { return true };
    // Nothing was sent: what it would have cost is there for another.
    app.retries.give_back();
    if !is_nobody_left(&reject) {
        app.retries.deny();
    }
    false
}

/// Why a request is not sent again. Where nobody is left to try, what went wrong says more than that.
fn given_up(reject: Reject, failed: Refusal) -> Refusal {
    if is_nobody_left(&reject) { failed } else { Refusal::Dispatcher(reject) }
}

/// Whether a request is not placed again because there is no other replica, with or without room.
const fn is_nobody_left(reject: &Reject) -> bool {
    match reject {
        Reject::AllTried | Reject::NoReplicas => true,
        Reject::UnknownModel
        | Reject::TooLong { .. }
        | Reject::RetriesUsedUp { .. }
        | Reject::Saturated { .. }
        | Reject::Infeasible { .. }
        | Reject::OverShare { .. }
        | Reject::Expired { .. }
        | Reject::Evicted { .. } => false,
    }
}

async fn attempt(
    app: &App,
    endpoint: Endpoint,
    replica: &Arc<Replica>,
    outbound: &Outbound,
) -> Attempt {
    let router_waits = Instant::now() + outbound.answer_within;
    let client_waits = outbound.patience.filter(|it| it.1 < router_waits);
    // What has waited here for as long as its client wanted to wait is not begun.
    if let Some((within, until)) = client_waits
        && until <= Instant::now()
    {
        return Attempt::Unawaited { within };
    }
    let until = client_waits.map_or(router_waits, |it| it.1);
    tokio::select! {
        biased;
        answer = exchange(endpoint, replica, outbound) => answer,
        () = tokio::time::sleep_until(until) => match client_waits {
            // How long a client waits is its own affair: it may have been no time at all.
            Some((within, _)) => Attempt::Unawaited { within },
            None => {
                replica.request_failed(Failure::TimedOut);
                Attempt::Silent
            }
        },
        () = replica.hangs() => Attempt::Failed(Failure::TimedOut),
        () = app.cut.comes() => Attempt::Cut,
    }
}

/// Sends the request and waits for an answer, for as long as it takes.
async fn exchange(endpoint: Endpoint, replica: &Arc<Replica>, outbound: &Outbound) -> Attempt {
    match replica.client().request(&outbound.request).await {
        Ok(response) => begin(endpoint, replica, response).await,
        Err(error) => {
            // A connection that did not come about in time is among these: nothing was sent.
            let failure = failure_of(&error);
            replica.request_failed(failure);
            Attempt::Failed(failure)
        }
    }
}

/// Says whether an answer is one, and what its beginning says of the replica's health: a refusal is
/// no illness, a server error may be one, and an answer that has only begun may yet break off.
async fn begin(endpoint: Endpoint, replica: &Arc<Replica>, response: Response<Body>) -> Attempt {
    let begun = |response| Begun { response, first: None, is_weighed: false };
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            replica.declined(headers::retry_after(response.headers(), App::since_1970()));
            Attempt::Declined(begun(response))
        }
        // Nobody asked for another protocol.
        status if status.is_informational() => {
            replica.request_failed(Failure::Broken);
            Attempt::Failed(Failure::Broken)
        }
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            begin_error(replica, response).await
        }
        status if status.is_success() && relay::is_stream(response.headers()) => {
            replica.byte();
            begin_stream(endpoint, replica, response).await
        }
        _ => {
            replica.byte();
            Attempt::Answered(begun(response))
        }
    }
}

/// Looks whether a server error says that the engine drains: that is a refusal by another name, which is
/// no fault of the request's nor an illness of the replica.
async fn begin_error(replica: &Arc<Replica>, mut response: Response<Body>) -> Attempt {
    let length = response.body().size_hint().exact();
    let is_brief = length.is_some_and(|it| (1..=ERROR_BYTES_READ).contains(&it));
    let first = if is_brief {
        tokio::time::timeout(ERROR_READ_WITHIN, next_piece(&mut response)).await.ok().flatten()
    } else {
        None
    };
    let drains = first.as_deref().is_some_and(error_body::says_it_drains);
    let begun = Begun { response, first, is_weighed: false };
    if drains {
        replica.declined(Some(DRAINING_LEFT_ALONE));
        return Attempt::Declined(begun);
    }
    Attempt::Erred(begun)
}

/// Waits until a stream has begun: engines that are dead behind their server, or full, say 200 and then
/// an error, perhaps after a comment or an empty piece. As long as the client has been told nothing, another
/// replica can serve it. What has come is not held back for long: nobody waits for a token because of it.
async fn begin_stream(
    endpoint: Endpoint,
    replica: &Replica,
    mut response: Response<Body>,
) -> Attempt {
    let mut beginning = Beginning::new(endpoint);
    let mut until: Option<Instant> = None;
    while !beginning.is_told() {
        let piece = next_piece(&mut response);
        let piece = match until {
            None => piece.await,
            Some(until) => match tokio::time::timeout_at(until, piece).await {
                Ok(piece) => piece,
                Err(_) => break,
            },
        };
        let Some(piece) = piece else {
            replica.request_failed(Failure::Broken);
            return Attempt::Failed(Failure::Broken);
        };
        beginning.see(piece);
        until.get_or_insert_with(|| Instant::now() + HELD_LONGEST);
    }
    let has_failed = beginning.account.has_failed();
    let begun = Begun { response, first: Some(beginning.held), is_weighed: false };
    if has_failed { Attempt::Erred(begun) } else { Attempt::Answered(begun) }
}

/// The next piece of an answer's body; none where it has ended or broken off.
async fn next_piece(response: &mut Response<Body>) -> Option<Bytes> {
    response.body_mut().frame().await?.ok()?.into_data().ok()
}

/// What has come of a stream that has not begun.
struct Beginning {
    held: Bytes,
    scanner: Scanner,
    account: Account,
    has_output: bool,
}

impl Beginning {
    fn new(endpoint: Endpoint) -> Self {
        let (scanner, account) = (Scanner::new(), Account::new(endpoint));
        Self { held: Bytes::new(), scanner, account, has_output: false }
    }

    fn see(&mut self, piece: Bytes) {
        let Self { scanner, account, has_output, .. } = self;
        scanner.push(&piece, |event| {
            *has_output = *has_output || event.cut || usage::carries_output(&event);
            account.event(&event);
        });
        self.held = if self.held.is_empty() {
            piece
        } else {
            // Copies what was held once, and from then on the piece alone.
            let mut held = BytesMut::from(std::mem::take(&mut self.held));
            held.extend_from_slice(&piece);
            held.freeze()
        };
    }

    /// Whether it has said what it is: an answer, its end or an error; or so much that it is an answer.
    fn is_told(&self) -> bool {
        self.has_output || self.account.end().is_some() || HELD_BYTES_MAX <= self.held.len()
    }
}
