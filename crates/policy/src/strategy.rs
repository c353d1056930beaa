//! The rules by which a replica is chosen among those that take the request.
//!
//! A closed set: adding a rule is one file and one arm. A rule sees the candidates and never the
//! dispatcher, so each can be tested on cases made by hand.

mod consistent_hash;
mod kv_aware;
mod least_latency;
mod least_request;
mod peer_dynamo;
mod peer_llmd_blend;
mod peer_llmd_token_load;
mod peer_lmetric;
mod peer_mooncake;
mod peer_preble;
mod peer_sglang;
mod pick;
mod power_of_two;
mod prefix_aware;
mod random;
mod round_robin;
mod sticky;

pub(crate) use self::least_latency::{Cost, slack as cost_slack};

use rand::Rng;
use types::{
    block::BlockHash,
    quantity::Tokens,
    replica::{LoadReport, ReplicaId},
    time::Timestamp,
};

use crate::{
    config::{CostWeights, Fallback, Routing, StrategyName},
    estimate::Forecast,
    event::Reason,
    explanation::CostTerms,
    prefix_index::Slot,
};

/// A replica that takes the request, reduced to what rules look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which replica.
    pub id: ReplicaId,
    /// Where the prefix index files it.
    pub slot: Slot,
    /// Requests on it, this dispatcher's and others'.
    pub requests: u32,
    /// Prompt tokens it has yet to compute for requests placed on it.
    pub queued_prefill: Tokens,
    /// Tokens of this prompt it is believed to hold.
    pub cached: Tokens,
    /// Those of them that the index names: the others follow from the conversation.
    pub indexed: Tokens,
    /// Share of the prefill that it would do there which counts as this request's: others on their way
    /// would use the rest.
    pub own: f64,
    /// What the request is expected to meet there; nothing where the rule does not look at it.
    pub forecast: Forecast,
    /// Whether it has room for one more: a seat in its batch, and memory.
    pub has_room: bool,
    /// What its engine last said of its load; nothing where it never did.
    pub reported: LoadReport,
}

/// A hash of what a request has in common with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Its conversation.
    Conversation(u64),
    /// The beginning of its prompt.
    Beginning(u64),
}

impl Key {
    /// The hash, whatever it is of.
    #[must_use]
    pub const fn hash(self) -> u64 {
        match self {
            Self::Conversation(hash) | Self::Beginning(hash) => hash,
        }
    }
}

/// What rules look at besides the candidates.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Length of the prompt.
    pub prompt: Tokens,
    /// Its blocks.
    pub blocks: &'a [BlockHash],
    /// Tokens in a block.
    pub block: Tokens,
    /// Replica that served the conversation before.
    pub bound: Option<ReplicaId>,
    /// What the request has in common with those that should go where it goes.
    pub key: Option<Key>,
    /// Whether it is part of a conversation of which others may have placed turns: they send a good part
    /// of what the replicas have.
    pub is_shared: bool,
}

/// A rule with what it remembers between requests.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Each in turn.
    RoundRobin(round_robin::Turn),
    /// Any.
    Random,
    /// The fewest requests.
    LeastRequest,
    /// The better of two.
    PowerOfTwo,
    /// Where the conversation was.
    Sticky,
    /// Where the prefix is, if at least this share of the prompt is there.
    PrefixAware { match_min: f64 },
    /// Where the least is left to compute.
    KvAware,
    /// Where it costs least.
    LeastLatency(CostWeights),
    /// Where the key hashes to.
    ConsistentHash,
    /// As the SGLang gateway does.
    PeerSglang,
    /// As llm-d did by default.
    PeerLlmdBlend,
    /// As llm-d recommends.
    PeerLlmdTokenLoad,
    /// As Dynamo does.
    PeerDynamo(peer_dynamo::ActiveBlocks),
    /// As Mooncake does.
    PeerMooncake,
    /// As LMetric does.
    PeerLmetric,
    /// As Preble does.
    PeerPreble(peer_preble::Window),
}

