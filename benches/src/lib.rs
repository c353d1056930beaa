//! Benchmarks of the figures the project promises; recorded runs live in `runs/`.
