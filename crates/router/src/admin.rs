//! What is served on the admin port: health, metrics, and the policy and admission in force.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use policy::{
    admission::AdmissionConfig,
    config::{CostWeights, Routing, StrategyName},
    event::Event,
    fleet_view::Load,
    slow_start::SlowStart,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use types::{
    replica::{Health, LoadReport},
    request::Priority,
};

use crate::{app::App, config::Saturating, goodput, peers::told};

mod access;
mod bodies;
pub(crate) mod decisions;
mod errors;
mod members;

/// The live page: one file that asks the routes below for what it shows.
const LIVE_PAGE: &str = include_str!("admin/live.html");

/// The admin port.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(live_page))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/admin/replicas", get(replicas).post(members::register))
        .route("/admin/replicas/{name}", delete(members::remove))
        .route("/admin/replicas/{name}/drain", post(members::drain))
        .route("/admin/reload", post(members::reload))
        .route("/admin/policy", get(policy).put(put_policy))
        .route("/admin/admission", get(admission).put(put_admission))
        .route("/admin/decisions", get(decisions::decisions))
        .route("/admin/goodput", get(goodput))
        .route("/admin/events", post(event))
        .route("/admin/placements", get(told::placements))
        .fallback(errors::no_path)
        .method_not_allowed_fallback(errors::no_method)
        .layer(middleware::map_response(errors::in_json))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), bodies::received))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::check))
        .with_state(app)
}

/// What is served of the admin port to those for whom there is no connection left but one that is kept for
/// this.
pub(crate) fn health_routes(app: Arc<App>) -> Router {
    let why = "as many connections as may are open: only /livez, /readyz and /metrics are served";
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async move || errors::told(StatusCode::SERVICE_UNAVAILABLE, why))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::check))
        .with_state(app)
}

async fn live_page() -> Response {
    let nothing_from_elsewhere = (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    );
    ([nothing_from_elsewhere], Html(LIVE_PAGE)).into_response()
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.is_ready() {
        return "ready\n".into_response();
    }
    let why = if app.fleet.is_ready() { "shutting down\n" } else { "no replica is ready\n" };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], app.telemetry.render(&app)).into_response()
}

/// A replica as `/admin/replicas` shows it.
#[derive(Serialize)]
struct ReplicaView {
    name: String,
    url: String,
    pool: String,
    health: Health,
    models: Vec<String>,
    in_flight: u32,
    queued_prefill_tokens: u32,
    reported: Option<LoadReport>,
}

async fn replicas(State(app): State<Arc<App>>) -> Response {
    let view = |status: fleet::replica::ReplicaStatus| {
        let load =
            app.fleet.dispatch().inspect(|_, it| it.fleet().get(status.id).map(|it| it.load));
        let Load { in_flight, queued_prefill } = load.unwrap_or_default();
        ReplicaView {
            name: status.name,
            url: status.url,
            pool: status.pool,
            health: status.health,
            models: status.models,
            in_flight,
            queued_prefill_tokens: queued_prefill.0,
            reported: status.load,
        }
    };
    let replicas: Vec<ReplicaView> = app.fleet.status().into_iter().map(view).collect();
    Json(json!({ "replicas": replicas })).into_response()
}

/// The policy as it is shown and set.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyView {
    strategy: StrategyName,
    saturation: Saturating,
    match_min: f64,
    cost: CostWeights,
    slow_start: SlowStart,
}

impl From<Routing> for PolicyView {
    fn from(Routing { strategy, saturation, match_min, cost, slow_start }: Routing) -> Self {
        let saturation = Saturating::shown(strategy, saturation);
        Self { strategy, saturation, match_min, cost, slow_start }
    }
}

async fn policy(State(app): State<Arc<App>>) -> Json<PolicyView> {
    Json(app.fleet.dispatch().inspect(|_, it| it.routing()).into())
}

async fn goodput(State(app): State<Arc<App>>) -> Response {
    Json(app.goodput()).into_response()
}

