//! Turns request records into latency, SLO, goodput and cost figures, tables and pages.
