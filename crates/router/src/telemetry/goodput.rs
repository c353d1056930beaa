//! What was good, and what it costs.

use metrics::{Counter, counter, gauge};

use super::{
    Telemetry,
    names::{COST_PER_ACCEPTED, COST_PER_HOUR, JUDGED},
};
use crate::app::App;

/// What requests of no class are called; classes are those of the configuration.
const NO_CLASS: &str = "none";

/// The counters of one class: of good requests, and of those that were not.
pub(super) type Judged = [Counter; 2];

impl Telemetry {
    /// Begins to count the requests of each of `classes`, and those of no class.
    pub(crate) fn begin_classes<'a>(&self, classes: impl Iterator<Item = &'a str>) {
        for class in classes.chain([NO_CLASS]) {
            self.judged.insert(class.to_owned(), self.declare_judged(class));
        }
    }

    fn declare_judged(&self, class: &str) -> Judged {
        metrics::with_local_recorder(&self.recorder, || {
            ["true", "false"].map(|good| {
                let counter = counter!(JUDGED, "slo_class" => class.to_owned(), "good" => good);
                counter.increment(0);
                counter
            })
        })
    }

    /// Counts a request that has left and was judged. Its class is one of those that were begun.
    pub(crate) fn judged(&self, slo_class: Option<&str>, is_good: bool) {
        let Some(judged) = self.judged.get(slo_class.unwrap_or(NO_CLASS)) else { return };
        let [good, bad] = judged.value();
        if is_good { good.increment(1) } else { bad.increment(1) }
    }
}

/// Sets the gauges of costs, where prices are known.
pub(super) fn read_gauges(app: &App) {
    let settings = app.settings.load();
    let Some(prices) = &settings.prices else { return };
    let replicas = app.replicas();
    app.goodput.paid(replicas);
    gauge!(COST_PER_HOUR).set(prices.replica_hour.mul_add(f64::from(replicas), prices.other_hour));
    for (class, figures) in app.goodput.classes(Some(prices)) {
        let class = if class.is_empty() { NO_CLASS.to_owned() } else { class };
        // Money that was spent on nothing good has no price for each.
        let each = figures.cost_per_accepted.unwrap_or(f64::NAN);
        gauge!(COST_PER_ACCEPTED, "slo_class" => class).set(each);
    }
}
