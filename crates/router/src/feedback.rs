//! `POST /v1/feedback`: what somebody found of an answer, while the request is remembered and after.
//!
//! A label changes the goodput of a request that left within the last 65,536; any label is logged, so
//! that `sluice report --labels` can join it to recorded requests however late it comes.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use report::judged::Label;
use serde_json::json;
use types::request::TenantId;

use crate::{
    app::App,
    body,
    reject::Refusal,
    reply::{self, Reply},
};

/// Longest body that is read.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Longest time that it may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest name of a request that is looked up and logged.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// Joins a label to its request: 200 where the request is remembered as one of `tenant`'s, 202 where the
/// label is logged only.
///
/// # Errors
///
/// When its body does not come.
pub(crate) async fn take(
    app: &App,
    tenant: TenantId,
    request: &mut Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let body = Limited::new(request.body_mut(), BODY_BYTES_MAX).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
    let body = body.map_err(|_| Refusal::BodyTimedOut { after: BODY_TIMEOUT })?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Refusal::TooLarge { bytes_max: BODY_BYTES_MAX }
        } else {
            body::broken(&*error)
        }
    })?;
    Ok(joined(app, tenant, &body.to_bytes()))
}

fn joined(app: &App, tenant: TenantId, body: &[u8]) -> Response<Reply> {
    let label: Label = match serde_json::from_slice(body) {
        Ok(label) => label,
        Err(error) => {
            let example = r#"send JSON such as {"request_id": "req-1", "accepted": true}"#;
            return wrong(&format!("the label is not understood: {error}; {example}"));
        }
    };
    if label.request_id.is_empty() || label.request_id.len() > REQUEST_ID_BYTES_MAX {
        return wrong("request_id: needs the `x-request-id` of an answer");
    }
    if label.accepted.is_none() && label.quality.is_none() {
        return wrong("a label needs `accepted`, true or false, or a `quality`");
    }
    let joined = app.goodput.label(tenant, &label);
    let status = if joined.joined { StatusCode::OK } else { StatusCode::ACCEPTED };
    reply::json(status, json!(joined).to_string())
}

fn wrong(problem: &str) -> Response<Reply> {
    let error = json!({ "error": {
        "message": problem,
        "type": "invalid_request_error",
        "param": null,
        "code": "bad_label",
    } });
    reply::json(StatusCode::BAD_REQUEST, error.to_string())
}
