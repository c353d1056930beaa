//! The task that follows one replica's engine and tells the dispatcher.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use policy::{config::PrefixConfig, event::Event};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use types::{block::HashKey, quantity::Tokens};
use wire::kv_events::{self, Batch};

pub use super::socket::{BadEndpoint, KvEndpoint};
use super::{
    ledger::{Change, Ledger, Names, Naming, Unusable},
    sequence::{Sequence, Verdict},
    socket::{Message, Replay, Signal, pump},
    status::{Feed, Following},
};
use crate::replica::Replica;

/// Messages that wait between the sockets and the ledger.
const WAITING_MAX: usize = 1_024;

/// Most blocks told to the dispatcher at once: every request waits while it takes them in.
const BLOCKS_AT_ONCE: usize = 256;

/// An engine is silent when it computed so many prompts without an event, for so long.
const SILENT: (u32, Duration) = (8, Duration::from_secs(10));

/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often it is looked whether the replica has said which models it serves.
const MODELS_POLL: Duration = Duration::from_millis(100);

/// Where an engine publishes what it holds, as the operator says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvSource {
    /// Where it publishes; further data-parallel ranks take the ports after it.
    pub endpoint: KvEndpoint,
    /// Where missed messages can be asked for; further ranks take the ports after it.
    pub replay: Option<KvEndpoint>,
    /// What its messages' topics begin with.
    pub topic: String,
    /// Data-parallel ranks, at least one.
    pub ranks: u16,
    /// The model as clients write it; the first one that the replica lists when absent.
    pub model: Option<String>,
}

/// How the router names blocks.
#[derive(Clone, Copy, Debug)]
pub struct BlockNaming {
    /// Keys every name.
    pub key: HashKey,
    /// Tokens in a block.
    pub block: Tokens,
}

impl Default for BlockNaming {
    fn default() -> Self {
        Self { key: HashKey(0), block: PrefixConfig::default().block }
    }
}

/// Follows the engine of `replica` until the task is ended.
pub(crate) async fn follow(
    replica: Arc<Replica>,
    feed: Arc<Feed>,
    source: KvSource,
    naming: BlockNaming,
) {
    let model = match source.model.clone() {
        Some(model) => model,
        None => first_model(&replica).await,
    };
    let naming = Naming { key: naming.key, block: naming.block.0, model };
    let (sender, mut signals) = mpsc::channel(WAITING_MAX);
    let mut pumps = JoinSet::new();
    for rank in 0..source.ranks.max(1) {
        let (endpoint, topic) = (source.endpoint.of_rank(rank), source.topic.clone());
        pumps.spawn(pump(endpoint, topic, rank.into(), sender.clone()));
    }
    let mut follower = Follower::new(replica, feed, source, naming);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let anew = Arc::clone(&follower.feed);
        let result = tokio::select! {
            Some((rank, signal)) = signals.recv() => follower.take(rank, signal).await,
            () = anew.anew.notified() => follower.suspect().await,
            _ = ticks.tick() => {
                follower.look_for_silence();
                Ok(())
            }
        };
        if let Err(why) = result {
            follower.give_up(why);
        }
    }
}

/// The first model that the replica lists, once it does.
async fn first_model(replica: &Replica) -> String {
    loop {
        if let Some(model) = replica.models().first() {
            return model.name.clone();
        }
        tokio::time::sleep(MODELS_POLL).await;
    }
}

struct Follower {
    replica: Arc<Replica>,
    feed: Arc<Feed>,
    source: KvSource,
    naming: Naming,
    ranks: Vec<Rank>,
    names: Names,
    following: Following,
    heard: Instant,
}

/// One data-parallel rank of the engine.
struct Rank {
    sequence: Sequence,
    ledger: Ledger,
    /// Whether everything since its cache was empty is known.
    is_complete: bool,
}

impl Follower {
    fn new(replica: Arc<Replica>, feed: Arc<Feed>, source: KvSource, naming: Naming) -> Self {
        let mut follower = Self {
            replica,
            feed,
            naming,
            ranks: Vec::new(),
            names: Names::default(),
            following: Following::Waiting,
            heard: Instant::now(),
            source,
        };
        follower.forget();
        follower
    }

    /// Forgets what is known of every rank.
    fn forget(&mut self) {
        let rank = |_| Rank {
            sequence: Sequence::default(),
            ledger: Ledger::new(self.naming.clone()),
            is_complete: false,
        };
        self.ranks = (0..self.source.ranks.max(1)).map(rank).collect();
        self.names = Names::default();
    }

