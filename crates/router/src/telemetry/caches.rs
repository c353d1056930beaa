//! The metrics of what is known of the replicas' caches.

use fleet::{
    fleet::Fleet,
    kv::status::{Following, KvStatus},
};
use metrics::{counter, gauge};
use policy::dispatcher::CacheMode;

use super::names::{
    CACHE_MODE, HELD_BLOCKS, HELD_BYTES, HELD_REFUSED, KV_EVENTS, KV_FOLLOWING, KV_GAPS, KV_LAG,
    KV_ORPHANS, KV_REPLAYS, KV_RESTARTS,
};

/// Sets them from what the dispatcher and the replicas say now.
pub(super) fn read_gauges(fleet: &Fleet) {
    let (bytes, blocks, refused) = fleet.dispatch().inspect(|_, it| {
        let held = it.held();
        (held.bytes(), held.len(), held.refused())
    });
    gauge!(HELD_BYTES).set(bytes as f64);
    gauge!(HELD_BLOCKS).set(blocks as f64);
    counter!(HELD_REFUSED).absolute(refused);
    for replica in fleet.replicas() {
        let (id, name) = (replica.id(), replica.name().to_owned());
        let now = fleet.dispatch().inspect(|_, it| it.cache_mode(id));
        for mode in CacheMode::ALL {
            let is = f64::from(u8::from(mode == now));
            gauge!(CACHE_MODE, "replica" => name.clone(), "mode" => mode.as_str()).set(is);
        }
        if let Some(status) = replica.kv_status() {
            read_status(&name, &status);
        }
    }
}

fn read_status(name: &str, status: &KvStatus) {
    let name = || name.to_owned();
    for state in Following::ALL {
        let is = f64::from(u8::from(state == status.following));
        gauge!(KV_FOLLOWING, "replica" => name(), "state" => state.as_str()).set(is);
    }
    gauge!(KV_LAG, "replica" => name()).set(status.lag.as_secs_f64());
    for (metric, value) in [
        (KV_EVENTS, status.events),
        (KV_GAPS, status.gaps),
        (KV_REPLAYS, status.replays),
        (KV_RESTARTS, status.restarts),
        (KV_ORPHANS, status.orphans),
    ] {
        counter!(metric, "replica" => name()).absolute(value);
    }
}