impl Strategy {
    /// The rule that `routing` names.
    #[must_use]
    pub fn new(routing: &Routing) -> Self {
        match routing.strategy {
            StrategyName::RoundRobin => Self::RoundRobin(round_robin::Turn::default()),
            StrategyName::Random => Self::Random,
            StrategyName::LeastRequest => Self::LeastRequest,
            StrategyName::PowerOfTwo => Self::PowerOfTwo,
            StrategyName::Sticky => Self::Sticky,
            StrategyName::PrefixAware => Self::PrefixAware { match_min: routing.match_min },
            StrategyName::KvAware => Self::KvAware,
            StrategyName::LeastLatency => Self::LeastLatency(routing.cost),
            StrategyName::ConsistentHash => Self::ConsistentHash,
            StrategyName::PeerSglang => Self::PeerSglang,
            StrategyName::PeerLlmdBlend => Self::PeerLlmdBlend,
            StrategyName::PeerLlmdTokenLoad => Self::PeerLlmdTokenLoad,
            StrategyName::PeerDynamo => Self::PeerDynamo(peer_dynamo::ActiveBlocks::default()),
            StrategyName::PeerMooncake => Self::PeerMooncake,
            StrategyName::PeerLmetric => Self::PeerLmetric,
            StrategyName::PeerPreble => Self::PeerPreble(peer_preble::Window::default()),
        }
    }

    /// Whether the rule looks at forecasts.
    #[must_use]
    pub const fn forecasts(&self) -> bool {
        matches!(self, Self::LeastLatency(_) | Self::PeerMooncake | Self::PeerPreble(_))
    }

    /// How the rule weighs costs, where it does nothing else.
    #[must_use]
    pub const fn cost_weights(&self) -> Option<CostWeights> {
        if let Self::LeastLatency(weights) = self { Some(*weights) } else { None }
    }

    /// What the rule puts `candidate` at among `all`, in [its own unit](StrategyName::ranks_in); the least is
    /// best. None where it does not rank by one number.
    #[must_use]
    pub fn score(&self, ask: &Ask<'_>, all: &[Candidate], candidate: &Candidate) -> Option<f64> {
        match self {
            Self::LeastRequest | Self::PowerOfTwo => Some(f64::from(candidate.requests)),
            Self::KvAware | Self::PeerLlmdTokenLoad => {
                let uncached = ask.prompt.saturating_sub(candidate.cached);
                Some(f64::from((candidate.queued_prefill + uncached).0))
            }
            Self::LeastLatency(weights) => Some(Cost::of(candidate, weights).total_s()),
            Self::PeerDynamo(active) => Some(active.cost(ask, candidate)),
            Self::PeerMooncake => Some(candidate.forecast.ttft_s),
            Self::PeerLmetric => Some(peer_lmetric::product(ask, candidate)),
            Self::PeerLlmdBlend => Some(peer_llmd_blend::Blend::of(all).lacks(ask, candidate)),
            Self::PeerPreble(window) => Some(window.cost(candidate)),
            Self::RoundRobin(_)
            | Self::Random
            | Self::Sticky
            | Self::PrefixAware { .. }
            | Self::ConsistentHash
            | Self::PeerSglang => None,
        }
    }

    /// The terms of that, where the rule is a sum of seconds.
    #[must_use]
    pub fn terms(&self, candidate: &Candidate) -> Option<CostTerms> {
        let Self::LeastLatency(weights) = self else { return None };
        let Cost { wait_s, harm_s, price_s } = Cost::of(candidate, weights);
        Some(CostTerms { wait_s, harm_s, price_s })
    }

    /// Learns that a request was placed, with what it was expected to do there.
    pub fn placed(
        &mut self,
        now: Timestamp,
        replica: ReplicaId,
        blocks: &[BlockHash],
        forecast: &Forecast,
    ) {
        match self {
            Self::PeerDynamo(active) => active.placed(replica, blocks),
            Self::PeerPreble(window) => window.placed(now, replica, forecast.work_s),
            Self::RoundRobin(_)
            | Self::Random
            | Self::LeastRequest
            | Self::PowerOfTwo
            | Self::Sticky
            | Self::PrefixAware { .. }
            | Self::KvAware
            | Self::LeastLatency(_)
            | Self::ConsistentHash
            | Self::PeerSglang
            | Self::PeerLlmdBlend
            | Self::PeerLlmdTokenLoad
            | Self::PeerMooncake
            | Self::PeerLmetric => {}
        }
    }

