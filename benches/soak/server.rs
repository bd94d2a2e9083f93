//! The server, and what it holds.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::socket::PATIENCE;

/// Seconds. A silent client is gone after twice that, and nobody here is silent for so long but to be cut.
const KEEPALIVE: &str = "10";

/// By how much the memory may grow over the soak: what the allocator keeps differs from wave to wave.
const SLACK: u64 = 8 * 1024;

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// `source` is where its notifications come from, as its command line has it.
    pub(crate) fn start(source: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wspush"))
            .args(["--listen", "127.0.0.1:0", "--keepalive", KEEPALIVE])
            .args(source)
            .env("RUST_LOG", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let address = line
            .trim()
            .trim_start_matches("ws://")
            .trim_end_matches('/');
        Ok(Self {
            address: address.parse().expect("an address"),
            child,
        })
    }

    /// Its standard input, once.
    pub(crate) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> Result<(), String> {
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            match self.child.try_wait() {
                Ok(None) => sleep(Duration::from_millis(100)).await,
                Ok(Some(status)) if status.success() => return Ok(()),
                ended => return Err(format!("the server ended with {ended:?}")),
            }
        }
        Err("the server did not end".into())
    }

    pub(crate) fn usage(&self) -> Usage {
        let process = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{process}/status")).expect("a running server");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number
                .and_then(|number| number.parse().ok())
                .expect("a number")
        };
        Usage {
            descriptors: fs::read_dir(format!("{process}/fd"))
                .expect("a running server")
                .count(),
            memory: number("VmRSS:"),
            threads: number("Threads:"),
        }
    }

    /// What it uses once it has as many descriptors as at the start, or after a while all the same.
    pub(crate) async fn rest(&self, start: Usage) -> Usage {
        let patience = Instant::now() + PATIENCE;
        while self.usage().descriptors != start.descriptors && Instant::now() < patience {
            sleep(Duration::from_millis(100)).await;
        }
        self.usage()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) descriptors: usize,
    /// In KiB.
    memory: u64,
    threads: u64,
}

impl Usage {
    pub(crate) fn show(self, when: &str) -> Self {
        println!(
            "{when:<24}{:>12}{:>14}{:>9}",
            self.descriptors, self.memory, self.threads
        );
        self
    }

    pub(crate) fn title() {
        println!(
            "{:<24}{:>12}{:>14}{:>9}",
            "", "descriptors", "memory (KiB)", "threads"
        );
    }

    /// Fails when more is held after the soak than before it.
    pub(crate) fn check(self, start: Self, before: Self) -> Result<(), String> {
        // The thread that has resolved the host may be gone by now.
        if self.descriptors != start.descriptors || self.threads > start.threads {
            return Err("descriptors or threads are not back where they were".into());
        }
        if self.memory > before.memory + SLACK {
            return Err(format!("the memory grew by more than {SLACK} KiB"));
        }
        Ok(())
    }
}
