//! Clients that ask as they should, and clients that do not.

use std::{
    fmt::Write as _,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};

mod ways;

/// Longest time that a client may have to wait for an end, be it good or bad.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Reads a stream to its end, over a connection of its own.
    Streams,
    /// Asks for whole answers over kept connections.
    Kept,
    /// Streams over HTTP/2, and resets every other one.
    Http2,
    /// Reads some of a stream and closes the connection.
    HangsUp,
    /// The same, with a reset.
    Resets,
    /// Reads a few bytes at a time.
    IsSlow,
    /// Reads nothing of a long answer.
    IsDeaf,
    /// Goes away within its own request.
    BreaksOff,
    /// Sends more than is taken.
    IsOversized,
    /// Sends what is not HTTP.
    IsGarbage,
    /// Sends what is refused: bad JSON, unknown models and paths, smuggled lengths.
    IsWrong,
    /// Never finishes its head.
    IsSlowToAsk,
}

/// Each way, how many behave so, and how long each rests between two requests.
const WAYS: [(Way, u32, u64); 12] = [
    (Way::Streams, 20, 20),
    (Way::Kept, 12, 20),
    (Way::Http2, 4, 20),
    (Way::HangsUp, 4, 20),
    (Way::Resets, 2, 20),
    (Way::IsSlow, 4, 20),
    (Way::IsDeaf, 2, 20),
    (Way::BreaksOff, 2, 100),
    (Way::IsOversized, 2, 100),
    (Way::IsGarbage, 2, 100),
    (Way::IsWrong, 2, 50),
    (Way::IsSlowToAsk, 2, 100),
];

/// How many clients there are.
pub(crate) fn count() -> u32 {
    WAYS.iter().map(|it| it.1).sum()
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// All that was asked for.
    Whole,
    /// An error as answer.
    Refused,
    /// An answer that broke off, with an error in it or without.
    Broken,
    /// No answer, as the client meant it.
    Left,
    /// Nothing for too long.
    Stuck,
}

const OUTCOMES: [&str; 5] = ["whole", "refused", "broken", "left", "stuck"];

/// What came of all requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [[AtomicU64; OUTCOMES.len()]; WAYS.len()],
    first_tokens_ms: Mutex<Vec<u64>>,
}

impl Tally {
    fn count(&self, way: usize, outcome: Outcome) {
        let column = match outcome {
            Outcome::Whole => 0,
            Outcome::Refused => 1,
            Outcome::Broken => 2,
            Outcome::Left => 3,
            Outcome::Stuck => 4,
        };
        if let Some(count) = self.counts.get(way).and_then(|it| it.get(column)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sum(&self, column: usize) -> u64 {
        let of = |row: &[AtomicU64; 5]| row.get(column).map_or(0, |it| it.load(Ordering::Relaxed));
        self.counts.iter().map(of).sum()
    }

    /// Answers that came whole.
    pub(crate) fn whole(&self) -> u64 {
        self.sum(0)
    }

    /// Clients that waited for too long.
    pub(crate) fn stuck(&self) -> u64 {
        self.sum(4)
    }

    fn first_token(&self, after: Duration) {
        self.first_tokens_ms.lock().push(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    }

    /// Median and 99th percentile of the times to a first token since this was last asked.
    pub(crate) fn first_tokens_ms(&self) -> (u64, u64) {
        let mut times = std::mem::take(&mut *self.first_tokens_ms.lock());
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(0);
        (at(50), at(99))
    }

    /// What came of the requests of each kind of client.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<12}", "");
        OUTCOMES.iter().for_each(|it| {
            let _ = write!(table, "{it:>9}");
        });
        for ((way, ..), row) in WAYS.iter().zip(&self.counts) {
            let _ = write!(table, "\n{:<12}", format!("{way:?}"));
            row.iter().for_each(|it| {
                let _ = write!(table, "{:>9}", it.load(Ordering::Relaxed));
            });
        }
        table
    }
}

/// Has everybody ask, again and again, until they are stopped.
pub(crate) fn spawn_all(
    asking: &mut JoinSet<()>,
    router: SocketAddr,
    tally: &Arc<Tally>,
    stopped: &watch::Receiver<bool>,
) {
    let kept = ways::Kept::new(router);
    for (row, (way, count, rest_ms)) in WAYS.into_iter().enumerate() {
        for client in 0..u64::from(count) {
            let (tally, stopped, kept) = (Arc::clone(tally), stopped.clone(), kept.clone());
            asking.spawn(async move {
                for turn in 0.. {
                    if *stopped.borrow() {
                        return;
                    }
                    let number = turn * 64 + client;
                    let asked = ask(way, router, &kept, number, &tally);
                    let outcome = tokio::time::timeout(PATIENCE, asked).await;
                    tally.count(row, outcome.unwrap_or(Outcome::Stuck));
                    tokio::time::sleep(Duration::from_millis(rest_ms)).await;
                }
            });
        }
    }
}

/// Asks once in each of the ways that use what is made once.
pub(crate) async fn once(router: SocketAddr) {
    let tally = Tally::default();
    let kept = ways::Kept::new(router);
    for way in [Way::Streams, Way::Kept, Way::Http2, Way::IsWrong] {
        let asked = ask(way, router, &kept, 0, &tally);
        let _ = tokio::time::timeout(PATIENCE, asked).await;
    }
}

/// Opens so many connections a second and keeps them for good.
pub(crate) fn spawn_hoard(router: SocketAddr, per_second: u32, stopped: &watch::Receiver<bool>) {
    if per_second == 0 {
        return;
    }
    let stopped = stopped.clone();
    tokio::spawn(async move {
        let mut hoard = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        while !*stopped.borrow() {
            ticks.tick().await;
            if let Ok(kept) = ways::idle_http2(router).await {
                hoard.push(kept);
            }
        }
        std::future::pending::<()>().await;
        drop(hoard);
    });
}

async fn ask(
    way: Way,
    router: SocketAddr,
    kept: &ways::Kept,
    number: u64,
    tally: &Tally,
) -> Outcome {
    let begun = Instant::now();
    let asked: std::pin::Pin<Box<dyn Future<Output = io::Result<Outcome>> + Send + '_>> = match way
    {
        Way::Streams => {
            Box::pin(ways::streams(router, number, move || tally.first_token(begun.elapsed())))
        }
        Way::Kept => Box::pin(kept.whole(number)),
        Way::Http2 => Box::pin(kept.http2(number)),
        Way::HangsUp => Box::pin(ways::leaves(router, number, false)),
        Way::Resets => Box::pin(ways::leaves(router, number, true)),
        Way::IsSlow => Box::pin(ways::is_slow(router, number)),
        Way::IsDeaf => Box::pin(ways::is_deaf(router, number)),
        Way::BreaksOff => Box::pin(ways::breaks_off(router, number)),
        Way::IsOversized => Box::pin(ways::is_oversized(router)),
        Way::IsGarbage => Box::pin(ways::is_garbage(router, number)),
        Way::IsWrong => Box::pin(ways::is_wrong(router, number)),
        Way::IsSlowToAsk => Box::pin(ways::is_slow_to_ask(router)),
    };
    // A connection that fails is an answer that broke off.
    asked.await.unwrap_or(Outcome::Broken)
}
