//! A router as a process of its own, before emulated replicas in this one, and clients that block.

#![allow(dead_code, unreachable_pub, reason = "each test file uses the part it needs")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod balanced;
pub mod load;

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use emulator::{Fault, Handle};
use serde_json::{Value, json};

/// Longest wait for anything; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Emulated replicas, and the threads that run them.
pub struct Fleet {
    pub replicas: Vec<Handle>,
    runtime: tokio::runtime::Runtime,
}

impl Fleet {
    pub fn of(count: usize) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let replicas = (0..count).map(|_| runtime.block_on(replica())).collect();
        Self { replicas, runtime }
    }

    pub fn set_fault(&self, at: usize, fault: Fault) {
        self.runtime.block_on(self.replicas[at].set_fault(fault)).unwrap();
    }

    pub fn in_flight(&self) -> usize {
        self.replicas.iter().map(|it| it.stats().in_flight).sum()
    }

    /// The configuration of a router before them.
    pub fn configuration(&self, more: &str) -> String {
        let mut text = String::from("health: { interval: 500ms, ejection: 200ms }\n");
        text.push_str("admission: { mode: off }\nreplicas:\n");
        for (at, replica) in self.replicas.iter().enumerate() {
            writeln!(text, "  - {{ name: r{at}, url: '{}' }}", replica.url()).unwrap();
        }
        text.push_str(more);
        text
    }
}

async fn replica() -> Handle {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    emulator::spawn(emulator::Options::default().replica().unwrap(), listener).unwrap()
}

/// A router that runs; killed when dropped.
pub struct Router {
    pub child: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    /// What it logged, while somebody reads along.
    pub lines: Arc<Mutex<Vec<String>>>,
    /// What it logs from here on, where nobody does.
    pub unread: Option<BufReader<ChildStderr>>,
}

/// How a router is started.
pub struct Start<'a> {
    pub config: &'a Path,
    pub data: Option<SocketAddr>,
    /// Commands of a shell that come before it.
    pub before: &'a str,
    pub environment: &'a [(&'a str, &'a str)],
    pub arguments: &'a [&'a str],
    pub reads_along: bool,
}

impl<'a> Start<'a> {
    pub fn with(config: &'a Path) -> Self {
        let (before, environment, arguments) = ("", &[][..], &[][..]);
        Self { config, data: None, before, environment, arguments, reads_along: true }
    }

    pub fn now(&self) -> Router {
        let mut shell = Command::new("bash");
        let listen = self.data.map_or_else(|| "127.0.0.1:0".to_owned(), |it| it.to_string());
        let script = format!("{}\nexec \"$@\"", self.before);
        shell.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_sluice"), "--log-format", "json"]);
        shell.args(["serve", "--listen", &listen, "--admin-listen", "127.0.0.1:0", "-c"]);
        shell.arg(self.config).args(self.arguments).envs(self.environment.iter().copied());
        let mut child = shell.stderr(Stdio::piped()).spawn().unwrap();
        let mut unread = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let (data, admin) = loop {
            let mut line = String::new();
            assert_ne!(unread.read_line(&mut line).unwrap(), 0, "it ended: {seen}");
            if let Some(ports) = ports(&line) {
                break ports;
            }
            seen.push_str(&line);
        };
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut router = Router { child, data, admin, lines, unread: Some(unread) };
        if self.reads_along {
            router.read_along();
        }
        router
    }
}

/// The ports in the line that says that they are open.
fn ports(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let port = |name: &str| {
        let port = line.get(name).or_else(|| line.get("fields")?.get(name));
        port?.as_str()?.parse().ok()
    };
    Some((port("listen")?, port("admin")?))
}

