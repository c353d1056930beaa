//! The one binary: parses arguments and starts one of the programs.

fn main() {}
