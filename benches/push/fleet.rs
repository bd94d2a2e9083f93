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
    progress::{self, Counts},
    table::{Figures, across},
};

/// How many handshakes are in progress at once, over all clients.
const IN_FLIGHT: usize = 512;

/// Servers side by side, and their clients.
pub(crate) struct Fleet(Vec<Client>);

impl Fleet {
    /// Returns once all are ready to be measured.
    pub(crate) fn start(
        servers: usize,
        load: &Load,
        program: &[OsString],
        deadline: Instant,
    ) -> Result<Self> {
        let start = |_| Client::start(load, IN_FLIGHT.div_ceil(servers), program, deadline);
        let mut fleet = Self((0..servers).map(start).collect::<Result<_>>()?);
        fleet.lines("connecting")?;
        Ok(fleet)
    }

    /// Measures all servers at the same time.
    pub(crate) fn measure(mut self, load: &Load) -> Result<Figures> {
        for client in &mut self.0 {
            client.go()?;
        }
        let figures = self.lines("holding")?.into_iter().map(|line| {
            let figures = line.split_whitespace().map(str::parse);
            Ok(figures.collect::<std::result::Result<_, _>>()?)
        });
        Ok(across(load.rows(), &figures.collect::<Result<Vec<_>>>()?))
    }

    /// Waits for a line from each client. If they report their progress meanwhile, prints the sum.
    fn lines(&mut self, doing: &str) -> Result<Vec<String>> {
        let begin = Instant::now();
        let mut lines = vec![None; self.0.len()];
        while lines.contains(&None) {
            for (client, line) in self.0.iter_mut().zip(&mut lines) {
                if line.is_none() {
                    *line = client.line()?;
                }
            }
            if lines.contains(&None) {
                let sum = |count| {
                    self.0
                        .iter()
                        .map(|client| client.counts[count])
                        .sum::<usize>()
                };
                eprintln!(
                    "{doing} for {} s: {} connections open, {} started, {} failed",
                    begin.elapsed().as_secs(),
                    sum(0),
                    sum(1),
                    sum(2)
                );
            }
        }
        Ok(lines.into_iter().flatten().collect())
    }
}

/// A process of clients and its server. Both end when this is dropped, or when this process ends.
struct Client {
    process: Child,
    output: BufReader<ChildStdout>,
    /// As last reported.
    counts: Counts,
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
            counts: Counts::default(),
        })
    }

    fn go(&mut self) -> Result<()> {
        let input = self.process.stdin.as_mut().ok_or("no standard input")?;
        Ok(input.write_all(b"\n")?)
    }

    /// The next line, or `None` if it is a report.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the clients failed, see above".into());
        }
        match progress::parse(&line)? {
            Some(counts) => {
                self.counts = counts;
                Ok(None)
            }
            None => Ok(Some(line)),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // At the end of its standard input it ends its server and itself.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
