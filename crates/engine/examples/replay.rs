//! Repeats recordings of a real vLLM on the engine and says what differs.
//!
//! `cargo run -p engine --example replay -- RECORDING.json …`; recordings come from
//! `deploy/fidelity`. Fails when anything differs.
#![allow(clippy::print_stdout, reason = "a command's answer")]
#![allow(clippy::unwrap_used, reason = "shared with the tests, where a bad recording may panic")]

#[path = "../tests/replay/mod.rs"]
mod replay;

use std::{error::Error, fs::File, io::Read, process::ExitCode};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut differences = 0;
    for path in std::env::args().skip(1) {
        let mut text = String::new();
        File::open(&path).and_then(|mut it| it.read_to_string(&mut text))?;
        let found = replay::compare(&text)?;
        for difference in found.differences.iter().take(20) {
            println!("{difference}");
        }
        differences += found.differences.len();
        println!(
            "{path}: {} requests, cached tokens equal on {} of {}, {} preemptions, {} KV events, \
             {} differences",
            found.requests,
            found.cached.1,
            found.cached.0,
            found.preemptions,
            found.events,
            found.differences.len()
        );
    }
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
