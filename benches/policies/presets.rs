//! What is compared with what.

use policy::config::StrategyName;

use crate::case::Variant;

/// The strategies of the main table.
pub(crate) const COMPARED: [StrategyName; 13] = [
    StrategyName::LeastLatency,
    StrategyName::RoundRobin,
    StrategyName::LeastRequest,
    StrategyName::Sticky,
    StrategyName::PrefixAware,
    StrategyName::ConsistentHash,
    StrategyName::PeerSglang,
    StrategyName::PeerLlmdBlend,
    StrategyName::PeerLlmdTokenLoad,
    StrategyName::PeerDynamo,
    StrategyName::PeerMooncake,
    StrategyName::PeerLmetric,
    StrategyName::PeerPreble,
];

fn cost(label: &str, sets: &[&str]) -> Variant {
    let sets: Vec<String> = sets.iter().map(|it| (*it).to_owned()).collect();
    Variant::named(label, StrategyName::LeastLatency, &sets)
}

/// From nothing to all terms.
pub(crate) fn ladder() -> Vec<Variant> {
    let unbound =
        ["policy.saturation={threshold: 1000000, slack: 1000000, fallback: least-request}"
            .to_owned()];
    vec![
        Variant::named("A0 round-robin", StrategyName::RoundRobin, &[]),
        Variant::named("A1 fewest requests", StrategyName::LeastRequest, &[]),
        Variant::named("A2 fewest uncached tokens", StrategyName::KvAware, &unbound),
        cost("A3 own wait", &["policy.cost.harm=0", "policy.cost.price=0"]),
        cost("A4 and harm", &["policy.cost.price=0"]),
        cost("A5 and price", &[]),
        cost("A5 without promise", &["policy.cost.promise=false"]),
        cost("A5 without foresight", &["policy.cost.foresight=0"]),
        cost("A5 with foresight alone", &["policy.cost.foresight=1"]),
        cost("A5 without memory", &["policy.cost.memory=false"]),
        cost("A5 without lots", &["policy.cost.tie=0"]),
        cost("A5 without the young", &["policy.cost.young=0"]),
        cost("A5 without copies", &["policy.cost.copies=false"]),
    ]
}

/// The full cost, under what may go wrong.
pub(crate) fn robustness() -> Vec<Variant> {
    let guess = "policy.estimate.frozen=true";
    let slow: Vec<String> = (0..4)
        .map(|at| format!("{{kind: slow, at: 0s, replica: {at}, for: 1h, factor: 3}}"))
        .collect();
    let unlike = format!("faults=[{}]", slow.join(", "));
    vec![
        cost("as it is", &[]),
        cost(
            "engine adds up, 10 % noise",
            &["fleet.overrides.overlap=0", "fleet.overrides.spread={kind: log-normal, sigma: 0.1}"],
        ),
        cost("engine 30 % noise", &["fleet.overrides.spread={kind: log-normal, sigma: 0.3}"]),
        cost("guess not scaled", &[guess]),
        cost(
            "prefill −30 %, decode +30 %, fixed",
            &[
                guess,
                "policy.estimate.coefficients={prefill_us: 18, attention_ns: 0.74, sequence_us: 50, context_ns: 68, step_ms: 9.8}",
            ],
        ),
        cost(
            "prefill +30 %, decode −30 %, fixed",
            &[
                guess,
                "policy.estimate.coefficients={prefill_us: 34, attention_ns: 1.38, sequence_us: 27, context_ns: 36, step_ms: 5.3}",
            ],
        ),
        cost(
            "starts 3 × too slow",
            &[
                "policy.estimate.coefficients={prefill_us: 90, attention_ns: 3, sequence_us: 90, context_ns: 150, step_ms: 24}",
            ],
        ),
        cost("reports 50 ms late", &["signals.scrape_delay=50ms"]),
        cost("reports 1 s late", &["signals.scrape_delay=1s"]),
        cost("no reports", &["signals.scrape_interval=null"]),
        cost("caches known exactly", &["signals.event_lag=0s"]),
        cost("caches known 50 ms late", &["signals.event_lag=50ms"]),
        cost("caches known 500 ms late", &["signals.event_lag=500ms"]),
        cost("caches known 1 s late", &["signals.event_lag=1s"]),
        cost("2 routers", &["routers=2"]),
        cost("3 routers", &["routers=3"]),
        cost("4 routers", &["routers=4"]),
        cost("half of the fleet 3 × slower", &[unlike.as_str()]),
        cost("the same, and its speeds known", &[unlike.as_str(), "signals.speeds_known=true"]),
    ]
}
