//! `GET /v1/models`: the models of all ready replicas, each once.

use std::collections::BTreeMap;

use fleet::fleet::Fleet;
use http::{Response, StatusCode};
use policy::event::Reject;
use serde_json::{Value, json};
use types::replica::Health;
use wire::openai::Dialect;

use crate::{
    reject::{self, Refusal},
    reply::{self, Reply},
};

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
pub(crate) fn list(fleet: &Fleet) -> Response<Reply> {
    if !fleet.is_ready() {
        return reject::error(&Refusal::Dispatcher(Reject::NoReplicas), Dialect::OpenAi);
    }
    let data: Vec<Value> = merged(fleet).into_values().collect();
    reply::json(StatusCode::OK, json!({ "object": "list", "data": data }).to_string())
}

/// Shows one model.
pub(crate) fn show(fleet: &Fleet, name: &str) -> Response<Reply> {
    match merged(fleet).remove(name) {
        Some(entry) => reply::json(StatusCode::OK, entry.to_string()),
        None => reject::error(&Refusal::Dispatcher(Reject::UnknownModel), Dialect::OpenAi),
    }
}
