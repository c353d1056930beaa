//! Keeps every series, and writes them as Prometheus reads them.
//!
//! It is a recorder of our own because a replica's series have to leave with it: replicas come and go for
//! as long as a router runs, by DNS each under a new name, and a recorder that can only let go of what was
//! not touched for a while would take the counts of replicas that are merely idle too.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::RwLock;

use super::Kind;

/// Every series, by its metric.
#[derive(Debug)]
pub(super) struct Registry {
    families: RwLock<BTreeMap<String, Family>>,
    /// Upper bounds of the buckets of a histogram, by its name, in seconds.
    buckets: fn(&str) -> &'static [f64],
}

/// The series of one metric.
#[derive(Debug)]
struct Family {
    kind: Kind,
    help: SharedString,
    series: BTreeMap<Key, Series>,
}

#[derive(Clone, Debug)]
enum Series {
    /// Of a counter the count, of a gauge the bits of its value.
    Number(Arc<AtomicU64>),
    Durations(Arc<Durations>),
}

/// Durations, counted by their buckets as they come.
#[derive(Debug)]
struct Durations {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is above all of them.
    counts: Box<[AtomicU64]>,
    /// In nanoseconds; enough for centuries.
    sum_ns: AtomicU64,
}

impl Durations {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_ns: AtomicU64::new(0) }
    }
}

impl HistogramFn for Durations {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are not negative; the cast saturates"
    )]
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add((value * 1e9).round() as u64, Ordering::Relaxed);
    }
}

impl Registry {
    pub(super) fn new(buckets: fn(&str) -> &'static [f64]) -> Self {
        Self { families: RwLock::default(), buckets }
    }

    /// Lets go of every series whose `label` is there and has a value that is not to be kept. Who still holds
    /// a handle of one counts for nobody.
    pub(super) fn retain(&self, label: &str, keep: impl Fn(&str) -> bool) {
        let is_kept =
            |key: &Key| key.labels().find(|it| it.key() == label).is_none_or(|it| keep(it.value()));
        for family in self.families.write().values_mut() {
            family.series.retain(|key, _| is_kept(key));
        }
    }

    /// The text that Prometheus scrapes.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let families = self.families.read();
        for (name, family) in families.iter().filter(|it| !it.1.series.is_empty()) {
            // Writing into a string can't fail.
            let _ = family.write(name, &mut text);
        }
        text
    }

    fn describe(&self, name: &KeyName, kind: Kind, help: SharedString) {
        let fresh = || Family { kind, help: SharedString::default(), series: BTreeMap::new() };
        let mut families = self.families.write();
        families.entry(name.as_str().to_owned()).or_insert_with(fresh).help = help;
    }

    fn series(&self, key: &Key, kind: Kind) -> Series {
        let known = |families: &BTreeMap<String, Family>| {
            families.get(key.name())?.series.get(key).cloned()
        };
        if let Some(known) = known(&self.families.read()) {
            return known;
        }
        let mut families = self.families.write();
        let help = SharedString::default();
        let fresh = || Family { kind, help, series: BTreeMap::new() };
        let family = families.entry(key.name().to_owned()).or_insert_with(fresh);
        let series = family.series.entry(key.clone()).or_insert_with(|| match kind {
            Kind::Counter | Kind::Gauge => Series::Number(Arc::default()),
            Kind::Histogram => {
                Series::Durations(Arc::new(Durations::new((self.buckets)(key.name()))))
            }
        });
        series.clone()
    }
}

