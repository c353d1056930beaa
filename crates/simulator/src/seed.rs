//! Where randomness comes from: one seed for a run, one stream for each subsystem.
//!
//! A change to what one subsystem draws leaves the draws of the others as they were, and two
//! policies meet the same workload, the same faults and the same lost reports.

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use types::block::{BlockHash, hash_block};

/// What a stream of random numbers is for. The workload's streams are its own crate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subsystem {
    /// Ties within the dispatcher of router `.0`.
    Dispatcher(u32),
    /// Which router a request comes to.
    Routers,
    /// When routers read load reports, and which of them are lost.
    Signals,
    /// Service times of queueing stations.
    Service,
    /// Which answers come in one piece.
    Streams,
    /// How the steps of replica `.0` scatter.
    Steps(u32),
}

/// The seed of one subsystem in the run seeded with `seed`.
pub(crate) fn seed_of(seed: u64, subsystem: Subsystem) -> u64 {
    let (kind, index) = match subsystem {
        Subsystem::Dispatcher(router) => (1_u8, router),
        Subsystem::Routers => (2, 0),
        Subsystem::Signals => (3, 0),
        Subsystem::Service => (4, 0),
        Subsystem::Steps(replica) => (5, replica),
        Subsystem::Streams => (6, 0),
    };
    let kind = hash_block(BlockHash(seed), &[kind]);
    hash_block(kind, &index.to_le_bytes()).0
}

/// The generator of one subsystem in the run seeded with `seed`.
pub(crate) fn generator(seed: u64, subsystem: Subsystem) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed_of(seed, subsystem))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_subsystem_and_seed_has_a_stream_of_its_own() {
        let subsystems = [
            Subsystem::Dispatcher(0),
            Subsystem::Dispatcher(1),
            Subsystem::Routers,
            Subsystem::Signals,
            Subsystem::Service,
            Subsystem::Streams,
            Subsystem::Steps(0),
            Subsystem::Steps(1),
        ];
        let seeds: BTreeSet<u64> =
            (0..50).flat_map(|seed| subsystems.map(|it| seed_of(seed, it))).collect();
        assert_eq!(seeds.len(), 400);
    }
}
