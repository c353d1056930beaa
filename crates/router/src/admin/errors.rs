//! Errors of the admin port: JSON, in the same form as those of the data port.

use axum::{
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use wire::{
    error_body::{ErrorBody, ErrorKind},
    openai::Dialect,
};

/// Longest path that is repeated to who asked for it.
const PATH_CHARS_TOLD: usize = 64;

/// Longest text of an error that is not ours.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// An error: what is wrong, and the cure.
pub(super) fn told(status: StatusCode, problem: impl std::fmt::Display) -> Response {
    let (kind, code) = match status {
        StatusCode::UNAUTHORIZED => (ErrorKind::Authentication, "no_admin_key"),
        StatusCode::FORBIDDEN => (ErrorKind::Permission, "forbidden"),
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "not_found"),
        StatusCode::METHOD_NOT_ALLOWED => (ErrorKind::InvalidRequest, "method_not_allowed"),
        StatusCode::REQUEST_TIMEOUT => (ErrorKind::Timeout, "body_timeout"),
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorKind::TooLarge, "body_too_large"),
        StatusCode::SERVICE_UNAVAILABLE => (ErrorKind::Overloaded, "overloaded"),
        StatusCode::CONFLICT => (ErrorKind::InvalidRequest, "conflict"),
        _ => (ErrorKind::InvalidRequest, "invalid_request"),
    };
    let message = problem.to_string();
    let body = ErrorBody { kind, message: &message, param: None, code: Some(code) };
    let json = (header::CONTENT_TYPE, "application/json");
    (status, [json], body.body(Dialect::OpenAi)).into_response()
}

/// Errors that are written before a route is asked, in the form of all others.
pub(super) async fn in_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|it| it.as_bytes().starts_with(b"text/plain"));
    if !status.is_client_error() || !is_text {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), TEXT_BYTES_MAX).await;
    told(status, String::from_utf8_lossy(&text.unwrap_or_default()))
}

/// Nothing is at `uri`.
pub(super) async fn no_path(uri: Uri) -> Response {
    let path: String =
        uri.path().chars().take(PATH_CHARS_TOLD).flat_map(char::escape_debug).collect();
    told(
        StatusCode::NOT_FOUND,
        format!("nothing is served at `{path}`; see /, /metrics and GET /admin/replicas"),
    )
}

/// Something else can be done at `uri`; the header `allow` says what.
pub(super) async fn no_method(method: Method) -> Response {
    let method: String = method.as_str().chars().take(16).collect();
    told(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not served here; the header `allow` says what is"),
    )
}
