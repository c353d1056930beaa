//! Says in a sentence for each workload what the table shows, from the figures themselves.

use policy::config::StrategyName;
use report::Run;

/// What other people's measurement of the support chatbot showed, to be held beside ours.
const REFERENCE: &str = "Published for the support chatbot elsewhere: hit rate 12 % → 85 % → 90 % \
and mean TTFT 1,200 → 300 → 250 ms\nfor round-robin, prefix-aware and sticky. docs/benchmarking.md \
explains where ours differs, and why.\nWith one prompt shared by all, every replica would soon hold \
it, and round-robin would look fine.";

/// A workload is worth routing for when at least this share of its prompt tokens repeats a prefix.
const REUSE_WORTH_ROUTING_FOR: f64 = 0.5;

/// The sentences for `runs`; `workloads` are their names with what an infinite cache would reuse.
pub(super) fn of<'a>(runs: &[Run], workloads: impl Iterator<Item = (&'a str, f64)>) -> String {
    let sentences = workloads.filter_map(|(workload, reuse)| sentence(runs, workload, reuse));
    let mut text: String = sentences.map(|it| format!("{it}\n")).collect();
    text.push_str(REFERENCE);
    text.push('\n');
    text
}

fn sentence(runs: &[Run], workload: &str, reuse: f64) -> Option<String> {
    let run = |policy: StrategyName| {
        runs.iter().find(|it| it.workload == workload && it.policy == policy.as_str())
    };
    let (plain, aware) = (run(StrategyName::RoundRobin)?, run(StrategyName::PrefixAware)?);
    let hits = |run: &Run| run.cache_hit_rate.map(|it| it * 100.0);
    let (plain_hits, aware_hits) = (hits(plain)?, hits(aware)?);
    let ratio = plain.ttft_ms?.mean / aware.ttft_ms?.mean;
    let ttft = if 1.0 <= ratio {
        format!("its mean TTFT is {ratio:.1} times shorter")
    } else {
        format!("its mean TTFT is {:.1} times longer", 1.0 / ratio)
    };
    let limit = reuse * 100.0;
    Some(if reuse < REUSE_WORTH_ROUTING_FOR {
        format!(
            "{workload}: {limit:.0} % of the prompt tokens repeat a prefix, so there is not much to find: \
             prefix-aware reuses {aware_hits:.0} %\nwhere round-robin reuses {plain_hits:.0} %, and {ttft}."
        )
    } else {
        format!(
            "{workload}: prefix-aware reuses {aware_hits:.0} % of the prompt tokens where round-robin \
             reuses {plain_hits:.0} % (an infinite cache: {limit:.0} %),\nand {ttft}."
        )
    })
}
