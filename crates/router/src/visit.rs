//! A request of the data port that goes to no replica: a list of models, a label, a mistake.
//!
//! It leaves what every other request leaves: a count by how it ended, and one line. So does one that can't
//! even be read.

use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::Instant;
use types::request::Priority;
use wire::{headers, openai::Dialect};

use crate::{
    app::App,
    passage::End,
    reject::{self, Refusal},
    reply::Reply,
};

/// Longest path, and longest method, that is logged; a client may send any.
const PATH_BYTES_LOGGED: usize = 128;
const METHOD_BYTES_LOGGED: usize = 16;

/// One request on its way; a client that hangs up drops it.
pub(crate) struct Visit<'a> {
    app: &'a App,
    request_id: HeaderValue,
    method: String,
    path: String,
    received: Instant,
    end: End,
    status: Option<StatusCode>,
    error: Option<&'static str>,
    dropped: Option<&'static str>,
}

impl<'a> Visit<'a> {
    /// A request whose head has just been received.
    pub(crate) fn begin<B>(app: &'a App, request: &Request<B>) -> Self {
        let id = headers::request_id(request.headers()).cloned();
        let (method, path) = (request.method().as_str(), request.uri().path());
        Self {
            app,
            request_id: id.unwrap_or_else(|| app.request_id()),
            method: method.get(..METHOD_BYTES_LOGGED).unwrap_or(method).to_owned(),
            path: path.get(..PATH_BYTES_LOGGED).unwrap_or(path).to_owned(),
            received: Instant::now(),
            end: End::ClientGone,
            status: None,
            error: None,
            dropped: None,
        }
    }

    /// Answers, in the client's dialect where it is an error, and ends.
    pub(crate) fn answer(
        mut self,
        answer: Result<Response<Reply>, Refusal>,
        dialect: Dialect,
    ) -> Response<Reply> {
        let mut response = match answer {
            Ok(response) => {
                let is_well = response.status().as_u16() < 400;
                self.end = if is_well { End::Complete } else { End::BadRequest };
                response
            }
            Err(refusal) => {
                self.end = refusal.end();
                (self.error, self.dropped) = refusal.words();
                reject::error(&refusal, dialect)
            }
        };
        // Whoever has gone is told nothing.
        self.status = (self.end != End::ClientGone).then_some(response.status());
        response.headers_mut().insert(headers::REQUEST_ID, self.request_id.clone());
        response
    }
}

/// Counts and logs what is no request: the head can't be read, and was answered by whoever reads heads,
/// without a body. Nothing when `error` says something else, such as that the client hung up.
pub(crate) fn unread(app: &App, error: &hyper::Error) {
    if !error.is_parse() {
        return;
    }
    let (status, code) = if error.is_parse_too_large() {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_long")
    } else {
        (StatusCode::BAD_REQUEST, "head_unreadable")
    };
    app.telemetry.ended(End::BadRequest, None, Priority::default(), None);
    tracing::info!(
        request_id = app.request_id().to_str().unwrap_or_default(),
        status = status.as_u16(),
        end = End::BadRequest.as_str(),
        error = code,
        "request"
    );
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.app.telemetry.ended(self.end, self.dropped, Priority::default(), None);
        tracing::info!(
            request_id = self.request_id.to_str().unwrap_or_default(),
            method = self.method,
            path = self.path,
            status = self.status.map(|it| it.as_u16()),
            end = self.end.as_str(),
            error = self.error,
            e2e_ms = self.received.elapsed().as_micros() as f64 / 1e3,
            "request"
        );
    }
}