    async fn take(&mut self, rank: usize, signal: Signal) -> Result<(), Unusable> {
        match signal {
            Signal::Connected => self.begin_anew().await,
            Signal::Disconnected => {
                self.disconnected();
                Ok(())
            }
            Signal::Message(_) if self.following == Following::Silent => self.begin_anew().await,
            // What it said can't be used. Another process may say what can: the operator may have put right
            // what was wrong.
            Signal::Message(message) if self.following == Following::Unusable => {
                if message.number > 0 {
                    return Ok(());
                }
                self.begin_anew().await?;
                self.live(rank, &message).await
            }
            Signal::Message(message) => self.live(rank, &message).await,
        }
    }

    /// The engine hung up. More often than not it died, and its cache with it; until it is heard again
    /// it is taken to hold nothing but what it is sent from now on.
    fn disconnected(&mut self) {
        if self.following == Following::Waiting {
            return;
        }
        self.forget();
        self.is(Following::Waiting);
        self.replica.observe(Event::CacheLost(self.replica.id()));
    }

    /// Something else says that the cache was lost. Without a replay the numbers will tell.
    async fn suspect(&mut self) -> Result<(), Unusable> {
        if self.source.replay.is_some() { self.begin_anew().await } else { Ok(()) }
    }

    /// Learns from the beginning what the engine holds, as far as it can still say so.
    async fn begin_anew(&mut self) -> Result<(), Unusable> {
        self.forget();
        if self.source.replay.is_none() {
            // Everything is known if the first message turns out to be the engine's first.
            self.is(Following::Waiting);
            return Ok(());
        }
        self.is(Following::Followed);
        for rank in 0..self.ranks.len() {
            if let Some(it) = self.ranks.get_mut(rank) {
                it.is_complete = true;
            }
            self.replay(rank).await?;
        }
        Ok(())
    }

    /// Takes a message that came live.
    async fn live(&mut self, rank: usize, message: &Message) -> Result<(), Unusable> {
        let mut verdict = self.judge(rank, |it| it.live(message.number));
        if verdict == Verdict::Restarted {
            self.restarted(rank);
            verdict = self.judge(rank, |it| it.live(message.number));
        }
        if let Verdict::Missed(from) = verdict {
            self.feed.update(|it| it.gaps = it.gaps.saturating_add(1));
            tracing::warn!(
                replica = self.replica.name(),
                from,
                to = message.number,
                "KV events missed"
            );
            self.replay(rank).await?;
            verdict = self.judge(rank, |it| it.replayed(message.number));
        }
        match verdict {
            Verdict::Next => self.apply(rank, message),
            Verdict::Known | Verdict::Restarted => Ok(()),
            Verdict::Missed(_) => {
                self.incomplete(rank, message.number);
                self.apply(rank, message)
            }
        }
    }

    /// Asks for the messages of a rank that are not known yet.
    async fn replay(&mut self, rank: usize) -> Result<(), Unusable> {
        let Some(endpoint) = &self.source.replay else { return Ok(()) };
        let endpoint = endpoint.of_rank(u16::try_from(rank).unwrap_or_default());
        let Some(from) = self.ranks.get(rank).map(|it| it.sequence.next()) else { return Ok(()) };
        self.feed.update(|it| it.replays = it.replays.saturating_add(1));
        let replica = Arc::clone(&self.replica);
        let failed = |error: zeromq::ZmqError| {
            tracing::warn!(replica = replica.name(), %endpoint, %error, "no replay of KV events");
        };
        let mut replay = match Replay::ask(&endpoint, from).await {
            Ok(replay) => replay,
            Err(error) => {
                failed(error);
                self.lacking(rank);
                return Ok(());
            }
        };
        loop {
            match replay.next().await {
                Ok(Some(message)) => match self.judge(rank, |it| it.replayed(message.number)) {
                    Verdict::Next => self.apply(rank, &message)?,
                    Verdict::Known | Verdict::Restarted => {}
                    // The engine does not remember as far back.
                    Verdict::Missed(_) => {
                        self.incomplete(rank, message.number);
                        self.apply(rank, &message)?;
                    }
                },
                Ok(None) => return Ok(()),
                Err(error) => {
                    failed(error);
                    self.lacking(rank);
                    return Ok(());
                }
            }
        }
    }

    fn judge(&mut self, rank: usize, judge: impl FnOnce(&mut Sequence) -> Verdict) -> Verdict {
        self.ranks.get_mut(rank).map_or(Verdict::Known, |it| judge(&mut it.sequence))
    }

