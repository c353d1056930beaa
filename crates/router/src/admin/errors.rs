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
