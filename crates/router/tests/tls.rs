//! TLS on both ports, and to replicas.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use common::{
    CHAT, Stage, chat, config, emulate, h2, raw, received, stage_with,
    tls::{Authority, Certified, Front, ask, connect, question},
    until,
};
use emulator::Fault;
use fleet::tls::TrustFiles;
use http::{Method, Request, Version};
use http_body_util::Full;
use policy::config::StrategyName::RoundRobin;
use router::{
    config::{self as settings, Config, Replica, Tls, Upstream},
    reload::Source,
    serve::Router,
};
use tokio::io::AsyncReadExt as _;

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];
const HTTP_1: &[&[u8]] = &[b"http/1.1"];

fn port(own: &Certified, client_ca: Option<&Path>) -> Option<Tls> {
    let (cert, key) = (own.cert.clone(), own.key.clone());
    Some(Tls { cert, key, client_ca: client_ca.map(Path::to_owned) })
}

fn seen(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("https://localhost{path}")).header("host", "localhost");
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn e9_both_ports_speak_tls_and_agree_on_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = authority.vouch(folder.path(), "own", "localhost");
    let mut config = config(RoundRobin);
    config.tls = port(&own, None);
    config.admin.tls = port(&own, None);
    let stage = stage_with(config, 1).await;
    for (protocols, version) in [(BOTH, Version::HTTP_2), (HTTP_1, Version::HTTP_11)] {
        let client = authority.client(None, protocols);
        let stream = connect(stage.data, client.clone()).await.unwrap();
        let answer = ask(stream, question()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        let answer = received(answer).await;
        assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
        let stream = connect(stage.admin, client).await.unwrap();
        let answer = ask(stream, seen("/admin/replicas")).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    let stranger = Authority::new().client(None, BOTH);
    assert!(connect(stage.data, stranger).await.is_err(), "nobody it trusts vouches for it");
    let mut plain = raw::post(stage.data, CHAT, "{}").await;
    let mut bytes = Vec::new();
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(!String::from_utf8_lossy(&bytes).contains("HTTP"), "nothing is served without TLS");
}

#[tokio::test]
async fn a_client_must_show_a_certificate_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let own = authority.vouch(folder.path(), "own", "localhost");
    let alice = clients.vouch(folder.path(), "alice", "alice.example");
    let mallory = Authority::new().vouch(folder.path(), "mallory", "alice.example");
    let mut config = config(RoundRobin);
    config.tls = port(&own, Some(&clients.file(folder.path(), "clients")));
    let stage = stage_with(config, 1).await;
    let asked = async |shown: Option<&Certified>| {
        // With TLS 1.3 a client learns of its refusal when it first reads.
        let stream = connect(stage.data, authority.client(shown, BOTH)).await.ok()?;
        ask(stream, question()).await.ok().map(|it| it.status().as_u16())
    };
    assert_eq!(asked(Some(&alice)).await, Some(200));
    assert_eq!(asked(None).await, None);
    assert_eq!(asked(Some(&mallory)).await, None);
    stage.until_idle().await;
    let complete = stage.metric("sluice_requests_total{outcome=\"complete\"}").await;
    let gone = stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await;
    assert_eq!(complete + gone, 1, "nothing of the others' was read");
}

/// A router that reads `file`, and where its data port is.
async fn reading(file: &Path) -> (Router, std::net::SocketAddr) {
    let path = file.to_owned();
    let source = Source::new(file.to_owned(), move || settings::load(&path));
    let router = Router::open(source.read().unwrap()).await.unwrap().reloading(source);
    router.all_ready().await;
    let data = router.data().unwrap();
    (router, data)
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_who_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let own = old.vouch(folder.path(), "own", "localhost");
    let replica = emulate(Fault::None).await;
    let file = folder.path().join("router.yaml");
    let text = format!(
        "listen: 127.0.0.1:0\nadmin: {{ listen: '127.0.0.1:0' }}\ntls: {{ cert: {}, key: {} }}\n\
         replicas: [{{ url: '{}' }}]\n",
        own.cert.display(),
        own.key.display(),
        replica.url()
    );
    std::fs::write(&file, text).unwrap();
    let (router, data) = reading(&file).await;
    tokio::spawn(router.run(std::future::pending()));
    let kept = connect(data, old.client(None, HTTP_1)).await.unwrap();
    // The configuration stays as it is: that the files changed is enough.
    new.vouch(folder.path(), "own", "localhost");
    until("the new one is shown", async || connect(data, new.client(None, BOTH)).await.is_ok())
        .await;
    assert!(connect(data, old.client(None, BOTH)).await.is_err());
    assert_eq!(ask(kept, question()).await.unwrap().status(), 200, "who was there stays");
    // A file that can't be used changes nothing.
    std::fs::write(&own.key, "no key").unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(connect(data, new.client(None, BOTH)).await.is_ok());
}

