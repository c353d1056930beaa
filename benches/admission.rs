//! What each way to let requests in serves of the five workloads and of the textbook's server.
//!
//! ```text
//! cargo run --release -p benches --bin admission            # 60 s of each workload, one seed
//! cargo run --release -p benches --bin admission -- 240 5   # longer, over five seeds
//! cargo run --release -p benches --bin admission -- 60 1 chat,textbook-queue
//! ```
//!
//! For each workload: the knee without admission, every mode at 1.4 times the knee, `off` and `knee` at
//! 2 and 3 times, and the number of `static` found by hand. One line of tab-separated text a run, means
//! over the seeds; the first third of a run does not count.

#![allow(clippy::unwrap_used, reason = "a figure that cannot be had ends the study")]
#![expect(clippy::print_stdout, reason = "the result is for the terminal")]

use std::{env, fs, path::Path, time::Duration};

use engine::Profile;
use policy::{
    admission::{AdmissionConfig, AdmissionMode},
    config::StrategyName,
};
use report::{Ending, RequestRecord};
use simulator::Scenario;

/// A workload, and the highest rate at which 97 % of its requests keep their promises without admission.
const WORKLOADS: [(&str, f64); 4] =
    [("chat", 108.0), ("mixed", 74.0), ("hot-documents", 85.0), ("no-sharing", 104.0)];

fn main() {
    let mut arguments = env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |it| it.parse().unwrap());
    let (seconds, seeds) = (number(60), number(1));
    let only = arguments.next();
    let is_wanted =
        |name: &str| only.as_deref().is_none_or(|it| it.split(',').any(|it| it == name));
    println!(
        "workload\trate/s\ttimes knee\tadmission\tgood/s\tof knee %\tattained %\trefused %\tTTFT p99 ms"
    );
    for (name, knee) in WORKLOADS.into_iter().filter(|it| is_wanted(it.0)) {
        let mut scenario = read(name);
        scenario.load.duration = Some(Duration::from_secs(seconds));
        scenario.load.warm_up = Duration::from_secs(seconds / 3);
        let study = Study { scenario, name, knee, seeds, strategy: StrategyName::LeastLatency };
        study.run();
    }
    if is_wanted("textbook-queue") {
        textbook(seeds.saturating_mul(8));
    }
}

fn read(name: &str) -> Scenario {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/scenarios");
    let text = fs::read_to_string(root.join(format!("{name}.yaml"))).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

struct Study {
    scenario: Scenario,
    name: &'static str,
    knee: f64,
    seeds: u64,
    strategy: StrategyName,
}

/// Means over seeds.
#[derive(Default)]
struct Figures {
    offered: f64,
    good_per_s: f64,
    attained: f64,
    refused: f64,
    ttft_p99_ms: f64,
}

impl Study {
    fn run(&self) {
        let at_knee = self.measure(AdmissionConfig::off(), self.knee).good_per_s;
        self.line(AdmissionMode::Off.as_str(), AdmissionConfig::off(), 1.0, at_knee);
        for times in [0.8, 1.0, 1.4, 2.0, 3.0] {
            self.line("knee", AdmissionConfig::default(), times, at_knee);
        }
        self.line("off", AdmissionConfig::off(), 0.8, at_knee);
        for mode in AdmissionMode::ALL {
            if !matches!(mode, AdmissionMode::Knee | AdmissionMode::Static) {
                self.line(mode.as_str(), AdmissionConfig::of(mode), 1.4, at_knee);
            }
        }
        for in_flight_max in [32, 64, 96, 128, 160] {
            let config =
                AdmissionConfig { in_flight_max, ..AdmissionConfig::of(AdmissionMode::Static) };
            self.line(&format!("static {in_flight_max}"), config, 1.4, at_knee);
        }
    }

    fn line(&self, label: &str, config: AdmissionConfig, times: f64, at_knee: f64) {
        let it = self.measure(config, self.knee * times);
        println!(
            "{}\t{:.0}\t{times}\t{label}\t{:.1}\t{:.0}\t{:.1}\t{:.1}\t{:.0}",
            self.name,
            self.knee * times,
            it.good_per_s,
            it.good_per_s / at_knee * 100.0,
            it.attained * 100.0,
            it.refused * 100.0,
            it.ttft_p99_ms
        );
    }

    fn measure(&self, config: AdmissionConfig, rate_per_s: f64) -> Figures {
        let mut sum = Figures::default();
        for seed in 1..=self.seeds {
            let mut scenario = self.scenario.clone();
            scenario.load.rates_per_s = vec![rate_per_s];
            scenario.admission = config;
            let it = once(&scenario, self.strategy, seed);
            sum.offered += it.offered;
            sum.good_per_s += it.good_per_s / self.seeds as f64;
            sum.attained += it.attained / self.seeds as f64;
            sum.refused += it.refused / self.seeds as f64;
            sum.ttft_p99_ms += it.ttft_p99_ms / self.seeds as f64;
        }
        sum
    }
}

/// One run of `scenario` as it is.
fn once(scenario: &Scenario, strategy: StrategyName, seed: u64) -> Figures {
    let (_, load) = scenario.loads(seed).into_iter().next().unwrap();
    let planned = scenario.plan(&load, |_| unreachable!("no traces here")).unwrap();
    let profile = Profile::named(&scenario.fleet.profile).unwrap();
    let setup = scenario.setup(strategy, scenario.admission.mode, seed, profile);
    let records = simulator::run(&setup, planned.arrivals).unwrap().records;
    let records: Vec<&RequestRecord> =
        records.iter().filter(|it| setup.warm_up <= it.scheduled.elapsed()).collect();
    let window_s = (load.duration.unwrap() - setup.warm_up).as_secs_f64();
    let count =
        |what: &dyn Fn(&RequestRecord) -> bool| records.iter().filter(|it| what(it)).count() as f64;
    let (all, good) = (records.len() as f64, count(&|it| it.slo.good));
    let refused = count(&|it| it.ending == Ending::Rejected);
    let mut ttft: Vec<Duration> = records.iter().filter_map(|it| it.ttft()).collect();
    ttft.sort();
    let p99 = ttft.get(ttft.len() * 99 / 100).copied().unwrap_or_default();
    Figures {
        offered: all,
        good_per_s: good / window_s,
        attained: good / (all - refused).max(1.0),
        refused: refused / all.max(1.0),
        ttft_p99_ms: p99.as_secs_f64() * 1e3,
    }
}

/// The server of the textbook: a count limit found by hand against those that find theirs.
fn textbook(seeds: u64) {
    let scenario = read("textbook-queue");
    let study = Study {
        scenario,
        name: "textbook-queue",
        knee: 480.0,
        seeds,
        strategy: StrategyName::LeastRequest,
    };
    for rate in [450.0, 560.0, 1_000.0] {
        let line = |label: &str, config| study.line(label, config, rate / 480.0, 480.0);
        for mode in [
            AdmissionMode::Off,
            AdmissionMode::Knee,
            AdmissionMode::Gradient,
            AdmissionMode::Vegas,
            AdmissionMode::Aimd,
        ] {
            line(mode.as_str(), AdmissionConfig::of(mode));
        }
        for in_flight_max in [40, 50, 60, 70, 80] {
            let config =
                AdmissionConfig { in_flight_max, ..AdmissionConfig::of(AdmissionMode::Static) };
            line(&format!("static {in_flight_max}"), config);
        }
    }
}
