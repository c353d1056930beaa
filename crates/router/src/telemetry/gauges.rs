//! The gauges that are read from the dispatcher and the replicas when somebody asks.

use fleet::fleet::Fleet;
use metrics::{counter, gauge};
use types::{replica::Health, request::Priority};

use super::{
    caches,
    names::{
        IMPLAUSIBLE, IN_FLIGHT, INDEX_BLOCKS, INDEX_BYTES, KNEE_PER_S, LIMIT, MARGIN, OBSERVED,
        PLACED_PER_S, PREDICTED, QUEUED_PREFILL, READY, REPORTED_RUNNING, REPORTED_WAITING, RESENT,
        RETRIES_DENIED, RETRIES_LEFT, SESSIONS, SLOW_START, TASKS, UTILISATION, WAITING,
    },
};
use crate::retries::Retries;

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

/// Sets what is known of the router's own retries.
pub(super) fn read_retries(retries: &Retries) {
    gauge!(RETRIES_LEFT).set(retries.saved());
    counter!(RETRIES_DENIED).absolute(retries.denied());
}

/// Sets every gauge from what the dispatcher and the replicas say now.
pub(super) fn read_gauges(fleet: &Fleet) {
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
        counter!(RESENT, "replica" => status.name.clone()).absolute(status.resent);
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