/// Opens a disruption window, or closes it.
async fn event(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let wrong = |problem: String| errors::told(StatusCode::BAD_REQUEST, problem);
    match serde_json::from_slice::<goodput::Event>(&body) {
        Ok(event) => match app.goodput.event(&event) {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(problem) => wrong(problem),
        },
        Err(error) => {
            let example = r#"send JSON such as {"kind": "deployment", "lasts_s": 300}"#;
            wrong(format!("the event is not understood: {error}; {example}"))
        }
    }
}

/// Switches the strategy, or what shapes it; what is left out stays as it is. Requests in flight, what is
/// known of caches and conversations stay.
async fn put_policy(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let wrong = |problem: String| errors::told(StatusCode::BAD_REQUEST, problem);
    let in_force = app.fleet.dispatch().inspect(|_, it| it.routing());
    let view = match in_force_with(&followed(in_force), &body) {
        Ok(view) => view,
        Err(error) => {
            let example = r#"send JSON such as {"strategy": "least-request"}"#;
            return wrong(format!("the policy is not understood: {error}; {example}"));
        }
    };
    let PolicyView { strategy, saturation, match_min, cost, slow_start } = view;
    let mut problems = saturation.problems();
    if !(0.0..=1.0).contains(&match_min) {
        problems.push(format!("match_min: must be a share from 0 to 1, not {match_min}"));
    }
    problems.extend(cost.problems().into_iter().map(|it| format!("cost.{it}")));
    problems.extend(slow_start.problems().into_iter().map(|it| format!("slow_start.{it}")));
    if !problems.is_empty() {
        return wrong(problems.join("\n"));
    }
    let saturation = saturation.or(Routing::new(strategy).saturation);
    let routing = Routing { strategy, saturation, match_min, cost, slow_start };
    app.fleet.dispatch().observe(Event::RoutingChanged(routing));
    tracing::info!(strategy = strategy.as_str(), "policy changed");
    Json(PolicyView::from(routing)).into_response()
}

/// The policy in force as a change goes out from it: a saturation that is as usual for the strategy will be
/// as usual for the next.
fn followed(routing: Routing) -> PolicyView {
    let is_usual = routing.saturation == Routing::new(routing.strategy).saturation;
    let view = PolicyView::from(routing);
    if is_usual { PolicyView { saturation: Saturating::Usual, ..view } } else { view }
}

/// What is `in_force`, with what `change` names in its place, at any depth.
fn in_force_with<T: Serialize + DeserializeOwned>(
    in_force: &T,
    change: &[u8],
) -> serde_json::Result<T> {
    let mut all = serde_json::to_value(in_force)?;
    let change: serde_json::Map<String, Value> = serde_json::from_slice(change)?;
    lay_over(&mut all, Value::Object(change));
    serde_json::from_value(all)
}

fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

async fn admission(State(app): State<Arc<App>>) -> Response {
    let (config, view, waiting) = app
        .fleet
        .dispatch()
        .inspect(|now, it| (it.admission(), it.admission_view(now), it.waiting()));
    let waiting: serde_json::Map<String, Value> = Priority::ALL
        .iter()
        .zip(waiting)
        .map(|(priority, waiting)| (priority.as_str().to_owned(), waiting.into()))
        .collect();
    Json(json!({
        "config": config,
        "placed_per_s": view.placed_per_s,
        "knee_per_s": view.knee_per_s,
        "utilisation": view.utilisation,
        "waiting": waiting,
    }))
    .into_response()
}

/// Changes how requests are let in. What is left out stays as it is; those who wait are looked at under the
/// new rule at once, and what is in flight stays.
async fn put_admission(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let wrong = |problem: String| errors::told(StatusCode::BAD_REQUEST, problem);
    let in_force = app.fleet.dispatch().inspect(|_, it| it.admission());
    let config: AdmissionConfig = match in_force_with(&in_force, &body) {
        Ok(config) => config,
        Err(error) => {
            let example = r#"send JSON such as {"mode": "static", "in_flight_max": 48}"#;
            return wrong(format!("admission is not understood: {error}; {example}"));
        }
    };
    let problems = config.problems();
    if !problems.is_empty() {
        return wrong(problems.join("\n"));
    }
    app.fleet.dispatch().observe(Event::AdmissionChanged(config));
    tracing::info!(mode = config.mode.as_str(), "admission changed");
    Json(config).into_response()
}
