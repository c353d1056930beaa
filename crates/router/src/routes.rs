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
use wire::openai::{Dialect, Endpoint};

use crate::{
    app::App,
    completion, models,
    reject::{self, Refusal},
};

/// The data port.
pub(crate) fn data(app: Arc<App>) -> Router {
    Router::new().fallback(route).with_state(app)
}

async fn route(State(app): State<Arc<App>>, request: Request) -> Response {
    let path = request.uri().path();
    if let Some(endpoint) = Endpoint::from_path(path) {
        if request.method() == Method::POST {
            return completion::complete(app, endpoint, request).await;
        }
        return reject::error(&Refusal::Method { allowed: "POST" }, endpoint.dialect());
    }
    let is_models = path == "/v1/models";
    let Some(model) = path.strip_prefix("/v1/models/").or(is_models.then_some("")) else {
        return reject::error(&Refusal::NoPath, Dialect::OpenAi);
    };
    if request.method() != Method::GET {
        return reject::error(&Refusal::Method { allowed: "GET" }, Dialect::OpenAi);
    }
    if is_models { models::list(&app.fleet) } else { models::show(&app.fleet, model) }
}