#[test]
fn every_bad_file_is_one_clear_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = authority.vouch(folder.path(), "own", "localhost");
    let other = authority.vouch(folder.path(), "other", "localhost");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let missing = folder.path().join("missing");
    let with = |cert: &Path, key: &Path, client_ca: Option<&Path>| {
        let mut config = Config { replicas: vec![Replica::at("http://a:1")], ..config(RoundRobin) };
        config.tls =
            Some(Tls { cert: cert.into(), key: key.into(), client_ca: client_ca.map(Into::into) });
        config
    };
    let to = |tls: TrustFiles| {
        let replicas = vec![Replica::at("https://a:1"), Replica::at("https://a:2")];
        Config { replicas, upstream: Upstream { http2: false, tls }, ..config(RoundRobin) }
    };
    let some = |it: &Path| Some(it.to_owned());
    let files = TrustFiles { ca: some(&own.cert), ..TrustFiles::default() };
    for (config, problem) in [
        (with(&missing, &own.key, None), "tls.cert: cannot read"),
        (with(&empty, &own.key, None), "tls.cert: there is no certificate in"),
        (with(&own.cert, &own.cert, None), "tls.key: there is no private key in"),
        (with(&own.cert, &other.key, None), "tls.key: it is not the key of `cert`"),
        (with(&own.cert, &own.key, Some(&empty)), "tls.client_ca: there is no certificate in"),
        (to(TrustFiles { ca: some(&missing), ..files.clone() }), "upstream.tls.ca: cannot read"),
        (
            to(TrustFiles { cert: some(&own.cert), ..files.clone() }),
            "upstream.tls.key: name the key",
        ),
        (
            to(TrustFiles { cert: some(&own.cert), key: some(&other.key), ..files.clone() }),
            "upstream.tls.key: it is not the key of `cert`",
        ),
        (
            to(TrustFiles { server_name: Some("a b".to_owned()), ..files.clone() }),
            "upstream.tls.server_name: `a b` is no name of a host",
        ),
    ] {
        let error = config.checked("given").unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "one mistake, one line: {error}");
        assert!(error.contains(&format!("\n  {problem}")), "{error}");
    }
    let mut config = Config { replicas: vec![Replica::at("http://a:1")], ..config(RoundRobin) };
    config.replicas[0].tls = Some(files);
    let error = config.checked("given").unwrap_err().to_string();
    assert!(error.contains("replicas[0].tls: http://a:1 is not reached by TLS"), "{error}");
}

/// A router before a replica at `url`, whose answers are waited for.
async fn before(url: String, tls: TrustFiles, http2: bool) -> Stage {
    let mut config = config(RoundRobin);
    config.upstream = Upstream { http2, tls };
    config.replicas.push(Replica::at(url));
    stage_with(config, 0).await
}

