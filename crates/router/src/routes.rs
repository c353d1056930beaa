//! What is served on the data port.
//!
//! A closed list: whatever is not on it is answered with 404, so that the engines' own
//! administration paths can't be reached through the router.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    response::Response,
};
use wire::{
    headers,
    openai::{Dialect, Endpoint},
};

use crate::{
    app::App,
    completion, feedback, models,
    reject::{self, Refusal},
};

/// The data port.
pub(crate) fn data(app: Arc<App>) -> Router {
    Router::new().fallback(route).with_state(app)
}

async fn route(State(app): State<Arc<App>>, request: Request) -> Response {
    let endpoint = Endpoint::from_path(request.uri().path());
    if let Some(endpoint) = endpoint
        && request.method() == Method::POST
    {
        return completion::complete(app, endpoint, request).await;
    }
    let id = headers::request_id(request.headers()).cloned();
    if request.uri().path() == "/v1/feedback" {
        return if request.method() == Method::POST {
            feedback::take(&app, request).await
        } else {
            reject::error(&Refusal::Method { allowed: "POST" }, Dialect::OpenAi)
        };
    }
    let mut response = answer(&app, endpoint, &request);
    response.headers_mut().insert(headers::REQUEST_ID, id.unwrap_or_else(|| app.request_id()));
    response
}

/// Answers what goes to no replica.
fn answer(app: &App, endpoint: Option<Endpoint>, request: &Request) -> Response {
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
