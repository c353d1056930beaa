//! What was good, and what it costs.

use metrics::{counter, gauge};

use super::{COST_PER_ACCEPTED, COST_PER_HOUR, JUDGED, Telemetry};
use crate::app::App;

/// What requests of no class are called; classes are those of the configuration.
const NO_CLASS: &str = "none";

impl Telemetry {
    /// Begins to count the requests of each of `classes`, and those of no class.
    pub(crate) fn begin_classes<'a>(&self, classes: impl Iterator<Item = &'a str>) {
        metrics::with_local_recorder(&self.recorder, || {
            for class in classes.chain([NO_CLASS]) {
                for good in ["true", "false"] {
                    counter!(JUDGED, "slo_class" => class.to_owned(), "good" => good).increment(0);
                }
            }
        });
    }

    /// Counts a request that has left and was judged.
    pub(crate) fn judged(&self, slo_class: Option<&str>, is_good: bool) {
        let class = slo_class.unwrap_or(NO_CLASS).to_owned();
        let good = if is_good { "true" } else { "false" };
        metrics::with_local_recorder(&self.recorder, || {
            counter!(JUDGED, "slo_class" => class, "good" => good).increment(1);
        });
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
