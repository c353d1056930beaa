//! A scenario with values set in it, under a strategy.

use std::{fs, io::Read as _};

use anyhow::{Context as _, bail};
use engine::Profile;
use limits::visits::{Visit, Visits};
use policy::{admission::AdmissionMode, config::StrategyName};
use report::{Run, RunInfo};
use serde_json::Value;
use simulator::{Recording, Scenario, scenario::Conversations};
use types::{
    block::{BlockHash, hash_block},
    quantity::Tokens,
};
use workload::{Arrival, Load, Schedule, Workload, bundled};

/// A strategy, and what is set in the scenario.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) label: String,
    pub(crate) strategy: StrategyName,
    pub(crate) sets: Vec<String>,
}

impl Variant {
    pub(crate) fn of(strategy: StrategyName, sets: &[String]) -> Self {
        Self::named(strategy.as_str(), strategy, sets)
    }

    pub(crate) fn named(label: &str, strategy: StrategyName, sets: &[String]) -> Self {
        Self { label: label.to_owned(), strategy, sets: sets.to_vec() }
    }
}

/// What is run.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) workload: String,
    pub(crate) variant: Variant,
    scenario: Scenario,
    profile: Profile,
    trace: Option<String>,
}

impl Case {
    pub(crate) fn new(workload: &str, variant: &Variant) -> anyhow::Result<Self> {
        let path = format!("config/scenarios/{workload}.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let mut value: Value = serde_yaml::from_str(&text)?;
        for set in &variant.sets {
            apply(&mut value, set)?;
        }
        let scenario: Scenario = serde_json::from_value(value)
            .with_context(|| format!("{path} with {:?} is no scenario", variant.sets))?;
        let problems = scenario.problems();
        if !problems.is_empty() {
            bail!("{path}: {}", problems.join("; "));
        }
        let profile = profile(&scenario.fleet.profile)?;
        let trace = match &scenario.workload {
            Workload::Trace(it) if it.file != bundled::MOONCAKE_SLICE_NAME => Some(read(&it.file)?),
            Workload::Trace(_)
            | Workload::SupportChat(_)
            | Workload::Independent(_)
            | Workload::Documents(_)
            | Workload::Mix(_) => None,
        };
        Ok(Self {
            workload: workload.to_owned(),
            variant: variant.clone(),
            scenario,
            profile,
            trace,
        })
    }

    /// Whether a rate means how many times faster a trace is sent.
    fn is_trace(&self) -> bool {
        matches!(self.scenario.workload, Workload::Trace(_))
    }

    /// The rate that the scenario names.
    pub(crate) fn own_rate(&self) -> f64 {
        let load = &self.scenario.load;
        if self.is_trace() {
            load.speedup
        } else {
            load.rates_per_s.first().copied().unwrap_or(1.0)
        }
    }

    fn arrivals(&self, rate: f64, seed: u64) -> anyhow::Result<(Load, Vec<Arrival>)> {
        let schedule = if self.is_trace() {
            Schedule::Trace { speedup: rate }
        } else {
            Schedule::Poisson { rate_per_s: rate }
        };
        let load = Load { schedule, duration: self.scenario.load.duration, seed };
        let text = self.trace.clone().unwrap_or_default();
        let planned = self.scenario.plan(&load, |_| Ok(text))?;
        Ok((load, planned.arrivals))
    }

    /// One run.
    pub(crate) fn run(&self, rate: f64, seed: u64) -> anyhow::Result<Run> {
        let (load, recording) = self.record(rate, seed)?;
        let has_end = !self.is_trace() && self.scenario.conversations == Conversations::Open;
        let info = RunInfo {
            workload: self.workload.clone(),
            policy: self.variant.label.clone(),
            admission: "off".to_owned(),
            seed,
            scheduled_for: load.duration.filter(|_| has_end),
            warm_up: self.scenario.load.warm_up,
            costs: None,
            workload_class: None,
            ..RunInfo::default()
        };
        Ok(Run::measure(&info, &recording.records, &recording.gaps))
    }

    /// Every request of one run, and the load it was.
    pub(crate) fn record(&self, rate: f64, seed: u64) -> anyhow::Result<(Load, Recording)> {
        let (load, arrivals) = self.arrivals(rate, seed)?;
        // Who turns requests away hides what placing them well is worth.
        let admission = AdmissionMode::Off;
        let strategy = self.variant.strategy;
        let setup = self.scenario.setup(strategy, admission, seed, self.profile.clone());
        Ok((load, simulator::run(&setup, arrivals)?))
    }

    /// Replicas at the start.
    pub(crate) fn replicas(&self) -> u32 {
        self.scenario.fleet.replicas
    }

    /// What physics allows: the rate at which the fleet's time is used up when no block is ever
    /// computed twice and everybody decodes at the promised pace.
    pub(crate) fn limit(&self) -> anyhow::Result<Limit> {
        let rate = self.own_rate();
        let (_, arrivals) = self.arrivals(rate, 1)?;
        let block = self.profile.block_size;
        let visits: Vec<Visit> = arrivals.iter().map(|it| visit(it, block)).collect();
        let hits = Visits::new(block, &visits).infinite_cache();
        let step = &self.profile.step;
        let mut work_s = 0.0;
        // A cold fleet is no steady state.
        let warm_up = self.scenario.load.warm_up;
        let is_warm = |it: &Arrival| warm_up <= it.at.elapsed();
        for (arrival, cached) in arrivals.iter().zip(hits.cached()).filter(|it| is_warm(it.0)) {
            let prompt = arrival.prompt.tokens();
            let new = f64::from(prompt.saturating_sub(cached).0);
            let pairs = new * (f64::from(cached.0) + new / 2.0);
            let output = f64::from(arrival.output.0);
            let context = f64::from(prompt.0) + output / 2.0;
            work_s += step.token_us * 1e-6 * new + step.attention_ns * 1e-9 * pairs;
            work_s += output * (step.sequence_us * 1e-6 + step.context_ns * 1e-9 * context);
            work_s += output * step.token_us * 1e-6;
        }
        let slo = self.scenario.slo.default.tpot.map_or(0.05, |it| it.as_secs_f64());
        let usable = 1.0 - (step.overhead_ms * 1e-3) / slo;
        let fleet_s = f64::from(self.scenario.fleet.replicas) * usable;
        let lasts = self.scenario.load.duration.map_or_else(
            || arrivals.last().map_or(1.0, |it| it.at.elapsed().as_secs_f64()),
            |it| it.as_secs_f64(),
        ) - warm_up.as_secs_f64();
        // The arrivals of `lasts` seconds at `rate` take so much of the fleet's time.
        let used = work_s / (fleet_s * lasts).max(1e-9);
        Ok(Limit { rate: rate / used.max(1e-9), hits: hits.rate() })
    }
}

/// What no policy exceeds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Rate, or speed of a trace, at which the fleet's time is used up.
    pub(crate) rate: f64,
    /// Share of prompt tokens that an endless cache finds.
    pub(crate) hits: f64,
}

