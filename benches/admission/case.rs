//! A workload with the load at which its promises break, and what a run of it shows.

use std::{fs, io, path::Path, time::Duration};

use engine::Profile;
use policy::{
    admission::{AdmissionConfig, Gate},
    config::StrategyName,
};
use report::{Ending, RequestRecord};
use simulator::{Refusal, Scenario, Setup};
use types::time::Timestamp;
use workload::{Arrival, Load, Schedule, Workload, bundled};

use crate::Terms;

/// A workload, and the highest rate at which 97 % of its requests keep their promises without admission: in
/// requests per second, or in times a trace's own pace.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    pub(crate) knee: f64,
    pub(crate) strategy: StrategyName,
    trace: String,
    /// Added to every seed.
    pub(crate) after_seed: u64,
    /// Of how many refusals one is followed.
    pub(crate) follow: Option<u32>,
}

/// The workloads of the main rows.
const SYNTHETIC: [(&str, f64); 4] =
    [("chat", 108.0), ("mixed", 74.0), ("hot-documents", 85.0), ("no-sharing", 104.0)];

const FEW_SEATS_KNEE: f64 = 91.0;
const AGENT_KNEE: f64 = 17.7;

/// The main workloads that are wanted.
pub(crate) fn synthetic(terms: &Terms) -> Vec<Case> {
    let wanted = SYNTHETIC.into_iter().filter(|it| terms.wants(it.0));
    wanted.map(|(name, knee)| Case::named(name, knee).on(terms)).collect()
}

/// Conversations on engines that run 48 requests at once, which nobody tells the router, and agents.
pub(crate) fn few_seats_and_agents(terms: &Terms) -> Vec<Case> {
    let mut few_seats = Case::named("chat", FEW_SEATS_KNEE);
    few_seats.name = "chat-48-seats".to_owned();
    few_seats.scenario.fleet.overrides.max_num_seqs = Some(48);
    let all = [few_seats, Case::named("agent", AGENT_KNEE)];
    all.into_iter().filter(|it| terms.wants(&it.name)).collect()
}

impl Case {
    /// A scenario of `config/scenarios`.
    pub(crate) fn named(name: &str, knee: f64) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = fs::read_to_string(root.join(format!("config/scenarios/{name}.yaml"))).unwrap();
        let scenario: Scenario = serde_yaml::from_str(&text).unwrap();
        let trace = match &scenario.workload {
            Workload::Trace(it) if it.file != bundled::MOONCAKE_SLICE_NAME => {
                read(&root.join(&it.file)).unwrap()
            }
            Workload::Trace(_)
            | Workload::SupportChat(_)
            | Workload::Independent(_)
            | Workload::Documents(_)
            | Workload::Mix(_) => String::new(),
        };
        let strategy = StrategyName::LeastLatency;
        Self { name: name.to_owned(), scenario, knee, strategy, trace, after_seed: 0, follow: None }
    }

    /// A scenario from its text.
    pub(crate) fn of(text: &str, knee: f64) -> Self {
        let scenario: Scenario = serde_yaml::from_str(text).unwrap();
        assert!(scenario.problems().is_empty(), "{:?}", scenario.problems());
        let (name, strategy) = (scenario.name.clone(), StrategyName::LeastLatency);
        Self { name, scenario, knee, strategy, trace: String::new(), after_seed: 0, follow: None }
    }

    /// The same on these terms.
    pub(crate) fn on(mut self, terms: &Terms) -> Self {
        self.after_seed = terms.after_seed;
        self.lasting(terms.duration)
    }

    /// The same for so long, of which the first third does not count.
    pub(crate) fn lasting(mut self, duration: Duration) -> Self {
        self.scenario.load.duration = Some(duration);
        self.scenario.load.warm_up = duration / 3;
        self
    }

    pub(crate) fn is_trace(&self) -> bool {
        matches!(self.scenario.workload, Workload::Trace(_))
    }

    /// The requests at `times` the knee.
    pub(crate) fn arrivals(&self, times: f64, seed: u64) -> Vec<Arrival> {
        let rate = self.knee * times;
        let schedule = if self.is_trace() {
            Schedule::Trace { speedup: rate }
        } else {
            self.scenario.load.at(rate)
        };
        let seed = seed + self.after_seed;
        let load = Load { schedule, duration: self.scenario.load.duration, seed };
        let text = self.trace.clone();
        self.scenario.plan(&load, |_| Ok(text)).unwrap().arrivals
    }

    pub(crate) fn setup(&self, admission: AdmissionConfig, seed: u64) -> Setup {
        let profile = Profile::named(&self.scenario.fleet.profile).unwrap();
        let mut scenario = self.scenario.clone();
        scenario.admission = admission;
        let setup = scenario.setup(self.strategy, admission.mode, seed + self.after_seed, profile);
        Setup { follow_refusals: self.follow, ..setup }
    }

    /// One run at `times` the knee.
    pub(crate) fn run(&self, admission: AdmissionConfig, times: f64, seed: u64) -> Ran {
        let arrivals = self.arrivals(times, seed);
        self.run_with(admission, seed, arrivals)
    }

    /// One run of `arrivals`.
    pub(crate) fn run_with(
        &self,
        admission: AdmissionConfig,
        seed: u64,
        arrivals: Vec<Arrival>,
    ) -> Ran {
        let setup = self.setup(admission, seed);
        let last = arrivals.last().map(|it| it.at.elapsed()).unwrap_or_default();
        let until = self.scenario.load.duration.unwrap_or(last);
        let recording = simulator::run(&setup, arrivals).unwrap();
        let is_warm = |at: Timestamp| setup.warm_up <= at.elapsed();
        let (records, early) = recording.records.into_iter().partition(|it| is_warm(it.scheduled));
        let refusals = recording.refusals.into_iter().filter(|it| is_warm(it.at));
        let window_s = (until - setup.warm_up).as_secs_f64();
        let warm_up = Timestamp::from_elapsed(setup.warm_up);
        Ran { records, early, refusals: refusals.collect(), warm_up, window_s }
    }

    /// Runs at `times` the knee, one for each seed.
    pub(crate) fn runs(&self, admission: AdmissionConfig, times: f64, seeds: u64) -> Vec<Ran> {
        (1..=seeds).map(|seed| self.run(admission, times, seed)).collect()
    }
}

