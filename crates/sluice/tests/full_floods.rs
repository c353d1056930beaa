//! What a flood leaves behind in a router: memory, series, and what is reserved. Named in docs/reliability.md by the ids
//! E4, E5, F1, F4, F8 and G6, and run by `benches/full_counts.sh`. What blocks here blocks a thread of its own: replicas
//! and clients run in two others.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Router, Start, get,
    load::{Message, Replica, Wire, asking, listed, memory, request},
    until, written,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

const MB: f64 = 1e6;

/// A router before so many replicas that cost little.
struct Stage {
    router: Router,
    replicas: Vec<Replica>,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn before(replicas: usize, more: &str) -> Self {
        let mut started = Vec::new();
        for _ in 0..replicas {
            started.push(Replica::start().await);
        }
        let folder = tempfile::tempdir().unwrap();
        let text = format!("admission: {{ mode: off }}\n{more}{}", listed(&started));
        // Nobody reads what is logged of a million requests.
        let environment = [("SLUICE_LOG", "info,router=warn,fleet=warn")];
        let file = written(folder.path(), &text);
        let router = Start { environment: &environment, ..Start::with(&file) }.now();
        router.until_ready();
        Self { router, replicas: started, _folder: folder }
    }

    fn memory(&self, line: &str) -> u64 {
        memory(self.router.child.id(), line)
    }

    /// The value of a sample of its metrics.
    fn metric(&self, sample: &str) -> f64 {
        let text = get(self.router.admin, "/metrics").unwrap().body;
        let line = text.lines().find_map(|it| it.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |it| it.parse().unwrap())
    }

    /// Seconds that decisions took, and how many there were.
    fn decisions(&self) -> (f64, f64) {
        (self.metric("sluice_decision_seconds_sum"), self.metric("sluice_decision_seconds_count"))
    }

    async fn until_idle(&self) {
        let open =
            || self.replicas.iter().map(|it| it.seen.open.load(Ordering::Relaxed)).sum::<usize>();
        until("the replicas are idle", || open() == 0);
        until("nothing is reserved", || self.router.reserved() == 0);
    }
}

/// Sends what `ask` says of each of `numbers`, over 32 connections at once; how many had which status.
async fn each<F>(
    address: SocketAddr,
    numbers: std::ops::Range<u64>,
    ask: impl Fn(u64) -> F + Clone + Send + 'static,
) -> BTreeMap<u16, u64>
where
    F: Future<Output = (String, String)> + Send,
{
    each_ahead(address, 1, numbers, ask).await
}

