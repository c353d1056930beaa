//! What this router tells the others of its fleet: where its requests went, and that they left.
//!
//! Whoever listens has an outbox of its own, filled while the dispatcher's lock is held, so that what is
//! told has the dispatcher's order. An outbox is bounded: who takes too little loses what is oldest, and is
//! told how much that was. Nothing here waits for anybody.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use policy::event::News;
use tokio::sync::Notify;

/// Most who listen at once.
const LISTENERS_MAX: usize = 64;

/// Most that waits for one who listens, in pieces of news and in blocks that they name.
const NEWS_MAX: usize = 4_096;
const BLOCKS_MAX: usize = 1 << 20;

/// Most that is taken at once.
const TAKEN_AT_ONCE: usize = 64;

/// What this router has to tell, and to whom.
#[derive(Debug, Default)]
pub struct Placements {
    outboxes: Mutex<Vec<Arc<Outbox>>>,
    /// Whether anybody listens: asked with every event.
    is_heard: AtomicBool,
    told: AtomicU64,
    dropped: AtomicU64,
}

/// What waits for one who listens.
#[derive(Debug, Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    news: VecDeque<News>,
    blocks: usize,
    lost: u64,
}

/// One who listens; dropping it ends that.
#[derive(Debug)]
pub struct Listener {
    placements: Arc<Placements>,
    outbox: Arc<Outbox>,
}

/// What came since the last time.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// How many pieces of news were dropped before these.
    pub lost: u64,
    /// The others, oldest first.
    pub news: Vec<News>,
}

impl Placements {
    /// Begins to keep what is told from now on; nobody listens where too many do.
    #[must_use]
    pub fn listen(self: &Arc<Self>) -> Option<Listener> {
        let mut outboxes = self.outboxes.lock();
        if LISTENERS_MAX <= outboxes.len() {
            return None;
        }
        let outbox = Arc::<Outbox>::default();
        outboxes.push(Arc::clone(&outbox));
        self.is_heard.store(true, Ordering::Release);
        Some(Listener { placements: Arc::clone(self), outbox })
    }

    /// Whether anybody listens.
    pub(crate) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Acquire)
    }

    /// Tells everybody who listens.
    pub(crate) fn tell(&self, news: &News) {
        for outbox in self.outboxes.lock().iter() {
            self.told.fetch_add(1, Ordering::Relaxed);
            self.dropped.fetch_add(outbox.put(news.clone()), Ordering::Relaxed);
        }
    }

    /// How many listen, how many pieces of news they were told together, and how many of those were
    /// dropped because they were not taken in time.
    #[must_use]
    pub fn counts(&self) -> (usize, u64, u64) {
        let listeners = self.outboxes.lock().len();
        (listeners, self.told.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

impl Outbox {
    /// Puts a piece of news last, and drops the oldest where there is no room. Returns how many.
    fn put(&self, news: News) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.blocks = waiting.blocks.saturating_add(blocks(&news));
        waiting.news.push_back(news);
        let mut dropped = 0_u64;
        while NEWS_MAX < waiting.news.len()
            || (BLOCKS_MAX < waiting.blocks && 1 < waiting.news.len())
        {
            let Some(oldest) = waiting.news.pop_front() else { break };
            waiting.blocks = waiting.blocks.saturating_sub(blocks(&oldest));
            dropped = dropped.saturating_add(1);
        }
        waiting.lost = waiting.lost.saturating_add(dropped);
        drop(waiting);
        self.filled.notify_one();
        dropped
    }

    fn take(&self) -> Told {
        let mut waiting = self.waiting.lock();
        let lost = std::mem::take(&mut waiting.lost);
        let count = waiting.news.len().min(TAKEN_AT_ONCE);
        let news: Vec<News> = waiting.news.drain(..count).collect();
        waiting.blocks = waiting.blocks.saturating_sub(news.iter().map(blocks).sum());
        Told { lost, news }
    }
}

impl Listener {
    /// Waits until there is something to tell, and takes it. Nothing is lost when this is given up.
    pub async fn next(&self) -> Told {
        loop {
            let told = self.outbox.take();
            if !told.news.is_empty() {
                return told;
            }
            self.outbox.filled.notified().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut outboxes = self.placements.outboxes.lock();
        outboxes.retain(|it| !Arc::ptr_eq(it, &self.outbox));
        self.placements.is_heard.store(!outboxes.is_empty(), Ordering::Release);
    }
}

/// Blocks that a piece of news names.
fn blocks(news: &News) -> usize {
    match news {
        News::Placed { request, .. } => request.blocks.len(),
        News::FirstToken(_) | News::Ended { .. } | News::Lost => 0,
    }
}

#[cfg(test)]
mod tests {
    use types::{
        block::BlockHash,
        quantity::Tokens,
        replica::ReplicaId,
        request::{ModelId, Request, RequestId},
    };

    use super::*;

    fn placed(id: u64, blocks: u64) -> News {
        let blocks = (0..blocks).map(BlockHash).collect();
        let request = Request::new(RequestId(id), ModelId(1), Tokens(1), blocks);
        News::Placed { request, replica: ReplicaId(0), cached: Tokens(0) }
    }

    #[tokio::test]
    async fn everybody_who_listens_is_told_in_order() {
        let placements = Arc::new(Placements::default());
        assert!(!placements.is_heard());
        let (one, other) = (placements.listen().unwrap(), placements.listen().unwrap());
        let news = [placed(1, 3), News::FirstToken(RequestId(1))];
        news.iter().for_each(|it| placements.tell(it));
        for it in [&one, &other] {
            assert_eq!(it.next().await, Told { lost: 0, news: news.to_vec() });
        }
        drop(one);
        assert!(placements.is_heard());
        drop(other);
        assert!(!placements.is_heard());
        assert_eq!(placements.counts(), (0, 4, 0));
    }

    #[tokio::test]
    async fn who_takes_nothing_loses_the_oldest_and_nobody_waits_for_it() {
        let placements = Arc::new(Placements::default());
        let (slow, quick) = (placements.listen().unwrap(), placements.listen().unwrap());
        let most = NEWS_MAX as u64;
        let mut taken = 0;
        for id in 0..most + 100 {
            placements.tell(&placed(id, 1));
            taken += quick.next().await.news.len() as u64;
        }
        assert_eq!(taken, most + 100);
        assert_eq!(placements.counts().2, 100);
        let first = slow.next().await;
        assert_eq!((first.lost, first.news.len()), (100, TAKEN_AT_ONCE));
        assert_eq!(first.news[0], placed(100, 1));
        assert_eq!(slow.next().await.lost, 0);
    }

    #[tokio::test]
    async fn long_prompts_are_bounded_by_what_they_take() {
        let placements = Arc::new(Placements::default());
        let slow = placements.listen().unwrap();
        for id in 0..200 {
            placements.tell(&placed(id, 8_192));
        }
        let waiting = slow.outbox.waiting.lock();
        assert_eq!((waiting.news.len(), waiting.blocks), (BLOCKS_MAX / 8_192, BLOCKS_MAX));
        assert_eq!(waiting.lost, 200 - waiting.news.len() as u64);
    }

    #[test]
    fn only_so_many_listen() {
        let placements = Arc::new(Placements::default());
        let all: Vec<_> = (0..LISTENERS_MAX).map(|_| placements.listen().unwrap()).collect();
        assert!(placements.listen().is_none());
        drop(all);
        assert!(placements.listen().is_some());
    }
}
