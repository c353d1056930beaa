//! Reads, again and again, what a replica's metrics say of its load.

use std::{sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use tokio::time::MissedTickBehavior;

use crate::{probe, replica::Replica};

/// Reads the metrics of `replica` until the task is ended.
///
/// A replica without metrics is no worse for it: the load that this router placed is known anyway.
pub(crate) async fn watch(replica: Arc<Replica>, interval: Duration, timeout: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = probe::get(&replica, PathAndQuery::from_static("/metrics"), timeout).await;
        let load = text.ok().and_then(|it| wire::prometheus::read(&it)).map(|it| it.load);
        replica.reported(load);
    }
}
