//! What the system lets a process have.

/// Raises the limit on open files as far as it goes. Every stream takes two, and the usual soft limit
/// of 1,024 is there for programs that use `select`, which this one does not.
pub(crate) fn raise() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
