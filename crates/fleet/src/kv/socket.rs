//! The ZeroMQ side: live messages, and those that are asked for again.
//!
//! vLLM binds its publisher only where the address has a wildcard and connects it otherwise, so both
//! ways are spoken here: an address with a wildcard is listened on, any other is connected to.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use zeromq::{
    DealerSocket, Socket as _, SocketEvent, SocketOptions, SocketRecv as _, SocketSend as _,
    SubSocket, ZmqError, ZmqMessage,
};

/// Shortest and longest pause before the next attempt to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Longest time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time between two messages that were asked for.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// What engines send in place of a number after the last message that was asked for.
const END: u64 = u64::MAX;

/// Where an engine publishes: `tcp://HOST:PORT`; with `*` for a host the router listens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEndpoint {
    host: String,
    port: u16,
}

/// A text is no place where an engine publishes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of KV events: write tcp://HOST:PORT, or tcp://*:PORT to listen")]
pub struct BadEndpoint(String);

impl FromStr for KvEndpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let parts = text.strip_prefix("tcp://").and_then(|it| it.rsplit_once(':'));
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && port > 0 => {
                Ok(Self { host: host.to_owned(), port })
            }
            Some(_) | None => Err(BadEndpoint(text.to_owned())),
        }
    }
}

impl fmt::Display for KvEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}:{}", self.host, self.port)
    }
}

impl KvEndpoint {
    /// Where the `rank`-th data-parallel rank publishes.
    pub(super) fn of_rank(&self, rank: u16) -> Self {
        Self { host: self.host.clone(), port: self.port.saturating_add(rank) }
    }

    fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "*" | "0.0.0.0" | "[::]")
    }

    fn address(&self) -> String {
        let host = if self.host == "*" { "0.0.0.0" } else { &self.host };
        format!("tcp://{host}:{}", self.port)
    }
}

/// Something that comes from an engine.
#[derive(Debug)]
pub(super) enum Signal {
    /// A connection came about: what was published before it is not known.
    Connected,
    /// The connection is gone, and with it perhaps the engine.
    Disconnected,
    /// A message.
    Message(Message),
}

/// A message, still encoded.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) number: u64,
    pub(super) payload: Bytes,
}

/// Passes on what comes from `endpoint` until nobody listens; the queue is bounded, and while it is
/// full the engine's own buffers fill, which ends in a gap that is seen.
pub(super) async fn pump(
    endpoint: KvEndpoint,
    topic: String,
    rank: usize,
    signals: mpsc::Sender<(usize, Signal)>,
) {
    let mut pause = RETRY.0;
    while !signals.is_closed() {
        match pump_once(&endpoint, &topic, rank, &signals).await {
            Ok(()) => pause = RETRY.0,
            Err(error) => {
                tracing::debug!(%endpoint, %error, "cannot receive KV events");
                pause = pause.saturating_mul(2).min(RETRY.1);
            }
        }
        if signals.send((rank, Signal::Disconnected)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Passes on what comes over one connection.
async fn pump_once(
    endpoint: &KvEndpoint,
    topic: &str,
    rank: usize,
    signals: &mpsc::Sender<(usize, Signal)>,
) -> Result<(), ZmqError> {
    let mut socket = SubSocket::with_options(options());
    let mut monitor = socket.monitor();
    socket.subscribe(topic).await?;
    let listens = endpoint.is_wildcard();
    if listens {
        socket.bind(&endpoint.address()).await?;
    } else {
        socket.connect(&endpoint.address()).await?;
        if signals.send((rank, Signal::Connected)).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let signal = tokio::select! {
            biased;
            event = monitor.recv() => match event {
                Ok(SocketEvent::Accepted(..)) => Signal::Connected,
                // Connected again here and not by the library, which waits up to half a minute.
                Ok(SocketEvent::Disconnected(_)) if listens => Signal::Disconnected,
                Ok(SocketEvent::Disconnected(_)) => return Ok(()),
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
            message = socket.recv() => match numbered(message?) {
                Some(message) => Signal::Message(message),
                None => continue,
            },
        };
        if signals.send((rank, signal)).await.is_err() {
            return Ok(());
        }
    }
}

fn options() -> SocketOptions {
    let mut options = SocketOptions::default();
    options.connect_timeout(CONNECT_TIMEOUT);
    options
}

/// The number and the payload of a message: its last two frames, whatever comes before them.
fn numbered(message: ZmqMessage) -> Option<Message> {
    let mut frames = message.into_vec();
    let payload = frames.pop()?;
    let number = frames.pop()?;
    Some(Message { number: u64::from_be_bytes(number.as_ref().try_into().ok()?), payload })
}

/// Messages that were asked for again.
pub(super) struct Replay {
    socket: DealerSocket,
}

impl Replay {
    /// Asks for the messages from number `from` on.
    pub(super) async fn ask(endpoint: &KvEndpoint, from: u64) -> Result<Self, ZmqError> {
        let mut socket = DealerSocket::with_options(options());
        socket.connect(&endpoint.address()).await?;
        let mut message = ZmqMessage::from(Bytes::new());
        message.push_back(Bytes::copy_from_slice(&from.to_be_bytes()));
        socket.send(message).await?;
        Ok(Self { socket })
    }

    /// The next message; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ZmqError> {
        loop {
            let answer = tokio::time::timeout(REPLAY_TIMEOUT, self.socket.recv()).await;
            let answer = answer.map_err(|_| ZmqError::NoMessage)??;
            match numbered(answer) {
                Some(message) if message.number == END => return Ok(None),
                Some(message) => return Ok(Some(message)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_and_others_are_told_the_cure() {
        for text in ["tcp://10.0.0.1:5557", "tcp://*:5557", "tcp://[::1]:7"] {
            assert_eq!(text.parse::<KvEndpoint>().unwrap().to_string(), text);
        }
        for text in ["", "tcp://:1", "tcp://a", "tcp://a:0", "http://a:1", "ipc:///tmp/a"] {
            let error = text.parse::<KvEndpoint>().unwrap_err().to_string();
            assert!(error.contains("write tcp://HOST:PORT"), "{error}");
        }
        let first: KvEndpoint = "tcp://a:5557".parse().unwrap();
        assert_eq!(first.of_rank(2).to_string(), "tcp://a:5559");
    }

    /// vLLM puts the topic between the empty frame and the number, SGLang does not.
    #[test]
    fn replayed_messages_are_read_with_and_without_their_topic() {
        for topic in [None, Some("kv@pod@model")] {
            let mut frames = vec![Bytes::new()];
            frames.extend(topic.map(Bytes::from));
            frames.push(Bytes::copy_from_slice(&7_u64.to_be_bytes()));
            frames.push(Bytes::from("payload"));
            let message = numbered(ZmqMessage::try_from(frames).unwrap()).unwrap();
            assert_eq!((message.number, &message.payload[..]), (7, &b"payload"[..]));
        }
        assert!(numbered(ZmqMessage::from("alone")).is_none());
    }
}
