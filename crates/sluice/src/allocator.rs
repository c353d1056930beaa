//! The allocator, and when memory that is free is the system's again.
//!
//! jemalloc keeps it for some seconds, in case it is wanted again, and gives it back by a thread of its own, so that an
//! idle router does not keep what a busy one took. Blocks of 1 MiB and more come from an arena of their own, whose free memory
//! is given back at once, but only if that thread does not run yet when the arena is made; else it is kept as well. A long body needs
//! that: it has room for all that its head announces, and only what has come counts against the memory for bodies. In room
//! that lately was another body's, all of it is resident before anything has come.

use tikv_jemalloc_ctl::background_thread;

/// The allocator of the whole process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From how many bytes on a block is of the arena that keeps nothing: at least jemalloc's `oversize_threshold`, which is
/// 8 MiB where it was built without our settings.
const OVERSIZE_BYTES: usize = 8 << 20;

/// Has free memory given back. To be called first of all.
pub(crate) fn give_back() {
    // The first such block makes the arena.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(OVERSIZE_BYTES)));
    // Where there can't be such a thread, memory goes back as other memory is asked for.
    let _ = background_thread::write(true);
}
