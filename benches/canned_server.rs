//! A server that answers every completion alike and costs next to nothing, to measure load generators
//! against.
//!
//! `canned-server ADDRESS [KEY=VALUE…]`, with these keys:
//!
//! * `tokens` (3): tokens of an answer;
//! * `gap_ms` (0): time between them; at 0 an answer is one write;
//! * `service_ms` (0): time before the first token;
//! * `freeze_ms` and `every_ms` (0): requests that come while the server is frozen, the first
//!   `freeze_ms` of every `every_ms`, are served when that is over;
//! * `threads` (1).
//!
//! It parses no more of HTTP/1.1 than it takes to find the end of a request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const MODELS: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 43\r\n\r\n\
                      {\"object\":\"list\",\"data\":[{\"id\":\"canned\"}]}  ";
const EVENT: &str = "data: {\"id\":\"chatcmpl-b42e0e14\",\"object\":\"chat.completion.chunk\",\"model\":\"canned\",\
                     \"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";

/// How requests are answered.
struct Manner {
    started: Instant,
    tokens: u32,
    gap: Duration,
    service: Duration,
    freeze: Duration,
    every: Duration,
    /// One token, as a chunk.
    token: Vec<u8>,
    /// What comes after the last token.
    end: Vec<u8>,
}

impl Manner {
    fn of(values: &BTreeMap<&str, u32>) -> Self {
        let value = |key| values.get(key).copied().unwrap_or(0);
        let ms = |key| Duration::from_millis(value(key).into());
        let tokens = values.get("tokens").copied().unwrap_or(3);
        let usage = format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":20,\"completion_tokens\":{tokens}}}}}\n\n\
             data: [DONE]\n\n"
        );
        Self {
            started: Instant::now(),
            tokens,
            gap: ms("gap_ms"),
            service: ms("service_ms"),
            freeze: ms("freeze_ms"),
            every: ms("every_ms"),
            token: chunk(EVENT),
            end: [chunk(&usage), b"0\r\n\r\n".to_vec()].concat(),
        }
    }

    /// Waits until a request that came now has been served.
    async fn serve(&self) {
        if !self.every.is_zero() {
            let phase = self.started.elapsed().as_nanos().checked_rem(self.every.as_nanos());
            let phase = Duration::from_nanos(phase.and_then(|it| it.try_into().ok()).unwrap_or(0));
            let left = self.freeze.saturating_sub(phase);
            if !left.is_zero() {
                sleep_until(Instant::now() + left).await;
            }
        }
        if !self.service.is_zero() {
            sleep(self.service).await;
        }
    }

    async fn answer(&self, socket: &mut TcpStream) -> std::io::Result<()> {
        self.serve().await;
        if self.gap.is_zero() {
            let mut whole = HEAD.as_bytes().to_vec();
            (0..self.tokens).for_each(|_| whole.extend_from_slice(&self.token));
            whole.extend_from_slice(&self.end);
            return socket.write_all(&whole).await;
        }
        socket.write_all(HEAD.as_bytes()).await?;
        for _ in 0..self.tokens {
            socket.write_all(&self.token).await?;
            sleep(self.gap).await;
        }
        socket.write_all(&self.end).await
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Reads one request to its end; returns its first byte, or none where the connection is over.
async fn request(socket: &mut TcpStream, read: &mut Vec<u8>) -> std::io::Result<Option<u8>> {
    loop {
        if let Some(head) = read.windows(4).position(|it| it == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(read.get(..head).unwrap_or_default());
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let whole = head + 4 + length.unwrap_or(0);
            let first = read.first().copied();
            while read.len() < whole {
                if socket.read_buf(read).await? == 0 {
                    return Ok(None);
                }
            }
            read.drain(..whole);
            return Ok(first);
        }
        if socket.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

async fn connection(mut socket: TcpStream, manner: Arc<Manner>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut read = Vec::with_capacity(1024);
    while let Some(first) = request(&mut socket, &mut read).await? {
        if first == b'G' {
            socket.write_all(MODELS.as_bytes()).await?;
        } else {
            manner.answer(&mut socket).await?;
        }
    }
    Ok(())
}

async fn serve(address: &str, manner: Manner) -> std::io::Result<()> {
    let listener = tokio::net::TcpSocket::new_v4()?;
    listener.set_reuseaddr(true)?;
    listener.bind(address.parse().map_err(std::io::Error::other)?)?;
    let listener: TcpListener = listener.listen(8_192)?;
    let manner = Arc::new(manner);
    loop {
        let (socket, _) = listener.accept().await?;
        // A client that hangs up is no concern of the others.
        tokio::spawn(connection(socket, Arc::clone(&manner)));
    }
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, values @ ..] = arguments.as_slice() else {
        return Err(std::io::Error::other("usage: canned-server ADDRESS [KEY=VALUE…]"));
    };
    let values: BTreeMap<&str, u32> = values
        .iter()
        .filter_map(|it| it.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    let threads = values.get("threads").copied().unwrap_or(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::try_from(threads).map_err(std::io::Error::other)?)
        .enable_all()
        .build()?;
    runtime.block_on(serve(address, Manner::of(&values)))
}
