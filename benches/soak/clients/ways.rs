//! One request in each of the ways that clients have.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::Outcome;
use crate::wire::{connect, request, rest, status};

const CHAT: &str = "/v1/chat/completions";
const MODEL: &str = "llama-3-8b-h100";

/// Conversations that are had, again and again: what is remembered of them is full soon.
const CONVERSATIONS: u64 = 400;

/// Tokens of an answer, and of one that nobody reads.
const OUTPUT: u32 = 60;
const OUTPUT_LONG: u32 = 1_500;

/// How long a client that reads nothing stays; longer than the router waits for it.
const DEAF_FOR: Duration = Duration::from_secs(8);

fn chat(number: u64, output: u32, stream: bool) -> String {
    let conversation = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % CONVERSATIONS;
    let words = "what was said before ".repeat(usize::try_from(conversation % 40).unwrap_or(0));
    format!(
        "{{\"model\":\"{MODEL}\",\"max_tokens\":{output},\"ignore_eos\":true,\"stream\":{stream},\
         \"prompt_cache_key\":\"c{conversation}\",\"messages\":[{{\"role\":\"system\",\
         \"content\":\"conversation {conversation}: {words}\"}},{{\"role\":\"user\",\"content\":\"go on\"}}]}}"
    )
}

async fn asked(router: SocketAddr, number: u64, output: u32) -> io::Result<TcpStream> {
    let mut socket = connect(router).await?;
    socket.write_all(request("POST", CHAT, &chat(number, output, true)).as_bytes()).await?;
    Ok(socket)
}

/// What an answer is, of which there is no more.
fn judged(answer: &str) -> Outcome {
    match status(answer) {
        Some(200) if answer.contains("[DONE]") && !answer.contains("\"error\"") => Outcome::Whole,
        Some(200) | None => Outcome::Broken,
        Some(_) => Outcome::Refused,
    }
}

pub(super) async fn streams(
    router: SocketAddr,
    number: u64,
    first_token: impl FnOnce(),
) -> io::Result<Outcome> {
    let mut socket = asked(router, number, OUTPUT).await?;
    let mut begun = vec![0; 512];
    let read = socket.read(&mut begun).await?;
    begun.truncate(read);
    let mut answer = String::from_utf8_lossy(&begun).into_owned();
    if status(&answer) == Some(200) {
        first_token();
    }
    answer.push_str(&rest(&mut socket).await?);
    Ok(judged(&answer))
}

pub(super) async fn leaves(router: SocketAddr, number: u64, resets: bool) -> io::Result<Outcome> {
    let mut socket = asked(router, number, OUTPUT).await?;
    // At any time: before the head, within it, after some of the answer.
    let enough = usize::try_from(number % 7).unwrap_or(0) * 300;
    let (mut seen, mut bytes) = (0, [0; 256]);
    while seen < enough {
        match socket.read(&mut bytes).await? {
            0 => break,
            read => seen += read,
        }
    }
    if resets {
        socket.set_zero_linger()?;
    }
    Ok(Outcome::Left)
}

