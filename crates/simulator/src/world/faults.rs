//! How faults begin and end.

use std::time::Duration;

use policy::event::Event as Learned;
use types::replica::{Health, ReplicaId};

use super::{Event, World, replicas::AfterDrain};
use crate::{fault::Fault, flight::Stage};

impl World<'_> {
    pub(super) fn begin_fault(&mut self, index: usize) {
        let Some(fault) = self.setup.faults.get(index).copied() else { return };
        match fault {
            Fault::Crash { replica, down_for, .. } => self.crash(index, replica, down_for),
            Fault::Slow { replica, lasts, factor, .. } => {
                if let Some(it) = self.replicas.get_mut(replica as usize) {
                    it.slowness *= factor;
                }
                self.tell_speed(replica);
                self.enter_end(index, lasts, 0);
            }
            Fault::Stall { replica, lasts, .. } => {
                let until = self.now + lasts;
                if let Some(it) = self.replicas.get_mut(replica as usize) {
                    it.stalled_until = it.stalled_until.max(until);
                }
                self.enter_end(index, lasts, 0);
            }
            Fault::Partition { router, replica, lasts, .. } => {
                self.partition(router, replica, 1);
                self.enter_end(index, lasts, 0);
            }
            Fault::LostReports { lasts, .. } => {
                self.blind = self.blind.saturating_add(1);
                self.enter_end(index, lasts, 0);
            }
            Fault::ScaleOut { replicas, .. } => {
                for _ in 0..replicas {
                    match self.join(Health::Starting) {
                        Ok(replica) => self.probe_soon(replica),
                        Err(violation) => {
                            self.violation.get_or_insert(violation);
                        }
                    }
                }
            }
            Fault::ScaleIn { replica, .. } => self.drain(replica, AfterDrain::Leave),
            Fault::RollingDeployment { down_for, .. } => {
                let all = 0..u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
                self.deployment.extend(all.map(|it| (it, down_for)));
                if !self.deploying {
                    self.deploying = true;
                    self.deploy_next();
                }
            }
            Fault::RotateSalt { .. } => self.salt = self.salt.saturating_add(1),
        }
    }

    fn enter_end(&mut self, index: usize, after: Duration, generation: u32) {
        self.calendar.enter(self.now + after, Event::FaultEnds { index, generation });
    }

    pub(super) fn end_fault(&mut self, index: usize, generation: u32) {
        let Some(fault) = self.setup.faults.get(index).copied() else { return };
        match fault {
            Fault::Crash { replica, .. } => self.come_back(replica, generation),
            Fault::Slow { replica, factor, .. } => {
                if let Some(it) = self.replicas.get_mut(replica as usize) {
                    it.slowness /= factor;
                }
                self.tell_speed(replica);
            }
            // An engine wakes by itself.
            Fault::Stall { replica, .. } => {
                if let Some(generation) =
                    self.replicas.get(replica as usize).map(|it| it.generation)
                {
                    self.start_services((replica, generation));
                }
            }
            Fault::Partition { router, replica, .. } => {
                self.partition(router, replica, -1);
                self.probe_soon(replica);
            }
            Fault::LostReports { .. } => self.blind = self.blind.saturating_sub(1),
            Fault::ScaleOut { .. }
            | Fault::ScaleIn { .. }
            | Fault::RollingDeployment { .. }
            | Fault::RotateSalt { .. } => {}
        }
    }

    fn crash(&mut self, index: usize, replica: u32, down_for: Option<Duration>) {
        if !self.replicas.get(replica as usize).is_some_and(|it| it.is_up) {
            return;
        }
        self.reset(replica, false);
        if let Some((down_for, it)) = down_for.zip(self.replicas.get(replica as usize)) {
            self.enter_end(index, down_for, it.generation);
        }
        self.probe_soon(replica);
        self.break_connections(None, replica);
    }

    /// A replica listens again, unless it restarted or left in the meantime.
    fn come_back(&mut self, replica: u32, generation: u32) {
        let it = self.replicas.get_mut(replica as usize);
        if let Some(it) = it.filter(|it| it.generation == generation && !it.is_gone) {
            it.is_up = true;
            self.probe_soon(replica);
        }
    }

    /// Adds a partition or takes one away; one that begins breaks what it cuts through.
    fn partition(&mut self, router: Option<u32>, replica: u32, change: i32) {
        let routers = router.map_or(self.router_numbers(), |it| it..it.saturating_add(1));
        if let Some(it) = self.replicas.get_mut(replica as usize) {
            for router in routers.clone() {
                if let Some(count) = it.partitions.get_mut(router as usize) {
                    *count = count.saturating_add_signed(change);
                }
            }
        }
        if change > 0 {
            self.probe_soon(replica);
            routers.for_each(|router| self.break_connections(Some(router), replica));
        }
    }

    /// Breaks the connections between a replica and one router, or all of them; both ends notice.
    fn break_connections(&mut self, router: Option<u32>, replica: u32) {
        let is_broken = |stage| matches!(stage, Stage::Sent { replica: it, .. } if it == replica);
        let numbers: Vec<u64> = (0..)
            .zip(&self.flights)
            .filter_map(|(number, flight)| Some((number, flight.as_ref()?)))
            .filter(|(_, it)| {
                is_broken(it.stage) && router.is_none_or(|router| it.router == router)
            })
            .map(|(number, _)| number)
            .collect();
        for number in numbers {
            self.abort(number);
            self.attempt_failed(number, "the replica broke off");
        }
    }

    /// Has a replica take nothing new, and do something else once it is empty.
    fn drain(&mut self, replica: u32, after: AfterDrain) {
        let Some(it) = self.replicas.get_mut(replica as usize).filter(|it| !it.is_gone) else {
            return;
        };
        it.after_drain = Some(after);
        for router in self.router_numbers() {
            self.see(router, replica, Health::Draining);
        }
        self.maybe_drained(replica);
    }

    /// Goes on with a replica that drains, once nothing is left on it.
    pub(super) fn maybe_drained(&mut self, replica: u32) {
        let Some(it) = self.replicas.get_mut(replica as usize).filter(|it| it.held == 0) else {
            return;
        };
        let Some(after) = it.after_drain.take() else { return };
        self.reset(replica, false);
        let Some(it) = self.replicas.get_mut(replica as usize) else { return };
        let generation = it.generation;
        match after {
            AfterDrain::Leave => {
                it.is_gone = true;
                for router in self.router_numbers() {
                    self.tell(router, Learned::ReplicaLeft(ReplicaId(replica)));
                }
            }
            AfterDrain::Restart(down_for) => {
                for router in self.router_numbers() {
                    self.tell(router, Learned::CacheLost(ReplicaId(replica)));
                }
                let back = Event::Redeployed { replica, generation };
                self.calendar.enter(self.now + down_for, back);
            }
        }
    }

    /// A redeployed replica listens again; the next one drains when routers have seen it.
    pub(super) fn redeployed(&mut self, replica: u32, generation: u32) {
        self.come_back(replica, generation);
        self.calendar.enter(self.now + self.setup.signals.health_delay, Event::DeployNext);
    }

    pub(super) fn deploy_next(&mut self) {
        while let Some((replica, down_for)) = self.deployment.pop_front() {
            let it = self.replicas.get(replica as usize);
            if it.is_some_and(|it| !it.is_gone && !it.is_draining()) {
                self.drain(replica, AfterDrain::Restart(down_for));
                return;
            }
        }
        self.deploying = false;
    }
}
