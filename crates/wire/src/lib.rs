//! Speaks the byte formats: OpenAI and Anthropic requests, server-sent events, Prometheus text.
//!
//! A codec and nothing else: bytes go in, borrowed views come out, and no function here does I/O
//! or keeps a body. Start with [`openai`], which reads the part of a request body that routing
//! needs, and [`prompt`], which names the KV blocks of its prompt. [`headers`] finds the session.
//! On the way back [`sse`] finds the events of a stream and [`usage`] reads what they say of its
//! cost and its end; [`error_body`] writes the errors that clients understand. [`prometheus`]
//! reads what an engine says of its load, and [`kv_events`] what it publishes of its cache. [`http1`] tells
//! where answers begin and end, [`placements`] is what routers of one fleet tell each other, and [`digits`] writes
//! numbers.

pub mod digits;
pub mod error_body;
pub mod headers;
pub mod http1;
mod json;
pub mod kv_events;
pub mod openai;
pub mod placements;
pub mod prometheus;
pub mod prompt;
mod scan;
pub mod sse;
pub mod usage;
mod walk;