    /// Another process speaks: its cache is empty, and all it said since will be known.
    fn restarted(&mut self, rank: usize) {
        self.feed.update(|it| it.restarts = it.restarts.saturating_add(1));
        tracing::info!(replica = self.replica.name(), "the engine restarted, its cache is empty");
        self.emptied(rank);
    }

    /// Nothing is left in a rank's cache.
    fn emptied(&mut self, rank: usize) {
        let Some(it) = self.ranks.get_mut(rank) else { return };
        if self.source.ranks <= 1 {
            it.ledger = Ledger::new(self.naming.clone());
            self.names = Names::default();
            self.replica.observe(Event::CacheLost(self.replica.id()));
        } else {
            it.ledger.clear(&mut self.names);
            self.tell();
        }
        if let Some(it) = self.ranks.get_mut(rank) {
            it.is_complete = true;
        }
        if self.ranks.iter().all(|it| it.is_complete) && self.following != Following::Followed {
            self.is(Following::Followed);
        }
    }

    /// Messages up to `number` can't be had.
    fn incomplete(&mut self, rank: usize, number: u64) {
        if let Some(it) = self.ranks.get_mut(rank) {
            it.sequence.skip_to(number);
        }
        self.lacking(rank);
    }

    fn lacking(&mut self, rank: usize) {
        if let Some(it) = self.ranks.get_mut(rank) {
            it.is_complete = false;
        }
        self.is(Following::Gap);
    }

    /// Applies what a message says.
    fn apply(&mut self, rank: usize, message: &Message) -> Result<(), Unusable> {
        self.heard = Instant::now();
        self.feed.heard();
        let batch = match kv_events::decode(&message.payload) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(replica = self.replica.name(), %error, "KV events not understood");
                self.lacking(rank);
                return Ok(());
            }
        };
        // A first message means that nothing came before it.
        if message.number == 0 && self.following != Following::Followed {
            self.emptied(rank);
        }
        for event in &batch.events {
            if *event == kv_events::Event::Cleared {
                self.emptied(rank);
                continue;
            }
            let Some(it) = self.ranks.get_mut(rank).filter(|it| it.is_complete) else { continue };
            it.ledger.apply(event, &mut self.names)?;
        }
        self.count(&batch);
        self.tell();
        Ok(())
    }

    fn count(&self, batch: &Batch) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = Duration::try_from_secs_f64(batch.at_s).unwrap_or(now);
        let orphans = self.ranks.iter().map(|it| it.ledger.orphans()).sum();
        self.feed.update(|it| {
            it.events = it.events.saturating_add(batch.events.len() as u64);
            it.lag = now.saturating_sub(at);
            it.orphans = orphans;
        });
    }

    /// Tells the dispatcher what has changed.
    fn tell(&mut self) {
        let replica = self.replica.id();
        for change in self.names.take() {
            match change {
                Change::Removed(blocks) => {
                    for blocks in blocks.chunks(BLOCKS_AT_ONCE) {
                        let blocks = blocks.into();
                        self.replica.observe(Event::BlocksRemoved { replica, blocks });
                    }
                }
                Change::Stored { mut parent, blocks } => {
                    for blocks in blocks.chunks(BLOCKS_AT_ONCE) {
                        let last = blocks.last().copied();
                        let blocks = blocks.into();
                        self.replica.observe(Event::BlocksStored { replica, parent, blocks });
                        parent = last;
                    }
                }
            }
        }
    }

    fn look_for_silence(&mut self) {
        let is_silent = SILENT.0 <= self.feed.unexplained() && SILENT.1 <= self.heard.elapsed();
        if is_silent && self.following == Following::Followed {
            tracing::warn!(
                replica = self.replica.name(),
                "no KV events although prompts are computed"
            );
            self.is(Following::Silent);
        }
    }

    fn give_up(&mut self, why: Unusable) {
        tracing::error!(replica = self.replica.name(), %why, "KV events can't be used");
        self.forget();
        self.is(Following::Unusable);
    }

    /// Notes how the following goes, and tells the dispatcher whether it is to go by it; going by it
    /// begins with nothing held.
    fn is(&mut self, following: Following) {
        let replica = self.replica.id();
        let (before, follows) = (self.following, following == Following::Followed);
        self.following = following;
        self.feed.update(|it| it.following = following);
        if follows || before == Following::Followed {
            self.replica.observe(Event::CacheFollowed { replica, follows });
        }
    }
}
