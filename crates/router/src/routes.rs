//! What is served on the data port.
//!
//! A closed list: whatever is not on it is answered with 404, so that the engines' own
//! administration paths can't be reached through the router.

use std::sync::Arc;

use http::{Method, Request, Response, header};
use hyper::body::Incoming;
use wire::{
    headers,
    openai::{Dialect, Endpoint},
};

use crate::{
    app::App,
    completion, feedback, models,
    reject::{self, Refusal},
    reply::Reply,
};

/// Serves one request of the data port.
pub(crate) async fn route(app: Arc<App>, request: Request<Incoming>) -> Response<Reply> {
    let endpoint = Endpoint::from_path(request.uri().path());
    let problem = problem(&request);
    if let Some(endpoint) = endpoint
        && request.method() == Method::POST
        && problem.is_none()
    {
        return completion::complete(app, endpoint, request).await;
    }
    let id = headers::request_id(request.headers()).cloned();
    if request.uri().path() == "/v1/feedback" && problem.is_none() {
        return if request.method() == Method::POST {
            // Rare, and boxed so that what is not does not carry its size.
            Box::pin(feedback::take(&app, request)).await
        } else {
            reject::error(&Refusal::Method { allowed: "POST" }, Dialect::OpenAi)
        };
    }
    let mut response = match problem {
        Some(refusal) => {
            let dialect = endpoint.map_or(Dialect::OpenAi, Endpoint::dialect);
            reject::error(&refusal, dialect)
        }
        None => answer(&app, endpoint, &request),
    };
    response.headers_mut().insert(headers::REQUEST_ID, id.unwrap_or_else(|| app.request_id()));
    response
}

/// What is wrong with a request whatever it asks for.
fn problem(request: &Request<Incoming>) -> Option<Refusal> {
    if let Some(problem) = headers::framing_problem(request.version(), request.headers()) {
        return Some(Refusal::Framing(problem));
    }
    let expects = request.headers().get(header::EXPECT)?;
    let is_met = expects.as_bytes().eq_ignore_ascii_case(b"100-continue");
    (!is_met).then_some(Refusal::Expectation)
}

/// Answers what goes to no replica.
fn answer(app: &App, endpoint: Option<Endpoint>, request: &Request<Incoming>) -> Response<Reply> {
    if let Some(endpoint) = endpoint {
        return reject::error(&Refusal::Method { allowed: "POST" }, endpoint.dialect());
    }
    let path = request.uri().path();
    let is_models = path == "/v1/models";
    let Some(model) = path.strip_prefix("/v1/models/").or(is_models.then_some("")) else {
        return reject::error(&Refusal::NoPath, Dialect::OpenAi);
    };
    if request.method() != Method::GET {
        return reject::error(&Refusal::Method { allowed: "GET" }, Dialect::OpenAi);
    }
    if is_models { models::list(&app.fleet) } else { models::show(&app.fleet, model) }
}
