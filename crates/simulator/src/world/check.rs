//! What must hold in every run, whatever happens in it.

use policy::fleet_view::Load;
use types::quantity::Tokens;

use super::{Violation, World};
use crate::{flight::Flight, server::Work};

impl World<'_> {
    /// Notes that an invariant is broken; the first one ends the run.
    pub(super) fn violated(&mut self, what: String) {
        let (seed, at) = (self.setup.seed, self.now);
        self.violation.get_or_insert(Violation::Invariant { seed, at, what });
    }

    /// Arrival ≤ decision ≤ first token ≤ end, of a request that leaves now.
    pub(super) fn check_times(&mut self, number: u64, flight: &Flight) {
        let decided = flight.decided.unwrap_or(flight.scheduled);
        let first = flight.first_token.unwrap_or(decided);
        let ordered = [flight.scheduled, decided, first, self.now].is_sorted();
        if !ordered {
            self.violated(format!("request {number} has its times out of order: {flight:?}"));
        }
    }

    /// A whole answer has all the tokens that were asked for.
    pub(super) fn check_answer(&mut self, number: u64, flight: &Flight) {
        let asked = match &flight.work {
            Work::Job(job) => job.output,
            Work::Service(_) => Tokens(1),
        };
        if flight.generated != asked {
            let told = flight.generated;
            self.violated(format!("request {number} has {told} of {asked} tokens at its end"));
        }
    }

    /// Free + held = all KV blocks: what is free never exceeds them, and is all of them when nobody
    /// is there to hold any.
    pub(super) fn check_kv(&mut self, replica: u32) {
        let Some(it) = self.replicas.get(replica as usize) else { return };
        let (free, all) = it.server.kv();
        if free > all || (free != all && it.server.is_idle()) {
            self.violated(format!("replica {replica} has {free} of {all} KV blocks free"));
        }
    }

    /// Every request has left exactly once, and nothing stays reserved.
    pub(super) fn check_end(&mut self) {
        if let Some(number) = self.flights.iter().position(Option::is_some) {
            self.violated(format!("nothing is left to happen, and request {number} never left"));
        }
        let recorded = self.records.iter().flatten().count();
        if (recorded, self.left) != (self.requests, self.requests) {
            let all = self.requests;
            self.violated(format!("{recorded} records of {all} requests, {} left", self.left));
        }
        for router in 0..self.routers.len() {
            self.check_reservations(router);
            self.check_nobody_waits(router);
        }
        for replica in 0..u32::try_from(self.replicas.len()).unwrap_or(u32::MAX) {
            self.check_kv(replica);
            if self.replicas.get(replica as usize).is_some_and(|it| it.held != 0) {
                self.violated(format!("replica {replica} still counts requests"));
            }
        }
    }

    fn check_reservations(&mut self, router: usize) {
        let Some(dispatcher) = self.routers.get(router).map(|it| &it.dispatcher) else { return };
        let reserved = dispatcher
            .fleet()
            .replicas()
            .iter()
            .find(|it| it.load != Load::default() || it.told != Load::default());
        if let Some(replica) = reserved {
            let (id, load, told) = (replica.id, replica.load, replica.told);
            self.violated(format!(
                "router {router} still reserves {load:?} on {id}, and others there {told:?}"
            ));
        } else if dispatcher.in_flight() != 0 {
            let left = dispatcher.in_flight();
            self.violated(format!("router {router} still knows {left} requests"));
        }
    }

    fn check_nobody_waits(&mut self, router: usize) {
        let waiting = self.routers.get(router).map(|it| it.dispatcher.waiting());
        let waiting: usize = waiting.unwrap_or_default().iter().sum();
        if waiting > 0 {
            self.violated(format!("router {router} still has {waiting} requests waiting"));
        }
    }
}
