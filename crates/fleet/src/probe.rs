//! Asks a replica, again and again, whether it is well and which models it serves.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use tokio::time::Instant;
use types::replica::Health;

use crate::{
    client::failure_of,
    health::Failure,
    replica::{Model, Replica},
};

/// Most bytes of an answer that are read: vLLM's metrics take 66 KB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Lists of models are asked for once in this many probes.
const MODELS_EVERY: u32 = 6;

/// Probes `replica` until the task is ended.
pub(crate) async fn watch(replica: Arc<Replica>, path: String, timeout: Duration) {
    let path = PathAndQuery::try_from(path).unwrap_or(PathAndQuery::from_static("/health"));
    let mut until_models = 0;
    loop {
        let result = get(&replica, path.clone(), timeout).await.map(drop);
        // Models first: a replica that becomes ready must not be asked for one it does not have.
        if result.is_err() || replica.health() != Health::Ready {
            until_models = 0;
        }
        if result.is_ok() {
            if until_models == 0 {
                list_models(&replica, timeout).await;
                until_models = MODELS_EVERY;
            }
            until_models -= 1;
        }
        replica.probed(result);
        replica.client().tidy();
        rest(&replica, &path).await;
    }
}

/// Waits until the next probe is due, and meanwhile looks whether the replica falls silent.
async fn rest(replica: &Replica, path: &PathAndQuery) {
    let due = Instant::now() + replica.probe_in();
    let (look_every, timeout) = replica.suspicion();
    loop {
        let now = Instant::now();
        if due <= now {
            return;
        }
        tokio::time::sleep_until(due.min(now + look_every)).await;
        if replica.is_suspect() {
            match get(replica, path.clone(), timeout).await {
                Ok(_) => replica.probed(Ok(())),
                Err(failure) => replica.suspect_failed(failure),
            }
        }
    }
}

/// Asks which models the replica serves; one that does not say serves any.
async fn list_models(replica: &Replica, timeout: Duration) {
    let Ok(body) = get(replica, PathAndQuery::from_static("/v1/models"), timeout).await else {
        return;
    };
    match models_in(&body) {
        Some(models) => replica.lists(models),
        None => tracing::debug!(replica = replica.name(), "list of models not understood"),
    }
}

fn models_in(body: &[u8]) -> Option<Vec<Model>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<serde_json::Value>,
    }
    let List { data } = serde_json::from_slice(body).ok()?;
    let model = |entry: serde_json::Value| {
        Some(Model { name: entry.get("id")?.as_str()?.to_owned(), entry })
    };
    data.into_iter().map(model).collect()
}

/// Fetches `path` from the replica; anything but 200 is a failure.
pub(crate) async fn get(
    replica: &Replica,
    path: PathAndQuery,
    timeout: Duration,
) -> Result<Bytes, Failure> {
    let exchange = async {
        let request = Request::get(path).body(Bytes::new()).map_err(|_| Failure::Broken)?;
        let answer = replica.client().probe(&request).await.map_err(|it| failure_of(&it))?;
        if answer.status() != StatusCode::OK {
            return Err(Failure::Broken);
        }
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX);
        Ok(body.collect().await.map_err(|_| Failure::Broken)?.to_bytes())
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Failure::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_models_is_read_and_garbage_is_not() {
        let body = br#"{"object":"list","data":[{"id":"a","max_model_len":8},{"id":"b"}]}"#;
        let names: Vec<_> = models_in(body).unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["a", "b"]);
        for garbage in ["", "[]", r#"{"data":[{"id":7}]}"#, r#"{"data":{}}"#] {
            assert_eq!(models_in(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
