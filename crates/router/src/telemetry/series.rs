//! Keeps an exporter for each replica, and has all of them write as one.
//!
//! A replica's series have to leave with it: replicas come and go for as long as a router runs, by DNS each
//! under a new name. An exporter lets go of nothing but what was not touched for a while, which would take
//! the counts of replicas that are merely idle too. So whatever has the label `replica` is kept by an
//! exporter of that replica's own, which is dropped once it is no member any more.

use std::{collections::BTreeMap, fmt::Write as _};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use parking_lot::RwLock;

/// The label whose value says whose a series is.
const OWNER: &str = "replica";

/// Every series, by its replica.
#[derive(Debug)]
pub(super) struct Registry {
    /// Makes an exporter that knows what each metric means.
    exporter: fn() -> PrometheusRecorder,
    /// What is no replica's.
    common: PrometheusRecorder,
    /// By the replica's name.
    replicas: RwLock<BTreeMap<String, PrometheusRecorder>>,
}

impl Registry {
    pub(super) fn new(exporter: fn() -> PrometheusRecorder) -> Self {
        Self { exporter, common: exporter(), replicas: RwLock::default() }
    }

    /// Lets go of every series of replicas whose name is not to be kept. Who still holds a handle of one
    /// counts for nobody, until it asks for the series again.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.replicas.write().retain(|name, _| keep(name));
    }

    /// Folds recorded durations into their buckets, so that they take no memory until read.
    pub(super) fn upkeep(&self) {
        self.common.handle().run_upkeep();
        self.replicas.read().values().for_each(|it| it.handle().run_upkeep());
    }

    /// The text that Prometheus scrapes: families by name, in each what is no replica's first.
    pub(super) fn render(&self) -> String {
        let mut texts = vec![self.common.handle().render()];
        texts.extend(self.replicas.read().values().map(|it| it.handle().render()));
        merge(&texts)
    }

    /// What `register` gives for `key` with the exporter that keeps it.
    fn with<T>(&self, key: &Key, register: impl Fn(&PrometheusRecorder) -> T) -> T {
        let Some(replica) = key.labels().find(|it| it.key() == OWNER) else {
            return register(&self.common);
        };
        if let Some(exporter) = self.replicas.read().get(replica.value()) {
            return register(exporter);
        }
        let mut replicas = self.replicas.write();
        register(replicas.entry(replica.value().to_owned()).or_insert_with(self.exporter))
    }
}

/// What a metric means each exporter knows from its beginning; what is said later counts for what is no
/// replica's.
impl Recorder for Registry {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.common.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.common.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.common.describe_histogram(name, unit, help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.with(key, |it| it.register_counter(key, metadata))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.with(key, |it| it.register_gauge(key, metadata))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.with(key, |it| it.register_histogram(key, metadata))
    }
}

/// The lines of one metric.
#[derive(Debug, Default)]
struct Family<'a> {
    /// What it means and what it is.
    head: Vec<&'a str>,
    series: Vec<&'a str>,
}

/// Joins what exporters wrote, so that each metric is told of once: a scraper takes the second time for a
/// mistake. No exporter writes an end of a line within a label or a meaning.
fn merge(texts: &[String]) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for text in texts {
        let mut name = "";
        for line in text.lines().filter(|it| !it.is_empty()) {
            let told = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            if let Some(told) = told {
                name = told.split(' ').next().unwrap_or_default();
                let head = &mut families.entry(name).or_default().head;
                if !head.contains(&line) {
                    head.push(line);
                }
            } else {
                families.entry(name).or_default().series.push(line);
            }
        }
    }
    let mut merged = String::with_capacity(texts.iter().map(String::len).sum());
    for family in families.values() {
        for line in family.head.iter().chain(&family.series) {
            // Writing into a string can't fail.
            let _ = writeln!(merged, "{line}");
        }
        merged.push('\n');
    }
    merged
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn registry() -> Registry {
        Registry::new(|| {
            let exporter = PrometheusBuilder::new().set_buckets(&[0.5, 1.0]).unwrap();
            let exporter = exporter.build_recorder();
            metrics::with_local_recorder(&exporter, || {
                metrics::describe_counter!("told_total", "Told,\nonce");
                metrics::describe_gauge!("level", "How high");
                metrics::describe_gauge!("never", "Has no series");
            });
            exporter
        })
    }

    #[test]
    fn each_kind_is_written_as_prometheus_reads_it_and_each_metric_is_told_of_once() {
        let registry = registry();
        metrics::with_local_recorder(&registry, || {
            counter!("told_total", "replica" => "a\"\\b\n", "more" => "b").increment(2);
            counter!("told_total", "replica" => "a\"\\b\n", "more" => "b").absolute(7);
            counter!("told_total", "replica" => "b").increment(1);
            counter!("plain").absolute(0);
            gauge!("level").set(0.25);
            gauge!("level", "replica" => "a").set(f64::NAN);
            gauge!("level", "replica" => "b").set(1.5);
            let took = histogram!("took_seconds", "replica" => "a");
            [0.5, 0.75, 2.0].into_iter().for_each(|it| took.record(it));
            histogram!("bare_seconds").record(std::time::Duration::from_millis(3));
        });
        registry.upkeep();
        let expected = "\
# TYPE bare_seconds histogram
bare_seconds_bucket{le=\"0.5\"} 1
bare_seconds_bucket{le=\"1\"} 1
bare_seconds_bucket{le=\"+Inf\"} 1
bare_seconds_sum 0.003
bare_seconds_count 1

# HELP level How high
# TYPE level gauge
level 0.25
level{replica=\"a\"} NaN
level{replica=\"b\"} 1.5

# TYPE plain counter
plain 0

# HELP told_total Told,\\nonce
# TYPE told_total counter
told_total{replica=\"a\\\"\\\\b\\n\",more=\"b\"} 7
told_total{replica=\"b\"} 1

# TYPE took_seconds histogram
took_seconds_bucket{replica=\"a\",le=\"0.5\"} 1
took_seconds_bucket{replica=\"a\",le=\"1\"} 2
took_seconds_bucket{replica=\"a\",le=\"+Inf\"} 3
took_seconds_sum{replica=\"a\"} 3.25
took_seconds_count{replica=\"a\"} 3

";
        assert_eq!(registry.render(), expected);
    }

    #[test]
    fn what_is_let_go_of_leaves_nothing_and_the_rest_stays_as_it_is() {
        let registry = registry();
        let count = |replica: &'static str| {
            metrics::with_local_recorder(&registry, || counter!("told", "replica" => replica))
        };
        let (kept, gone) = (count("kept"), count("gone"));
        metrics::with_local_recorder(&registry, || counter!("of_nobody").increment(1));
        kept.increment(1);
        gone.increment(1);
        registry.retain(|it| it == "kept");
        kept.increment(1);
        gone.increment(1);
        let text = registry.render();
        assert!(
            text.contains("told{replica=\"kept\"} 2") && text.contains("of_nobody 1"),
            "{text}"
        );
        assert!(!text.contains("gone"), "{text}");
        count("gone").increment(1);
        assert!(registry.render().contains("told{replica=\"gone\"} 1"), "it begins anew");
    }
}