    /// Learns that a request left its replica.
    pub fn left(&mut self, replica: ReplicaId, blocks: &[BlockHash]) {
        if let Self::PeerDynamo(active) = self {
            active.left(replica, blocks);
        }
    }

    /// The rule that stands in for a saturated choice.
    #[must_use]
    pub fn fallback(fallback: Fallback) -> Self {
        match fallback {
            Fallback::RoundRobin => Self::RoundRobin(round_robin::Turn::default()),
            Fallback::Random => Self::Random,
            Fallback::LeastRequest => Self::LeastRequest,
            Fallback::PowerOfTwo => Self::PowerOfTwo,
        }
    }

    /// Chooses one of `candidates`, and says what decided; `None` only when there are none.
    pub fn choose(
        &mut self,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        rng: &mut impl Rng,
    ) -> Option<(Candidate, Reason)> {
        let by_load = |chosen: Option<Candidate>| chosen.map(|it| (it, Reason::Load));
        match self {
            Self::RoundRobin(turn) => by_load(turn.choose(candidates)),
            Self::Random => by_load(random::choose(candidates, rng)),
            Self::LeastRequest => by_load(least_request::choose(candidates, rng)),
            Self::PowerOfTwo => by_load(power_of_two::choose(candidates, rng)),
            Self::Sticky => sticky::choose(ask, candidates, rng),
            Self::PrefixAware { match_min } => {
                prefix_aware::choose(*match_min, ask, candidates, rng)
            }
            Self::KvAware => kv_aware::choose(ask, candidates, rng),
            Self::LeastLatency(weights) => least_latency::choose(weights, ask, candidates, rng),
            Self::ConsistentHash => consistent_hash::choose(ask, candidates, rng),
            Self::PeerSglang => peer_sglang::choose(ask, candidates),
            Self::PeerLlmdBlend => peer_llmd_blend::choose(ask, candidates, rng),
            Self::PeerLlmdTokenLoad => peer_llmd_token_load::choose(ask, candidates, rng),
            Self::PeerDynamo(active) => active.choose(ask, candidates, rng),
            Self::PeerMooncake => peer_mooncake::choose(candidates, rng),
            Self::PeerLmetric => peer_lmetric::choose(ask, candidates, rng),
            Self::PeerPreble(window) => window.choose(ask, candidates, rng),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of every rule need.

    use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};

    use super::*;

    pub(crate) fn candidate(id: u32, requests: u32, cached: u32) -> Candidate {
        Candidate {
            id: ReplicaId(id),
            slot: Slot::default(),
            requests,
            queued_prefill: Tokens::ZERO,
            cached: Tokens(cached),
            indexed: Tokens(cached),
            own: 1.0,
            forecast: Forecast::default(),
            has_room: true,
            reported: LoadReport::default(),
        }
    }

    pub(crate) fn ask(prompt: u32, bound: Option<u32>) -> Ask<'static> {
        let (prompt, bound) = (Tokens(prompt), bound.map(ReplicaId));
        Ask { prompt, blocks: &[], block: Tokens(64), bound, key: None, is_shared: false }
    }

    /// The choice of a rule that leaves nothing to chance.
    pub(crate) fn chosen(
        mut choose: impl FnMut(&mut Xoshiro256PlusPlus) -> Option<(Candidate, Reason)>,
    ) -> Candidate {
        choose(&mut Xoshiro256PlusPlus::seed_from_u64(7)).unwrap().0
    }

    /// How often each of `candidates` is chosen in 1,000 calls.
    pub(crate) fn tally(
        mut choose: impl FnMut(&mut Xoshiro256PlusPlus) -> Option<Candidate>,
        candidates: &[Candidate],
    ) -> Vec<usize> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let chosen: Vec<_> = (0..1_000).filter_map(|_| choose(&mut rng)).collect();
        assert_eq!(chosen.len(), 1_000);
        candidates.iter().map(|it| chosen.iter().filter(|chosen| *chosen == it).count()).collect()
    }
}
