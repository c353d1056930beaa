//! B1: clients hang up in every way, whatever their request is waiting for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{CHAT, HttpClient, Stage, chat, config, raw, stage_with, until};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use policy::{admission::AdmissionConfig, config::StrategyName::LeastRequest};
use router::config::{Config, Replica};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// What a request is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Queued,
    Connecting,
    Head,
    /// Nothing: its answer streams.
    Streaming,
    /// For its stream to go on.
    Silent,
}

/// How a client hangs up.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It says that it sends no more, and that is all.
    Fin,
    Reset,
    /// It resets its stream over HTTP/2; the connection stays.
    ResetStream,
}

/// A promise that leaves time to wait for as long as a test may take.
const PATIENT: (&str, &str) = ("x-sluice-slo-ttft-ms", "600000");

/// What a replica was asked for.
#[derive(Debug, Default)]
struct Asked {
    /// Requests in all.
    count: AtomicUsize,
    /// Those that it has not been rid of.
    open: AtomicUsize,
}

/// A replica that keeps everybody waiting but who says hi.
async fn keeps_waiting() -> (String, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let told = Arc::clone(&asked);
    let url = raw::replica(move |mut socket, request| {
        let asked = Arc::clone(&told);
        async move {
            if request.contains("\"hi\"") {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                return;
            }
            asked.count.fetch_add(1, Ordering::Relaxed);
            asked.open.fetch_add(1, Ordering::Relaxed);
            serve(&mut socket, &request).await;
            asked.open.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    (url, asked)
}

/// Returns when the router closes the connection.
async fn serve(socket: &mut TcpStream, request: &str) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let token = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let begins = !request.contains(&format!("{:?}", Wait::Head));
    if begins && socket.write_all(format!("{head}{token}").as_bytes()).await.is_err() {
        return;
    }
    let streams = request.contains(&format!("{:?}", Wait::Streaming));
    loop {
        let mut byte = [0; 1];
        match tokio::time::timeout(Duration::from_millis(5), socket.read(&mut byte)).await {
            Ok(_) => return,
            Err(_) if streams && socket.write_all(token.as_bytes()).await.is_err() => return,
            Err(_) => {}
        }
    }
}

/// A client that has sent its request and may hang up.
enum Waiting {
    Plain(TcpStream),
    Stream(tokio::task::JoinHandle<()>),
}

async fn ask(stage: &Stage, h2: &HttpClient, wait: Wait, way: Way) -> Waiting {
    let body = chat(&format!("{wait:?}"), 9, true).to_string();
    if let Way::ResetStream = way {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{CHAT}", stage.data))
            .header(PATIENT.0, PATIENT.1)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = h2.request(request);
        return Waiting::Stream(tokio::spawn(async move {
            let _ = answer.await.unwrap().into_body().collect().await;
        }));
    }
    let socket = TcpSocket::new_v4().unwrap();
    if let Way::Reset = way {
        socket.set_zero_linger().unwrap();
    }
    let mut socket = socket.connect(stage.data).await.unwrap();
    let (name, value, length) = (PATIENT.0, PATIENT.1, body.len());
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: r\r\n{name}: {value}\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    Waiting::Plain(socket)
}

impl Waiting {
    /// Hangs up, and returns what must not be dropped for it to be no more than that.
    async fn hang_up(self, way: Way) -> Option<TcpStream> {
        match self {
            Self::Plain(mut socket) => {
                if let Way::Reset = way {
                    return None;
                }
                socket.shutdown().await.unwrap();
                Some(socket)
            }
            Self::Stream(asking) => {
                asking.abort();
                None
            }
        }
    }
}

/// Requests that wait for a replica to have room.
async fn queued(stage: &Stage) -> u64 {
    stage.metric("sluice_requests_waiting{priority=\"default\"}").await
}

/// Connections that this machine has asked `port` for and not been given.
fn connecting(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let asks = |line: &&str| {
        // Lines of other connections, of which there may be thousands, are not taken apart.
        let fields: Vec<&str> = match line.contains(&remote) {
            true => line.split_whitespace().collect(),
            false => return false,
        };
        fields.len() > 3 && fields[2].ends_with(&remote) && fields[3] == "02"
    };
    table.lines().filter(asks).count()
}

/// How long whoever hangs up while `wait`ing goes on being waited for, for each of some tries.
async fn noticed(
    stage: &Stage,
    asked: &Asked,
    (wait, way): (Wait, Way),
    (tries, port): (usize, u16),
) -> Vec<Duration> {
    let h2: HttpClient = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let before = asked.count.load(Ordering::Relaxed);
    // While requests queue, one holds the only seat.
    let open = asked.open.load(Ordering::Relaxed);
    let is_waiting = async || match wait {
        Wait::Queued => queued(stage).await == 1,
        Wait::Connecting => connecting(port) == 1,
        Wait::Head => asked.open.load(Ordering::Relaxed) == open + 1,
        Wait::Streaming | Wait::Silent => {
            // Its first token has come to the router.
            asked.open.load(Ordering::Relaxed) == open + 1 && stage.prefilling().await == 0
        }
    };
    let is_over = async || match wait {
        Wait::Queued => queued(stage).await == 0,
        Wait::Connecting => stage.reserved().await == 0,
        Wait::Head | Wait::Streaming | Wait::Silent => asked.open.load(Ordering::Relaxed) == open,
    };
    let mut took = Vec::new();
    for _ in 0..tries {
        let waiting = ask(stage, &h2, wait, way).await;
        until(&format!("{wait:?} {way:?}: it waits"), is_waiting).await;
        let began = Instant::now();
        let _kept = waiting.hang_up(way).await;
        until(&format!("{wait:?} {way:?}: it is noticed"), is_over).await;
        took.push(began.elapsed());
        if wait == Wait::Connecting {
            until("the connection is given up", async || connecting(port) == 0).await;
        }
    }
    let seen = asked.count.load(Ordering::Relaxed) - before;
    let is_sent = !matches!(wait, Wait::Queued | Wait::Connecting);
    assert_eq!(
        seen,
        if is_sent { tries } else { 0 },
        "{wait:?} {way:?}: as many reach the replica"
    );
    took.sort();
    took
}

/// A router before the replica at `url`, of which nothing is expected.
async fn before(url: String, mut config: Config) -> Stage {
    config.health.timeout = Duration::from_secs(600);
    config.health.silence = Duration::from_secs(600);
    config.health.standstill = Duration::from_secs(600);
    config.timeouts.connect = Duration::from_secs(600);
    config.replicas.push(Replica::at(url));
    stage_with(config, 0).await
}

/// A replica that answers what is asked before it is known to be ready, and then takes no further connection.
async fn full() -> (SocketAddr, tokio::task::JoinHandle<TcpListener>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = socket.write_all(ok).await;
        }
        listener
    });
    (address, answering)
}

