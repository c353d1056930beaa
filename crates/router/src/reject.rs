//! Turns a request away: the only table from reasons to status codes.

use std::time::Duration;

use fleet::health::Failure;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use policy::event::Reject;
use wire::{
    error_body::{ErrorBody, ErrorKind},
    headers,
    openai::{BadRequest, Dialect},
};

use crate::{
    passage::{End, Passage},
    reply::{self, Reply},
};

/// The time in which a probe can find a replica well again, or a body in memory can leave.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Characters of a model's name that are told to whoever asked for it.
const MODEL_CHARS_TOLD: usize = 64;

/// Every value of `x-sluice-dropped-reason`.
pub(crate) const DROPPED_REASONS: [&str; 9] = [
    "rejected-saturated",
    "rejected-infeasible",
    "rejected-ttl-expired",
    "rejected-quota",
    "rejected-over-share",
    "rejected-retries",
    "rejected-no-replicas",
    "rejected-shutting-down",
    "evicted-priority",
];

/// Why a request gets no answer of a replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The body can't be routed.
    #[error(transparent)]
    Bad(#[from] BadRequest),
    /// No such path.
    #[error("no such path; see GET /v1/models and POST /v1/chat/completions")]
    NoPath,
    /// Where the request ends is a matter of opinion.
    #[error("{0}")]
    Framing(&'static str),
    /// The head is longer than allowed.
    #[error("the head of the request is longer than the {bytes_max} bytes that are allowed")]
    HeadTooLong { bytes_max: usize },
    /// It expects what nobody here does.
    #[error("expect: only 100-continue is met")]
    Expectation,
    /// The path is served with another method.
    #[error("method not allowed here; use {allowed}")]
    Method { allowed: &'static str },
    /// The body is longer than allowed.
    #[error("the body is longer than the {bytes_max} bytes that are allowed")]
    TooLarge { bytes_max: usize },
    /// The body is compressed.
    #[error("compressed bodies are not accepted: send it without content-encoding")]
    Encoded,
    /// What frames the body is garbage.
    #[error("the body is framed wrongly: its chunks can't be told apart")]
    BodyBroken,
    /// The client hung up before the end of its body.
    #[error("the client hung up before the end of its body")]
    ClientGone,
    /// It came slowly while another body needed its memory.
    #[error("too many bytes of requests are being read, and this body came too slowly; come again")]
    BodySlow,
    /// A header that asks for something says what nobody understands.
    #[error("{name}: {cure}")]
    Header { name: HeaderName, cure: &'static str },
    /// Replicas are ready, and each says that it serves other models.
    #[error("no replica serves the model `{model}`; GET /v1/models lists those that are served")]
    UnknownModel { model: String },
    /// The body took too long.
    #[error("the body did not arrive within {after:?}")]
    BodyTimedOut { after: Duration },
    /// A tenant is required, and none is named.
    #[error("the request names no tenant: the proxy in front must set the tenant header")]
    NoTenant,
    /// A key is required.
    #[error("send a valid API key as `authorization: Bearer KEY`")]
    NoKey,
    /// The tenant's share is used up.
    #[error("the limit of {what} is reached; come again in {after:.1?}")]
    Quota { what: &'static str, after: Duration },
    /// All bodies together take too much memory.
    #[error("too many bytes of requests are being read; come again")]
    OutOfMemory,
    /// Reading the body failed for no fault of the client.
    #[error("the body could not be read")]
    Unreadable,
    /// The dispatcher turned it away.
    #[error("{}", rounded(*.0))]
    Dispatcher(#[from] Reject),
    /// Every replica that could serve it has said when to come back.
    #[error("replicas have asked to be left alone; come again in {after:.1?}")]
    Cooling { after: Duration },
    /// The router ends before a replica has answered.
    #[error("the router is shutting down")]
    ShuttingDown,
    /// Replicas break when they get it.
    #[error("replicas broke when they were sent this request: it is not sent again for a while")]
    Poison,
    /// Replicas took it and gave no answer.
    #[error("{} ({attempts} tried)", unanswered(*failure))]
    Upstream { failure: Failure, attempts: u32 },
    /// No answer began for as long as the client wanted to wait.
    #[error("no answer began within the {within:?} of x-sluice-timeout-ms ({attempts} tried)")]
    ClientTimeout { within: Duration, attempts: u32 },
    /// The router can open no connection to a replica.
    #[error("the router has no file descriptor left; come again")]
    OutOfFiles,
}

/// Why there is no answer.
const fn unanswered(failure: Failure) -> &'static str {
    match failure {
        Failure::Refused | Failure::Unconnected => "the replica can't be connected to",
        Failure::TimedOut => "the replica did not begin its answer in time",
        Failure::Broken | Failure::OutOfFiles => "the replica failed before its answer began",
    }
}

/// What a client and a dashboard are told of a refusal.
struct Told {
    status: StatusCode,
    kind: ErrorKind,
    code: &'static str,
    /// Value of `x-sluice-dropped-reason`, for refusals that are no fault of the request.
    dropped: Option<&'static str>,
}

impl Refusal {
    /// That no replica serves `model`, in so much of its name as can be shown.
    pub(crate) fn unknown_model(model: &str) -> Self {
        let shown = model.chars().take(MODEL_CHARS_TOLD).flat_map(char::escape_debug);
        let mut shown: String = shown.collect();
        if MODEL_CHARS_TOLD < model.chars().count() {
            shown.push('…');
        }
        Self::UnknownModel { model: shown }
    }

    /// How the request ends.
    pub(crate) const fn end(&self) -> End {
        match self {
            Self::Upstream { .. } | Self::Poison => End::ReplicaFailed,
            Self::ClientTimeout { .. } => End::ClientTimeout,
            Self::ShuttingDown => End::Cut,
            Self::ClientGone => End::ClientGone,
            Self::Bad(_)
            | Self::NoPath
            | Self::Framing(_)
            | Self::HeadTooLong { .. }
            | Self::Expectation
            | Self::Method { .. }
            | Self::TooLarge { .. }
            | Self::Encoded
            | Self::BodyBroken
            | Self::BodyTimedOut { .. }
            | Self::Header { .. }
            | Self::NoTenant
            | Self::NoKey
            | Self::UnknownModel { .. }
            | Self::Dispatcher(Reject::UnknownModel | Reject::TooLong { .. }) => End::BadRequest,
            Self::Quota { .. }
            | Self::Cooling { .. }
            | Self::BodySlow
            | Self::OutOfMemory
            | Self::OutOfFiles
            | Self::Unreadable
            | Self::Dispatcher(
                Reject::NoReplicas
                | Reject::AllTried
                | Reject::RetriesUsedUp { .. }
                | Reject::Saturated { .. }
                | Reject::Infeasible { .. }
                | Reject::OverShare { .. }
                | Reject::Expired { .. }
                | Reject::Evicted { .. },
            ) => End::Refused,
        }
    }

    /// When it is worth coming again, for one that may be.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Dispatcher(reject) => reject.retry_after().unwrap_or(RETRY_AFTER),
            Self::Quota { after, .. } | Self::Cooling { after } => *after,
            Self::Bad(_)
            | Self::NoPath
            | Self::Framing(_)
            | Self::HeadTooLong { .. }
            | Self::Expectation
            | Self::Method { .. }
            | Self::TooLarge { .. }
            | Self::Encoded
            | Self::BodyBroken
            | Self::BodyTimedOut { .. }
            | Self::BodySlow
            | Self::ClientGone
            | Self::Header { .. }
            | Self::NoTenant
            | Self::NoKey
            | Self::OutOfMemory
            | Self::OutOfFiles
            | Self::Unreadable
            | Self::UnknownModel { .. }
            | Self::ShuttingDown
            | Self::Poison
            | Self::ClientTimeout { .. }
            | Self::Upstream { .. } => RETRY_AFTER,
        }
    }

    /// Words for programs: that of its error, and why it was refused where that is no fault of the request.
    pub(crate) fn words(&self) -> (Option<&'static str>, Option<&'static str>) {
        let Told { code, dropped, .. } = self.told();
        (Some(code), dropped)
    }

    /// The field at fault, where it is one field's fault.
    fn param(&self) -> Option<&'static str> {
        if let Self::Bad(bad) = self {
            return bad.param();
        }
        matches!(self, Self::UnknownModel { .. } | Self::Dispatcher(Reject::UnknownModel))
            .then_some("model")
    }

    fn told(&self) -> Told {
        let told = |status, kind, code| Told { status, kind, code, dropped: None };
        let dropped = |reason, told: Told| Told { dropped: Some(reason), ..told };
        let unavailable =
            told(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Overloaded, "overloaded");
        match self {
            Self::Expectation => told(
                StatusCode::EXPECTATION_FAILED,
                ErrorKind::InvalidRequest,
                "expectation_failed",
            ),
            Self::Bad(_)
            | Self::BodyBroken
            | Self::Framing(_)
            | Self::Header { .. }
            | Self::ClientGone => {
                told(StatusCode::BAD_REQUEST, ErrorKind::InvalidRequest, "invalid_request")
            }
            Self::HeadTooLong { .. } => told(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                ErrorKind::TooLarge,
                "head_too_long",
            ),
            Self::NoPath => told(StatusCode::NOT_FOUND, ErrorKind::NotFound, "path_not_found"),
            Self::Method { .. } => told(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorKind::InvalidRequest,
                "method_not_allowed",
            ),
            Self::TooLarge { .. } => {
                told(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, "body_too_large")
            }
            Self::Encoded => told(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorKind::InvalidRequest,
                "unsupported_encoding",
            ),
            Self::BodyTimedOut { .. } => {
                told(StatusCode::REQUEST_TIMEOUT, ErrorKind::Timeout, "body_timeout")
            }
            Self::NoTenant => {
                told(StatusCode::UNAUTHORIZED, ErrorKind::Authentication, "no_tenant")
            }
            Self::NoKey => {
                told(StatusCode::UNAUTHORIZED, ErrorKind::Authentication, "invalid_api_key")
            }
            Self::Quota { .. } => dropped(
                "rejected-quota",
                told(StatusCode::TOO_MANY_REQUESTS, ErrorKind::RateLimit, "rate_limit_exceeded"),
            ),
            Self::Unreadable => told(StatusCode::BAD_GATEWAY, ErrorKind::Upstream, "router_error"),
            Self::UnknownModel { .. } => told_of(&Reject::UnknownModel),
            Self::OutOfMemory | Self::OutOfFiles | Self::BodySlow | Self::Cooling { .. } => {
                dropped("rejected-saturated", unavailable)
            }
            Self::ShuttingDown => dropped(
                "rejected-shutting-down",
                Told { code: "router_shutting_down", ..unavailable },
            ),
            Self::Dispatcher(reject) => told_of(reject),
            Self::Upstream { failure, .. } => told_of_failure(*failure),
            Self::Poison => told(StatusCode::BAD_GATEWAY, ErrorKind::Upstream, "upstream_crash"),
            Self::ClientTimeout { .. } => {
                told(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Timeout, "client_timeout")
            }
        }
    }
}

/// What clients are told where replicas failed, the last one like this.
fn told_of_failure(failure: Failure) -> Told {
    let (status, kind, code) = match failure {
        Failure::Refused | Failure::Unconnected => {
            (StatusCode::BAD_GATEWAY, ErrorKind::Upstream, "upstream_unreachable")
        }
        Failure::Broken | Failure::OutOfFiles => {
            (StatusCode::BAD_GATEWAY, ErrorKind::Upstream, "upstream_disconnect")
        }
        Failure::TimedOut => (StatusCode::GATEWAY_TIMEOUT, ErrorKind::Timeout, "upstream_timeout"),
    };
    Told { status, kind, code, dropped: None }
}

/// A refusal whose time to come again is one that people read: of tenths of a second, and of whole
/// seconds from ten on; never sooner than it was.
fn rounded(mut reject: Reject) -> Reject {
    match &mut reject {
        Reject::NoReplicas | Reject::UnknownModel | Reject::TooLong { .. } | Reject::AllTried => {}
        Reject::RetriesUsedUp { retry_after }
        | Reject::Saturated { retry_after, .. }
        | Reject::Infeasible { retry_after, .. }
        | Reject::OverShare { retry_after, .. }
        | Reject::Expired { retry_after, .. }
        | Reject::Evicted { retry_after, .. } => {
            let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            let step = if millis < 10_000 { 100 } else { 1_000 };
            let millis = millis.div_ceil(step).saturating_mul(step);
            *retry_after = Duration::from_millis(millis);
        }
    }
    reject
}

/// What a client is told of the dispatcher's refusal.
fn told_of(reject: &Reject) -> Told {
    let told = |status, kind, code| Told { status, kind, code, dropped: None };
    let dropped = |reason, told: Told| Told { dropped: Some(reason), ..told };
    let unavailable = told(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Overloaded, "overloaded");
    match reject {
        Reject::NoReplicas => {
            dropped("rejected-no-replicas", Told { code: "no_replicas", ..unavailable })
        }
        Reject::UnknownModel => told(StatusCode::NOT_FOUND, ErrorKind::NotFound, "model_not_found"),
        Reject::TooLong { .. } => {
            told(StatusCode::BAD_REQUEST, ErrorKind::InvalidRequest, "context_length_exceeded")
        }
        Reject::OverShare { .. } => dropped(
            "rejected-over-share",
            told(StatusCode::TOO_MANY_REQUESTS, ErrorKind::RateLimit, "over_share"),
        ),
        Reject::RetriesUsedUp { .. } => {
            dropped("rejected-retries", Told { code: "retries_used_up", ..unavailable })
        }
        Reject::Saturated { .. } => {
            dropped("rejected-saturated", Told { code: "fleet_saturated", ..unavailable })
        }
        Reject::Infeasible { .. } => {
            dropped("rejected-infeasible", Told { code: "promise_infeasible", ..unavailable })
        }
        Reject::Expired { .. } => {
            dropped("rejected-ttl-expired", Told { code: "fleet_saturated", ..unavailable })
        }
        Reject::Evicted { .. } => {
            dropped("evicted-priority", Told { code: "fleet_saturated", ..unavailable })
        }
        Reject::AllTried => {
            told(StatusCode::BAD_GATEWAY, ErrorKind::Upstream, "upstream_unreachable")
        }
    }
}

/// Answers in the client's dialect, and lets the passage end.
pub(crate) fn respond(refusal: &Refusal, mut passage: Passage) -> Response<Reply> {
    let told = refusal.told();
    // Whoever has gone is told nothing.
    let status = (refusal.end() != End::ClientGone).then_some(told.status);
    passage.refused(refusal.end(), status, told.code, told.dropped);
    let mut response = error(refusal, passage.endpoint().dialect());
    passage.write_headers(response.headers_mut());
    response
}

/// Says when to come again: in whole seconds, never too early, and exactly.
fn come_again(headers: &mut HeaderMap, after: Duration) {
    let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
    headers.insert(headers::RETRY_AFTER_MS, HeaderValue::from(millis));
}

/// The answer to a request that belongs to no endpoint.
pub(crate) fn error(refusal: &Refusal, dialect: Dialect) -> Response<Reply> {
    let Told { status, kind, code, dropped } = refusal.told();
    let message = refusal.to_string();
    let param = refusal.param();
    let body = ErrorBody { kind, message: &message, param, code: Some(code) }.body(dialect);
    let mut response = reply::json(status, body);
    let mut set = |name: HeaderName, value: &'static str| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    if let Refusal::Method { allowed } = refusal {
        set(header::ALLOW, allowed);
    }
    if matches!(refusal, Refusal::Framing(_)) {
        // What follows on this connection can't be told from what was meant by it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(reason) = dropped {
        let reason = HeaderValue::from_static(reason);
        response.headers_mut().insert(headers::DROPPED_REASON, reason);
    }
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        come_again(response.headers_mut(), refusal.retry_after());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_replica_is_what_it_did() {
        for (failure, status, told) in [
            (Failure::TimedOut, 504, "the replica did not begin its answer in time (2 tried)"),
            (Failure::Broken, 502, "the replica failed before its answer began (2 tried)"),
            (Failure::Refused, 502, "the replica can't be connected to (2 tried)"),
        ] {
            let refusal = Refusal::Upstream { failure, attempts: 2 };
            assert_eq!(
                (refusal.told().status.as_u16(), refusal.to_string()),
                (status, told.into())
            );
        }
    }
}
