//! Names, units and meanings of every metric the router exports.
//!
//! Each router has a recorder of its own, so that two in one process do not mix. Labels come from
//! closed sets (replica names, and the words below): never from what a client sends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dashmap::DashMap;
use fleet::{fleet::Fleet, replica::Replica};
use http::HeaderValue;
use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};
use parking_lot::Mutex;
use policy::{
    admission::Gate,
    event::{Placement, Reason},
};
use rustc_hash::FxBuildHasher;
use types::{
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::Priority,
};
use wire::usage::Usage;

use crate::{app::App, passage::End, reject::DROPPED_REASONS};

mod caches;
mod goodput;
mod peers;
mod series;

use self::series::Registry;

/// A metric that the router exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name; the exporter adds nothing.
    pub name: &'static str,
    /// What it counts or measures.
    pub kind: Kind,
    /// Its meaning.
    pub help: &'static str,
}

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts durations by size, in seconds.
    Histogram,
}

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

const REQUESTS: &str = "sluice_requests_total";
const REJECTED: &str = "sluice_requests_rejected_total";
const RETRIES: &str = "sluice_retries_total";
const DECISIONS: &str = "sluice_decisions_total";
const DECISION_SECONDS: &str = "sluice_decision_seconds";
const TTFT: &str = "sluice_time_to_first_token_seconds";
const ITL: &str = "sluice_inter_token_latency_seconds";
const DURATION: &str = "sluice_request_duration_seconds";
const PROMPT_TOKENS: &str = "sluice_prompt_tokens_total";
const CACHED_TOKENS: &str = "sluice_prefix_cached_tokens_total";
const EXPECTED_TOKENS: &str = "sluice_prefix_expected_tokens_total";
const RECOMPUTED_TOKENS: &str = "sluice_prefix_recomputed_tokens_total";
const PREDICTION_ERROR: &str = "sluice_ttft_prediction_error_seconds";
const OUTPUT_TOKENS: &str = "sluice_output_tokens_total";
const IN_FLIGHT: &str = "sluice_requests_in_flight";
const QUEUED_PREFILL: &str = "sluice_queued_prefill_tokens";
const READY: &str = "sluice_replica_ready";
const SLOW_START: &str = "sluice_replica_slow_start_share";
const REPORTED_RUNNING: &str = "sluice_replica_reported_running";
const REPORTED_WAITING: &str = "sluice_replica_reported_waiting";
const IMPLAUSIBLE: &str = "sluice_replica_implausible_samples_total";
const INDEX_BYTES: &str = "sluice_prefix_index_bytes";
const INDEX_BLOCKS: &str = "sluice_prefix_index_blocks";
const HELD_BYTES: &str = "sluice_held_index_bytes";
const HELD_BLOCKS: &str = "sluice_held_index_blocks";
const HELD_REFUSED: &str = "sluice_held_index_refused_total";
const CACHE_MODE: &str = "sluice_cache_mode";
const KV_FOLLOWING: &str = "sluice_kv_following";
const KV_EVENTS: &str = "sluice_kv_events_total";
const KV_LAG: &str = "sluice_kv_event_lag_seconds";
const KV_GAPS: &str = "sluice_kv_event_gaps_total";
const KV_REPLAYS: &str = "sluice_kv_event_replays_total";
const KV_RESTARTS: &str = "sluice_kv_restarts_total";
const KV_ORPHANS: &str = "sluice_kv_orphan_blocks_total";
const SESSIONS: &str = "sluice_sessions";
const WAIT_SECONDS: &str = "sluice_admission_wait_seconds";
const WAITING: &str = "sluice_requests_waiting";
const SHED: &str = "sluice_admission_shed_total";
const PLACED_PER_S: &str = "sluice_admission_placed_per_second";
const KNEE_PER_S: &str = "sluice_admission_knee_per_second";
const UTILISATION: &str = "sluice_admission_utilisation";
const MARGIN: &str = "sluice_admission_margin";
const LIMIT: &str = "sluice_admission_limit_requests";
const PREDICTED: &str = "sluice_admission_predicted_seconds";
const OBSERVED: &str = "sluice_admission_observed_seconds";
const RELOADS: &str = "sluice_config_reloads_total";
const JUDGED: &str = "sluice_judged_requests_total";
const COST_PER_ACCEPTED: &str = "sluice_cost_per_accepted";
const COST_PER_HOUR: &str = "sluice_cost_per_hour";
const PLACEMENTS_TOLD: &str = "sluice_placements_told_total";
const PLACEMENTS_DROPPED: &str = "sluice_placements_dropped_total";
const PLACEMENTS_LISTENERS: &str = "sluice_placements_listeners";
const PLACEMENTS_RECEIVED: &str = "sluice_placements_received_total";
const PLACEMENTS_UNKNOWN: &str = "sluice_placements_unknown_total";
const PEERS: &str = "sluice_peers";
const PEERS_CONNECTED: &str = "sluice_peers_connected";
const PEER_FAILURES: &str = "sluice_peer_failures_total";
const TASKS: &str = "sluice_tasks";
const BUILD_INFO: &str = "sluice_build_info";

