//! What routers tell each other of their requests, on its way between them: late.

use policy::event::{Event as Learned, News, PeerId, Placement};
use types::{outcome::Outcome, request::RequestId};

use super::{Event, World};

impl World<'_> {
    /// Has a router tell the others where it placed a request.
    pub(super) fn tell_placement(&mut self, router: u32, number: u64, placement: &Placement) {
        if !self.tells_others() {
            return;
        }
        let dispatcher = self.routers.get(router as usize).map(|it| &it.dispatcher);
        let request = dispatcher.and_then(|it| it.request(RequestId(number))).cloned();
        let Some(request) = request else { return };
        let Placement { replica, cached, .. } = *placement;
        self.tell_others(router, News::Placed { request, replica, cached });
    }

    /// Has a router tell the others that a request left which was turned away after all.
    pub(super) fn tell_left(&mut self, router: u32, number: u64) {
        if self.flight_mut(number).is_some_and(|it| it.attempts > 0) {
            let (request, outcome) = (RequestId(number), Outcome::Failed);
            self.tell_others(router, News::Ended { request, outcome, output: None, cached: None });
        }
    }

    fn tells_others(&self) -> bool {
        self.setup.signals.placements_lag.is_some() && self.routers.len() > 1
    }

    /// Sends what a router has to tell the others on its way.
    pub(super) fn tell_others(&mut self, router: u32, news: News) {
        let Some(lag) = self.setup.signals.placements_lag.filter(|_| self.tells_others()) else {
            return;
        };
        self.enter_news(self.now + lag, Event::Heard { router, news: Box::new(news) });
    }

    /// What a router told reaches the others.
    pub(super) fn heard(&mut self, from: u32, news: &News) {
        self.heard_news();
        let peer = PeerId(u16::try_from(from).unwrap_or(u16::MAX));
        for router in self.router_numbers().filter(|it| *it != from) {
            self.tell(router, Learned::PeerTold { peer, news: news.clone() });
            if let News::Placed { request, .. } = news
                && !self.setup.signals.placements_work
            {
                let (request, outcome) = (request.id, Outcome::Cancelled);
                let ended = News::Ended { request, outcome, output: None, cached: None };
                self.tell(router, Learned::PeerTold { peer, news: ended });
            }
        }
    }
}
