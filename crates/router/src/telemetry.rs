//! Counts what the router exports.
//!
//! Each router has a recorder of its own, so that two in one process do not mix. Labels come from
//! closed sets (replica names, and words of ours): never from what a client sends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dashmap::DashMap;
use fleet::{fleet::Fleet, replica::Replica};
use http::HeaderValue;
use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use parking_lot::Mutex;
use policy::{
    admission::Gate,
    event::{Placement, Reason},
};
use rustc_hash::FxBuildHasher;
use types::{quantity::Tokens, replica::ReplicaId, request::Priority};
use wire::usage::Usage;

use crate::{app::App, passage::End, reject::DROPPED_REASONS};

mod caches;
mod gauges;
mod goodput;
mod names;
mod peers;
mod series;

use names::{
    BUILD_INFO, CACHED_TOKENS, CLAMPED, DECISION_SECONDS, DECISIONS, DURATION, EXPECTED_TOKENS,
    ITL, NEEDS_RESTART, OUTPUT_TOKENS, PREDICTION_ERROR, PROMPT_TOKENS, RECOMPUTED_TOKENS,
    REJECTED, RELOADS, REQUESTS, RETRIES, SHED, TTFT, WAIT_SECONDS,
};
pub use names::{Kind, METRICS, Metric};
use series::Registry;

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

/// How often recorded durations are folded into their buckets, and it is looked for series of replicas that
/// have left, when nobody reads the metrics.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The router's metrics.
pub(crate) struct Telemetry {
    recorder: Registry,
    declared: Declared,
    replicas: DashMap<ReplicaId, Arc<ReplicaMetrics>, FxBuildHasher>,
    /// By the class's name.
    judged: DashMap<String, goodput::Judged, FxBuildHasher>,
    /// Held while series of replicas are declared or let go of, so that neither undoes the other.
    members: Mutex<()>,
}

/// The metrics that every router has from the start.
struct Declared {
    ended: [Counter; End::ALL.len()],
    clamped: Counter,
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
        let recorder = Registry::new(exporter);
        let declared = metrics::with_local_recorder(&recorder, || {
            gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            start_at_zero();
            Declared {
                ended: End::ALL.map(|it| counter!(REQUESTS, "outcome" => it.as_str())),
                clamped: counter!(CLAMPED),
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
        Self {
            recorder,
            declared,
            replicas: DashMap::default(),
            judged: DashMap::default(),
            members: Mutex::default(),
        }
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

    /// Counts a request that asked to be more urgent than its tenant may be.
    pub(crate) fn clamped(&self) {
        self.declared.clamped.increment(1);
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

    /// Counts a reload; of one that was taken, how many settings wait for a restart since.
    pub(crate) fn reloaded(&self, needs_restart: Option<usize>) {
        let [is_taken, is_refused] = RELOAD_RESULTS;
        let result = if needs_restart.is_some() { is_taken } else { is_refused };
        metrics::with_local_recorder(&self.recorder, || {
            counter!(RELOADS, "result" => result).increment(1);
            if let Some(settings) = needs_restart {
                gauge!(NEEDS_RESTART).set(settings as f64);
            }
        });
    }

    /// Keeps what is recorded from growing when nobody reads it.
    pub(crate) fn upkeep(&self, fleet: &Fleet) {
        self.forget_gone(fleet);
        self.recorder.upkeep();
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
        self.recorder.retain(|it| names.contains(it));
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
            gauges::read_gauges(&app.fleet);
            gauges::read_retries(&app.retries);
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
    gauge!(NEEDS_RESTART).set(0.0);
}

/// An exporter that knows every metric, and the buckets of each histogram.
fn exporter() -> PrometheusRecorder {
    let decision = Matcher::Full(DECISION_SECONDS.to_owned());
    let exporter = PrometheusBuilder::new()
        .set_buckets(&LATENCY_BUCKETS)
        .and_then(|it| it.set_buckets_for_metric(decision, &DECISION_BUCKETS))
        .unwrap_or_else(|_| PrometheusBuilder::new())
        .build_recorder();
    metrics::with_local_recorder(&exporter, || METRICS.iter().for_each(describe));
    exporter
}

fn describe(metric: &Metric) {
    let (name, help) = (metric.name, metric.help);
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(name, help),
        Kind::Gauge => metrics::describe_gauge!(name, help),
        Kind::Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
    }
}