/// Every metric, in the order of `docs/metrics.md`.
pub const METRICS: [Metric; 59] = [
    metric(REQUESTS, Kind::Counter, "Requests that have left, by how they ended"),
    metric(REJECTED, Kind::Counter, "Requests turned away for no fault of theirs, by reason"),
    metric(RETRIES, Kind::Counter, "Requests placed again after an attempt without an answer"),
    metric(DECISIONS, Kind::Counter, "Placements, by what decided"),
    metric(DECISION_SECONDS, Kind::Histogram, "Time to decide where a request goes"),
    metric(TTFT, Kind::Histogram, "Time from a request's head to its first token, by replica"),
    metric(ITL, Kind::Histogram, "Time between two pieces of a streamed answer, by replica"),
    metric(DURATION, Kind::Histogram, "Time from a request's head to its end, by replica"),
    metric(PROMPT_TOKENS, Kind::Counter, "Prompt tokens, as replicas counted them"),
    metric(CACHED_TOKENS, Kind::Counter, "Prompt tokens that replicas found in their KV cache"),
    metric(EXPECTED_TOKENS, Kind::Counter, "Prompt tokens expected in the cache at the placement"),
    metric(
        RECOMPUTED_TOKENS,
        Kind::Counter,
        "Prompt tokens computed that another replica was believed to hold",
    ),
    metric(
        PREDICTION_ERROR,
        Kind::Histogram,
        "How far the predicted time to first token was off, by direction",
    ),
    metric(OUTPUT_TOKENS, Kind::Counter, "Output tokens, as replicas counted them"),
    metric(IN_FLIGHT, Kind::Gauge, "Requests placed whose last byte has not come, by replica"),
    metric(QUEUED_PREFILL, Kind::Gauge, "Prompt tokens placed and not yet computed, by replica"),
    metric(READY, Kind::Gauge, "Whether a replica takes requests (1) or not (0)"),
    metric(
        SLOW_START,
        Kind::Gauge,
        "Part of its share that a replica gets: below 1 it has just come",
    ),
    metric(REPORTED_RUNNING, Kind::Gauge, "Requests that a replica says it is running"),
    metric(REPORTED_WAITING, Kind::Gauge, "Requests that a replica says are waiting"),
    metric(
        IMPLAUSIBLE,
        Kind::Counter,
        "Samples of a replica's metrics that can't be true and were left out",
    ),
    metric(INDEX_BYTES, Kind::Gauge, "Memory claimed by the prefix index, in bytes"),
    metric(INDEX_BLOCKS, Kind::Gauge, "Blocks in the prefix index"),
    metric(HELD_BYTES, Kind::Gauge, "Memory claimed for what engines say they hold, in bytes"),
    metric(HELD_BLOCKS, Kind::Gauge, "Blocks that engines say they hold"),
    metric(HELD_REFUSED, Kind::Counter, "Blocks that engines told of and there was no room for"),
    metric(CACHE_MODE, Kind::Gauge, "By what a replica's cache is judged (1), by replica and mode"),
    metric(
        KV_FOLLOWING,
        Kind::Gauge,
        "How its engine's events are followed (1), by replica and state",
    ),
    metric(KV_EVENTS, Kind::Counter, "KV-cache events received, by replica"),
    metric(KV_LAG, Kind::Gauge, "Time from the newest KV-cache event to its arrival, by replica"),
    metric(KV_GAPS, Kind::Counter, "Times that KV-cache events were missed, by replica"),
    metric(
        KV_REPLAYS,
        Kind::Counter,
        "Times that KV-cache events were asked for again, by replica",
    ),
    metric(KV_RESTARTS, Kind::Counter, "Restarts that KV-cache events gave away, by replica"),
    metric(KV_ORPHANS, Kind::Counter, "Blocks told of that follow one never told of, by replica"),
    metric(SESSIONS, Kind::Gauge, "Conversations remembered"),
    metric(WAIT_SECONDS, Kind::Histogram, "Time that requests waited for a replica to have room"),
    metric(WAITING, Kind::Gauge, "Requests that wait for a replica to have room, by priority"),
    metric(
        SHED,
        Kind::Counter,
        "Requests turned away because the fleet was full, by what filled it",
    ),
    metric(PLACED_PER_S, Kind::Gauge, "Requests placed in a second, of late"),
    metric(
        KNEE_PER_S,
        Kind::Gauge,
        "Requests a second, like those of late, that the fleet can take",
    ),
    metric(UTILISATION, Kind::Gauge, "Share of the fleet's time spoken for, at the pace promised"),
    metric(MARGIN, Kind::Gauge, "Factor on predictions that few requests exceed, by replica"),
    metric(LIMIT, Kind::Gauge, "Requests that a replica serves as promised, whatever they cost"),
    metric(PREDICTED, Kind::Gauge, "Mean TTFT and TPOT that were predicted of late, by replica"),
    metric(OBSERVED, Kind::Gauge, "Mean TTFT and TPOT of the same requests, by replica"),
    metric(RELOADS, Kind::Counter, "Reloads of the configuration, by whether it was taken"),
    metric(
        JUDGED,
        Kind::Counter,
        "Requests that have left, by SLO class and whether they were good",
    ),
    metric(
        COST_PER_ACCEPTED,
        Kind::Gauge,
        "Cost of a good answer in the last ten minutes, by SLO class; where prices are known",
    ),
    metric(COST_PER_HOUR, Kind::Gauge, "What is paid by the hour; where prices are known"),
    metric(PLACEMENTS_TOLD, Kind::Counter, "News of requests put down for other routers"),
    metric(
        PLACEMENTS_DROPPED,
        Kind::Counter,
        "News that was dropped because another router took too little",
    ),
    metric(PLACEMENTS_LISTENERS, Kind::Gauge, "Routers that listen to what this one places"),
    metric(PLACEMENTS_RECEIVED, Kind::Counter, "News of requests that other routers told"),
    metric(
        PLACEMENTS_UNKNOWN,
        Kind::Counter,
        "Placements told of on replicas that this router does not have",
    ),
    metric(PEERS, Kind::Gauge, "Addresses of routers to listen to, this one's own included"),
    metric(PEERS_CONNECTED, Kind::Gauge, "Other routers that are listened to"),
    metric(
        PEER_FAILURES,
        Kind::Counter,
        "Times that another router could not be listened to, by reason",
    ),
    metric(TASKS, Kind::Gauge, "Tasks that run or wait: one for each connection, and some"),
    metric(BUILD_INFO, Kind::Gauge, "Always 1; the version is a label"),
];

