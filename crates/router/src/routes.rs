//! What is served on the data port.
//!
//! A closed list: whatever is not on it is answered with 404, so that the engines' own
//! administration paths can't be reached through the router.

use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use wire::{
    headers,
    openai::{Dialect, Endpoint},
};

use crate::{
    app::App,
    completion, models,
    reject::{self, Refusal},
    reply::Reply,
};

/// Serves one request of the data port.
pub(crate) async fn route(app: Arc<App>, request: Request<Incoming>) -> Response<Reply> {
    let endpoint = Endpoint::from_path(request.uri().path());
    if let Some(endpoint) = endpoint
        && request.method() == Method::POST
    {
        return completion::complete(app, endpoint, request).await;
    }
    let id = headers::request_id(request.headers()).cloned();
    let mut response = answer(&app, endpoint, &request);
    response.headers_mut().insert(headers::REQUEST_ID, id.unwrap_or_else(|| app.request_id()));
    response
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
