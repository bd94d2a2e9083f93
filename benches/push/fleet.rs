//! The processes of clients, each with its server.

use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use clap::ValueEnum;

use crate::{
    Result,
    load::Load,
    table::{self, Figures},
};

/// How many handshakes are under way at once, over all clients.
const IN_FLIGHT: usize = 512;

/// Servers side by side, and their clients.
pub(crate) struct Fleet(Vec<Client>);

impl Fleet {
    /// Returns when all are ready to be measured.
    pub(crate) fn start(
        servers: usize,
        load: &Load,
        program: &[OsString],
        deadline: Instant,
    ) -> Result<Self> {
        let start = |_| Client::start(load, IN_FLIGHT.div_ceil(servers), program, deadline);
        let mut clients = (0..servers).map(start).collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            client.line()?;
        }
        Ok(Self(clients))
    }

    /// Measures them all at the same time.
    pub(crate) fn measure(mut self, load: &Load) -> Result<Figures> {
        for client in &mut self.0 {
            client.go()?;
        }
        let figures = self.0.iter_mut().map(Client::figures);
        let figures = figures.collect::<Result<Vec<_>>>()?;
        Ok(table::across(load.rows(), &figures))
    }
}

/// A process of clients with its server. Both end when this is dropped, or when this process ends in any other way.
struct Client {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(
        load: &Load,
        in_flight: usize,
        program: &[OsString],
        deadline: Instant,
    ) -> Result<Self> {
        let kind = load.kind.to_possible_value().ok_or("no such load")?;
        let left = deadline.saturating_duration_since(Instant::now());
        let mut process = Command::new(env::current_exe()?)
            .arg("client")
            .args(["--kind", kind.get_name()])
            .args(["--pace", &load.pace.to_string()])
            .args(["--connections", &load.connections.to_string()])
            .args(["--in-flight", &in_flight.to_string()])
            .args(["--time-limit", &left.as_secs().to_string()])
            .arg("--")
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            process,
            output: BufReader::new(output),
        })
    }

    fn go(&mut self) -> Result<()> {
        let input = self.process.stdin.as_mut().ok_or("no standard input")?;
        Ok(input.write_all(b"\n")?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the clients failed, see above".into());
        }
        Ok(line)
    }

    fn figures(&mut self) -> Result<Figures> {
        let line = self.line()?;
        let figures = line.split_whitespace().map(str::parse);
        Ok(figures.collect::<std::result::Result<_, _>>()?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Without its standard input it ends its server and itself.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