/// Upper bounds of the buckets for latencies a user feels, in seconds: those of OpenTelemetry's
/// GenAI conventions, and beyond them for prompts that take a minute.
const LATENCY_BUCKETS: [f64; 20] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    15.0, 30.0, 60.0, 120.0,
];
/// The same for what the router itself takes.
const DECISION_BUCKETS: [f64; 10] = [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2];

/// Longest time that a decision takes; what takes longer has waited.
const DECISION_LONGEST: Duration = Duration::from_millis(10);

/// How often it is looked for series of replicas that have left.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The router's metrics.
pub(crate) struct Telemetry {
    recorder: Registry,
    declared: Declared,
    replicas: DashMap<ReplicaId, Arc<ReplicaMetrics>, FxBuildHasher>,
    /// Held while series of replicas are declared or let go of, so that neither undoes the other.
    members: Mutex<()>,
}

/// The metrics that every router has from the start.
struct Declared {
    ended: [Counter; End::ALL.len()],
    retries: Counter,
    decisions: [Counter; REASONS.len()],
    decision_seconds: Histogram,
    wait_seconds: Histogram,
    expected_tokens: Counter,
    recomputed_tokens: Counter,
    /// First tokens that came sooner than predicted, and later.
    prediction_error: [Histogram; 2],
}

