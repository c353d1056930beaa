//! Decisions of a fleet that has room for nobody.

use std::{
    num::NonZeroU32,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use benches::{config, join};
use fleet::dispatch::{Dispatch, Ticket};
use policy::{
    admission::AdmissionConfig,
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::Event,
};
use tokio::runtime::{Builder, Runtime};
use types::{
    quantity::Tokens,
    replica::{LoadReport, ReplicaId},
    request::{ModelId, Priority, Request, RequestId, TenantId},
    slo::Slo,
    time::Timestamp,
};

/// Prompts of every size that is told apart, from some milliseconds of GPU time to more than ten seconds.
const PROMPTS: [u32; 6] = [64, 700, 3_000, 12_000, 40_000, 150_000];

/// The memory of every replica is full, so that nobody finds room beside the one that it serves.
const FULL: LoadReport = LoadReport {
    running: 1,
    waiting: 0,
    kv_usage: 1.0,
    preemptions: None,
    preemptions_of_ended: None,
};

/// Has a full fleet decide on `rate` requests a second from two threads while `wait` others wait.
pub(crate) fn measure(replicas: u32, rate: f64, wait: u32, seconds: f64) -> anyhow::Result<()> {
    look(replicas);
    let dispatch = Dispatch::new(admitting(replicas));
    join(replicas, |event| dispatch.observe(event));
    let runtime = runtime()?;
    let fills: Vec<Ticket> = (0..replicas)
        .map(|_| {
            let request = request(dispatch.next_id(), 0);
            runtime.block_on(dispatch.place(request)).context("an idle fleet turned one away")
        })
        .collect::<anyhow::Result<_>>()?;
    for replica in (0..replicas).map(ReplicaId) {
        dispatch.observe(Event::LoadReported { replica, report: FULL });
    }
    let waiting: Vec<_> = (0..wait)
        .map(|at| {
            let slo = Slo { completion: Some(Duration::from_secs(3_600)), ..Slo::default() };
            let it = Request {
                slo,
                priority: Priority::Batch,
                ..request(dispatch.next_id(), at as usize)
            };
            let dispatch = Arc::clone(&dispatch);
            async move { dispatch.place(it).await.is_ok() }
        })
        .collect();
    let halves: Vec<_> = [0, 1]
        .map(|half| {
            let dispatch = Arc::clone(&dispatch);
            let pace = Duration::from_secs_f64(2.0 / rate);
            let lasts = Duration::from_secs_f64(seconds);
            thread::spawn(move || ask(&dispatch, replicas, half, pace, lasts))
        })
        .into();
    // Those who wait stay until the end.
    let stay = async {
        let waiting = futures(waiting);
        tokio::time::timeout(Duration::from_secs_f64(seconds), waiting).await.is_err()
    };
    if !runtime.block_on(stay) && 0 < wait {
        bail!("those who should wait were decided on");
    }
    let mut waits = Vec::new();
    for half in halves {
        waits.extend(half.join().ok().context("a thread failed")??);
    }
    drop(fills);
    crate::print("refusal under load", waits);
    Ok(())
}

/// Waits for all of them.
async fn futures(all: Vec<impl Future<Output = bool> + 'static>) {
    let local = tokio::task::LocalSet::new();
    for it in all {
        local.spawn_local(it);
    }
    local.await;
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_time().build()?)
}

/// A dispatcher that lets in whom it should, which the other measurements leave out.
fn admitting(replicas: u32) -> DispatcherConfig {
    let admission = AdmissionConfig::default();
    DispatcherConfig { admission, ..config(StrategyName::LeastLatency, replicas, 0) }
}

/// Prints how long it takes to look once whether a full fleet has room.
fn look(replicas: u32) {
    let mut dispatcher = Dispatcher::new(admitting(replicas));
    let mut decisions = Vec::new();
    join(replicas, |event| dispatcher.handle(Timestamp::ZERO, event, &mut decisions));
    for id in 0..replicas {
        let request = request(RequestId(id.into()), 0);
        dispatcher.handle(Timestamp::ZERO, Event::Arrived(request), &mut decisions);
    }
    for replica in (0..replicas).map(ReplicaId) {
        let event = Event::LoadReported { replica, report: FULL };
        dispatcher.handle(Timestamp::ZERO, event, &mut decisions);
    }
    let times = (0..2_000_usize).map(|at| {
        // Time passes between two looks, so that what is known of replicas is worked out anew.
        let now = Timestamp::from_elapsed(Duration::from_micros(at as u64));
        let request = request(RequestId(u64::MAX), at);
        let began = Instant::now();
        let outlook = dispatcher.outlook(now, &request);
        assert!(!outlook.is_open, "a request found room");
        began.elapsed()
    });
    crate::print("one look for room", times.collect());
}

/// The request `at` of a row of requests of all sizes.
fn request(id: RequestId, at: usize) -> Request {
    let tokens = PROMPTS.get(at % PROMPTS.len()).copied().unwrap_or_default();
    let request = Request::new(id, ModelId(1), Tokens(tokens), Vec::new().into());
    Request { tenant: TenantId(1), ..request }
}

/// Asks at a steady pace, and tells of a replica's load each time.
fn ask(
    dispatch: &Arc<Dispatch>,
    replicas: u32,
    half: u32,
    pace: Duration,
    lasts: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let runtime = runtime()?;
    let slo = Slo { ttft: Some(Duration::from_millis(1)), ..Slo::default() };
    let (mut waits, mut due) = (Vec::new(), Duration::ZERO);
    let began = Instant::now();
    for at in 0_usize.. {
        due += pace;
        if lasts < due {
            break;
        }
        if let Some(early) = due.checked_sub(began.elapsed()) {
            thread::sleep(early);
        }
        let request =
            Request { slo, patience_ms: NonZeroU32::new(1), ..request(dispatch.next_id(), at) };
        let asked = Instant::now();
        let ticket = runtime.block_on(dispatch.place(request));
        waits.push(asked.elapsed());
        if ticket.is_ok() {
            bail!("a request found room");
        }
        let replica = ReplicaId((2 * u32::try_from(at)? + half) % replicas);
        dispatch.observe(Event::LoadReported { replica, report: FULL });
    }
    Ok(waits)
}
