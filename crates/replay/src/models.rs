//! Which model a target serves, for users who did not say.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;

use crate::{
    client::{client, with_causes},
    target::Target,
};

/// Longest wait for the list of models.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest list that is read.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// Why a target's model is not known.
#[derive(Debug, thiserror::Error)]
#[error("{target} does not list its models: {reason}; pass --model NAME, or check the address")]
pub struct NoModel {
    target: String,
    reason: String,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The first model that `target` lists at `/v1/models`; `ca_pem` as in the options of a replay.
///
/// # Errors
/// A target that cannot be reached or lists none.
pub async fn first(
    target: &Target,
    api_key: Option<&str>,
    ca_pem: Option<&[u8]>,
) -> Result<String, NoModel> {
    let listed = tokio::time::timeout(TIMEOUT, list(target, api_key, ca_pem)).await;
    let listed = listed.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()));
    let first = listed.and_then(|it| it.data.into_iter().next().ok_or("none".to_owned()));
    first.map(|it| it.id).map_err(|reason| NoModel { target: target.to_string(), reason })
}

async fn list(
    target: &Target,
    api_key: Option<&str>,
    ca_pem: Option<&[u8]>,
) -> Result<List, String> {
    let mut request = Request::get(target.uri("/v1/models").unwrap_or_default());
    if let Some(key) = api_key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|it| it.to_string())?;
    let client = client(std::slice::from_ref(target), ca_pem).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| with_causes(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIST_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("status {status}"));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}