/// What came of reloads.
const RELOAD_RESULTS: [&str; 2] = ["taken", "refused"];

const REASONS: [Reason; 6] =
    [Reason::Session, Reason::Prefix, Reason::Load, Reason::Cost, Reason::Fallback, Reason::Retry];

/// The metrics of one replica, looked up once.
#[derive(Debug)]
pub(crate) struct ReplicaMetrics {
    /// Its name, as a header has it.
    pub(crate) name: HeaderValue,
    pub(crate) ttft: Histogram,
    pub(crate) itl: Histogram,
    pub(crate) duration: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    output_tokens: Counter,
}

impl ReplicaMetrics {
    /// Counts what an answer says that it cost.
    pub(crate) fn used(&self, usage: &Usage) {
        let counters = [
            (&self.prompt_tokens, usage.prompt),
            (&self.cached_tokens, usage.cached),
            (&self.output_tokens, usage.completion),
        ];
        for (counter, tokens) in counters {
            if let Some(tokens) = tokens {
                counter.increment(u64::from(tokens.0));
            }
        }
    }
}

impl Telemetry {
    /// Declares every metric.
    pub(crate) fn new() -> Self {
        let recorder = Registry::new(|name| match name {
            DECISION_SECONDS => &DECISION_BUCKETS,
            _ => &LATENCY_BUCKETS,
        });
        let declared = metrics::with_local_recorder(&recorder, || {
            METRICS.iter().for_each(describe);
            gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            start_at_zero();
            Declared {
                ended: End::ALL.map(|it| counter!(REQUESTS, "outcome" => it.as_str())),
                retries: counter!(RETRIES),
                decisions: REASONS.map(|it| counter!(DECISIONS, "reason" => it.as_str())),
                decision_seconds: histogram!(DECISION_SECONDS),
                wait_seconds: histogram!(WAIT_SECONDS),
                expected_tokens: counter!(EXPECTED_TOKENS),
                recomputed_tokens: counter!(RECOMPUTED_TOKENS),
                prediction_error: ["sooner", "later"]
                    .map(|it| histogram!(PREDICTION_ERROR, "direction" => it)),
            }
        });
        Self { recorder, declared, replicas: DashMap::default(), members: Mutex::default() }
    }

    /// Counts a decision. One that took so long that the request must have waited says nothing of how
    /// long it takes to decide.
    pub(crate) fn decided(&self, took: Duration, placement: Option<&Placement>) {
        let Declared { decisions, decision_seconds, wait_seconds, expected_tokens, .. } =
            &self.declared;
        let waited = DECISION_LONGEST < took;
        if waited {
            wait_seconds.record(took);
        } else {
            decision_seconds.record(took);
        }
        let Some(placement) = placement else { return };
        expected_tokens.increment(u64::from(placement.cached.0));
        let reason = REASONS.iter().zip(decisions).find(|it| *it.0 == placement.reason);
        if let Some((_, counter)) = reason {
            counter.increment(1);
        }
    }

