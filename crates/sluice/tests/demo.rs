//! The demonstration as a whole, for as short as it goes: nothing fails, and what it is there to show is seen.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

#[test]
fn the_demo_sends_both_workloads_under_every_policy_and_reports_each() {
    let demo = ["demo", "--exit", "--json", "--port", "0", "--duration", "2s"];
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(demo).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["schema"], "sluice.summary/1");
    let runs = summary["runs"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for run in runs {
        let name = |field: &str| run[field].as_str().unwrap().to_owned();
        seen.insert((name("workload"), name("policy")));
        for field in ["offered_rps", "good_request_fraction", "cache_hit_rate", "failed"] {
            assert!(run[field].is_number(), "{field} is missing: {run}");
        }
        assert!(
            run["ttft_ms"]["p99"].is_number() && run["generator_lag_ms"]["p99"].is_number(),
            "{run}"
        );
        let count = |field: &str| run[field].as_u64().unwrap();
        assert!(count("requests") > 20, "{run}");
        assert_eq!(count("completed") + count("failed"), count("requests"), "{run}");
        // Where nobody gives this process its time, health checks take a replica for hung now and then.
        let kept_up = run["generator_lag_ms"]["p99"].as_f64().unwrap() <= 10.0;
        let failed_max = if kept_up { 0 } else { count("requests") / 20 };
        assert!(count("failed") <= failed_max, "{run}");
    }
    let policies = ["least-request", "prefix-aware", "round-robin", "sticky"];
    for workload in ["mooncake-slice", "support-chat"] {
        for policy in policies {
            let run = (workload.to_owned(), policy.to_owned());
            assert!(seen.contains(&run), "{run:?} is missing among {seen:?}");
        }
    }
    // Ten minutes of the trace in two seconds leave no time to find much; the chatbot's prompts come again.
    let hits = |policy: &str| {
        let run = runs.iter().find(|it| it["workload"] == "support-chat" && it["policy"] == policy);
        run.unwrap()["cache_hit_rate"].as_f64().unwrap()
    };
    let (aware, plain) = (hits("prefix-aware"), hits("round-robin"));
    assert!(aware > plain, "{aware} is not above {plain}");
}
