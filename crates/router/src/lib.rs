//! Serves the OpenAI API and proxies each request to its replica.