/// What is asked for as something else than it is counts for nobody: each metric is declared once.
impl Recorder for Registry {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::Counter, help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::Gauge, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, Kind::Histogram, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.series(key, Kind::Counter) {
            Series::Number(count) => Counter::from_arc(count),
            Series::Durations(_) => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.series(key, Kind::Gauge) {
            Series::Number(bits) => Gauge::from_arc(bits),
            Series::Durations(_) => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.series(key, Kind::Histogram) {
            Series::Durations(durations) => Histogram::from_arc(durations),
            Series::Number(_) => Histogram::noop(),
        }
    }
}

impl Family {
    fn write(&self, name: &str, text: &mut String) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (key, series) in &self.series {
            let labels = labels(key);
            match series {
                Series::Number(number) => {
                    let number = number.load(Ordering::Relaxed);
                    write!(text, "{name}{} ", braced(&labels, ""))?;
                    match self.kind {
                        Kind::Counter | Kind::Histogram => writeln!(text, "{number}")?,
                        Kind::Gauge => writeln!(text, "{}", shown(f64::from_bits(number)))?,
                    }
                }
                Series::Durations(durations) => durations.write(name, &labels, text)?,
            }
        }
        writeln!(text)
    }
}

impl Durations {
    fn write(&self, name: &str, labels: &str, text: &mut String) -> std::fmt::Result {
        let bounds = self.bounds.iter().map(|it| shown(*it)).chain(["+Inf".to_owned()]);
        let mut total = 0_u64;
        for (bound, count) in bounds.zip(&self.counts) {
            total = total.saturating_add(count.load(Ordering::Relaxed));
            let braced = braced(labels, &format!("le=\"{bound}\""));
            writeln!(text, "{name}_bucket{braced} {total}")?;
        }
        let (braced, sum) = (braced(labels, ""), self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9);
        writeln!(text, "{name}_sum{braced} {}\n{name}_count{braced} {total}", shown(sum))
    }
}

/// The labels of a series, as they stand between braces.
fn labels(key: &Key) -> String {
    let label = |it: &metrics::Label| {
        let value = it.value().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}=\"{value}\"", it.key())
    };
    key.labels().map(label).collect::<Vec<_>>().join(",")
}

fn braced(labels: &str, more: &str) -> String {
    match (labels, more) {
        ("", "") => String::new(),
        ("", only) | (only, "") => format!("{{{only}}}"),
        (labels, more) => format!("{{{labels},{more}}}"),
    }
}

fn shown(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram};

    use super::*;

    fn registry() -> Registry {
        Registry::new(|_| &[0.5, 1.0])
    }

    #[test]
    fn each_kind_is_written_as_prometheus_reads_it() {
        let registry = registry();
        metrics::with_local_recorder(&registry, || {
            metrics::describe_counter!("told_total", "Told,\nonce");
            metrics::describe_gauge!("never", "Has no series");
            counter!("told_total", "replica" => "a\"\\\n", "more" => "b").increment(2);
            counter!("told_total", "replica" => "a\"\\\n", "more" => "b").absolute(7);
            counter!("plain").absolute(0);
            gauge!("level", "replica" => "a").set(f64::NAN);
            gauge!("level", "replica" => "b").set(1.5);
            gauge!("level", "replica" => "c").set(f64::INFINITY);
            let took = histogram!("took_seconds", "replica" => "a");
            [0.5, 0.75, 2.0].into_iter().for_each(|it| took.record(it));
            histogram!("bare_seconds").record(std::time::Duration::from_micros(3));
        });
        let expected = "\
# HELP bare_seconds 
# TYPE bare_seconds histogram
bare_seconds_bucket{le=\"0.5\"} 1
bare_seconds_bucket{le=\"1\"} 1
bare_seconds_bucket{le=\"+Inf\"} 1
bare_seconds_sum 0.000003
bare_seconds_count 1

# HELP level 
# TYPE level gauge
level{replica=\"a\"} NaN
level{replica=\"b\"} 1.5
level{replica=\"c\"} +Inf

# HELP plain 
# TYPE plain counter
plain 0

# HELP told_total Told,\\nonce
# TYPE told_total counter
told_total{replica=\"a\\\"\\\\\\n\",more=\"b\"} 7

# HELP took_seconds 
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
        registry.retain("replica", |it| it == "kept");
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
