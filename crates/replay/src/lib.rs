//! Sends a workload open-loop and records what each client saw.
