//! The runs of a simulation: each policy at each rate with each seed, several at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, bail};
use engine::Profile;
use parking_lot::Mutex;
use policy::{admission::AdmissionMode, config::StrategyName, explanation::ExplainConfig};
use replay::output::{self, Host, Manifest};
use report::{Limits, RequestRecord, Run, RunInfo, Summary, cost::Costs, judged::Judged};
use serde_json::json;
use simulator::{Recording, Scenario, Setup, scenario::Conversations};
use types::request::RequestId;
use workload::{Load, Workload, bundled};

use super::{What, load};
use crate::{frontier::disruptions, results};

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) strategy: StrategyName,
    pub(crate) admission: AdmissionMode,
    /// Requests per second; none where a trace keeps its times.
    pub(crate) rate: Option<f64>,
    /// Where it stands among all of them.
    pub(crate) place: usize,
    /// Which of the scenario's loads it is.
    load_number: usize,
    pub(crate) seed: u64,
    load: Load,
}

/// What became of a run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) info: RunInfo,
    pub(crate) recording: Recording,
    pub(crate) run: Run,
}

/// Limits that whoever comes first computes; none where the requests are too many.
type Shared = Arc<OnceLock<Option<Limits>>>;

/// All runs, by rate, policy and seed.
#[derive(Debug)]
pub(crate) struct Cases {
    pub(crate) scenario: Scenario,
    profile: Profile,
    /// The trace's text, read once.
    trace: Option<String>,
    cases: Vec<Case>,
    /// Limits by load and seed, which all policies share; none where nobody wants them.
    limits: Option<Mutex<BTreeMap<(usize, u64), Shared>>>,
    /// What the user should know before the result.
    pub(crate) notes: Vec<String>,
    /// The request whose decisions are explained.
    explain: Option<RequestId>,
}

impl Cases {
    pub(crate) fn new(what: &What, scenario: Scenario, seeds: u64) -> anyhow::Result<Self> {
        let profile = load::profile(&scenario.fleet.profile)?;
        scenario.fleet.overrides.applied_to(profile.clone()).validate()?;
        let trace = if let Workload::Trace(it) = &scenario.workload
            && it.file != bundled::MOONCAKE_SLICE_NAME
        {
            Some(load::trace(&it.file).with_context(|| {
                format!("cannot read the trace {}; pass one with --trace FILE", it.file)
            })?)
        } else {
            None
        };
        let own = [scenario.policy.strategy];
        let asked = if what.policy.is_empty() { &own[..] } else { &what.policy };
        let mut strategies: Vec<StrategyName> = Vec::new();
        for strategy in asked {
            if !strategies.contains(strategy) {
                strategies.push(*strategy);
            }
        }
        let own = [scenario.admission.mode];
        let admissions = if what.admission.is_empty() { &own[..] } else { &what.admission };
        let rules: Vec<(StrategyName, AdmissionMode)> = strategies
            .iter()
            .flat_map(|strategy| admissions.iter().map(|admission| (*strategy, *admission)))
            .collect();
        let seeds = what.seed..what.seed.saturating_add(seeds);
        let mut cases = Vec::new();
        for (at, _) in scenario.loads(what.seed).iter().enumerate() {
            for (strategy, admission) in &rules {
                for seed in seeds.clone() {
                    let load = scenario.loads(seed).into_iter().nth(at);
                    let place = cases.len();
                    cases.extend(load.map(|(rate, load)| Case {
                        place,
                        strategy: *strategy,
                        admission: *admission,
                        rate,
                        load_number: at,
                        seed,
                        load,
                    }));
                }
            }
        }
        let limits = (!what.no_limits).then(Mutex::default);
        let mut cases =
            Self { scenario, profile, trace, cases, limits, notes: Vec::new(), explain: None };
        cases.notes = cases.skipped()?;
        Ok(cases)
    }

    /// The same, with what is decided on request `number` explained.
    pub(crate) fn explaining(self, number: u64) -> Self {
        Self { explain: Some(RequestId(number)), ..self }
    }

