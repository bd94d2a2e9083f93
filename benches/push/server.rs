//! A server process: starting and ending it, and what the kernel knows of it.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use crate::Result;

/// Killed when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Returns when it accepts connections.
    pub(crate) fn start(program: &[OsString], source: &[String]) -> Result<Self> {
        let (name, arguments) = program.split_first().ok_or("no program")?;
        let mut process = Command::new(name)
            .args(arguments)
            .args(["--listen", "127.0.0.1:0"])
            .args(source)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        let mut server = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let host = url.trim().strip_prefix("ws://");
        let host = host.ok_or_else(|| format!("{} printed no URL, but {url:?}", name.display()))?;
        server.address = host.trim_end_matches('/').parse()?;
        Ok(server)
    }

    /// Its standard input, once.
    pub(crate) fn input(&mut self) -> Result<ChildStdin> {
        Ok(self.process.stdin.take().ok_or("no standard input")?)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.id())
    }

    /// The time that its threads have run, in the kernel or out of it. A send runs up to the receiver's queue, so that
    /// is counted too.
    fn cpu(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for thread in fs::read_dir(self.file("task"))? {
            // A thread may just have ended.
            if let Ok([running, _]) = schedstat(&thread?.path().to_string_lossy()) {
                sum += running;
            }
        }
        Ok(sum)
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<f64> {
        // `status` counts only roughly, for each CPU by itself.
        let rollup = fs::read_to_string(self.file("smaps_rollup"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(1024.0 * size.ok_or("no Rss")?.parse::<f64>()?)
    }

    /// How many descriptors it holds.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(self.file("fd"))?.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

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

/// How long the thread that asks has run.
pub(crate) fn running() -> Result<Duration> {
    Ok(schedstat("/proc/thread-self")?[0])
}

/// How much time has passed, for a clock and for both processes.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) clock: Duration,
    pub(crate) server: Duration,
    pub(crate) client: Duration,
    /// How long the client could have run, but had no core.
    waiting: Duration,
}

impl Times {
    pub(crate) fn now(begin: Instant, server: &Server) -> Result<Self> {
        let clock = begin.elapsed();
        let [client, waiting] = schedstat("/proc/thread-self")?;
        Ok(Self {
            clock,
            server: server.cpu()?,
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

    /// NaN when the client had nearly no time left, for then it was the client that was measured.
    pub(crate) fn unless_saturated(self, figure: f64) -> f64 {
        self.unless_busy(self.client, figure)
    }

    /// NaN also when it nearly always waited for a core: what it read was late by then, whoever is to blame.
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
