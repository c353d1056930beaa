//! What explaining decisions costs: decisions of `least-latency` with 64 replicas at 10,000 a second, with
//! explanations `off`, `sampled` (the default, 200 a second) or for `all`.
//!
//! ```sh
//! cargo build --release -p benches --bin explain-cost
//! for mode in off sampled all; do
//!   valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/explain-cost $mode
//! done
//! ```
//!
//! Divide by the decisions: instructions do not depend on what else the machine does.

use std::{hint::black_box, time::Duration};

use benches::{dispatcher, prompt};
use policy::{config::StrategyName, event::Event, explanation::ExplainConfig};
use types::{
    outcome::Outcome,
    quantity::Tokens,
    request::{ModelId, Request, RequestId},
    time::Timestamp,
};

const REPLICAS: u32 = 64;
const DECISIONS: u64 = 10_000;
const PROMPT_BLOCKS: usize = 128;
/// Time between two of them.
const EVERY: Duration = Duration::from_micros(100);

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let explain = match mode.as_str() {
        "off" => ExplainConfig::off(),
        "all" => ExplainConfig { per_second: u32::MAX, ..ExplainConfig::default() },
        _ => ExplainConfig::default(),
    };
    let mut dispatcher = dispatcher(StrategyName::LeastLatency, REPLICAS, 20_000, PROMPT_BLOCKS);
    dispatcher.explain(explain);
    let prompts: Vec<_> = (0..64).map(|family| prompt(family, PROMPT_BLOCKS)).collect();
    let mut decisions = Vec::new();
    for (number, blocks) in (0..DECISIONS).zip(prompts.iter().cycle()) {
        let id = RequestId((1 << 40) + number);
        let now = Timestamp::from_elapsed(EVERY.saturating_mul(u32::try_from(number).unwrap_or(0)));
        let request = Request::new(id, ModelId(1), Tokens(8_192), blocks.clone());
        decisions.clear();
        dispatcher.handle(now, Event::Arrived(black_box(request)), &mut decisions);
        dispatcher.handle(now, Event::FirstToken(id), &mut decisions);
        let (outcome, output, cached) = (Outcome::Finished, Some(Tokens(100)), None);
        dispatcher.handle(
            now,
            Event::Ended { request: id, outcome, output, cached },
            &mut decisions,
        );
    }
    let kept = dispatcher.explanations().newest().count();
    println!("{mode}: {DECISIONS} decisions, {kept} explanations kept");
}
