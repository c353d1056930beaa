//! Sends a request to its replica, and to another one as long as no byte of an answer has come.
//!
//! A request is sent again when the replica said no (429, 503) or when the connection failed before
//! the answer's head, or did not come about. It is never sent to more replicas than `attempts_max`:
//! were it the request that kills them, it would go through the whole fleet. A replica that is
//! merely slow is not given up for another, for its work would be done twice.

use std::sync::Arc;

use bytes::Bytes;
use fleet::{client::failure_of, health::Failure, replica::Replica};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use policy::event::Reject;

use crate::{app::App, intake::Outbound, passage::Passage, reject::Refusal};

/// The answer of a replica, its head received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) replica: Arc<Replica>,
}

/// What came of one attempt.
enum Attempt {
    /// An answer to be relayed.
    Answered(Response<Incoming>),
    /// The replica said no, in an answer that is relayed if nobody else takes the request.
    Declined(Response<Incoming>),
    /// No answer came.
    Failed(Failure),
    /// The replica has the request and stayed silent for as long as an answer may take.
    Silent,
    /// The router's own end came first.
    Cut,
}

/// Sends the request of `passage` until a replica answers or no more may be tried.
pub(crate) async fn send(
    app: &App,
    passage: &mut Passage,
    outbound: Outbound,
) -> Result<Answer, Refusal> {
    loop {
        let placement = passage.placement()?;
        // A replica can leave between the decision and here; the request then goes elsewhere.
        let Some(replica) = app.fleet.replica(placement.replica) else {
            passage.retry()?;
            continue;
        };
        passage.sent_to(&replica);
        let attempt = attempt(app, &replica, &outbound).await;
        let may_retry = placement.attempt < app.attempts_max;
        match attempt {
            Attempt::Answered(response) => return Ok(Answer { response, replica }),
            Attempt::Declined(response) => {
                if !may_retry || passage.retry().is_err() {
                    return Ok(Answer { response, replica });
                }
            }
            Attempt::Failed(failure) => {
                let refusal = Refusal::Upstream { failure, attempts: placement.attempt };
                if !may_retry {
                    return Err(refusal);
                }
                // Where nobody is left to try, what went wrong says more than that.
                passage.retry().map_err(|reject| match reject {
                    Reject::AllTried | Reject::NoReplicas => refusal,
                    Reject::UnknownModel
                    | Reject::RetriesUsedUp { .. }
                    | Reject::Saturated { .. }
                    | Reject::Infeasible { .. }
                    | Reject::OverShare { .. }
                    | Reject::Expired { .. }
                    | Reject::Evicted { .. } => Refusal::Dispatcher(reject),
                })?;
            }
            Attempt::Cut => return Err(Refusal::ShuttingDown),
            Attempt::Silent => {
                let (failure, attempts) = (Failure::TimedOut, placement.attempt);
                return Err(Refusal::Upstream { failure, attempts });
            }
        }
    }
}

async fn attempt(app: &App, replica: &Replica, outbound: &Outbound) -> Attempt {
    let mut request = Request::new(Full::<Bytes>::new(outbound.body.clone()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = replica.origin().uri(outbound.path.clone());
    request.headers_mut().clone_from(&outbound.headers);
    let answer = tokio::time::timeout(app.timeouts.answer, replica.client().request(request));
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = app.cut.cancelled() => return Attempt::Cut,
    };
    match answer {
        Ok(Ok(response)) => judge(replica, response),
        Ok(Err(error)) => {
            // A connection that did not come about in time is among these: nothing was sent.
            let failure = failure_of(&error);
            replica.request_failed(failure);
            Attempt::Failed(failure)
        }
        Err(_) => {
            replica.request_failed(Failure::TimedOut);
            Attempt::Silent
        }
    }
}

/// Says whether an answer is one, and what its head says of the replica's health: a refusal is no
/// illness, a server error may be one, and an answer that has only begun may yet break off.
fn judge(replica: &Replica, response: Response<Incoming>) -> Attempt {
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            replica.answered();
            Attempt::Declined(response)
        }
        // Nobody asked for another protocol.
        status if status.is_informational() => {
            replica.request_failed(Failure::Broken);
            Attempt::Failed(Failure::Broken)
        }
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            replica.request_failed(Failure::Broken);
            Attempt::Answered(response)
        }
        _ => {
            replica.byte();
            Attempt::Answered(response)
        }
    }
}
