//! A slice of a real trace, so that no download stands before a first run.

/// Name by which a workload asks for [`MOONCAKE_SLICE`].
pub const MOONCAKE_SLICE_NAME: &str = "bundled:mooncake-conversation";

/// Every fourteenth conversation of ten minutes of Mooncake's conversation trace, in its own format.
///
/// Origin, licence and figures: `data/README.md`.
pub const MOONCAKE_SLICE: &str = include_str!("../data/mooncake-conversation-slice.jsonl");
