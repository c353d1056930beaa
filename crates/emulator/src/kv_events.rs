//! Publishes what the engine stores and evicts, as vLLM does: numbered batches, and the last of them
//! again for whoever asks.
//!
//! The engine knows names of blocks; what a subscriber needs are their tokens. Those of a request are
//! kept from its arrival until it has left, which is as long as its blocks may still be stored.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use engine::KvMessage;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use types::{block::BlockHash, quantity::Tokens};
use wire::kv_events::{Batch, EngineHash, Event, Extra, Removed, Stored, encode};
use zeromq::{
    PubSocket, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqError, ZmqMessage,
};

/// Batches that can be asked for again, as in vLLM.
const REPLAY_MAX: usize = 10_000;

/// Batches that wait to be published; one that finds no room is missed by all who listen.
const WAITING_MAX: usize = 1_024;

/// What ends a replay, in place of a number.
const END: u64 = u64::MAX;

/// Where events are published, `tcp://HOST:PORT` each; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEvents {
    /// Where they are published.
    pub endpoint: String,
    /// Where they can be asked for again.
    pub replay: Option<String>,
    /// What messages begin with.
    pub topic: String,
}

impl KvEvents {
    /// Where replica number `index` publishes, counted from nought: on the ports after the first one's.
    pub(crate) fn of_replica(&self, index: u16) -> Self {
        let shifted = |endpoint: &String| match endpoint.rsplit_once(':') {
            Some((host, port)) => match port.parse::<u16>() {
                Ok(0) | Err(_) => endpoint.clone(),
                Ok(port) => format!("{host}:{}", port.saturating_add(index)),
            },
            None => endpoint.clone(),
        };
        Self {
            endpoint: shifted(&self.endpoint),
            replay: self.replay.as_ref().map(shifted),
            topic: self.topic.clone(),
        }
    }
}

/// The tokens of a request's blocks, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) blocks: Vec<(BlockHash, Box<[u32]>)>,
    /// The client's own separator.
    pub(crate) salt: Option<String>,
}

/// What a block holds.
#[derive(Debug)]
struct Known {
    tokens: Box<[u32]>,
    /// What separates the prompt that it begins from others.
    salt: Option<String>,
    /// Requests that bring it.
    requests: u32,
}

/// Turns the engine's messages into batches and hands them to who publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    batches: mpsc::Sender<(u64, Bytes)>,
    recent: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
    /// What blocks hold that may yet be stored.
    content: HashMap<BlockHash, Known>,
    /// Events of the step under way.
    events: Vec<Event>,
    block: u32,
    number: u64,
    /// Events published, over restarts too.
    published: u64,
    /// Batches to be kept from those who listen.
    to_lose: u32,
}

impl Publisher {
    /// A publisher, and what it hands over.
    pub(crate) fn new(block: Tokens) -> (Self, Outlet) {
        let (sender, batches) = mpsc::channel(WAITING_MAX);
        let recent = Arc::<Mutex<VecDeque<_>>>::default();
        let publisher = Self {
            batches: sender,
            recent: Arc::clone(&recent),
            content: HashMap::new(),
            events: Vec::new(),
            block: block.0,
            number: 0,
            published: 0,
            to_lose: 0,
        };
        (publisher, Outlet { batches, recent })
    }

    /// Learns the tokens of a request that arrives.
    pub(crate) fn arrived(&mut self, content: &Content) {
        for (at, (name, tokens)) in content.blocks.iter().enumerate() {
            let salt = content.salt.clone().filter(|_| at == 0);
            let known = || Known { tokens: tokens.clone(), salt, requests: 0 };
            let known = self.content.entry(*name).or_insert_with(known);
            known.requests = known.requests.saturating_add(1);
        }
    }

    /// Forgets the tokens of a request that has left.
    pub(crate) fn left(&mut self, content: &Content) {
        for (name, _) in &content.blocks {
            let Some(known) = self.content.get_mut(name) else { continue };
            known.requests = known.requests.saturating_sub(1);
            if known.requests == 0 {
                self.content.remove(name);
            }
        }
    }

    /// Notes what the engine did.
    pub(crate) fn note(&mut self, messages: Vec<KvMessage>) {
        for message in messages {
            match message {
                KvMessage::Cleared => self.events.push(Event::Cleared),
                KvMessage::Removed(name) => self.events.push(Event::Removed(Removed {
                    hashes: vec![EngineHash(name.0)],
                    medium: Some("GPU".to_owned()),
                    group: Some(0),
                })),
                KvMessage::Stored { parent, blocks } => self.note_stored(parent, &blocks),
            }
        }
    }

    fn note_stored(&mut self, parent: Option<BlockHash>, blocks: &[BlockHash]) {
        let known = || blocks.iter().map_while(|it| self.content.get(it));
        let tokens: Vec<u32> = known().flat_map(|it| it.tokens.iter().copied()).collect();
        let extra: Vec<Vec<Extra>> =
            known().map(|it| it.salt.iter().cloned().map(Extra::Text).collect()).collect();
        // Nobody asks for what was made after a preemption and is in no prompt.
        let hashes: Vec<_> = blocks.iter().take(extra.len()).map(|it| EngineHash(it.0)).collect();
        if hashes.is_empty() {
            return;
        }
        self.events.push(Event::Stored(Stored {
            hashes,
            parent: parent.map(|it| EngineHash(it.0)),
            tokens,
            block: self.block,
            medium: Some("GPU".to_owned()),
            extra,
            group: Some(0),
            attention: Some("full_attention".to_owned()),
            ..Stored::default()
        }));
    }