/// Hangs up `tries` times in every way in every state; returns the times in which that was noticed, the shortest first.
async fn crossed(tries: usize) -> Vec<Duration> {
    let mut all = Vec::new();
    for wait in [Wait::Queued, Wait::Connecting, Wait::Head, Wait::Streaming, Wait::Silent] {
        let mut config = config(LeastRequest);
        if wait == Wait::Queued {
            config.admission = AdmissionConfig::default();
            config.policy.estimate.coefficients.sequences_max = 1;
        }
        let (mut url, asked) = keeps_waiting().await;
        let (mut listener, mut filling, mut port) = (None, Vec::new(), 0);
        if wait == Wait::Connecting {
            config.health.interval = Duration::from_secs(3_600);
            config.health.scrape_interval = Duration::from_secs(3_600);
            let (address, answering) = full().await;
            (url, port) = (format!("http://{address}"), address.port());
            listener = Some((address, answering));
        }
        let stage = before(url, config).await;
        let mut _kept = None;
        if let Some((address, answering)) = listener {
            _kept = Some(answering.await.unwrap());
            // Until the system answers no further one.
            let more =
                || tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address));
            while let Ok(Ok(it)) = more().await {
                filling.push(it);
            }
            until("those are given up", async || connecting(port) == 0).await;
        }
        let mut seat = None;
        if wait == Wait::Queued {
            // Whoever is less urgent than one just served does not wait for its seat in the engine.
            let urgent = [("x-sluice-priority", "interactive")];
            let body = chat("hi", 1, false).to_string();
            assert_eq!(stage.post(CHAT, &urgent, body).await.status, 200);
            seat = Some(ask(&stage, &stage.client, Wait::Silent, Way::Fin).await);
            until("it has the seat", async || asked.open.load(Ordering::Relaxed) == 1).await;
        }
        for way in [Way::Fin, Way::Reset, Way::ResetStream] {
            let took = noticed(&stage, &asked, (wait, way), (tries, port)).await;
            let ms = |it: usize| took[it].as_secs_f64() * 1e3;
            println!(
                "B1 {wait:?}, {way:?}: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {tries}",
                ms(tries / 2),
                ms(tries * 99 / 100),
                ms(tries - 1)
            );
            assert!(took[tries / 2] < Duration::from_millis(50), "{wait:?} {way:?}: {took:?}");
            all.extend(took);
        }
        drop(seat);
        stage.until_idle().await;
        let gone = stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await;
        let seats = usize::from(wait == Wait::Queued);
        assert_eq!(gone, (3 * tries + seats) as u64, "{wait:?}: each is counted");
    }
    all.sort();
    let ms = |it: usize| all[it].as_secs_f64() * 1e3;
    println!(
        "B1: {} hang-ups, {tries} of each of 15 kinds: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms; nothing reserved",
        all.len(),
        ms(all.len() / 2),
        ms(all.len() * 99 / 100),
        ms(all.len() - 1)
    );
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_hang_up_in_any_way_at_any_time() {
    crossed(7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: benches/full_counts.sh"]
async fn full_b1_clients_may_hang_up_thousands_of_times() {
    let took = crossed(200).await;
    let p90 = took[took.len() * 9 / 10];
    assert!(p90 <= Duration::from_millis(150), "{p90:?}");
}
