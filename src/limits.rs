//! What the system lets the program have: descriptors and threads, and how many connections these are enough for.

use std::{
    io,
    num::NonZero,
    sync::Mutex,
    thread::{self, available_parallelism},
};

use tracing::warn;

/// Descriptors for anything but connections: standard streams, the runtime (an epoll, its wake-up, the signals' pair),
/// two listeners, resolving the host, with some to spare.
const RESERVED_FDS: usize = 24;

/// The least that is of use: a few connections, and some that are refused meanwhile.
const MIN_FDS: usize = RESERVED_FDS + 8;

/// Threads beside one for each core: the main one, one each for the log, for standard output, for resolving the host and
/// for the input, with one to spare.
const RESERVED_THREADS: usize = 6;

/// Raises the soft descriptor limit to the hard one. Returns how many connections there are descriptors for.
///
/// # Errors
///
/// When there are too few descriptors or threads, at which tokio would panic: the error says how many it takes.
pub(crate) fn raise() -> io::Result<usize> {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "can't raise the file-descriptor limit");
    }
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit < MIN_FDS {
        let reason = format!("starting takes {MIN_FDS} file descriptors, the limit is {limit}");
        return Err(io::Error::other(reason));
    }
    try_threads().map_err(|error| too_few_threads(&error))?;
    let spare = limit - RESERVED_FDS;
    // The rest is for connections that are refused, of which there are up to 64 at once.
    Ok(spare - (spare / 4).clamp(1, 64))
}

/// Starts as many as the program needs beside those that it has, for a moment.
fn try_threads() -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock();
        // The main one and that of the log are there already.
        for _ in 2..needed_threads() {
            thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

fn needed_threads() -> usize {
    available_parallelism().map_or(1, NonZero::get) + RESERVED_THREADS
}

/// The error of a thread that can't be started, with how many it takes.
pub(crate) fn too_few_threads(error: &io::Error) -> io::Error {
    let needed = needed_threads();
    io::Error::new(
        error.kind(),
        format!("starting takes {needed} threads: {error}"),
    )
}
