//! Receives the bodies of requests to the admin port within bounds of length and time.

use std::{error::Error as _, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use http_body::Body as _;
use http_body_util::LengthLimitError;

use super::errors::told;
use crate::app::App;

/// Longest body.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Hands a request on once its body is here, or says what is wrong with that.
pub(super) async fn received(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(head, body)).await;
    }
    let within = app.settings.load().timeouts.client_body;
    let mut response = match tokio::time::timeout(within, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => return next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(error)) if error.source().is_some_and(|it| it.is::<LengthLimitError>()) => {
            let problem = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            told(StatusCode::PAYLOAD_TOO_LARGE, problem)
        }
        Ok(Err(_)) => told(StatusCode::BAD_REQUEST, "the body broke off, or is framed wrongly"),
        Err(_) => {
            let problem = format!("the body did not arrive within {within:?}");
            told(StatusCode::REQUEST_TIMEOUT, problem)
        }
    };
    // What is left of the body is not waited for.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