    /// Learns when a first token came, from the decision, and when that was predicted.
    pub(crate) fn predicted(&self, predicted: Duration, came: Duration) {
        let [sooner, later] = &self.declared.prediction_error;
        let error = if came < predicted { sooner } else { later };
        error.record(came.abs_diff(predicted));
    }

    /// Counts what was computed though another replica held it.
    pub(crate) fn recomputed(&self, tokens: Tokens) {
        self.declared.recomputed_tokens.increment(u64::from(tokens.0));
    }

    /// Counts a request that is placed again.
    pub(crate) fn retried(&self) {
        self.declared.retries.increment(1);
    }

    /// Counts a request that has left.
    pub(crate) fn ended(
        &self,
        end: End,
        dropped: Option<&'static str>,
        priority: Priority,
        gate: Option<Gate>,
    ) {
        if let Some((_, counter)) =
            End::ALL.iter().zip(&self.declared.ended).find(|it| *it.0 == end)
        {
            counter.increment(1);
        }
        if let Some(reason) = dropped {
            metrics::with_local_recorder(&self.recorder, || {
                let priority = priority.as_str();
                counter!(REJECTED, "reason" => reason, "priority" => priority).increment(1);
                if let Some(gate) = gate {
                    counter!(SHED, "gate" => gate.as_str()).increment(1);
                }
            });
        }
    }

    /// Counts a reload.
    pub(crate) fn reloaded(&self, taken: bool) {
        let [is_taken, is_refused] = RELOAD_RESULTS;
        let result = if taken { is_taken } else { is_refused };
        metrics::with_local_recorder(&self.recorder, || {
            counter!(RELOADS, "result" => result).increment(1);
        });
    }

    /// Lets go of the series of every replica that is not, or no longer, in the fleet. A request that was
    /// sent to one that has left meanwhile may have declared some of them again.
    pub(crate) fn forget_gone(&self, fleet: &Fleet) {
        // Before it is looked who is there: who joins from now on declares its series after this.
        let _members = self.members.lock();
        let replicas = fleet.replicas();
        let ids: BTreeSet<ReplicaId> = replicas.iter().map(|it| it.id()).collect();
        let names: BTreeSet<&str> = replicas.iter().map(|it| it.name()).collect();
        self.replicas.retain(|id, _| ids.contains(id));
        self.recorder.retain("replica", |it| names.contains(it));
    }

    /// The metrics of `replica`.
    pub(crate) fn replica(&self, replica: &Replica) -> Arc<ReplicaMetrics> {
        if let Some(metrics) = self.replicas.get(&replica.id()) {
            return Arc::clone(&metrics);
        }
        let _members = self.members.lock();
        let metrics = Arc::new(self.declare(replica));
        self.replicas.insert(replica.id(), Arc::clone(&metrics));
        metrics
    }

    fn declare(&self, replica: &Replica) -> ReplicaMetrics {
        let name = replica.name().to_owned();
        metrics::with_local_recorder(&self.recorder, || ReplicaMetrics {
            ttft: histogram!(TTFT, "replica" => name.clone()),
            itl: histogram!(ITL, "replica" => name.clone()),
            duration: histogram!(DURATION, "replica" => name.clone()),
            prompt_tokens: counter!(PROMPT_TOKENS, "replica" => name.clone()),
            cached_tokens: counter!(CACHED_TOKENS, "replica" => name.clone()),
            output_tokens: counter!(OUTPUT_TOKENS, "replica" => name.clone()),
            name: HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("replica")),
        })
    }

    /// The text that Prometheus scrapes, gauges read now.
    pub(crate) fn render(&self, app: &App) -> String {
        self.forget_gone(&app.fleet);
        metrics::with_local_recorder(&self.recorder, || {
            read_gauges(&app.fleet);
            goodput::read_gauges(app);
            peers::read_gauges(app);
        });
        self.recorder.render()
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

/// Begins the counters whose labels are known, so that the first event of each is a rise and not a
/// series that comes out of nothing.
fn start_at_zero() {
    for reason in DROPPED_REASONS {
        for priority in Priority::ALL {
            counter!(REJECTED, "reason" => reason, "priority" => priority.as_str()).absolute(0);
        }
    }
    for gate in Gate::ALL {
        counter!(SHED, "gate" => gate.as_str()).absolute(0);
    }
    for result in RELOAD_RESULTS {
        counter!(RELOADS, "result" => result).absolute(0);
    }
}

fn describe(metric: &Metric) {
    let (name, help) = (metric.name, metric.help);
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(name, help),
        Kind::Gauge => metrics::describe_gauge!(name, help),
        Kind::Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
    }
}