    /// What a trace holds and the run leaves out.
    fn skipped(&self) -> anyhow::Result<Vec<String>> {
        let Some(case) = self.cases.first() else { return Ok(Vec::new()) };
        if !matches!(self.scenario.workload, Workload::Trace(_)) {
            return Ok(Vec::new());
        }
        let skipped = self.scenario.plan(&case.load, |_| Ok(self.text()))?.skipped;
        let is_whole = skipped == workload::trace::Skipped::default();
        Ok(if is_whole { Vec::new() } else { vec![format!("left out of the trace: {skipped}")] })
    }

    fn text(&self) -> String {
        self.trace.clone().unwrap_or_default()
    }

    /// The same fleet and requests under `scenario`, which differs in what it does to them, without
    /// runs of its own and without limits.
    pub(crate) fn under(&self, scenario: Scenario) -> Self {
        Self {
            scenario,
            profile: self.profile.clone(),
            trace: self.trace.clone(),
            cases: Vec::new(),
            limits: None,
            notes: Vec::new(),
            explain: None,
        }
    }

    /// The run of `strategy` at `rate` with `seed`.
    pub(crate) fn case(&self, strategy: StrategyName, rate: f64, seed: u64) -> Case {
        let block = &self.scenario.load;
        Case {
            place: 0,
            strategy,
            admission: self.scenario.admission.mode,
            rate: Some(rate),
            load_number: 0,
            seed,
            load: Load { schedule: block.at(rate), duration: block.duration, seed },
        }
    }

