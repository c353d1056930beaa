//! What a sweep of a live endpoint must look like, and what is said when it does not.