/// What became of the requests of a run that count.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) records: Vec<RequestRecord>,
    /// Those of the warm-up, some of which end later.
    pub(crate) early: Vec<RequestRecord>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) warm_up: Timestamp,
    pub(crate) window_s: f64,
}

impl Ran {
    pub(crate) fn count(&self, what: impl Fn(&RequestRecord) -> bool) -> f64 {
        self.records.iter().filter(|it| what(it)).count() as f64
    }

    pub(crate) fn good(&self) -> f64 {
        self.count(|it| it.slo.good)
    }

    pub(crate) fn good_per_s(&self) -> f64 {
        self.good() / self.window_s
    }

    /// Output tokens of good answers, a second.
    pub(crate) fn good_tokens_per_s(&self) -> f64 {
        let good = self.records.iter().filter(|it| it.slo.good);
        good.map(|it| f64::from(it.output_tokens.0)).sum::<f64>() / self.window_s
    }

    fn refused(&self) -> f64 {
        self.count(|it| it.ending == Ending::Rejected)
    }

    /// Share of all that was turned away, per cent.
    pub(crate) fn refused_share(&self) -> f64 {
        100.0 * self.refused() / (self.records.len() as f64).max(1.0)
    }

    /// Share of what was let in that was served as promised, per cent.
    pub(crate) fn attained(&self) -> f64 {
        100.0 * self.good() / (self.records.len() as f64 - self.refused()).max(1.0)
    }

    /// The gate at which most of those that were followed were turned away.
    pub(crate) fn binding(&self) -> Option<(Gate, f64)> {
        let at = |gate| self.refusals.iter().filter(|it| it.gate == Some(gate)).count() as f64;
        let all = self.refusals.len().max(1) as f64;
        let most = Gate::ALL.into_iter().max_by(|a, b| at(*a).total_cmp(&at(*b)))?;
        (!self.refusals.is_empty()).then(|| (most, at(most) / all))
    }
}

/// The mean of `of` over runs.
pub(crate) fn mean(runs: &[Ran], of: impl Fn(&Ran) -> f64) -> f64 {
    runs.iter().map(of).sum::<f64>() / runs.len().max(1) as f64
}

/// The time to first token that a share `quantile` of all requests of `runs` do not exceed, milliseconds.
pub(crate) fn ttft_ms(runs: &[Ran], quantile: f64, of: impl Fn(&RequestRecord) -> bool) -> f64 {
    let records = runs.iter().flat_map(|it| &it.records).filter(|it| of(it));
    let mut ttft: Vec<f64> =
        records.filter_map(|it| it.ttft()).map(|it| it.as_secs_f64() * 1e3).collect();
    quantile_of(&mut ttft, quantile)
}

/// The value that a share `quantile` does not exceed.
pub(crate) fn quantile_of(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (last * quantile).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn read(file: &Path) -> io::Result<String> {
    let packed = fs::File::open(file)?;
    if file.extension().is_none_or(|it| it != "zst") {
        return fs::read_to_string(file);
    }
    let mut text = String::new();
    let mut unpacked = ruzstd::decoding::StreamingDecoder::new(io::BufReader::new(packed))
        .map_err(io::Error::other)?;
    io::Read::read_to_string(&mut unpacked, &mut text)?;
    Ok(text)
}
