//! A router before emulated replicas, on free ports of this machine, and a client for it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses the part it needs")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod echo;
pub mod full;
pub mod h2;
pub mod log;
pub mod raw;
pub mod tls;
pub mod witness;

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use emulator::{EmulatorConfig, Fault, Handle};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use policy::{admission::AdmissionConfig, config::StrategyName};
use router::{
    config::{Config, Drain, Replica},
    serve::Router,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub const CHAT: &str = "/v1/chat/completions";

pub const MODEL: &str = "llama-3-8b-h100";

/// Longest wait for anything; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub replicas: Vec<Handle>,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    pub stop: CancellationToken,
    pub router: JoinHandle<()>,
    pub client: HttpClient,
}

pub type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// An answer, received to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Word for programs of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A configuration that forgives nothing for long, and lets everybody in: how fast a machine answers on
/// which tests run is no test's subject.
pub fn config(strategy: StrategyName) -> Config {
    let mut config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        drain: Drain { lame_duck: Duration::ZERO, timeout: Duration::from_secs(5) },
        ..Config::default()
    };
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.policy.strategy = strategy;
    config.admission = AdmissionConfig::off();
    config.health.interval = Duration::from_millis(500);
    config.health.ejection = Duration::from_millis(100);
    config.health.scrape_interval = Duration::from_millis(100);
    config
}

pub async fn emulate(fault: Fault) -> Handle {
    let options = emulator::Options { fault, ..emulator::Options::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config: EmulatorConfig = options.replica().unwrap();
    emulator::spawn(config, listener).unwrap()
}

/// A router before `count` healthy emulated replicas, all ready.
pub async fn stage(strategy: StrategyName, count: usize) -> Stage {
    stage_with(config(strategy), count).await
}

/// A router before the replicas of `config` and `count` healthy emulated ones, all ready.
pub async fn stage_with(mut config: Config, count: usize) -> Stage {
    let mut replicas = Vec::new();
    for at in 0..count {
        let replica = emulate(Fault::None).await;
        config
            .replicas
            .push(Replica { name: Some(format!("r{at}")), ..Replica::at(replica.url()) });
        replicas.push(replica);
    }
    let router = Router::open(config).await.unwrap();
    tokio::time::timeout(PATIENCE, router.all_ready()).await.unwrap();
    let (data, admin) = (router.data().unwrap(), router.admin().unwrap());
    let stop = CancellationToken::new();
    let router = tokio::spawn(router.run(stop.clone().cancelled_owned()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    Stage { replicas, data, admin, stop, router, client }
}

/// A router before the replica at `url`.
pub async fn stage_before(url: String, mut config: Config) -> Stage {
    config.replicas.push(Replica::at(url));
    stage_with(config, 0).await
}

/// A chat of one question whose answer has `output` tokens.
pub fn chat(question: &str, output: u32, stream: bool) -> Value {
    json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": question }],
        "max_tokens": output,
        "ignore_eos": true,
        "stream": stream,
    })
}

impl Stage {
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.data));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(PATIENCE, self.client.request(request)).await.unwrap().unwrap()
    }

    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        received(self.open(Method::POST, path, headers, body).await).await
    }

    pub async fn chat(&self, body: &Value) -> Answer {
        self.post(CHAT, &[], body.to_string()).await
    }

    /// Opens a streamed chat and returns once its head is here.
    pub async fn stream(&self, output: u32) -> Response<Incoming> {
        let body = chat("count", output, true).to_string();
        self.open(Method::POST, CHAT, &[], body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        received(self.open(Method::GET, path, &[], Bytes::new()).await).await
    }

    pub async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.admin))
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        received(self.client.request(request).await.unwrap()).await
    }

    /// The value of a sample of the router's metrics.
    pub async fn metric(&self, sample: &str) -> u64 {
        let text = self.admin(Method::GET, "/metrics", "").await.body;
        let line = text.lines().find_map(|it| it.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0, |it| it.parse().unwrap())
    }

    /// The same of one that need not be whole.
    pub async fn fraction(&self, sample: &str) -> f64 {
        let text = self.admin(Method::GET, "/metrics", "").await.body;
        let line = text.lines().find_map(|it| it.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// The sum of the samples of one of the router's metrics.
    pub async fn metric_sum(&self, name: &str) -> u64 {
        let text = self.admin(Method::GET, "/metrics", "").await.body;
        let samples = text.lines().filter(|it| it.split('{').next() == Some(name));
        samples.map(|it| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub async fn health(&self, replica: usize) -> String {
        let status = self.admin(Method::GET, "/admin/replicas", "").await.json();
        status["replicas"][replica]["health"].as_str().unwrap().to_owned()
    }

    /// Requests and prompt tokens that the dispatcher holds reserved, over all replicas.
    pub async fn reserved(&self) -> u64 {
        let status = self.admin(Method::GET, "/admin/replicas", "").await.json();
        let sum = |name: &str| -> u64 {
            status["replicas"].as_array().unwrap().iter().map(|it| it[name].as_u64().unwrap()).sum()
        };
        sum("in_flight") + sum("queued_prefill_tokens")
    }

    /// Prompt tokens that are not computed, as far as the router knows.
    pub async fn prefilling(&self) -> u64 {
        self.metric_sum("sluice_queued_prefill_tokens").await
    }

    pub fn upstream_in_flight(&self) -> usize {
        self.replicas.iter().map(|it| it.stats().in_flight).sum()
    }

    pub async fn until_idle(&self) {
        until("nothing is reserved", async || self.reserved().await == 0).await;
    }
}

pub async fn received(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap();
    let body = body.map(|it| it.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    Answer { status: head.status, headers: head.headers, body }
}

/// Waits until `holds`, and fails when that takes too long.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still waiting until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
