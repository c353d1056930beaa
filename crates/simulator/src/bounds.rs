//! What no policy can exceed on the requests of a run.
//!
//! The limits follow from what was asked and when, and from what the fleet is; no engine runs. Caches:
//! requests meet one cache of all replicas' size in the order of their arrival, and what they leave
//! there is what an engine would. Time: each request needs at least the time that its own tokens take
//! in a step that is full of others, its prompt as far as an endless cache has not had it; whatever
//! waiting, reading of weights and overhead come on top are left out. A prompt must be done by the
//! promise for its first token, all of it by the promise for its last one, on one server that is as
//! fast as the whole fleet.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use engine::{Profile, StepTime};
use limits::{
    knee,
    on_time::{self, Job},
    visits::{Visit, Visits},
};
use report::{Limits, RequestRecord, limits::CurvePoint};
use types::{
    block::{ChainSeed, HashKey, Scope},
    quantity::{Blocks, Tokens},
    slo::Slo,
    time::Timestamp,
};
use workload::Arrival;

use crate::{
    content::{self, Memo},
    fault::Fault,
    setup::{Kind, ServiceTime, Setup},
    world::Services,
};

/// Blocks of all requests up to which limits are computed: half a gigabyte of names, some seconds.
const BLOCKS_MAX: u64 = 1 << 24;

/// A request, and when it came.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    at: Timestamp,
    arrival: &'a Arrival,
}

/// The limits of the requests that `arrivals` planned and `records` tell of, in the order in which
/// they came; none where there are too many of them.
#[must_use]
pub fn limits(setup: &Setup, arrivals: &[Arrival], records: &[RequestRecord]) -> Option<Limits> {
    let asked = asked(arrivals, records);
    let warm_up = Timestamp::from_elapsed(setup.warm_up);
    let first = asked.partition_point(|it| it.at < warm_up);
    match &setup.kind {
        Kind::Engine(profile) => of_engines(setup, profile, &asked, first),
        Kind::Fcfs { servers, service } => {
            Some(of_stations(setup, *servers, service, &asked, first))
        }
    }
}

/// The requests in the order in which they came. Where conversations wait for answers, that is
/// known from the records alone: the turns of a session keep their order.
fn asked<'a>(arrivals: &'a [Arrival], records: &[RequestRecord]) -> Vec<Asked<'a>> {
    let mut of_session: BTreeMap<Option<u64>, VecDeque<&Arrival>> = BTreeMap::new();
    for arrival in arrivals {
        of_session.entry(arrival.session).or_default().push_back(arrival);
    }
    let next = |record: &RequestRecord| {
        let arrival = of_session.get_mut(&record.session)?.pop_front()?;
        Some(Asked { at: record.scheduled, arrival })
    };
    records.iter().filter_map(next).collect()
}

