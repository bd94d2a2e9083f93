//! A server process of a bench: starting and ending it, and what the kernel knows about it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::Result;

/// Killed on drop.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Returns once the server accepts connections.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let process = command
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let output = server.process.stdout.take().ok_or("no standard output")?;
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let host = url.trim().strip_prefix("ws://");
        let host = host.ok_or_else(|| format!("{command:?} printed {url:?} instead of a URL"))?;
        server.address = host.trim_end_matches('/').parse()?;
        Ok(server)
    }

    /// The server's standard input. Can be taken once.
    pub(crate) fn input(&mut self) -> Result<ChildStdin> {
        Ok(self.process.stdin.take().ok_or("no standard input")?)
    }

    /// A path below `/proc` that describes the server.
    pub(crate) fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.id())
    }

    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(self.proc("fd"))?.count())
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Result<usize> {
        // Exact, unlike `status`.
        memory(&self.proc("smaps_rollup"), "Rss:")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An amount of memory, in bytes, from a file of the kernel.
pub(crate) fn memory(file: &str, field: &str) -> Result<usize> {
    let text = fs::read_to_string(file)?;
    let amount = text.lines().find_map(|line| line.strip_prefix(field));
    let amount = amount.and_then(|amount| amount.trim().strip_suffix(" kB"));
    let amount = amount.ok_or_else(|| format!("{file} has no {field}"))?;
    Ok(1024 * amount.parse::<usize>()?)
}