impl Router {
    /// Reads what it logs from now on, in a thread of its own.
    pub fn read_along(&mut self) {
        let Some(unread) = self.unread.take() else { return };
        let lines = Arc::clone(&self.lines);
        thread::spawn(move || {
            unread.lines().map_while(Result::ok).for_each(|it| lines.lock().unwrap().push(it));
        });
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Its exit code, and how long it took to come.
    pub fn ended(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn is_ready(&self) -> bool {
        get(self.admin, "/readyz").is_ok_and(|it| it.status == 200)
    }

    pub fn until_ready(&self) {
        until("it is ready", || {
            let status = get(self.admin, "/admin/replicas").map(|it| it.json());
            status.is_ok_and(|it| {
                it["replicas"].as_array().unwrap().iter().all(|it| it["health"] == "ready")
            })
        });
    }

    /// Requests and tokens that it holds reserved.
    pub fn reserved(&self) -> u64 {
        let status = get(self.admin, "/admin/replicas").unwrap().json();
        let sum = |name: &str| -> u64 {
            status["replicas"].as_array().unwrap().iter().map(|it| it[name].as_u64().unwrap()).sum()
        };
        sum("in_flight") + sum("queued_prefill_tokens")
    }

    /// CPU time that it has taken.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(10 * ticks)
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Lines that it has logged with `text` in them.
    pub fn logged(&self, text: &str) -> usize {
        self.logged_where(|it| it.contains(text))
    }

    /// Lines that it has logged of which `is_one`.
    pub fn logged_where(&self, is_one: impl Fn(&str) -> bool) -> usize {
        self.lines.lock().unwrap().iter().filter(|it| is_one(it)).count()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, received to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|it| it.strip_prefix(&prefix)).unwrap_or_default()
    }

    /// Whether it is what was asked for, to its end.
    pub fn is_whole(&self) -> bool {
        self.status == 200 && !self.body.contains("\"error\"")
    }
}

/// A connection that is kept.
pub struct Connection {
    socket: BufReader<TcpStream>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: BufReader::new(socket) })
    }

    /// What comes, byte by byte; nothing of it may have been read as an answer.
    pub fn socket(&mut self) -> &mut impl io::Read {
        &mut self.socket
    }

    pub fn send(&mut self, head: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request =
            format!("{head} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
        self.socket.get_mut().write_all(request.as_bytes())
    }

    pub fn receive(&mut self) -> io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.socket.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.get(9..12).and_then(|it| it.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let lower = head.to_lowercase();
        let mut body = Vec::new();
        if lower.contains("transfer-encoding: chunked") {
            loop {
                let mut size = String::new();
                self.socket.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16)
                    .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                let mut chunk = vec![0; size + 2];
                self.socket.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else if let Some(length) = lower.split("content-length: ").nth(1) {
            let length = length.lines().next().and_then(|it| it.parse().ok()).unwrap_or(0);
            body.resize(length, 0);
            self.socket.read_exact(&mut body)?;
        }
        Ok(Answer { status, head: lower, body: String::from_utf8_lossy(&body).into_owned() })
    }

    pub fn ask(&mut self, head: &str, body: &str) -> io::Result<Answer> {
        self.send(head, body)?;
        self.receive()
    }

    pub fn chat(&mut self, body: &Value) -> io::Result<Answer> {
        self.ask("POST /v1/chat/completions", &body.to_string())
    }
}

pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    Connection::to(address)?.ask(&format!("GET {path}"), "")
}

/// Asks for a chat over a connection of its own.
pub fn chat(address: SocketAddr, body: &Value) -> io::Result<Answer> {
    Connection::to(address)?.chat(body)
}

/// A chat of `question` whose answer has `output` tokens.
pub fn question(question: &str, output: u32, stream: bool) -> Value {
    json!({
        "model": "llama-3-8b-h100",
        "messages": [{ "role": "user", "content": question }],
        "max_tokens": output,
        "ignore_eos": true,
        "stream": stream,
    })
}

/// Waits until `holds`, and fails when that takes too long.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still waiting until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Writes a configuration into `folder`.
pub fn written(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("router.yaml");
    std::fs::write(&file, text).unwrap();
    file
}
