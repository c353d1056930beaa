//! `/metrics` under vLLM's names, labels and buckets, so that one scraper reads both.

use std::{fmt::Write, time::Duration};

use engine::{Profile, Progress};
use types::quantity::Tokens;

use crate::{answer::FinishReason, drive::Snapshot};

/// Upper bounds in seconds, as vLLM 0.32 has them.
const FIRST_TOKEN_S: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const TOKEN_GAP_S: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST_S: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Latencies of the requests a replica has served, on the engine's clock.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    first_token: Histogram,
    token_gap: Histogram,
    request: Histogram,
    stopped: u64,
    cut: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            first_token: Histogram::new(&FIRST_TOKEN_S),
            token_gap: Histogram::new(&TOKEN_GAP_S),
            request: Histogram::new(&REQUEST_S),
            stopped: 0,
            cut: 0,
        }
    }
}

impl Latencies {
    /// Records a token that came `gap` after the one before it or, the first, after the arrival.
    pub(crate) fn record_token(&mut self, token: &Progress, gap: Duration) {
        if token.generated == Tokens(1) {
            self.first_token.record(gap);
        } else {
            self.token_gap.record(gap);
        }
    }

    /// Records the end of a request that took `whole` from its arrival.
    pub(crate) fn record_end(&mut self, finish_reason: FinishReason, whole: Duration) {
        self.request.record(whole);
        let count = match finish_reason {
            FinishReason::Stop => &mut self.stopped,
            FinishReason::Length => &mut self.cut,
        };
        *count = count.saturating_add(1);
    }
}

/// Counts durations by upper bounds.
#[derive(Clone, Debug)]
struct Histogram {
    bounds_s: &'static [f64],
    /// One count for each bound, not cumulative; what exceeds them all is only in `count`.
    counts: Vec<u64>,
    count: u64,
    sum_s: f64,
}

impl Histogram {
    fn new(bounds_s: &'static [f64]) -> Self {
        Self { bounds_s, counts: vec![0; bounds_s.len()], count: 0, sum_s: 0.0 }
    }

    fn record(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds_s.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.count = self.count.saturating_add(1);
        self.sum_s += seconds;
    }
}

/// Renders the metrics of a replica that serves `model`.
pub(crate) fn render(model: &str, profile: &Profile, snapshot: &Snapshot) -> String {
    let Snapshot { load, counters, latencies, .. } = snapshot;
    let mut page = Page::new(model);
    page.gauge("num_requests_running", "Requests in the running batch.", f64::from(load.running));
    page.gauge("num_requests_waiting", "Requests waiting for it.", f64::from(load.waiting));
    page.gauge(
        "kv_cache_usage_perc",
        "Share of the KV cache in use; 1 is all of it.",
        f64::from(load.kv_usage),
    );
    page.counter(
        "prefix_cache_queries_total",
        "Prompt tokens looked up in the prefix cache.",
        counters.prefix_queries,
    );
    page.counter("prefix_cache_hits_total", "Prompt tokens found there.", counters.prefix_hits);
    page.counter(
        "num_preemptions_total",
        "Times a running request gave up its KV blocks.",
        counters.preemptions,
    );
    page.counter(
        "prompt_tokens_total",
        "Prompt tokens of requests that had their first token.",
        counters.prompt_tokens,
    );
    page.counter("generation_tokens_total", "Tokens generated.", counters.generation_tokens);
    page.requests(latencies);
    page.histogram(
        "time_to_first_token_seconds",
        "Time from a request's arrival to its first token.",
        &latencies.first_token,
    );
    page.histogram(
        "inter_token_latency_seconds",
        "Time between two tokens of a request.",
        &latencies.token_gap,
    );
    page.histogram(
        "e2e_request_latency_seconds",
        "Time from a request's arrival to its last token.",
        &latencies.request,
    );
    page.cache_config(profile);
    page.text
}

/// The page as far as it is written; writing to a `String` can't fail.
struct Page {
    text: String,
    /// `engine="0",model_name="…"`; no other label sorts between the two.
    labels: [String; 2],
}

impl Page {
    fn new(model: &str) -> Self {
        let escaped = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = ["engine=\"0\"".to_owned(), format!("model_name=\"{escaped}\"")];
        Self { text: String::with_capacity(8192), labels }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    fn sample(&mut self, name: &str, between: &str, value: f64) {
        let [engine, model] = &self.labels;
        let _ = writeln!(self.text, "vllm:{name}{{{engine},{between}{model}}} {value:?}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.sample(name, "", value as f64);
    }

    fn requests(&mut self, latencies: &Latencies) {
        let name = "request_success_total";
        self.head(name, "Requests that ended well, by why they ended.", "counter");
        // vLLM does not count a client that hangs up as an abort.
        for (reason, count) in
            [("stop", latencies.stopped), ("length", latencies.cut), ("abort", 0)]
        {
            self.sample(name, &format!("finished_reason=\"{reason}\","), count as f64);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        let mut below: u64 = 0;
        for (bound, count) in histogram.bounds_s.iter().zip(&histogram.counts) {
            below = below.saturating_add(*count);
            self.sample(&bucket, &format!("le=\"{bound:?}\","), below as f64);
        }
        self.sample(&bucket, "le=\"+Inf\",", histogram.count as f64);
        self.sample(&format!("{name}_count"), "", histogram.count as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum_s);
    }

    fn cache_config(&mut self, profile: &Profile) {
        let name = "cache_config_info";
        self.head(name, "How the KV cache is laid out.", "gauge");
        // Without the model's name, as in vLLM.
        let _ = writeln!(
            self.text,
            "vllm:{name}{{block_size=\"{}\",enable_prefix_caching=\"True\",engine=\"0\",\
             num_gpu_blocks=\"{}\"}} 1.0",
            profile.block_size,
            profile.kv_blocks(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_ends_at_it() {
        let mut histogram = Histogram::new(&TOKEN_GAP_S);
        for milliseconds in [10, 11, 200_000] {
            histogram.record(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.counts.get(..3), Some([1, 1, 0].as_slice()));
        assert_eq!((histogram.counts.iter().sum::<u64>(), histogram.count), (2, 3));
        let mut page = Page::new("m\"x");
        page.histogram("gap", "Gap.", &histogram);
        assert!(
            page.text.contains("gap_bucket{engine=\"0\",le=\"0.025\",model_name=\"m\\\"x\"} 2.0")
        );
        assert!(page.text.contains("le=\"+Inf\",model_name=\"m\\\"x\"} 3.0"), "{}", page.text);
    }
}