#[tokio::test]
async fn a_replica_is_reached_by_tls_with_an_authority_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, routers) = (Authority::new(), Authority::new());
    let own = authority.vouch(folder.path(), "own", "gpu.example");
    let router = routers.vouch(folder.path(), "router", "router.example");
    let replica = emulate(Fault::None).await;
    let front = Front::before(replica.address(), own.server(Some(&routers), HTTP_1)).await;
    let tls = TrustFiles {
        ca: Some(authority.file(folder.path(), "ca")),
        cert: Some(router.cert.clone()),
        key: Some(router.key.clone()),
        server_name: Some("gpu.example".to_owned()),
    };
    let stage = before(front.url("127.0.0.1"), tls.clone(), false).await;
    for _ in 0..5 {
        let answer = stage.chat(&chat("hi", 3, true)).await;
        assert!(answer.status == 200 && answer.body.ends_with("[DONE]\n\n"), "{answer:?}");
    }
    until("its metrics are read over TLS", async || {
        let status = stage.admin(Method::GET, "/admin/replicas", "").await.json();
        !status["replicas"][0]["reported"].is_null() && status["replicas"][0]["models"] != "[]"
    })
    .await;
    // Each way of not being trusted: nothing is sent, and the replica never becomes ready.
    for tls in [
        TrustFiles { server_name: None, ..tls.clone() },
        TrustFiles { cert: None, key: None, ..tls.clone() },
        TrustFiles { ca: Some(routers.file(folder.path(), "others")), ..tls.clone() },
    ] {
        let mut config = config(RoundRobin);
        config.upstream.tls = tls.clone();
        config.replicas.push(Replica::at(front.url("127.0.0.1")));
        let router = Router::open(config).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(400), router.all_ready()).await;
        assert!(waited.is_err(), "{tls:?}");
    }
}

#[tokio::test]
async fn http2_is_agreed_on_over_tls_and_given_up_where_a_replica_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = authority.vouch(folder.path(), "own", "localhost");
    let tls = TrustFiles { ca: Some(authority.file(folder.path(), "ca")), ..TrustFiles::default() };
    for (offered, is_h2) in [(BOTH, true), (HTTP_1, false)] {
        let (address, seen) = h2::replica().await;
        let front = Front::before(address, own.server(None, offered)).await;
        let stage = before(front.url("localhost"), tls.clone(), true).await;
        // Requests take turns on four connections, probes and readings of metrics included.
        for _ in 0..8 {
            assert_eq!(stage.chat(&chat("hi", 1, true)).await.status, 200);
        }
        let before = front.connections.load(Ordering::Relaxed);
        for _ in 0..4 {
            assert_eq!(stage.chat(&chat("hi", 3, true)).await.status, 200);
        }
        let served =
            (seen.over_h2.load(Ordering::Relaxed), seen.over_http_1.load(Ordering::Relaxed));
        assert_eq!(served, if is_h2 { (12, 0) } else { (0, 12) });
        assert_eq!(front.h2.load(Ordering::Relaxed) > 0, is_h2);
        if is_h2 {
            assert_eq!(front.connections.load(Ordering::Relaxed), before, "they carry all");
        }
    }
}

#[tokio::test]
async fn a_request_that_no_replica_could_be_trusted_with_is_no_poison() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.vouch(folder.path(), "own", "localhost");
    let replica = emulate(Fault::None).await;
    let mut config = config(RoundRobin);
    config.health.interval = Duration::from_secs(3_600);
    config.health.scrape_interval = Duration::from_secs(3_600);
    config.upstream.tls.ca = Some(authority.file(folder.path(), "ca"));
    config.timeouts.upstream_idle = Duration::from_millis(1);
    let mut fronts = Vec::new();
    for _ in 0..2 {
        // Trusted for its first connections, which are probes; a stranger after that.
        let front = Turncoat::before(&replica, &own, &stranger, folder.path()).await;
        config.replicas.push(Replica::at(format!("https://localhost:{}", front.port)));
        fronts.push(front);
    }
    let stage = stage_with(config, 0).await;
    for front in &fronts {
        front.turned.store(true, Ordering::Relaxed);
    }
    // Until nothing of the first probes is left that could be used again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..2 {
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
    }
}

/// A port whose certificate becomes that of somebody else.
struct Turncoat {
    port: u16,
    turned: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Turncoat {
    async fn before(
        replica: &emulator::Handle,
        own: &Certified,
        stranger: &Authority,
        folder: &Path,
    ) -> Self {
        let stranger = stranger.vouch(folder, "stranger", "localhost").server(None, HTTP_1);
        let own = own.server(None, HTTP_1);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let turncoat = Self { port, turned: std::sync::Arc::default() };
        let (turned, target) = (turncoat.turned.clone(), replica.address());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let config = if turned.load(Ordering::Relaxed) { &stranger } else { &own };
                let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
                tokio::spawn(async move {
                    let Ok(mut near) = acceptor.accept(socket).await else { return };
                    let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        turncoat
    }
}
