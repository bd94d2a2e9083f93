//! What the server holds.

use std::{fs, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{Result, server::Server, socket::PATIENCE};

/// How much the memory may grow during the soak, in bytes: what the allocator keeps differs from wave to wave.
const SLACK: usize = 8 << 20;

#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) descriptors: usize,
    memory: usize,
    threads: usize,
}

impl Usage {
    pub(crate) fn of(server: &Server) -> Result<Self> {
        Ok(Self {
            descriptors: server.descriptors()?,
            memory: server.memory()?,
            threads: fs::read_dir(server.proc("task"))?.count(),
        })
    }

    /// The usage once the server holds as many descriptors as at the start, or at the latest after a while.
    pub(crate) async fn at_rest(server: &Server, start: Self) -> Result<Self> {
        let patience = Instant::now() + PATIENCE;
        while server.descriptors()? != start.descriptors && Instant::now() < patience {
            sleep(Duration::from_millis(100)).await;
        }
        Self::of(server)
    }

    pub(crate) fn print_title() {
        println!(
            "{:24}{:>12}{:>14}{:>9}",
            "", "descriptors", "memory (KiB)", "threads"
        );
    }

    pub(crate) fn print(self, when: &str) {
        let memory = self.memory / 1024;
        println!(
            "{when:24}{:>12}{memory:>14}{:>9}",
            self.descriptors, self.threads
        );
    }

    /// Fails if the server holds more after the soak than before it.
    pub(crate) fn check(self, start: Self, before: Self) -> Result<()> {
        // The thread that resolved the host may have ended.
        if self.descriptors != start.descriptors || self.threads > start.threads {
            return Err("the descriptors or threads are not back to what they were".into());
        }
        if self.memory > before.memory + SLACK {
            return Err(format!("the memory grew by more than {} KiB", SLACK / 1024).into());
        }
        Ok(())
    }
}