/// The profile called `name`, or the one in the file of that name.
fn profile(name: &str) -> anyhow::Result<Profile> {
    if !name.ends_with(".yaml") {
        return Ok(Profile::named(name)?);
    }
    let text = fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
    let profile: Profile = serde_yaml::from_str(&text)?;
    profile.validate()?;
    Ok(profile)
}

/// The blocks of an arrival's prompt, by what they hold.
fn visit(arrival: &Arrival, block: Tokens) -> Visit {
    let (mut parent, mut filled) = (BlockHash(1), 0);
    let mut blocks = Vec::new();
    for segment in arrival.prompt.messages.iter().flat_map(|it| &it.segments) {
        for _ in 0..segment.tokens.0 {
            filled += 1;
            if filled == block.0 {
                filled = 0;
                blocks.push(hash_block(parent, &segment.id.to_le_bytes()));
                parent = blocks.last().copied().unwrap_or(parent);
            }
        }
    }
    Visit { blocks: blocks.into(), prompt: arrival.prompt.tokens() }
}

/// Sets `path.to.key=value` in `root`.
fn apply(root: &mut Value, set: &str) -> anyhow::Result<()> {
    let (path, text) = set.split_once('=').with_context(|| format!("{set}: write key=value"))?;
    let value: Value = serde_yaml::from_str(text).with_context(|| format!("{set}: no value"))?;
    let mut at = root;
    for key in path.split('.') {
        if at.is_null() {
            *at = Value::Object(serde_json::Map::new());
        }
        let map = at.as_object_mut().with_context(|| format!("{set}: {key} is within no map"))?;
        at = map.entry(key.to_owned()).or_insert(Value::Null);
    }
    *at = value;
    Ok(())
}

fn read(file: &str) -> anyhow::Result<String> {
    let packed = fs::File::open(file).with_context(|| format!("cannot read {file}"))?;
    if !file.ends_with(".zst") {
        return Ok(fs::read_to_string(file)?);
    }
    let mut text = String::new();
    let mut unpacked = ruzstd::decoding::StreamingDecoder::new(std::io::BufReader::new(packed))
        .map_err(std::io::Error::other)?;
    unpacked.read_to_string(&mut text)?;
    Ok(text)
}
