//! How far the clients of a server are, reported to the bench while it waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError::Timeout, Sender},
    },
    thread,
    time::Duration,
};

use crate::Result;

const INTERVAL: Duration = Duration::from_secs(5);

const PREFIX: &str = "progress ";

/// How many connections are open, have an answer to `start`, and were refused or closed by the server.
pub(crate) type Counts = [usize; 3];

#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) open: AtomicUsize,
    pub(crate) started: AtomicUsize,
    pub(crate) failed: AtomicUsize,
}

impl Progress {
    fn counts(&self) -> Counts {
        [&self.open, &self.started, &self.failed].map(|count| count.load(Relaxed))
    }

    /// Prints the counts every few seconds until the returned sender is dropped.
    pub(crate) fn report(self: &Arc<Self>) -> Sender<()> {
        let progress = Arc::clone(self);
        let (sender, dropped) = mpsc::channel();
        thread::spawn(move || {
            while dropped.recv_timeout(INTERVAL) == Err(Timeout) {
                let [open, started, failed] = progress.counts();
                println!("{PREFIX}{open} {started} {failed}");
            }
        });
        sender
    }
}

/// The counts in a line that a client process printed, if it is a report.
pub(crate) fn parse(line: &str) -> Result<Option<Counts>> {
    let Some(counts) = line.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    let counts = counts.split_whitespace().map(str::parse);
    let counts = counts.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Some(counts.try_into().map_err(|_| "not a report")?))
}