/// The same, `ahead` of them sent over a connection before the first of their answers is read. More than one is for
/// where no answer ends its connection.
async fn each_ahead<F>(
    address: SocketAddr,
    ahead: u64,
    numbers: std::ops::Range<u64>,
    ask: impl Fn(u64) -> F + Clone + Send + 'static,
) -> BTreeMap<u16, u64>
where
    F: Future<Output = (String, String)> + Send,
{
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        let (next, ask, end) = (Arc::clone(&next), ask.clone(), numbers.end);
        clients.spawn(async move {
            let mut statuses = BTreeMap::new();
            let mut wire = Wire::to(address).await.unwrap();
            loop {
                let first = next.fetch_add(ahead, Ordering::Relaxed);
                let numbers = first..end.min(first + ahead);
                if numbers.is_empty() {
                    return statuses;
                }
                let mut requests = String::new();
                for number in numbers.clone() {
                    let (headers, body) = ask(number).await;
                    requests += &request("/v1/chat/completions", &headers, &body);
                }
                wire.socket.write_all(requests.as_bytes()).await.unwrap();
                for _ in numbers {
                    let answer = wire.message().await.unwrap();
                    *statuses.entry(answer.status()).or_insert(0) += 1;
                    if answer.is_last() {
                        assert_eq!(ahead, 1, "{}", answer.head);
                        wire = Wire::to(address).await.unwrap();
                    }
                }
            }
        });
    }
    let mut all = BTreeMap::new();
    while let Some(statuses) = clients.join_next().await {
        for (status, count) in statuses.unwrap() {
            *all.entry(status).or_insert(0) += count;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a million prompts of 8 KB: benches/full_counts.sh"]
async fn full_f1_a_million_prompts_that_nobody_shares() {
    let stage = Stage::before(4, "").await;
    let text = "some words of it ".repeat(8_192 / 17);
    let prompt = move |number: u64| {
        let body = asking(&format!("{number:012} {text}"), 1, false);
        async move { (String::new(), body) }
    };
    let data = stage.router.data;
    // Prompts too short for the index, so that all else is full that remembers conversations and requests.
    let short = |it: u64| async move { (String::new(), asking(&format!("{it}"), 1, false)) };
    each_ahead(data, 8, 0..110_000, short).await;
    assert!(stage.metric("sluice_prefix_index_blocks") < 1.0);
    let base = stage.memory("VmRSS");
    let mut means = Vec::new();
    let mut from = stage.decisions();
    for part in 0..20 {
        let numbers = part * 50_000..(part + 1) * 50_000;
        let statuses = each_ahead(data, 8, numbers, prompt.clone()).await;
        assert_eq!(statuses, BTreeMap::from([(200, 50_000)]));
        let to = stage.decisions();
        means.push((to.0 - from.0) / (to.1 - from.1) * 1e6);
        from = to;
    }
    let (after, index) = (stage.memory("VmRSS"), stage.metric("sluice_prefix_index_bytes"));
    let budget = 64.0 * f64::from(1 << 20);
    let grown = (after as f64 - base as f64) / budget;
    println!(
        "F1: 10⁶ prompts of 8 KB: memory {:.1} → {:.1} MB, {grown:.2} of the index's {:.1} MB ({:.1} taken); a decision \
         {:.1} µs among the first 50,000, {:.1} among the last",
        base as f64 / MB,
        after as f64 / MB,
        budget / MB,
        index / MB,
        means[0],
        means[19]
    );
    assert!(grown <= 1.25, "{grown}");
    assert!(means[19] <= 2.0 * means[0], "{means:?}");
}

/// What the client of a request asks for, and after how long it hangs up, if ever.
fn troubled(number: u64) -> (String, Option<Duration>) {
    // Chance enough, and the same each time.
    let drawn = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let fault = match drawn % 100 {
        0 => "fault-closed",
        1 => "fault-garbage",
        2..4 => "fault-503",
        4 => "fault-500",
        5 => "fault-429",
        6..9 => "fault-400",
        9..11 => "fault-breaks",
        11 => "fault-dies",
        _ if drawn.is_multiple_of(5_003) => "fault-silent",
        _ => "",
    };
    let (slow, streams) = (drawn.is_multiple_of(101), !drawn.is_multiple_of(3));
    let body = asking(
        &format!("{} {fault} {number}", if slow { "slow" } else { "" }),
        drawn % 7,
        streams || slow,
    );
    let hangs_up = drawn.is_multiple_of(13) || slow;
    (body, hangs_up.then(|| Duration::from_micros(drawn % 3_000)))
}

/// Sends those of the first `requests` that nobody else does; how often it hung up, and the statuses of the rest.
async fn troubles(
    router: SocketAddr,
    next: Arc<AtomicU64>,
    requests: u64,
) -> (u64, BTreeMap<u16, u64>) {
    let (mut wire, mut hung_up, mut ended) = (None, 0, BTreeMap::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if requests <= number {
            return (hung_up, ended);
        }
        let (body, patience) = troubled(number);
        let session = format!("x-session-id: session-{number}\r\n");
        let mut open = match wire.take() {
            Some(open) => open,
            None => Wire::to(router).await.unwrap(),
        };
        let asked = open.chat(&session, &body);
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, asked).await.ok(),
            None => Some(asked.await),
        };
        if let Some(answer) = answer {
            *ended.entry(answer.as_ref().map_or(0, Message::status)).or_insert(0) += 1;
            wire = answer.is_ok_and(|it| !it.is_last()).then_some(open);
        } else {
            hung_up += 1;
            // By a reset, half of the time; the other half leaves a port waiting for a minute.
            if number.is_multiple_of(2) {
                let _ = open.socket.set_zero_linger();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a million requests: benches/full_counts.sh"]
async fn full_f8_a_million_requests_with_faults_and_hang_ups() {
    const REQUESTS: u64 = 1_000_000;
    let more = "timeouts: { answer: 500ms, stall: 500ms }\nhealth: { ejection: 100ms }\n";
    let stage = Stage::before(4, more).await;
    let data = stage.router.data;
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        clients.spawn(troubles(data, Arc::clone(&next), REQUESTS));
    }
    let (mut hung_up, mut ended) = (0, BTreeMap::new());
    let mut memories = Vec::new();
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            client = clients.join_next() => {
                let Some(client) = client else { break };
                let client = client.unwrap();
                hung_up += client.0;
                for (status, count) in client.1 {
                    *ended.entry(status).or_insert(0) += count;
                }
            }
            _ = looks.tick() => {
                memories.push((next.load(Ordering::Relaxed), stage.memory("VmRSS")));
            }
        }
    }
    stage.until_idle().await;
    let (sessions, served) = (stage.metric("sluice_sessions"), ended[&200]);
    // From the time on when as many sessions are kept as may be.
    let full = memories.iter().find(|it| 300_000 <= it.0).unwrap().1;
    let last = memories.last().unwrap().1;
    println!(
        "F8: 10⁶ requests with faults, {hung_up} of them hung up on, {served} answered with 200: 0 reserved, 0 on replicas; \
         by status {ended:?}"
    );
    println!(
        "F8 (F4): 10⁶ names of sessions, {sessions} kept; memory {:.1} MB after 300,000, {:.1} after all",
        full as f64 / MB,
        last as f64 / MB
    );
    assert!(sessions <= 100_000.0 && 500_000 < served && 50_000 < hung_up);
    assert!(last < full + 20_000_000, "{full} → {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "1,000 connections at once: benches/full_counts.sh"]
async fn full_e4_a_thousand_long_heads_at_once() {
    let stage = Stage::before(1, "limits: { connections_per_address_max: 2000 }\n").await;
    let data = stage.router.data;
    each(data, 0..2_000, |it| async move { (String::new(), asking(&format!("{it}"), 1, false)) })
        .await;
    let mut told = Vec::new();
    for (name, bytes, is_refused) in
        [("1 MB", 1 << 20, true), ("33 KB", 33_000, true), ("31 KB without an end", 31_000, false)]
    {
        let before = stage.memory("VmRSS");
        let head: Arc<str> =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nx: {}", "a".repeat(bytes))
                .into();
        let mut clients = JoinSet::new();
        for _ in 0..1_000 {
            let head = Arc::clone(&head);
            clients.spawn(async move {
                let mut wire = Wire::to(data).await.unwrap();
                // It may be refused and closed before all of it is sent.
                let _ = wire.socket.write_all(head.as_bytes()).await;
                let mut seen = [0; 12];
                if is_refused {
                    let _ = wire.socket.write_all(b"\r\n\r\n").await;
                    let _ = wire.socket.read(&mut seen).await;
                }
                (wire, seen)
            });
        }
        let clients = clients.join_all().await;
        // Those that are held: the memory that they take while they are.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let held = stage.memory("VmRSS");
        let refused = clients.iter().filter(|it| &it.1 == b"HTTP/1.1 431").count();
        // Of those that were reset the answer may be lost.
        let answered = clients.iter().filter(|it| it.1.starts_with(b"HTTP/1.1")).count();
        drop(clients);
        let answer = Wire::to(data).await.unwrap().chat("", &asking("hi", 1, false)).await.unwrap();
        assert!(answer.is_whole(), "{}", answer.head);
        assert_eq!((answered, 0 < refused), (refused, is_refused), "{name}: nothing but 431");
        let grown = (held as f64 - before as f64) / MB;
        told.push(grown);
        println!(
            "E4: 1,000 connections with heads of {name} at once: {refused} answered with 431, memory {:.1} MB {grown:+.1}",
            before as f64 / MB
        );
    }
    // What is refused leaves nothing; what is held is held once, or twice where it has grown.
    assert!(told[0] < 20.0 && told[1] < 20.0 && told[2] < 70.0, "{told:?}");
}

/// Sends so many bodies at once: memory for bodies is what was said, whatever their length.
async fn bodies_at_once(bodies: usize, bytes: usize) {
    let stage = Stage::before(2, "").await;
    let data = stage.router.data;
    let long: Arc<str> = asking(&"x".repeat(bytes - 200), 1, false).into();
    assert!(long.len() <= bytes);
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..bodies {
        let long = Arc::clone(&long);
        clients.spawn(async move {
            let mut wire = Wire::to(data).await.unwrap();
            // What is refused may be closed before all of it is sent.
            let sent = wire.send("/v1/chat/completions", "", &long).await;
            match wire.message().await {
                Ok(answer) => answer.status(),
                Err(error) => {
                    assert!(sent.is_err(), "{error}");
                    0
                }
            }
        });
    }
    let mut statuses = BTreeMap::new();
    while let Some(status) = clients.join_next().await {
        *statuses.entry(status.unwrap()).or_insert(0) += 1;
    }
    let (took, most) = (began.elapsed(), stage.memory("VmHWM"));
    stage.until_idle().await;
    let budget = 512.0 * f64::from(1 << 20);
    println!(
        "E5: {bodies} bodies of {:.1} MiB at once: by status {statuses:?} in {:.1} s; memory {:.1} MB at most, where {:.1} are for \
         bodies",
        bytes as f64 / f64::from(1 << 20),
        took.as_secs_f64(),
        most as f64 / MB,
        budget / MB
    );
    assert!(statuses.keys().all(|it| [0, 200, 503].contains(it)) && 8 <= statuses[&200]);
    assert!(most as f64 <= budget + 64.0 * f64::from(1 << 20), "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "2 GB of bodies: benches/full_counts.sh"]
async fn full_e5_64_bodies_of_32_mb_at_once() {
    bodies_at_once(64, 32 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "2 GB of bodies: benches/full_counts.sh"]
async fn full_e5_280_bodies_of_7_5_mb_at_once() {
    bodies_at_once(280, 15 << 19).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "40,000 names: benches/full_counts.sh"]
async fn full_g6_ten_thousand_names_of_each_kind() {
    let stage = Stage::before(2, "tenant_header: x-tenant\n").await;
    let (data, admin) = (stage.router.data, stage.router.admin);
    let scraped = || get(admin, "/metrics").unwrap().body;
    let series = |text: &str| text.lines().filter(|it| !it.starts_with('#')).count();
    let named = |name: &'static str| {
        move |it: u64| async move {
            let model = if name == "model" { format!("m-{it}") } else { "m".to_owned() };
            let headers = format!(
                "x-tenant: {}\r\nx-session-id: s-{it}\r\nx-sluice-fairness-id: f-{it}\r\nx-sluice-priority: batch\r\n",
                if name == "tenant" { it } else { 0 },
            );
            let body =
                asking("hi", 1, it.is_multiple_of(2)).replace("\"m\"", &format!("\"{model}\""));
            (headers, body)
        }
    };
    assert_eq!(each(data, 0..100, named("none")).await, BTreeMap::from([(200, 100)]));
    let before = series(&scraped());
    for name in ["model", "tenant"] {
        let statuses = each(data, 0..10_000, named(name)).await;
        assert_eq!(statuses, BTreeMap::from([(200, 10_000)]), "{name}");
    }
    let mut wire = Wire::to(data).await.unwrap();
    for path in 0..10_000 {
        wire.send(&format!("/path/{path}"), "", "").await.unwrap();
        let answer = wire.message().await.unwrap();
        assert_eq!(answer.status(), 404);
        if answer.is_last() {
            wire = Wire::to(data).await.unwrap();
        }
    }
    let text = scraped();
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let began = Instant::now();
            scraped();
            began.elapsed()
        })
        .collect();
    times.sort();
    let median = times[10];
    let new = series(&text) - before;
    println!(
        "G6: 10,000 models, tenants, sessions and paths: {new} new series on {before}; a scrape of {:.1} KB takes {:.1} ms \
         in the median",
        text.len() as f64 / 1e3,
        median.as_secs_f64() * 1e3
    );
    assert!(new <= 50 && text.len() < 1_000_000, "{new} new, {} bytes", text.len());
    assert!(median < Duration::from_millis(50), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "100,000 wrong keys: benches/full_counts.sh"]
async fn full_g5_how_long_a_wrong_key_takes_says_nothing_of_the_right_one() {
    const RIGHT: &str = "sk-0123456789abcdef0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, RIGHT).unwrap();
    let tenants = format!("tenants: [{{ name: a, keys: [{{ file: '{}' }}] }}]\n", key.display());
    let stage = Stage::before(1, &tenants).await;
    let mut wire = Wire::to(stage.router.data).await.unwrap();
    let body = asking("hi", 1, false);
    let bearer = |key: &str| format!("authorization: Bearer {key}\r\n");
    assert_eq!(wire.chat(&bearer(RIGHT), &body).await.unwrap().status(), 200);
    let last = RIGHT.len() - 1;
    // Wrong from its first letter on, and wrong in its last only.
    let wrong = [bearer(&format!("x{}", &RIGHT[1..])), bearer(&format!("{}x", &RIGHT[..last]))];
    let mut took = [Vec::new(), Vec::new()];
    for at in 0..100_000_usize {
        // In pairs, either one first, so that whatever else happens befalls both alike.
        let which = (at / 2 + at) % 2;
        let began = Instant::now();
        let answer = wire.chat(&wrong[which], &body).await.unwrap();
        took[which].push(began.elapsed().as_secs_f64() * 1e6);
        assert_eq!(answer.status(), 401);
        if answer.is_last() {
            wire = Wire::to(stage.router.data).await.unwrap();
        }
    }
    let [(first, first_mean), (last, last_mean)] = took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        // Without the slowest tenth, in which the machine did something else.
        let usual = &took[..took.len() * 9 / 10];
        (took[took.len() / 2], usual.iter().sum::<f64>() / usual.len() as f64)
    });
    println!(
        "G5: 100,000 wrong keys: {first:.2} µs where the first letter is wrong, {last:.2} where the last is (medians; means \
         {first_mean:.2} and {last_mean:.2})"
    );
    assert!((first - last).abs() < 1.0, "{first} and {last}");
    assert!((first_mean - last_mean).abs() < 1.0, "{first_mean} and {last_mean}");
}

/// Bodies of 8 MB that are as hard to read as their kind can be.
fn bombs() -> Vec<(&'static str, String)> {
    let of = |piece: &str| piece.repeat(8_000_000 / piece.len());
    let list = |piece: &str| of(&format!("{piece},")).trim_end_matches(',').to_owned();
    let chat = |messages: &str| format!("{{\"model\":\"m\",\"messages\":[{messages}]}}");
    let keys: Vec<String> = (0..650_000).map(|at| format!("\"{at:06}\":1")).collect();
    vec![
        ("messages of `{}`", chat(&list("{}"))),
        ("messages of `0`", chat(&list("0"))),
        ("messages of a letter", chat(&list("{\"role\":\"user\",\"content\":\"a\"}"))),
        ("parts of a letter", chat(&format!("{{\"content\":[{}]}}", list("\"a\"")))),
        ("keys", format!("{{\"model\":\"m\",\"messages\":[],{}}}", keys.join(","))),
        ("a string", chat(&format!("{{\"content\":\"{}\"}}", of("a")))),
        ("a string of escapes", chat(&format!("{{\"content\":\"{}\"}}", of("\\n")))),
        ("numbers", format!("{{\"model\":\"m\",\"messages\":[],\"x\":[{}]}}", list("1"))),
        ("a depth", chat(&(of("[[")[..4_000_000].to_owned() + &of("]]")[..4_000_000]))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, so wants to be optimised: benches/full_counts.sh"]
async fn full_e6_a_body_of_8_mb_costs_what_its_length_does() {
    const TIMES: u32 = 5;
    let stage = Stage::before(1, "").await;
    let mut wire = Wire::to(stage.router.data).await.unwrap();
    let (mut dearest, mut longest) = (0.0_f64, 0.0_f64);
    for (kind, body) in bombs() {
        let (before, mut fastest, mut statuses) =
            (stage.router.cpu(), Duration::MAX, BTreeMap::<u16, u32>::new());
        for _ in 0..TIMES {
            let began = Instant::now();
            let answer = wire.chat("", &body).await.unwrap();
            fastest = fastest.min(began.elapsed());
            *statuses.entry(answer.status()).or_default() += 1;
            if answer.is_last() {
                wire = Wire::to(stage.router.data).await.unwrap();
            }
        }
        let cpu = (stage.router.cpu() - before).as_secs_f64() * 1e3 / f64::from(TIMES);
        let a_mb = cpu * MB / body.len() as f64;
        (dearest, longest) = (dearest.max(a_mb), longest.max(cpu));
        println!(
            "E6: {kind}: {a_mb:.1} ms of CPU a MB, {cpu:.0} for all; answered after {:.0} ms at best, {statuses:?}",
            fastest.as_secs_f64() * 1e3
        );
        // Each is read to its end: none is too long, and only what is no JSON that can be read is refused.
        assert!(statuses.keys().all(|it| matches!(it, 200 | 400)), "{kind}: {statuses:?}");
    }
    assert!(dearest < 20.0, "{dearest} ms of CPU a MB");
    assert!(longest < 100.0, "{longest} ms of CPU for 8 MB");
}
