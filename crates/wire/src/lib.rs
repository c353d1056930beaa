//! Speaks the byte formats: OpenAI and Anthropic requests, server-sent events, KV-cache events, Prometheus text.
