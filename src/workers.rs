//! The threads that connections are dealt out to: one for each core, each with a runtime of its own.
//!
//! A connection stays on its thread, so nothing that happens to it wakes another one.

use std::{
    io,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
};

/// What a runtime takes: two of epoll, one to wake it up, one for signals.
const RUNTIME_DESCRIPTORS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    dealt: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// # Errors
    ///
    /// When the system has no thread or no descriptors left.
    pub(crate) fn start() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let workers = (0..cores)
            .map(|_| Worker::start())
            .collect::<io::Result<_>>()?;
        Ok(Self {
            workers,
            dealt: AtomicUsize::new(0),
        })
    }

    /// How many descriptors they take.
    pub(crate) fn descriptors(&self) -> u32 {
        self.workers.iter().map(|_| RUNTIME_DESCRIPTORS).sum()
    }

    /// The runtime for the next connection: each worker gets as many as the others.
    pub(crate) fn next(&self) -> &Handle {
        let turn = self.dealt.fetch_add(1, Ordering::Relaxed);
        &self.workers[turn % self.workers.len()].runtime
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("connections".into())
            .spawn(move || {
                // Ends when `stop` is dropped; with the runtime go the connections that are left.
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.take();
        // No task blocks, so this is over at once.
        self.thread.take().map(JoinHandle::join);
    }
}
