//! The threads that serve connections: one for each core, each with a runtime of its own.
//!
//! Those that take part (see `server`) accept connections in turn. A connection stays where it was accepted, so nothing
//! that happens to it wakes another thread: with tokio's own pool of threads a notification cost a quarter more.

use std::{
    io,
    num::NonZero,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{self, Handle, Runtime},
    sync::oneshot,
};

/// A thread with a runtime. Dropping it ends both, and all that still runs there.
#[derive(Debug)]
pub(crate) struct Worker {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// What a runtime takes: two of epoll, one to wake it up, one for signals.
    pub(crate) const DESCRIPTORS: usize = 4;

    /// Starts one for each core.
    ///
    /// # Errors
    ///
    /// When the system has no thread or no descriptors left.
    pub(crate) fn start_all() -> io::Result<Vec<Self>> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let workers: io::Result<_> = (0..cores).map(|_| Self::start()).collect();
        workers.map_err(|error| {
            let needs = format!("a thread with {} descriptors", Self::DESCRIPTORS);
            let reason = format!("can't start {needs} for each of {cores} cores: {error}");
            io::Error::new(error.kind(), reason)
        })
    }

    fn start() -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (hand_over, handed_over) = mpsc::channel::<Runtime>();
        // First the thread: a runtime that is dropped for want of one would panic here, where the caller is async.
        let thread = thread::Builder::new()
            .name("worker".into())
            .spawn(move || {
                if let Ok(runtime) = handed_over.recv() {
                    // Ends when `stop` is dropped; with the runtime go the connections that are left.
                    let _ = runtime.block_on(stopped);
                }
            })?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let _ = hand_over.send(runtime);
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.take();
        // No task blocks, so this is over at once.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;

    #[test]
    fn dropping_a_worker_ends_all_that_still_runs_there() {
        let worker = Worker::start().unwrap();
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        worker.runtime().spawn(async move {
            pending::<()>().await;
            drop(kept);
        });
        drop(worker);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