pub(super) async fn is_slow(router: SocketAddr, number: u64) -> io::Result<Outcome> {
    let mut socket = asked(router, number, OUTPUT).await?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 256]);
    loop {
        match socket.read(&mut bytes).await? {
            0 => return Ok(judged(&String::from_utf8_lossy(&answer))),
            read => answer.extend(bytes.iter().take(read)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn is_deaf(router: SocketAddr, number: u64) -> io::Result<Outcome> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut socket = socket.connect(router).await?;
    let asks = request("POST", CHAT, &chat(number, OUTPUT_LONG, true));
    socket.write_all(asks.as_bytes()).await?;
    tokio::time::sleep(DEAF_FOR).await;
    Ok(Outcome::Left)
}

pub(super) async fn breaks_off(router: SocketAddr, number: u64) -> io::Result<Outcome> {
    let mut socket = connect(router).await?;
    let asks = request("POST", CHAT, &chat(number, OUTPUT, true));
    let most = asks.len().max(1);
    let some = usize::try_from(number).unwrap_or(0).wrapping_mul(37) % most;
    socket.write_all(asks.as_bytes().get(..some).unwrap_or_default()).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(Outcome::Left)
}

pub(super) async fn is_oversized(router: SocketAddr) -> io::Result<Outcome> {
    let mut socket = connect(router).await?;
    let body = "x".repeat(512 << 10);
    // It may be answered, and the connection closed, before all of it is sent.
    let _ = socket.write_all(request("POST", CHAT, &body).as_bytes()).await;
    Ok(judged(&rest(&mut socket).await?))
}

pub(super) async fn is_garbage(router: SocketAddr, number: u64) -> io::Result<Outcome> {
    let mut socket = connect(router).await?;
    let garbage: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    let at = usize::try_from(number).unwrap_or(0) % garbage.len();
    socket.write_all(garbage.get(at).copied().unwrap_or_default()).await?;
    let answer = tokio::time::timeout(Duration::from_secs(5), rest(&mut socket)).await;
    Ok(match answer {
        Ok(Ok(answer)) if status(&answer).is_some() => Outcome::Refused,
        Ok(_) | Err(_) => Outcome::Left,
    })
}

pub(super) async fn is_wrong(router: SocketAddr, number: u64) -> io::Result<Outcome> {
    let good = chat(number, OUTPUT, true);
    let unknown = good.replace(MODEL, "nobody-serves-this");
    let wrong: [(&str, &str, &str); 6] = [
        ("POST", CHAT, "{\"model\":"),
        ("POST", CHAT, &unknown),
        ("POST", "/v1/nothing", &good),
        ("DELETE", CHAT, ""),
        ("POST", CHAT, "[[[[[[[[[[[[[[[[[[[[[[[["),
        ("GET", "/v1/models", ""),
    ];
    let at = usize::try_from(number).unwrap_or(0) % wrong.len();
    let (method, path, body) = wrong.get(at).copied().unwrap_or_default();
    let answer = crate::wire::ask(router, method, path, body).await?;
    Ok(if status(&answer) == Some(200) { Outcome::Whole } else { judged(&answer) })
}

pub(super) async fn is_slow_to_ask(router: SocketAddr) -> io::Result<Outcome> {
    let mut socket = connect(router).await?;
    socket.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ").await?;
    // Until the router gives it up.
    let _ = rest(&mut socket).await;
    Ok(Outcome::Left)
}

/// Clients whose connections are kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    router: SocketAddr,
    http1: Client<HttpConnector, Full<Bytes>>,
    http2: Client<HttpConnector, Full<Bytes>>,
}

impl Kept {
    pub(super) fn new(router: SocketAddr) -> Self {
        let client = || Client::builder(TokioExecutor::new());
        Self {
            router,
            http1: client().pool_idle_timeout(Duration::from_secs(5)).build_http(),
            http2: client().http2_only(true).build_http(),
        }
    }

    fn request(&self, number: u64, stream: bool) -> io::Result<Request<Full<Bytes>>> {
        let uri: Uri = format!("http://{}{CHAT}", self.router).parse().map_err(io::Error::other)?;
        let body = Full::new(Bytes::from(chat(number, OUTPUT, stream)));
        Request::post(uri).body(body).map_err(io::Error::other)
    }

    pub(super) async fn whole(&self, number: u64) -> io::Result<Outcome> {
        let asked = self.http1.request(self.request(number, false)?);
        let response = asked.await.map_err(io::Error::other)?;
        let is_good = response.status().is_success();
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let is_whole = String::from_utf8_lossy(&body).contains("\"usage\"");
        Ok(match (is_good, is_whole) {
            (true, true) => Outcome::Whole,
            (true, false) => Outcome::Broken,
            (false, _) => Outcome::Refused,
        })
    }

    pub(super) async fn http2(&self, number: u64) -> io::Result<Outcome> {
        let asked = self.http2.request(self.request(number, true)?);
        let mut response = asked.await.map_err(io::Error::other)?;
        if !response.status().is_success() {
            return Ok(Outcome::Refused);
        }
        if number.wrapping_shr(6) % 2 == 1 {
            let _ = response.body_mut().frame().await;
            return Ok(Outcome::Left);
        }
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let is_whole = text.contains("[DONE]") && !text.contains("\"error\"");
        Ok(if is_whole { Outcome::Whole } else { Outcome::Broken })
    }
}

/// A connection over HTTP/2 that is open and asks for nothing.
pub(super) async fn idle_http2(router: SocketAddr) -> io::Result<SendRequest<Full<Bytes>>> {
    let io = TokioIo::new(connect(router).await?);
    let (sender, moving) = handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        let _: Result<(), hyper::Error> = moving.await;
        Ok::<(), Infallible>(())
    });
    Ok(sender)
}
