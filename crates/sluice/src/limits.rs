//! What the system lets a process have.

/// Descriptors kept for all but clients and the streams that they wait for: ports, probes, files, and the
/// admin port, which must answer when nothing else does.
const KEPT: u64 = 64;

/// Descriptors that a client takes: its own connection, and one to its replica.
const PER_CLIENT: u64 = 2;

/// Most clients whose connections, and those to their replicas, fit into the limit on open files.
pub(crate) fn clients_max() -> usize {
    let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |it| it.0);
    let clients = limit.saturating_sub(KEPT) / PER_CLIENT;
    usize::try_from(clients).unwrap_or(usize::MAX).max(1)
}

/// Raises the limit on open files as far as it goes. Every stream takes two, and the usual soft limit
/// of 1,024 is there for programs that use `select`, which this one does not.
pub(crate) fn raise() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
