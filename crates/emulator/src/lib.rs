//! Serves the OpenAI API from a modelled engine in real time.
