//! Replicas that cost little, and clients by the hundred, for counts that emulated engines and clients that block
//! are too dear for.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Time between two tokens of a slow stream.
const TOKEN_EVERY: Duration = Duration::from_millis(200);

/// Bytes of each end of a body that a replica looks at.
const END_BYTES: usize = 256;

const HEAD_OF_STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const LAST: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const WHOLE: &str = "{\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\
     \"content\":\"a\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}";

/// What a replica saw, and is told.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    /// Answers whose end has not gone out.
    pub open: AtomicUsize,
    /// Slow streams come to a good end once this is set.
    pub ends: AtomicBool,
}

/// A replica; what it does with a request is said by the words of its body.
pub struct Replica {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

impl Replica {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    /// Starts one on a port that is open.
    pub fn on(listener: TcpListener) -> Self {
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let told = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let seen = Arc::clone(&told);
                tokio::spawn(async move { serve(Wire::of(socket), &seen).await });
            }
        });
        Self { address, seen }
    }
}

/// The lines of a configuration that name them.
pub fn listed(replicas: &[Replica]) -> String {
    let line = |(at, it): (usize, &Replica)| {
        format!("  - {{ name: r{at}, url: 'http://{}' }}\n", it.address)
    };
    format!("replicas:\n{}", replicas.iter().enumerate().map(line).collect::<String>())
}

/// An answer that is open; counted until it is dropped.
struct Open<'a>(&'a Seen);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(mut wire: Wire, seen: &Seen) -> io::Result<()> {
    loop {
        let request = wire.message().await?;
        if !request.head.starts_with("POST ") {
            wire.socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            continue;
        }
        seen.requests.fetch_add(1, Ordering::Relaxed);
        seen.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(seen);
        answer(&mut wire.socket, &ends(&request.body), seen).await?;
    }
}

/// A body's two ends, where all stands that a replica is told: to look through the long ones takes longer than to
/// answer them.
fn ends(body: &[u8]) -> String {
    let first = String::from_utf8_lossy(&body[..body.len().min(END_BYTES)]);
    let rest = &body[body.len().min(END_BYTES)..];
    let last = String::from_utf8_lossy(&rest[rest.len().saturating_sub(END_BYTES)..]);
    first.into_owned() + &last
}

async fn answer(socket: &mut TcpStream, asked: &str, seen: &Seen) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::ConnectionAborted);
    // Those that go wrong come first.
    let fault = asked.split("fault-").nth(1).map(|it| it.split(['"', ' ']).next().unwrap());
    match fault {
        None | Some("breaks" | "dies") => {}
        Some("closed") => return Err(broken()),
        Some("garbage") => {
            socket.write_all(b"\x16\x03\x01 garbage\r\n\r\n").await?;
            return Err(broken());
        }
        Some("silent") => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(broken());
        }
        Some(status) => {
            let answer =
                format!("HTTP/1.1 {status} No\r\ncontent-length: 12\r\n\r\n{{\"error\":{{}}}}");
            return socket.write_all(answer.as_bytes()).await;
        }
    }
    if !asked.contains("\"stream\":true") {
        let length = WHOLE.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        return socket.write_all((head + WHOLE).as_bytes()).await;
    }
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let tokens = asked.split("\"max_tokens\":").nth(1);
    let tokens = tokens.and_then(|it| it.split([',', '}']).next()?.parse().ok()).unwrap_or(3_u64);
    if asked.contains("slow") {
        socket.write_all(HEAD_OF_STREAM.as_bytes()).await?;
        for _ in 0..tokens {
            if seen.ends.load(Ordering::Relaxed) {
                break;
            }
            socket.write_all(chunk(TOKEN).as_bytes()).await?;
            tokio::time::sleep(TOKEN_EVERY).await;
        }
    } else {
        let tokens: String = (0..tokens).map(|_| chunk(TOKEN)).collect();
        socket.write_all((HEAD_OF_STREAM.to_owned() + &tokens).as_bytes()).await?;
    }
    match fault {
        Some("breaks") => return Err(broken()),
        Some("dies") => {
            let error = chunk("data: {\"error\":{\"message\":\"engine dead\",\"code\":500}}\n\n");
            socket.write_all(error.as_bytes()).await?;
        }
        _ => socket.write_all(chunk(LAST).as_bytes()).await?,
    }
    socket.write_all((chunk("data: [DONE]\n\n") + "0\r\n\r\n").as_bytes()).await
}

/// A request or an answer, received to its end.
#[derive(Debug)]
pub struct Message {
    /// In lower case but for its first line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    /// Whether it is what was asked for, to its end.
    pub fn is_whole(&self) -> bool {
        self.status() == 200 && !self.body.windows(7).any(|it| it == b"\"error\"")
    }

    pub fn is_last(&self) -> bool {
        self.head.contains("connection: close")
    }
}

/// A connection, with what has come over it and was not read yet.
pub struct Wire {
    pub socket: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub fn of(socket: TcpStream) -> Self {
        Self { socket, unread: Vec::new() }
    }

    pub async fn to(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::of(socket))
    }

    pub async fn send(&mut self, path: &str, headers: &str, body: &str) -> io::Result<()> {
        self.socket.write_all(request(path, headers, body).as_bytes()).await
    }

    pub async fn chat(&mut self, headers: &str, body: &str) -> io::Result<Message> {
        self.send("/v1/chat/completions", headers, body).await?;
        self.message().await
    }

    /// The next request or answer.
    pub async fn message(&mut self) -> io::Result<Message> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let (first, headers) = head.split_once("\r\n").unwrap();
        let head = format!("{first}\r\n{}", headers.to_lowercase());
        self.unread.drain(..end);
        let body = if head.contains("transfer-encoding: chunked") {
            // No event of these ends so before the last.
            while !self.unread.ends_with(b"0\r\n\r\n") {
                self.more().await?;
            }
            std::mem::take(&mut self.unread)
        } else {
            let length = head.split("content-length: ").nth(1).and_then(|it| it.lines().next());
            let length = length.and_then(|it| it.parse().ok()).unwrap_or(0);
            while self.unread.len() < length {
                self.more().await?;
            }
            self.unread.drain(..length).collect()
        };
        Ok(Message { head, body })
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.socket.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A request as it is sent.
pub fn request(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: r\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// Connections that are kept, and opened when there is none.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Wire>>);

impl Pool {
    /// Asks for a chat at `address`, whose connections these are.
    pub async fn chat(
        &self,
        address: SocketAddr,
        headers: &str,
        body: &str,
    ) -> io::Result<Message> {
        let kept = self.0.lock().unwrap().pop();
        let mut wire = match kept {
            Some(wire) => wire,
            None => Wire::to(address).await?,
        };
        let answer = wire.chat(headers, body).await?;
        if !answer.is_last() {
            self.0.lock().unwrap().push(wire);
        }
        Ok(answer)
    }

    /// Closes those that nobody uses.
    pub fn close(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A chat of `question`; `slow` within it makes the replica take its time.
pub fn asking(question: &str, tokens: u64, stream: bool) -> String {
    format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{question}\"}}],\
         \"stream\":{stream},\"max_tokens\":{tokens}}}"
    )
}

/// A line of the process's status, such as `VmRSS` or `VmHWM`, in bytes.
pub fn memory(process: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}
