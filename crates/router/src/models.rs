//! `GET /v1/models`: the models of all ready replicas, each once.

use std::collections::BTreeMap;

use fleet::fleet::Fleet;
use http::{Response, StatusCode};
use policy::event::Reject;
use serde_json::{Value, json};
use types::replica::Health;

use crate::{
    reject::Refusal,
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
///
/// # Errors
///
/// When no replica is ready.
pub(crate) fn list(fleet: &Fleet) -> Result<Response<Reply>, Refusal> {
    if !fleet.is_ready() {
        return Err(Refusal::Dispatcher(Reject::NoReplicas));
    }
    let data: Vec<Value> = merged(fleet).into_values().collect();
    Ok(reply::json(StatusCode::OK, json!({ "object": "list", "data": data }).to_string()))
}

/// Shows one model.
///
/// # Errors
///
/// When no replica that is ready serves it.
pub(crate) fn show(fleet: &Fleet, name: &str) -> Result<Response<Reply>, Refusal> {
    let entry = merged(fleet).remove(name).ok_or_else(|| Refusal::unknown_model(name))?;
    Ok(reply::json(StatusCode::OK, entry.to_string()))
}
