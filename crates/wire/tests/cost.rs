//! What reading a body costs, whatever is in it: in proportion to its length, and little of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]
#![allow(clippy::disallowed_methods, reason = "what a thread has cost is told by a file")]

use std::hint::black_box;

use types::{block::HashKey, quantity::Tokens};
use wire::openai::{Endpoint, parse};

const MIB: usize = 1 << 20;

/// Tokens to a block, as the router has it when nothing is said.
const BLOCK: Tokens = Tokens(64);

/// Bodies that are as hard to read as their kind can be, of about `bytes` bytes each.
fn bodies(bytes: usize) -> Vec<(&'static str, String)> {
    let of = |piece: &str| piece.repeat(bytes / piece.len());
    let list = |piece: &str| {
        let mut list = of(&format!("{piece},"));
        list.truncate(list.len().saturating_sub(1));
        list
    };
    let chat =
        |messages: &str, more: &str| format!(r#"{{"model":"m","messages":[{messages}]{more}}}"#);
    let keys: Vec<String> = (0..bytes / 12).map(|at| format!(r#""{at:07}":1"#)).collect();
    let keys = keys.join(",");
    let depth = "[".repeat(bytes / 2) + &"]".repeat(bytes / 2);
    vec![
        ("a chat as they are", chat(&list(&turn(4_000)), "")),
        ("messages of `{}`", chat(&list("{}"), "")),
        ("messages of `0`", chat(&list("0"), "")),
        ("messages of a letter", chat(&list(r#"{"role":"user","content":"a"}"#), "")),
        ("the system's messages", chat(&list(r#"{"role":"system"}"#), "")),
        ("messages of many keys", chat(&list(&format!("{{{}}}", list_of_keys())), "")),
        (
            "parts of a letter",
            chat(&format!(r#"{{"role":"user","content":[{}]}}"#, list(r#""a""#)), ""),
        ),
        ("parts of `{}`", chat(&format!(r#"{{"role":"user","content":[{}]}}"#, list("{}")), "")),
        ("keys at the top", format!(r#"{{"model":"m",{keys}}}"#)),
        ("keys of a message", chat(&format!("{{{keys}}}"), "")),
        ("keys of a tool", chat("", &format!(r#","tools":[{{{keys}}}]"#))),
        ("a string", chat(&format!(r#"{{"content":"{}"}}"#, of("a")), "")),
        ("a string of escapes", chat(&format!(r#"{{"content":"{}"}}"#, of(r#"\""#)), "")),
        ("a string nobody reads", chat("", &format!(r#","x":"{}""#, of("a")))),
        ("numbers nobody reads", chat("", &format!(r#","x":[{}]"#, list("1")))),
        ("a number", chat("", &format!(r#","x":1{}"#, of("0")))),
        ("space", chat("", &of(" "))),
        ("a depth of its length", chat("", &format!(r#","x":{depth}"#))),
        ("a depth within a message", chat(&format!(r#"{{"content":{depth}}}"#), "")),
        ("a depth that is allowed", chat("", &format!(r#","x":[{}]"#, list(&nested(60))))),
        ("that in messages", chat(&list(&format!(r#"{{"content":{}}}"#, nested(50))), "")),
    ]
}

/// A turn as long as many are.
fn turn(bytes: usize) -> String {
    format!(r#"{{"role":"user","content":"{}"}}"#, "some words ".repeat(bytes / 11))
}

fn list_of_keys() -> String {
    let keys: Vec<String> = (0..50).map(|at| format!(r#""{at}":0"#)).collect();
    keys.join(",")
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

/// CPU time that this thread has taken, in milliseconds: what it waits for others of the machine is none of its cost.
fn cpu_ms() -> f64 {
    // The system counts it when a thread may have to wait.
    std::thread::yield_now();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}

/// Milliseconds of CPU that reading `body` and naming its blocks takes, the least of a few times.
fn cost(endpoint: Endpoint, body: &str) -> f64 {
    let once = || {
        let began = cpu_ms();
        let view = parse(endpoint, black_box(body.as_bytes()));
        black_box(view.map(|it| it.hash_prompt(HashKey(1), None, BLOCK)).is_ok());
        cpu_ms() - began
    };
    (0..3).map(|_| once()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "measures, so wants to be optimised: benches/full_counts.sh"]
fn full_e6_bodies_cost_what_their_length_does() {
    let prompts = |bytes: usize| {
        let ids =
            |id: &str| format!(r#"{{"model":"m","prompt":[{}0]}}"#, id.repeat(bytes / id.len()));
        vec![("token ids", ids("1,")), ("prompts of nothing", ids("[],"))]
    };
    let (mut dearest, mut nonlinear) = ((0.0, ""), Vec::new());
    let kinds = |bytes| {
        let chats = bodies(bytes).into_iter().map(|it| (Endpoint::ChatCompletions, it));
        chats.chain(prompts(bytes).into_iter().map(|it| (Endpoint::Completions, it)))
    };
    for ((endpoint, (kind, short)), (_, (_, long))) in kinds(2 * MIB).zip(kinds(8 * MIB)) {
        let (of_short, of_long) = (cost(endpoint, &short), cost(endpoint, &long));
        #[expect(clippy::cast_precision_loss, reason = "a few millions")]
        let a_mib = of_long * MIB as f64 / long.len() as f64;
        println!("E6: {kind}: {of_long:.1} ms for 8 MiB, {a_mib:.2} ms/MiB ({of_short:.1} for 2)");
        if a_mib > dearest.0 {
            dearest = (a_mib, kind);
        }
        // Below a millisecond it is chance that is measured.
        if of_long > 10.0 * of_short.max(1.0) {
            nonlinear.push(kind);
        }
    }
    println!("E6: the dearest are {} at {:.2} ms/MiB", dearest.1, dearest.0);
    assert!(nonlinear.is_empty(), "they cost more than their length does: {nonlinear:?}");
}