    /// Publishes what was noted since the last call as one batch.
    pub(crate) fn publish(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let events = std::mem::take(&mut self.events);
        self.published = self.published.saturating_add(events.len() as u64);
        let batch = Batch { at_s: since.as_secs_f64(), events, rank: Some(0) };
        let payload = Bytes::from(encode(&batch));
        let number = self.number;
        self.number = number.saturating_add(1);
        {
            let mut recent = self.recent.lock();
            if recent.len() >= REPLAY_MAX {
                recent.pop_front();
            }
            recent.push_back((number, payload.clone()));
        }
        if self.to_lose > 0 {
            self.to_lose = self.to_lose.saturating_sub(1);
        } else if self.batches.try_send((number, payload)).is_err() {
            tracing::warn!(number, "KV events come faster than they are sent; a batch is lost");
        }
    }

    /// Keeps the next `batches` from those who listen; whoever asks for them gets them.
    pub(crate) const fn lose(&mut self, batches: u32) {
        self.to_lose = self.to_lose.saturating_add(batches);
    }

    /// Events published, over restarts too.
    pub(crate) const fn published(&self) -> u64 {
        self.published
    }

    /// Becomes what a new process would have.
    pub(crate) fn restart(&mut self) {
        self.recent.lock().clear();
        self.content.clear();
        self.events.clear();
        self.number = 0;
    }
}

/// What waits to be published, and what can be asked for again.
#[derive(Debug)]
pub(crate) struct Outlet {
    batches: mpsc::Receiver<(u64, Bytes)>,
    recent: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
}

/// Open sockets, and where they are.
pub(crate) struct Sockets {
    publisher: PubSocket,
    replay: Option<RouterSocket>,
    topic: String,
    /// Where they are.
    pub(crate) bound: KvEvents,
}

impl Sockets {
    /// Opens what `wanted` asks for. Unlike vLLM's, the publisher binds whatever its address.
    pub(crate) async fn open(wanted: &KvEvents) -> io::Result<Self> {
        let failed = |error: ZmqError| io::Error::other(error.to_string());
        let mut publisher = PubSocket::new();
        let endpoint = publisher.bind(&local(&wanted.endpoint)).await.map_err(failed)?;
        let (mut replay, mut replay_endpoint) = (None, None);
        if let Some(wanted) = &wanted.replay {
            let mut socket = RouterSocket::new();
            let endpoint = socket.bind(&local(wanted)).await.map_err(failed)?;
            replay_endpoint = Some(endpoint.to_string());
            replay = Some(socket);
        }
        let topic = wanted.topic.clone();
        let bound = KvEvents {
            endpoint: endpoint.to_string(),
            replay: replay_endpoint,
            topic: topic.clone(),
        };
        Ok(Self { publisher, replay, topic, bound })
    }

    /// Sends what comes, and answers who asks, for ever.
    pub(crate) async fn serve(self, mut outlet: Outlet) {
        let Self { mut publisher, mut replay, topic, .. } = self;
        loop {
            tokio::select! {
                Some((number, payload)) = outlet.batches.recv() => {
                    let mut message = ZmqMessage::from(Bytes::from(topic.clone()));
                    message.push_back(Bytes::copy_from_slice(&number.to_be_bytes()));
                    message.push_back(payload);
                    // Nobody may be listening.
                    let _ = publisher.send(message).await;
                }
                Some((who, from)) = asked(replay.as_mut()) => {
                    let Some(replay) = &mut replay else { continue };
                    let recent: Vec<_> =
                        outlet.recent.lock().iter().filter(|it| from <= it.0).cloned().collect();
                    let last = (END, Bytes::new());
                    for (number, payload) in recent.into_iter().chain([last]) {
                        let mut answer = ZmqMessage::from(who.clone());
                        answer.push_back(Bytes::new());
                        answer.push_back(Bytes::from(topic.clone()));
                        answer.push_back(Bytes::copy_from_slice(&number.to_be_bytes()));
                        answer.push_back(payload);
                        if replay.send(answer).await.is_err() {
                            break;
                        }
                    }
                }
                else => return,
            }
        }
    }
}

/// vLLM's way to say any interface.
fn local(endpoint: &str) -> String {
    endpoint.replace("tcp://*:", "tcp://0.0.0.0:")
}

/// Who asks for batches next, and from which number on.
async fn asked(socket: Option<&mut RouterSocket>) -> Option<(Bytes, u64)> {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        let Ok(message) = socket.recv().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let frames = message.into_vec();
        let number = frames.last().and_then(|it| it.as_ref().try_into().ok());
        if let Some((who, number)) = frames.first().cloned().zip(number) {
            return Some((who, u64::from_be_bytes(number)));
        }
    }
}
