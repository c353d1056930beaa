//! Decides, for one request, whether to admit it and which replica serves it.
