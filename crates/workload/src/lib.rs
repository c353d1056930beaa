//! Says which requests arrive when, from a trace or a distribution.