fn of_engines(
    setup: &Setup,
    profile: &Profile,
    asked: &[Asked<'_>],
    first: usize,
) -> Option<Limits> {
    let visits = visits(setup, profile, asked)?.counted_from(first);
    let endless = visits.infinite_cache();
    let cached: Vec<Tokens> = endless.cached().collect();
    let work: Vec<Work> = asked
        .iter()
        .zip(cached)
        .skip(first)
        .map(|(it, cached)| Work::of(&profile.step, it.arrival, cached, setup.speed()))
        .collect();
    let all: Duration = work.iter().map(Work::whole).sum();
    let mean = u32::try_from(work.len()).ok().and_then(|count| all.checked_div(count));
    let overhead = seconds(profile.step.overhead_ms * 1e-3);
    let slo = setup.loosest();
    let replicas = setup.replicas_max();
    let counted = asked.get(first..).unwrap_or_default();
    let fleet = Blocks(profile.kv_blocks().0.saturating_mul(replicas));
    let curve = visits.lru_curve();
    Some(Limits {
        cache_tokens: u64::from(fleet.0).saturating_mul(u64::from(profile.block_size.0)),
        hit_rate_endless: Some(endless.rate()),
        hit_rate_best: Some(visits.belady(fleet).rate()),
        hit_rate_lru_fleet: Some(curve.hit_rate(fleet)),
        hit_rate_lru_replica: Some(curve.hit_rate(profile.kv_blocks())),
        lru_curve: sizes(curve.enough().max(fleet))
            .map(|size| CurvePoint {
                cache_tokens: u64::from(size.0).saturating_mul(u64::from(profile.block_size.0)),
                hit_rate: curve.hit_rate(size),
            })
            .collect(),
        knee_rps: mean.and_then(|mean| knee::fluid_knee(replicas, overhead, slo.tpot, mean)),
        good_request_fraction: good_fraction(slo, profile, counted, &work, replicas),
        good_is_exact: false,
    })
}

/// Powers of two from a thousand blocks up to the first that is not below `most`.
fn sizes(most: Blocks) -> impl Iterator<Item = Blocks> {
    let count = most.0.max(1).ilog2().saturating_add(2);
    (10..count.max(11)).filter_map(|power| 1_u32.checked_shl(power)).map(Blocks)
}

/// What the requests look up and leave behind; none of too many blocks.
fn visits(setup: &Setup, profile: &Profile, asked: &[Asked<'_>]) -> Option<Visits> {
    let block = profile.block_size;
    let blocks_of = |it: &Asked<'_>| u64::from(it.arrival.prompt.tokens().full_blocks(block).0);
    if asked.iter().map(blocks_of).fold(0, u64::saturating_add) > BLOCKS_MAX {
        return None;
    }
    let mut memo = Memo::default();
    let visits: Vec<Visit> = asked
        .iter()
        .map(|it| {
            let quoted = setup.quoted_answers;
            let (mut names, _) =
                content::names(it.arrival, seed(setup, it.at), block, quoted, &mut memo);
            let prompt = it.arrival.prompt.tokens();
            // The last token of an answer is never computed.
            let computed = prompt + it.arrival.output.saturating_sub(Tokens(1));
            names.truncate(computed.full_blocks(block).0 as usize);
            Visit { blocks: names.into(), prompt }
        })
        .collect();
    Some(Visits::new(block, &visits))
}

/// What every block name of a request that comes at `at` starts from.
fn seed(setup: &Setup, at: Timestamp) -> ChainSeed {
    let rotated = |it: &&Fault| matches!(it, Fault::RotateSalt { at: when } if Timestamp::from_elapsed(*when) < at);
    let salts = setup.faults.iter().filter(rotated).count().to_string();
    let cache_salt = (salts != "0").then_some(salts.as_str());
    ChainSeed::new(HashKey(0), &Scope { cache_salt, ..Scope::default() })
}

/// The time of one replica that a request takes at least.
#[derive(Clone, Copy, Debug)]
struct Work {
    prefill: Duration,
    decode: Duration,
}

impl Work {
    /// What `arrival` costs in steps full of others, of whose prompt `cached` is found; on a
    /// replica that is `speed` times as fast as its profile says.
    fn of(step: &StepTime, arrival: &Arrival, cached: Tokens, speed: f64) -> Self {
        let (prompt, found) = (f64::from(arrival.prompt.tokens().0), f64::from(cached.0));
        let new = (prompt - found).max(0.0);
        let after = f64::from(arrival.output.0.saturating_sub(1));
        let context = after * (prompt + (after + 1.0) / 2.0);
        let prefill =
            new * step.token_us * 1e-6 + new * (found + new / 2.0) * step.attention_ns * 1e-9;
        let decode =
            after * (step.token_us + step.sequence_us) * 1e-6 + context * step.context_ns * 1e-9;
        Self { prefill: seconds(prefill / speed), decode: seconds(decode / speed) }
    }

    fn whole(&self) -> Duration {
        self.prefill + self.decode
    }
}

/// The most requests that can keep their promises, as a share; none where nothing was promised.
fn good_fraction(
    slo: Slo,
    profile: &Profile,
    asked: &[Asked<'_>],
    work: &[Work],
    replicas: u32,
) -> Option<f64> {
    // What passes before and around the first step, and can be no share of anybody else's time.
    let spent = profile.api_overhead();
    let count = |jobs: Vec<Job>| share(on_time::pooled(&jobs, replicas).count(), jobs.len());
    let both = || asked.iter().zip(work);
    let first = slo.ttft.and_then(|within| {
        let within = within.saturating_sub(spent);
        count(both().map(|(it, work)| Job::within(within, it.at, work.prefill)).collect())
    });
    let last_within = |output: Tokens| {
        let gaps = output.0.saturating_sub(1);
        let by_token = slo.ttft.zip(slo.tpot).map(|(ttft, tpot)| ttft + tpot.saturating_mul(gaps));
        match (by_token, slo.e2e) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    };
    let job = |(it, work): (&Asked<'_>, &Work)| {
        let within = last_within(it.arrival.output)?.saturating_sub(spent);
        Some(Job::within(within, it.at, work.whole()))
    };
    let last = count(both().filter_map(job).collect());
    first.into_iter().chain(last).reduce(f64::min)
}

fn of_stations(
    setup: &Setup,
    servers: u32,
    service: &ServiceTime,
    asked: &[Asked<'_>],
    first: usize,
) -> Limits {
    let mut services = Services::new(setup);
    let speed = setup.speed();
    let drawn = (0..).zip(asked).map(|(number, it)| {
        let service = services.draw(service, number);
        (it.at, seconds(service.as_secs_f64() / speed))
    });
    // The draws before the first that counts are made, and left out.
    let counted: Vec<(Timestamp, Duration)> = drawn.skip(first).collect();
    let all: Duration = counted.iter().map(|it| it.1).sum();
    let mean = u32::try_from(counted.len()).ok().and_then(|count| all.checked_div(count));
    let servers = setup.replicas_max().saturating_mul(servers);
    // The first token comes with the last.
    let slo = setup.loosest();
    let within = slo.ttft.into_iter().chain(slo.e2e).min();
    let best = within.map(|within| {
        let jobs: Vec<Job> =
            counted.iter().map(|(at, service)| Job::within(within, *at, *service)).collect();
        on_time::pooled(&jobs, servers)
    });
    Limits {
        knee_rps: mean.and_then(|mean| knee::fluid_knee(servers, Duration::ZERO, None, mean)),
        good_is_exact: first == 0
            && setup.faults.is_empty()
            && best.as_ref().is_some_and(|it| it.is_exact),
        good_request_fraction: best.and_then(|it| share(it.count(), it.served.len())),
        ..Limits::default()
    }
}

impl Setup {
    /// The most replicas that there can be.
    fn replicas_max(&self) -> u32 {
        let joined = self.faults.iter().map(|it| match it {
            Fault::ScaleOut { replicas, .. } => *replicas,
            Fault::Crash { .. }
            | Fault::Slow { .. }
            | Fault::Stall { .. }
            | Fault::Partition { .. }
            | Fault::ScaleIn { .. }
            | Fault::RollingDeployment { .. }
            | Fault::RotateSalt { .. } => 0,
        });
        joined.fold(self.replicas, u32::saturating_add)
    }

    /// How many times as fast as its profile says a replica can become: "slow" may mean fast.
    fn speed(&self) -> f64 {
        let factors = self.faults.iter().filter_map(|it| match it {
            Fault::Slow { factor, .. } => Some(factor.min(1.0)),
            Fault::Crash { .. }
            | Fault::Stall { .. }
            | Fault::Partition { .. }
            | Fault::ScaleOut { .. }
            | Fault::ScaleIn { .. }
            | Fault::RollingDeployment { .. }
            | Fault::RotateSalt { .. } => None,
        });
        1.0 / factors.product::<f64>()
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests;
