//! Models one inference engine: batching, KV blocks, step times.
