//! Where randomness comes from: one seed for a run, one stream for each purpose.
//!
//! With a stream for each purpose, a change to how lengths are drawn leaves the arrival times as
//! they were, and two policies are compared on the very same requests.

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Times between arrivals.
    Arrivals,
    /// Lengths of prompts and answers.
    Lengths,
    /// Times that users think.
    ThinkTimes,
    /// Which tenant a session belongs to, or which document a question is about.
    Tenants,
}

/// What a segment's text is, so that texts of different kinds never share a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A tenant's system prompt and tools.
    TenantPrefix,
    /// What a user said.
    User,
    /// What the model answered.
    Assistant,
    /// A prompt that nothing else shares.
    Unique,
    /// A block that a trace names.
    TraceBlock,
    /// Not a text: the seed of one kind of traffic in a mix.
    Part,
}

/// The generator of the run seeded with `seed`, for one purpose.
///
/// The algorithm is named (xoshiro256++, Blackman and Vigna 2019) because a stream that changed
/// with a library would change every recorded result.
#[must_use]
pub fn generator(seed: u64, purpose: Purpose) -> Xoshiro256PlusPlus {
    let stream = match purpose {
        Purpose::Arrivals => 1,
        Purpose::Lengths => 2,
        Purpose::ThinkTimes => 3,
        Purpose::Tenants => 4,
    };
    Xoshiro256PlusPlus::seed_from_u64(mix(mix(seed).wrapping_add(stream)))
}

/// Names the segment that is the `index`-th of its kind in the run seeded with `seed`.
///
/// Another seed names other texts, so that a second run does not find the first one's KV blocks in
/// the caches of a live engine.
pub(crate) fn segment_id(seed: u64, kind: Kind, index: u64) -> u64 {
    let kind = match kind {
        Kind::TenantPrefix => 1,
        Kind::User => 2,
        Kind::Assistant => 3,
        Kind::Unique => 4,
        Kind::TraceBlock => 5,
        Kind::Part => 6,
    };
    mix(mix(mix(seed).wrapping_add(kind)).wrapping_add(index))
}

/// Step of the SplitMix64 generator: 2^64 divided by the golden ratio.
pub(crate) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles `value`: the output function of SplitMix64 (Steele, Lea and Flood 2014), a bijection.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN_GAMMA);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_stream_never_changes() {
        let mut generator = generator(1, Purpose::Arrivals);
        assert_eq!(generator.next_u64(), 7_928_412_762_150_994_209);
    }

    #[test]
    fn purposes_and_seeds_have_streams_of_their_own() {
        let first = |seed, purpose| generator(seed, purpose).next_u64();
        assert_ne!(first(1, Purpose::Arrivals), first(1, Purpose::Lengths));
        assert_ne!(first(1, Purpose::Arrivals), first(2, Purpose::Arrivals));
    }

    #[test]
    fn kinds_and_seeds_name_different_texts() {
        assert_ne!(segment_id(1, Kind::User, 3), segment_id(1, Kind::Assistant, 3));
        assert_ne!(segment_id(1, Kind::User, 3), segment_id(2, Kind::User, 3));
    }
}