    /// Runs everything, `jobs` at once, and hands each run to `done` before its records are dropped.
    ///
    /// # Errors
    /// The first error in the order of the cases.
    pub(crate) fn run(
        &self,
        jobs: Option<usize>,
        done: impl Fn(&Case, &Done) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<Vec<Run>> {
        self.run_all(&self.cases, jobs, done)
    }

    /// The same of `cases` that are not this scenario's own.
    ///
    /// # Errors
    /// The first error in the order of the cases.
    pub(crate) fn run_all(
        &self,
        cases: &[Case],
        jobs: Option<usize>,
        done: impl Fn(&Case, &Done) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<Vec<Run>> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let results = Mutex::new(BTreeMap::new());
        thread::scope(|scope| {
            for _ in 0..jobs.unwrap_or(processors).clamp(1, cases.len().max(1)) {
                scope.spawn(|| {
                    while let Some((index, case)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        cases.get(index).map(|case| (index, case))
                    } {
                        let result = self.run_one(case).and_then(|it| {
                            done(case, &it)?;
                            Ok(it.run)
                        });
                        let is_error = result.is_err();
                        results.lock().insert(index, result);
                        if is_error {
                            next.store(cases.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        results.into_inner().into_values().collect()
    }

    /// What everything costs, where the scenario says.
    pub(crate) fn costs(&self) -> Option<Costs> {
        let prices = self.scenario.costs.clone()?;
        Some(Costs { prices, replicas: self.scenario.fleet.replicas })
    }

    pub(crate) fn run_one(&self, case: &Case) -> anyhow::Result<Done> {
        let planned = self.scenario.plan(&case.load, |_| Ok(self.text()))?;
        let mut setup =
            self.scenario.setup(case.strategy, case.admission, case.seed, self.profile.clone());
        if let Some(request) = self.explain {
            setup.dispatcher.explain = ExplainConfig::only(request);
        }
        let recording = simulator::run(&setup, planned.arrivals)?;
        // Conversations that wait for answers go on past the end.
        let has_end = self.scenario.conversations == Conversations::Open;
        let rate = match case.rate {
            Some(rate) if self.scenario.load.rates_per_s.len() > 1 => format!(" @ {rate}/s"),
            Some(_) | None => String::new(),
        };
        let info = RunInfo {
            workload: format!("{}{rate}", self.scenario.name),
            policy: case.strategy.to_string(),
            admission: case.admission.to_string(),
            seed: case.seed,
            scheduled_for: planned.until.filter(|_| has_end),
            warm_up: self.scenario.load.warm_up,
            costs: self.costs(),
            workload_class: self.scenario.workload_class,
            records: Some(recording.records.len() as u64),
            ..RunInfo::default()
        };
        let run = Run::measure(&info, &recording.records, &recording.gaps);
        let befell = disruptions(&self.scenario, &recording.records);
        let mut run = run.disrupted(&info, &recording.records, &befell);
        run.limits = self.limits(case, &setup, &recording.records)?;
        Ok(Done { info, recording, run })
    }

    /// What no policy can exceed in this case. Conversations that wait for answers come at times of
    /// their own under each policy; else all policies meet the same requests.
    fn limits(
        &self,
        case: &Case,
        setup: &Setup,
        records: &[RequestRecord],
    ) -> anyhow::Result<Option<Limits>> {
        let Some(known) = &self.limits else { return Ok(None) };
        let shared = match self.scenario.conversations {
            Conversations::Open => {
                Arc::clone(known.lock().entry((case.load_number, case.seed)).or_default())
            }
            Conversations::Closed => Shared::default(),
        };
        if let Some(known) = shared.get() {
            return Ok(known.clone());
        }
        let planned = self.scenario.plan(&case.load, |_| Ok(self.text()))?;
        Ok(shared.get_or_init(|| simulator::limits(setup, &planned.arrivals, records)).clone())
    }

    /// What to say of the limits of `runs`, beyond the limits themselves.
    pub(crate) fn limits_note(&self, runs: &[Run]) -> Option<&'static str> {
        let is_missing = self.limits.is_some() && runs.iter().any(|it| it.limits.is_none());
        is_missing.then_some("no limits: the requests have too many KV blocks to compute them")
    }

    /// Refuses a folder that holds runs which these will not replace: whoever reads the results would read
    /// them along.
    ///
    /// # Errors
    /// Names some of them.
    pub(crate) fn refuse_strangers(&self, folder: &Path) -> anyhow::Result<()> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        let own: BTreeSet<String> = self.cases.iter().map(Case::folder).collect();
        let names = entries.flatten().filter(|it| it.path().join("requests.jsonl").is_file());
        let names = names.filter_map(|it| it.file_name().into_string().ok());
        let mut strangers: Vec<String> = names.filter(|it| !own.contains(it)).collect();
        strangers.sort();
        let Some(first) = strangers.first() else { return Ok(()) };
        let (name, count) = (folder.display(), strangers.len());
        bail!(
            "{name} holds {count} runs of another simulation ({first} …), which would be read along with \
             these; pass another --out, or delete it"
        )
    }

    /// Writes the results folder of one run.
    pub(crate) fn write(&self, folder: &Path, case: &Case, done: &Done) -> anyhow::Result<()> {
        let is_trace = matches!(self.scenario.workload, Workload::Trace(_));
        let trace = is_trace.then(|| self.trace.as_deref().unwrap_or(bundled::MOONCAKE_SLICE));
        let manifest = Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SLUICE_COMMIT").map(str::to_owned),
            command: results::command_line(),
            config: json!({ "scenario": self.scenario, "profile": self.profile }),
            workload: done.info.workload.clone(),
            policy: done.info.policy.clone(),
            admission: done.info.admission.clone(),
            seed: case.seed,
            trace_sha256: trace.map(|it| output::sha256(it.as_bytes())),
            host: Host::this(),
            clock: "virtual".to_owned(),
            started: None,
            judged: Judged {
                info: done.info.clone(),
                terms: self.scenario.terms(),
                classes: self.scenario.classes(),
                disruptions: disruptions(&self.scenario, &done.recording.records),
            },
        };
        let summary = Summary::new(vec![done.run.clone()]);
        output::write(folder, &manifest, &done.recording.records, &summary)?;
        Ok(())
    }
}
