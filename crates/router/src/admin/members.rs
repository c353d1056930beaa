//! Adds, drains and removes replicas at run time, and reloads the configuration.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use fleet::{origin::Origin, replica::ReplicaSpec};
use serde::Deserialize;
use serde_json::json;

use super::errors::told;
use crate::{
    app::App,
    config::{self, tls::Trusts},
    network::{Network, OwnPorts, is_never_a_replica},
    registry::{self, Source},
};

/// A replica that wants to join.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    name: String,
    url: String,
    #[serde(default = "config::Pools::default_name")]
    pool: String,
}

/// `POST /admin/replicas`.
pub(super) async fn register(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let Registration { name, url, pool } = match serde_json::from_slice(&body) {
        Ok(registration) => registration,
        Err(error) => {
            let example = r#"send JSON such as {"name": "gpu-7", "url": "http://10.0.0.17:8000"}"#;
            return told(StatusCode::BAD_REQUEST, format!("not understood: {error}; {example}"));
        }
    };
    if let Some(problem) = config::replica_name_problem(&name) {
        return told(StatusCode::BAD_REQUEST, format!("name: {problem}"));
    }
    let origin: Origin = match url.parse() {
        Ok(origin) => origin,
        Err(error) => return told(StatusCode::BAD_REQUEST, error),
    };
    let settings = app.settings.load_full();
    if let Some(problem) = settings.pools.problem(&pool) {
        return told(StatusCode::BAD_REQUEST, format!("pool: {problem}"));
    }
    let (host, _) = origin.host_and_port();
    let origin = match pinned(&origin, &settings.registrable, &app.own_ports).await {
        Ok(origin) => origin,
        Err(problem) => return told(StatusCode::FORBIDDEN, problem),
    };
    let upstream = &settings.upstream;
    let reach = Trusts::default().reach(&origin, host, upstream.http2, &upstream.tls);
    let reach = match reach {
        Ok(reach) => reach,
        Err(problems) => {
            let problem = format!("upstream.tls.{}", problems.join("; "));
            return told(StatusCode::UNPROCESSABLE_ENTITY, problem);
        }
    };
    let spec = ReplicaSpec::new(name.clone(), origin.clone(), reach);
    let spec = settings.pools.member(spec, &pool);
    match registry::join(&app, spec, Source::AdminPort) {
        Ok(()) => {
            tracing::info!(replica = name, url = %origin, "replica registered");
            let joined = json!({ "name": name, "url": origin.to_string() });
            (StatusCode::CREATED, Json(joined)).into_response()
        }
        Err(error) => told(StatusCode::CONFLICT, error),
    }
}

/// The origin with its host's name replaced by the address that it has now, if all its addresses lie
/// where replicas may be.
async fn pinned(
    origin: &Origin,
    networks: &[Network],
    own_ports: &OwnPorts,
) -> Result<Origin, String> {
    if networks.is_empty() {
        return Err("replicas are not registered here: list the networks that they may be in as \
                    admin.registrable"
            .to_owned());
    }
    let (host, port) = origin.host_and_port();
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("cannot look up {host}: {error}"))?
            .map(|it| it.ip())
            .collect(),
    };
    let is_allowed =
        |it: IpAddr| !is_never_a_replica(it) && networks.iter().any(|network| network.contains(it));
    if let Some(address) = addresses.iter().find(|it| !is_allowed(**it)) {
        return Err(format!("{address} is in none of the networks of admin.registrable"));
    }
    let address = addresses.first().ok_or_else(|| format!("{host} has no address"))?;
    let address = SocketAddr::new(*address, port);
    if own_ports.are_at(address) {
        return Err(format!("{address} is a port of this router itself"));
    }
    let scheme = if origin.is_encrypted() { "https" } else { "http" };
    let pinned = format!("{scheme}://{address}");
    pinned.parse().map_err(|error: fleet::origin::BadOrigin| error.to_string())
}

/// `POST /admin/replicas/{name}/drain`.
pub(super) async fn drain(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    if registry::drain(&app, &name) {
        (StatusCode::ACCEPTED, Json(json!({ "name": name, "health": "draining" }))).into_response()
    } else {
        unknown(&name)
    }
}

/// `DELETE /admin/replicas/{name}`.
pub(super) async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    if registry::remove(&app, &name) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        unknown(&name)
    }
}

fn unknown(name: &str) -> Response {
    let name = name.escape_debug();
    told(StatusCode::NOT_FOUND, format!("no replica is called `{name}`; see GET /admin/replicas"))
}

/// `POST /admin/reload`.
pub(super) async fn reload(State(app): State<Arc<App>>) -> Response {
    let Some(reloader) = app.reloader.get() else {
        return told(StatusCode::CONFLICT, "this router was started without a configuration file");
    };
    match reloader.reload(&app) {
        Ok(report) => Json(report).into_response(),
        Err(error) => told(StatusCode::UNPROCESSABLE_ENTITY, error),
    }
}
