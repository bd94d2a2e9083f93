//! What the system lets the program have: descriptors and threads, and how many connections these are enough for.

use std::{
    io,
    num::NonZero,
    os::fd::AsFd,
    sync::mpsc,
    thread::{self, available_parallelism},
};

use tracing::warn;

/// Descriptors for anything but connections: standard streams, the runtime (an epoll, its wake-up, the signals' pair),
/// two listeners, resolving the host, with some to spare.
const RESERVED_FDS: usize = 24;

/// The least that is of use: one connection, and one that is refused meanwhile.
const MIN_FDS: usize = RESERVED_FDS + 2;

/// Threads beside one for each core: the main one, one each for the two standard streams, for resolving the host and for
/// the input, with one to spare.
const RESERVED_THREADS: usize = 6;

/// Of these, the main one and that of standard error are there already.
const STARTED_THREADS: usize = 2;

/// What the program may use.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    /// How many connections there are descriptors for.
    pub(crate) connections: usize,
}

impl Limits {
    /// Raises the soft descriptor limit to the hard one, and takes for a moment all that the program needs at its start:
    /// tokio panics where it finds too little.
    ///
    /// # Errors
    ///
    /// When that is not to be had: the error says how much it takes.
    pub(crate) fn raise() -> io::Result<Self> {
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            warn!(%error, "can't raise the file-descriptor limit");
        }
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        try_descriptors(descriptors)?;
        try_threads().map_err(|error| too_few_threads(&error))?;
        let spare = descriptors.saturating_sub(RESERVED_FDS);
        // The rest is for connections that are refused, of which there are up to 64 at once.
        let connections = spare - (spare / 4).clamp(1, 64);
        Ok(Self {
            workers: workers(),
            connections,
        })
    }
}

fn try_descriptors(limit: usize) -> io::Result<()> {
    let stdin = io::stdin();
    let mut taken = Vec::new();
    // The three standard streams are there.
    for missing in (1..=MIN_FDS - 3).rev() {
        let descriptor = stdin.as_fd().try_clone_to_owned();
        taken.push(descriptor.map_err(|error| {
            let needed = limit + missing;
            let reason =
                format!("starting takes {needed} file descriptors, the limit is {limit}: {error}");
            io::Error::new(error.kind(), reason)
        })?);
    }
    Ok(())
}

/// One for each core.
fn workers() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// The error of a thread that can't be started, with how many it takes.
pub(crate) fn too_few_threads(error: &io::Error) -> io::Error {
    let needed = workers() + RESERVED_THREADS;
    io::Error::new(
        error.kind(),
        format!("starting takes {needed} threads: {error}"),
    )
}

fn try_threads() -> io::Result<()> {
    let mut threads = Vec::new();
    for _ in STARTED_THREADS..workers() + RESERVED_THREADS {
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::Builder::new().spawn(move || ended.recv())?;
        threads.push((end, thread));
    }
    for (end, thread) in threads {
        drop(end);
        let _ = thread.join();
    }
    Ok(())
}
