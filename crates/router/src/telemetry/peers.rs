//! The metrics of what routers of one fleet tell each other.

use metrics::{counter, gauge};

use super::names::{
    PEER_FAILURES, PEERS, PEERS_CONNECTED, PLACEMENTS_DROPPED, PLACEMENTS_LISTENERS,
    PLACEMENTS_RECEIVED, PLACEMENTS_TOLD, PLACEMENTS_UNKNOWN,
};
use crate::{
    app::App,
    peers::{Counts, Failure},
};

/// Sets them from what was told and heard up to now.
pub(super) fn read_gauges(app: &App) {
    let (listeners, told, dropped) = app.fleet.dispatch().placements().counts();
    gauge!(PLACEMENTS_LISTENERS).set(listeners as f64);
    counter!(PLACEMENTS_TOLD).absolute(told);
    counter!(PLACEMENTS_DROPPED).absolute(dropped);
    let Counts { wanted, connected, received, unknown, failures } = app.peers.counts();
    gauge!(PEERS).set(wanted as f64);
    gauge!(PEERS_CONNECTED).set(connected as f64);
    counter!(PLACEMENTS_RECEIVED).absolute(received);
    counter!(PLACEMENTS_UNKNOWN).absolute(unknown);
    for (failure, count) in Failure::ALL.iter().zip(failures) {
        counter!(PEER_FAILURES, "reason" => failure.as_str()).absolute(count);
    }
}
