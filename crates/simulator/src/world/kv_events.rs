//! What engines publish of their caches, on its way to the routers: late, and at times not at once.
//!
//! A batch that gets lost is noticed with the next one, which brings it along, as an engine's replay
//! does. What a crashed engine had published last arrives and is void: the first word of its
//! successor says that the cache is empty.

use engine::KvMessage;
use policy::event::Event as Learned;
use rand::RngExt as _;
use rustc_hash::FxHashMap;
use types::{block::BlockHash, replica::ReplicaId};

use super::{Event, World};
use crate::{server::Server, setup::Kind};

/// What of a replica's events is under way or known.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Lost, and not yet asked for.
    pub(super) lost: Vec<KvMessage>,
    /// Copies of each block that the routers were told of.
    pub(super) copies: FxHashMap<BlockHash, u32>,
    /// Incarnation that they were told of.
    pub(super) generation: u32,
}

impl World<'_> {
    /// Whether engines publish what they hold, in blocks that the routers can name.
    pub(super) fn publishes(&self) -> bool {
        let Kind::Engine(profile) = &self.setup.kind else { return false };
        self.setup.signals.event_lag.is_some()
            && self.setup.dispatcher.prefix.block == profile.block_size
    }

    /// Has routers follow a replica that joins.
    pub(super) fn follow(&mut self, replica: u32) {
        if self.publishes() {
            for router in self.router_numbers() {
                let followed =
                    Learned::CacheFollowed { replica: ReplicaId(replica), follows: true };
                self.tell(router, followed);
            }
        }
    }

    /// Sends what an engine has to tell on its way.
    pub(super) fn publish(&mut self, at: (u32, u32)) {
        let Some(lag) = self.setup.signals.event_lag.filter(|_| self.publishes()) else { return };
        let Some(it) = self.replicas.get_mut(at.0 as usize) else { return };
        let Server::Engine(engine) = &mut it.server else { return };
        let mut messages = engine.drain_kv_messages();
        if messages.is_empty() {
            return;
        }
        let loss = self.setup.signals.event_loss;
        if loss > 0.0 && self.signal_draws.random::<f64>() < loss {
            it.feed.lost.append(&mut messages);
            return;
        }
        let mut all = std::mem::take(&mut it.feed.lost);
        all.append(&mut messages);
        self.enter_news(self.now + lag, Event::Told { at, messages: all });
    }

    /// What a replica published reaches the routers.
    pub(super) fn told(&mut self, at: (u32, u32), messages: Vec<KvMessage>) {
        self.heard_news();
        let Some(it) = self.replicas.get_mut(at.0 as usize) else { return };
        if it.generation != at.1 || it.is_gone {
            return;
        }
        let mut learned = Vec::new();
        let replica = ReplicaId(at.0);
        if it.feed.generation != at.1 {
            it.feed.generation = at.1;
            it.feed.copies.clear();
            learned.push(Learned::CacheLost(replica));
        }
        for message in messages {
            match message {
                KvMessage::Stored { parent, blocks } => {
                    for block in &blocks {
                        let copies = it.feed.copies.entry(*block).or_default();
                        *copies = copies.saturating_add(1);
                    }
                    let blocks = blocks.into();
                    learned.push(Learned::BlocksStored { replica, parent, blocks });
                }
                KvMessage::Removed(block) => {
                    let Some(copies) = it.feed.copies.get_mut(&block) else { continue };
                    *copies = copies.saturating_sub(1);
                    if *copies == 0 {
                        it.feed.copies.remove(&block);
                        let blocks = Box::new([block]);
                        learned.push(Learned::BlocksRemoved { replica, blocks });
                    }
                }
                KvMessage::Cleared => {
                    it.feed.copies.clear();
                    learned.push(Learned::CacheLost(replica));
                }
            }
        }
        for router in self.router_numbers() {
            learned.iter().for_each(|it| self.tell(router, it.clone()));
        }
    }
}
