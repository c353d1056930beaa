//! What a decision costs, by itself and under load with the wait for the lock.
//!
//! `decision-cost alone STRATEGY REPLICAS COUNT` places requests of 8,192 prompt tokens and lets them end, one after
//! the other, and prints how long each of the two steps takes; under `valgrind --tool=callgrind` it is the count to
//! compare. `decision-cost loaded STRATEGY REPLICAS RATE SECONDS` places as many a second from two threads, through
//! what the router's tasks share, while first tokens, tokens and ends come in as well, and prints how long a task
//! waits for its decision. `decision-cost full REPLICAS RATE WAIT SECONDS` does so with a fleet that has room for
//! nobody: every request, of every size, is turned away, some are watched until there is room for their like, and
//! `WAIT` requests that have time wait in the queue.

#![expect(clippy::print_stdout, reason = "the result is for people to read")]

#[path = "decision_cost/full.rs"]
mod full;

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use benches::{BLOCK_TOKENS, config, dispatcher, join, prompt, request};
use fleet::dispatch::{Dispatch, Ticket};
use policy::{
    config::StrategyName,
    event::{Decision, Event},
};
use types::{
    block::BlockHash, outcome::Outcome, quantity::Tokens, replica::ReplicaId, request::RequestId,
    time::Timestamp,
};

/// Blocks that the index holds.
const BLOCKS: usize = 1_000_000;
/// Blocks of a prompt.
const PROMPT_BLOCKS: usize = 8_192 / BLOCK_TOKENS;
/// Prompts that are asked for in turn.
const PROMPTS: u64 = 4_096;
/// Requests that each thread keeps in flight.
const IN_FLIGHT: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["alone", strategy, replicas, count] => {
            alone(strategy_of(strategy)?, replicas.parse()?, count.parse()?);
        }
        ["loaded", strategy, replicas, rate, seconds] => {
            let (rate, seconds) = (rate.parse()?, seconds.parse()?);
            loaded(strategy_of(strategy)?, replicas.parse()?, rate, seconds)?;
        }
        ["full", replicas, rate, wait, seconds] => {
            let (rate, seconds) = (rate.parse()?, seconds.parse()?);
            full::measure(replicas.parse()?, rate, wait.parse()?, seconds)?;
        }
        _ => bail!(
            "usage: decision-cost alone STRATEGY REPLICAS COUNT | loaded STRATEGY REPLICAS RATE SECONDS | full REPLICAS RATE WAIT SECONDS"
        ),
    }
    Ok(())
}

fn strategy_of(name: &str) -> anyhow::Result<StrategyName> {
    name.parse().map_err(|_| anyhow::anyhow!("{name} is no strategy"))
}

/// Known prompts and known beginnings, in no order that a cache could guess.
fn prompts() -> Vec<Arc<[BlockHash]>> {
    let families = 2 * BLOCKS as u64 / PROMPT_BLOCKS as u64;
    (0..PROMPTS).map(|at| prompt(at.wrapping_mul(7_919) % families, PROMPT_BLOCKS)).collect()
}

fn alone(strategy: StrategyName, replicas: u32, count: usize) {
    let mut dispatcher = dispatcher(strategy, replicas, BLOCKS, PROMPT_BLOCKS);
    let prompts = prompts();
    let (mut arrivals, mut ends) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut decisions: Vec<Decision> = Vec::new();
    for (id, blocks) in (1 << 40..).zip(prompts.iter().cycle().take(count)) {
        decisions.clear();
        let arrived = Event::Arrived(request(id, Arc::clone(blocks)));
        let (output, cached) = (None, None);
        let ended =
            Event::Ended { request: RequestId(id), outcome: Outcome::Finished, output, cached };
        let began = Instant::now();
        dispatcher.handle(Timestamp::ZERO, arrived, &mut decisions);
        let placed = Instant::now();
        dispatcher.handle(Timestamp::ZERO, ended, &mut decisions);
        ends.push(placed.elapsed());
        arrivals.push(placed.duration_since(began));
    }
    print("arrival", arrivals);
    print("end", ends);
}

fn loaded(strategy: StrategyName, replicas: u32, rate: f64, seconds: f64) -> anyhow::Result<()> {
    let dispatch = Dispatch::new(config(strategy, replicas, BLOCKS));
    join(replicas, |event| dispatch.observe(event));
    let prompts = Arc::new(prompts());
    let runtime = || tokio::runtime::Builder::new_current_thread().build();
    let filling = runtime()?;
    for blocks in prompts.iter() {
        let request = request(dispatch.next_id().0, Arc::clone(blocks));
        drop(filling.block_on(dispatch.place(request)));
    }
    let threads: Vec<_> = [0, 1]
        .into_iter()
        .map(|half| {
            let (dispatch, prompts) = (Arc::clone(&dispatch), Arc::clone(&prompts));
            thread::spawn(move || {
                let pace = Duration::from_secs_f64(2.0 / rate);
                ask(&dispatch, &prompts, half, pace, Duration::from_secs_f64(seconds))
            })
        })
        .collect();
    let mut waits = Vec::new();
    for thread in threads {
        waits.extend(thread.join().ok().context("a thread failed")??);
    }
    print("decision under load", waits);
    Ok(())
}

/// Asks for decisions at a steady pace, never waiting for an answer to end before the next.
fn ask(
    dispatch: &Arc<Dispatch>,
    prompts: &[Arc<[BlockHash]>],
    half: usize,
    pace: Duration,
    lasts: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let began = Instant::now();
    let mut waits = Vec::new();
    let mut placed: VecDeque<Ticket> = VecDeque::new();
    let mut due = Duration::ZERO;
    for blocks in prompts.iter().cycle().skip(half * prompts.len() / 2) {
        due += pace;
        if lasts < due {
            break;
        }
        if let Some(early) = due.checked_sub(began.elapsed()) {
            thread::sleep(early);
        }
        let request = request(dispatch.next_id().0, Arc::clone(blocks));
        let asked = Instant::now();
        let ticket = runtime.block_on(dispatch.place(request));
        waits.push(asked.elapsed());
        let Ok(ticket) = ticket else { bail!("a request was not placed") };
        placed.push_back(ticket);
        // What else the dispatcher is told meanwhile.
        if let Some(it) = placed.get(placed.len() / 2) {
            it.first_token();
        }
        let replica = ReplicaId(u32::try_from(waits.len() % 64)?);
        let (tokens, waited) = (50, Duration::from_millis(500));
        dispatch.observe(Event::TokensCame { replica, tokens, waited });
        if IN_FLIGHT < placed.len()
            && let Some(mut done) = placed.pop_front()
        {
            done.leave_as(Outcome::Finished);
            done.used(Some(Tokens(100)), None);
        }
    }
    Ok(waits)
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = share * times.len().saturating_sub(1) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of the list"
        )]
        let time = times.get(index as usize).copied().unwrap_or_default();
        time.as_secs_f64() * 1e6
    };
    let (median, p90, p99, worst) = (at(0.5), at(0.9), at(0.99), at(1.0));
    println!(
        "{what}: {} times; median {median:.2} us, p90 {p90:.2}, p99 {p99:.2}, longest {worst:.0}",
        times.len()
    );
}