/// Sets the gauges of admission.
fn read_admission(fleet: &Fleet) {
    let (view, waiting) =
        fleet.dispatch().inspect(|now, it| (it.admission_view(now), it.waiting()));
    gauge!(PLACED_PER_S).set(view.placed_per_s);
    gauge!(UTILISATION).set(view.utilisation);
    gauge!(KNEE_PER_S).set(view.knee_per_s.unwrap_or(f64::NAN));
    for (priority, waiting) in Priority::ALL.iter().zip(waiting) {
        gauge!(WAITING, "priority" => priority.as_str()).set(waiting as f64);
    }
    for status in fleet.status() {
        let known = fleet.dispatch().inspect(|_, it| {
            let replica = it.fleet().get(status.id)?;
            let (ttft, tpot) = replica.estimate.margins();
            Some((ttft.value(), tpot.value(), replica.limit.value(), replica.accuracy))
        });
        let Some((ttft, tpot, limit, accuracy)) = known else { continue };
        gauge!(LIMIT, "replica" => status.name.clone()).set(limit);
        let promises = [("ttft", ttft, accuracy.ttft), ("tpot", tpot, accuracy.tpot)];
        for (promise, margin, (predicted_s, observed_s)) in promises {
            gauge!(MARGIN, "replica" => status.name.clone(), "promise" => promise).set(margin);
            gauge!(PREDICTED, "replica" => status.name.clone(), "promise" => promise)
                .set(predicted_s);
            gauge!(OBSERVED, "replica" => status.name.clone(), "promise" => promise)
                .set(observed_s);
        }
    }
}

/// Sets every gauge from what the dispatcher and the replicas say now.
fn read_gauges(fleet: &Fleet) {
    caches::read_gauges(fleet);
    for status in fleet.status() {
        let ready = if status.health == Health::Ready { 1.0 } else { 0.0 };
        gauge!(READY, "replica" => status.name.clone()).set(ready);
        let share = fleet
            .dispatch()
            .inspect(|now, it| it.fleet().weight(now, status.id, &it.routing().slow_start));
        gauge!(SLOW_START, "replica" => status.name.clone()).set(share);
        let load = status.load.unwrap_or_default();
        gauge!(REPORTED_RUNNING, "replica" => status.name.clone()).set(load.running);
        gauge!(REPORTED_WAITING, "replica" => status.name.clone()).set(load.waiting);
        counter!(IMPLAUSIBLE, "replica" => status.name.clone()).absolute(status.implausible);
        let placed = fleet.dispatch().inspect(|_, it| it.fleet().get(status.id).map(|it| it.load));
        let placed = placed.unwrap_or_default();
        gauge!(IN_FLIGHT, "replica" => status.name.clone()).set(placed.in_flight);
        gauge!(QUEUED_PREFILL, "replica" => status.name).set(placed.queued_prefill.0);
    }
    let (bytes, blocks, sessions) = fleet
        .dispatch()
        .inspect(|_, it| (it.prefixes().bytes(), it.prefixes().len(), it.sessions()));
    gauge!(INDEX_BYTES).set(bytes as f64);
    gauge!(INDEX_BLOCKS).set(blocks as f64);
    gauge!(SESSIONS).set(sessions as f64);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        gauge!(TASKS).set(runtime.metrics().num_alive_tasks() as f64);
    }
    read_admission(fleet);
}
