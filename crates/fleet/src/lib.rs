//! Keeps the dispatcher's picture of the replicas current and shares it between tasks.
