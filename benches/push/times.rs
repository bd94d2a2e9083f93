//! How much time passes on the clock, and how much of it the server and its clients spend on a core.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{Result, server::Server};

/// How long a thread has run, and how long it has waited for a core.
fn schedstat(thread: &str) -> Result<[Duration; 2]> {
    let text = fs::read_to_string(format!("{thread}/schedstat"))?;
    let mut fields = text.split_whitespace().map(str::parse);
    let mut next = || -> Result<Duration> {
        let nanoseconds = fields.next().ok_or("no schedstat")??;
        Ok(Duration::from_nanos(nanoseconds))
    };
    Ok([next()?, next()?])
}

/// CPU time of the calling thread.
pub(crate) fn running() -> Result<Duration> {
    Ok(schedstat("/proc/thread-self")?[0])
}

/// CPU time of all threads of the server, in the kernel and outside. It includes the kernel's work up to the receiver's
/// queue, because a send does that too.
fn cpu(server: &Server) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(server.proc("task"))? {
        // A thread may have ended just now.
        if let Ok([running, _]) = schedstat(&thread?.path().to_string_lossy()) {
            sum += running;
        }
    }
    Ok(sum)
}

#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) clock: Duration,
    pub(crate) server: Duration,
    pub(crate) client: Duration,
    /// How long the client was ready to run but had no core.
    waiting: Duration,
}

impl Times {
    pub(crate) fn now(begin: Instant, server: &Server) -> Result<Self> {
        let clock = begin.elapsed();
        let [client, waiting] = schedstat("/proc/thread-self")?;
        Ok(Self {
            clock,
            server: cpu(server)?,
            client,
            waiting,
        })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            clock: self.clock.saturating_sub(earlier.clock),
            server: self.server.saturating_sub(earlier.server),
            client: self.client.saturating_sub(earlier.client),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }

    /// NaN if the client had almost no time left: the figure then measures the client.
    pub(crate) fn unless_saturated(self, figure: f64) -> f64 {
        self.unless_busy(self.client, figure)
    }

    /// NaN also if the client almost always waited for a core: whatever it read was late by then.
    pub(crate) fn unless_starved(self, figure: f64) -> f64 {
        self.unless_busy(self.client + self.waiting, figure)
    }

    fn unless_busy(self, busy: Duration, figure: f64) -> f64 {
        if busy > self.clock.mul_f64(0.85) {
            f64::NAN
        } else {
            figure
        }
    }
}
