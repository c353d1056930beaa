//! How routers learn of the replicas: late, and not always.

use std::time::Duration;

use policy::event::Event as Learned;
use rand::RngExt as _;
use types::replica::{Health, LoadReport, ReplicaId};

use super::{Event, World};
use crate::setup::Kind;

impl World<'_> {
    /// Tells the dispatcher of `router` something that brings about no decision.
    pub(super) fn tell(&mut self, router: u32, event: Learned) {
        // What is decided may bring about news itself.
        let mut decisions = std::mem::take(&mut self.decisions);
        if let Some(it) = self.routers.get_mut(router as usize) {
            it.dispatcher.handle(self.now, event, &mut decisions);
        }
        self.decide(router, &mut decisions);
        self.decisions = decisions;
        self.plan_look(router);
    }

    /// Has a router look at those who wait when it asks for that.
    fn plan_look(&mut self, router: u32) {
        let Some(it) = self.routers.get_mut(router as usize) else { return };
        let Some(at) = it.dispatcher.next_wakeup() else { return };
        if it.look.is_none_or(|planned| at < planned) {
            it.look = Some(at);
            self.calendar.enter(at.max(self.now), Event::Look { router });
        }
    }

    pub(super) fn look(&mut self, router: u32) {
        let now = self.now;
        if let Some(it) = self.routers.get_mut(router as usize)
            && it.look.is_some_and(|it| it <= now)
        {
            it.look = None;
            self.tell(router, Learned::TimePassed);
        }
    }

    /// Tells routers how fast a replica is, where they are to know.
    pub(super) fn tell_speed(&mut self, replica: u32) {
        let Kind::Engine(profile) = &self.setup.kind else { return };
        let Some(it) = self.replicas.get(replica as usize) else { return };
        if !self.setup.signals.speeds_known {
            return;
        }
        let (form, step) = (self.setup.dispatcher.estimate.coefficients, profile.step);
        let prefill = it.slowness * step.token_us / form.prefill_us;
        let decode = it.slowness * (step.overhead_ms + step.weights_ms) / form.step_ms;
        for router in &mut self.routers {
            router.dispatcher.know_speed(ReplicaId(replica), prefill, decode);
        }
    }

    /// Tells a router how it now sees a replica, unless it sees it so already.
    pub(super) fn see(&mut self, router: u32, replica: u32, health: Health) {
        let routers = self.routers.get_mut(router as usize);
        let Some(seen) = routers.and_then(|it| it.seen.get_mut(replica as usize)) else { return };
        if *seen != health {
            *seen = health;
            let replica = ReplicaId(replica);
            self.tell(router, Learned::HealthChanged { replica, health });
        }
    }

    /// What `router` was told of a replica.
    pub(super) fn seen(&self, router: u32, replica: u32) -> Option<Health> {
        self.routers.get(router as usize)?.seen.get(replica as usize).copied()
    }

    pub(super) fn router_numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.routers.len()).unwrap_or(u32::MAX)
    }

    /// Has every router's next probe of a replica find out how it is.
    pub(super) fn probe_soon(&mut self, replica: u32) {
        for router in self.router_numbers() {
            let at = self.now + self.setup.signals.health_delay;
            self.calendar.enter(at, Event::Probed { router, replica });
        }
    }

    pub(super) fn probed(&mut self, router: u32, replica: u32) {
        let Some(it) = self.replicas.get(replica as usize) else { return };
        let (is_up, is_reachable, is_draining) =
            (it.is_up, it.is_reachable_from(router), it.is_draining());
        let Some(seen) = self.seen(router, replica).filter(|_| !it.is_gone && !is_draining) else {
            return;
        };
        if is_up && is_reachable {
            self.see(router, replica, Health::Ready);
        } else if seen == Health::Ready {
            self.eject(router, replica, !is_up);
        }
    }

    /// Takes a replica out of a router's rotation. One where nothing listens has lost its cache.
    pub(super) fn eject(&mut self, router: u32, replica: u32, is_down: bool) {
        if self.seen(router, replica) != Some(Health::Ready) {
            return;
        }
        self.see(router, replica, Health::Ejected);
        if is_down {
            self.tell(router, Learned::CacheLost(ReplicaId(replica)));
        }
    }

    /// Lets every router begin to read loads, each at a moment of its own.
    pub(super) fn start_scraping(&mut self) {
        let Some(interval) = self.setup.signals.scrape_interval else { return };
        for router in self.router_numbers() {
            let phase = self.signal_draws.random_range(Duration::ZERO..=interval);
            self.enter_news(self.now + phase, Event::Scrape { router });
        }
    }

    pub(super) fn enter_news(&mut self, at: types::time::Timestamp, event: Event) {
        self.news = self.news.saturating_add(1);
        self.calendar.enter(at, event);
    }

    /// Takes note that news has arrived.
    pub(super) fn heard_news(&mut self) {
        self.news = self.news.saturating_sub(1);
    }

    /// Whether more is to come than news: a run without that is over, or stuck.
    pub(super) fn goes_on(&mut self) -> bool {
        let is_over = self.left >= self.requests;
        let is_stuck = self.arrivals.peek().is_none() && self.calendar.len() == self.news;
        !is_over && !is_stuck
    }

    pub(super) fn scrape(&mut self, router: u32) {
        self.heard_news();
        let interval = self.setup.signals.scrape_interval;
        let Some(interval) = interval.filter(|_| self.goes_on()) else { return };
        let signals = self.setup.signals;
        for replica in 0..u32::try_from(self.replicas.len()).unwrap_or(u32::MAX) {
            let is_lost = signals.scrape_loss > 0.0
                && self.signal_draws.random::<f64>() < signals.scrape_loss;
            let Some(it) = self.replicas.get(replica as usize) else { continue };
            if is_lost || self.blind > 0 || !it.is_up || !it.is_reachable_from(router) {
                continue;
            }
            let mut report = it.server.load(it.elapsed(self.now));
            if !signals.kv_usage_told {
                report.kv_usage = 0.0;
            }
            if !signals.preemptions_told {
                report.preemptions = None;
            }
            let at = self.now + signals.scrape_delay;
            self.enter_news(at, Event::Reported { router, replica, report });
        }
        self.enter_news(self.now + interval, Event::Scrape { router });
    }

    pub(super) fn reported(&mut self, router: u32, replica: u32, report: LoadReport) {
        self.heard_news();
        let replica = ReplicaId(replica);
        self.tell(router, Learned::LoadReported { replica, report });
    }
}
