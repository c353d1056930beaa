//! The metrics' names, kinds and meanings.

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

pub(super) const REQUESTS: &str = "sluice_requests_total";
pub(super) const REJECTED: &str = "sluice_requests_rejected_total";
pub(super) const CLAMPED: &str = "sluice_priority_clamped_total";
pub(super) const RETRIES: &str = "sluice_retries_total";
pub(super) const RETRIES_LEFT: &str = "sluice_retries_left";
pub(super) const RETRIES_DENIED: &str = "sluice_retries_denied_total";
pub(super) const RESENT: &str = "sluice_requests_resent_total";
pub(super) const DECISIONS: &str = "sluice_decisions_total";
pub(super) const DECISION_SECONDS: &str = "sluice_decision_seconds";
pub(super) const TTFT: &str = "sluice_time_to_first_token_seconds";
pub(super) const ITL: &str = "sluice_inter_token_latency_seconds";
pub(super) const DURATION: &str = "sluice_request_duration_seconds";
pub(super) const PROMPT_TOKENS: &str = "sluice_prompt_tokens_total";
pub(super) const CACHED_TOKENS: &str = "sluice_prefix_cached_tokens_total";
pub(super) const EXPECTED_TOKENS: &str = "sluice_prefix_expected_tokens_total";
pub(super) const RECOMPUTED_TOKENS: &str = "sluice_prefix_recomputed_tokens_total";
pub(super) const PREDICTION_ERROR: &str = "sluice_ttft_prediction_error_seconds";
pub(super) const OUTPUT_TOKENS: &str = "sluice_output_tokens_total";
pub(super) const IN_FLIGHT: &str = "sluice_requests_in_flight";
pub(super) const QUEUED_PREFILL: &str = "sluice_queued_prefill_tokens";
pub(super) const READY: &str = "sluice_replica_ready";
pub(super) const SLOW_START: &str = "sluice_replica_slow_start_share";
pub(super) const REPORTED_RUNNING: &str = "sluice_replica_reported_running";
pub(super) const REPORTED_WAITING: &str = "sluice_replica_reported_waiting";
pub(super) const IMPLAUSIBLE: &str = "sluice_replica_implausible_samples_total";
pub(super) const INDEX_BYTES: &str = "sluice_prefix_index_bytes";
pub(super) const INDEX_BLOCKS: &str = "sluice_prefix_index_blocks";
pub(super) const HELD_BYTES: &str = "sluice_held_index_bytes";
pub(super) const HELD_BLOCKS: &str = "sluice_held_index_blocks";
pub(super) const HELD_REFUSED: &str = "sluice_held_index_refused_total";
pub(super) const CACHE_MODE: &str = "sluice_cache_mode";
pub(super) const KV_FOLLOWING: &str = "sluice_kv_following";
pub(super) const KV_EVENTS: &str = "sluice_kv_events_total";
pub(super) const KV_LAG: &str = "sluice_kv_event_lag_seconds";
pub(super) const KV_GAPS: &str = "sluice_kv_event_gaps_total";
pub(super) const KV_REPLAYS: &str = "sluice_kv_event_replays_total";
pub(super) const KV_RESTARTS: &str = "sluice_kv_restarts_total";
pub(super) const KV_ORPHANS: &str = "sluice_kv_orphan_blocks_total";
pub(super) const SESSIONS: &str = "sluice_sessions";
pub(super) const WAIT_SECONDS: &str = "sluice_admission_wait_seconds";
pub(super) const WAITING: &str = "sluice_requests_waiting";
pub(super) const SHED: &str = "sluice_admission_shed_total";
pub(super) const PLACED_PER_S: &str = "sluice_admission_placed_per_second";
pub(super) const KNEE_PER_S: &str = "sluice_admission_knee_per_second";
pub(super) const UTILISATION: &str = "sluice_admission_utilisation";
pub(super) const MARGIN: &str = "sluice_admission_margin";
pub(super) const LIMIT: &str = "sluice_admission_limit_requests";
pub(super) const PREDICTED: &str = "sluice_admission_predicted_seconds";
pub(super) const OBSERVED: &str = "sluice_admission_observed_seconds";
pub(super) const RELOADS: &str = "sluice_config_reloads_total";
pub(super) const NEEDS_RESTART: &str = "sluice_config_needs_restart";
pub(super) const JUDGED: &str = "sluice_judged_requests_total";
pub(super) const COST_PER_ACCEPTED: &str = "sluice_cost_per_accepted";
pub(super) const COST_PER_HOUR: &str = "sluice_cost_per_hour";
pub(super) const PLACEMENTS_TOLD: &str = "sluice_placements_told_total";
pub(super) const PLACEMENTS_DROPPED: &str = "sluice_placements_dropped_total";
pub(super) const PLACEMENTS_LISTENERS: &str = "sluice_placements_listeners";
pub(super) const PLACEMENTS_RECEIVED: &str = "sluice_placements_received_total";
pub(super) const PLACEMENTS_UNKNOWN: &str = "sluice_placements_unknown_total";
pub(super) const PEERS: &str = "sluice_peers";
pub(super) const PEERS_CONNECTED: &str = "sluice_peers_connected";
pub(super) const PEER_FAILURES: &str = "sluice_peer_failures_total";
pub(super) const TASKS: &str = "sluice_tasks";
pub(super) const BUILD_INFO: &str = "sluice_build_info";

/// Every metric, in the order of `docs/metrics.md`.
pub const METRICS: [Metric; 64] = [
    metric(REQUESTS, Kind::Counter, "Requests that have left, by how they ended"),
    metric(REJECTED, Kind::Counter, "Requests turned away for no fault of theirs, by reason"),
    metric(
        CLAMPED,
        Kind::Counter,
        "Requests that asked for a more urgent class than their tenant may have",
    ),
    metric(RETRIES, Kind::Counter, "Requests placed again after an attempt without an answer"),
    metric(
        RETRIES_LEFT,
        Kind::Gauge,
        "Requests that may be placed again after an answer that says no; each request adds a fifth, up to 10",
    ),
    metric(
        RETRIES_DENIED,
        Kind::Counter,
        "Answers that say no and were passed on because no retry was left, or no other replica had room",
    ),
    metric(
        RESENT,
        Kind::Counter,
        "Requests sent once more because a kept connection was closing as they were sent, by replica",
    ),
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
        "Requests a second, like those of late, that the fleet can take by the time per token, until its first model or pool is full; NaN below half of that",
    ),
    metric(UTILISATION, Kind::Gauge, "Share of the fleet's time spoken for, at the pace promised"),
    metric(MARGIN, Kind::Gauge, "Factor on predictions that few requests exceed, by replica"),
    metric(LIMIT, Kind::Gauge, "Requests that a replica serves as promised, whatever they cost"),
    metric(PREDICTED, Kind::Gauge, "Mean TTFT and TPOT that were predicted of late, by replica"),
    metric(OBSERVED, Kind::Gauge, "Mean TTFT and TPOT of the same requests, by replica"),
    metric(RELOADS, Kind::Counter, "Reloads of the configuration, by whether it was taken"),
    metric(
        NEEDS_RESTART,
        Kind::Gauge,
        "Settings of the last configuration taken that wait for a restart",
    ),
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
