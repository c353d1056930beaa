//! `GET /v1/models`: the models of all ready replicas, each once.

use std::collections::BTreeMap;

use axum::{Json, response::IntoResponse as _, response::Response};
use fleet::fleet::Fleet;
use policy::event::Reject;
use serde_json::{Value, json};
use types::replica::Health;
use wire::openai::Dialect;

use crate::reject::{self, Refusal};

/// Every model that a ready replica lists, by name; of equal names the first replica's entry.
fn merged(fleet: &Fleet) -> BTreeMap<String, Value> {
    let mut models = BTreeMap::new();
    for replica in fleet.replicas() {
        if replica.health() == Health::Ready {
            for model in &*replica.models() {
                models.entry(model.name.clone()).or_insert_with(|| model.entry.clone());
            }
        }
    }
    models
}

/// Lists the models.
pub(crate) fn list(fleet: &Fleet) -> Response {
    if !fleet.is_ready() {
        return reject::error(&Refusal::Dispatcher(Reject::NoReplicas), Dialect::OpenAi);
    }
    let data: Vec<Value> = merged(fleet).into_values().collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

/// Shows one model.
pub(crate) fn show(fleet: &Fleet, name: &str) -> Response {
    match merged(fleet).remove(name) {
        Some(entry) => Json(entry).into_response(),
        None => reject::error(&Refusal::Dispatcher(Reject::UnknownModel), Dialect::OpenAi),
    }
}
