//! `cargo bench`: what a connection, a notification and a handshake cost, next to a bare server that does the same work.
//!
//! Both are measured in the same run and in turn, since only their ratio says much on a machine that others use too.
//! Each server has a process of clients, which starts it, measures it and ends it: see `client`.

mod bare;
mod client;
mod server;
mod storm;
mod table;

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    num::NonZero,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};

/// Any failure ends the whole run: a figure that was not checked is worth nothing.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A run ends within five minutes.
const TIME_LIMIT: Duration = Duration::from_secs(290);

const PROGRAM: &str = env!("CARGO_BIN_EXE_wspush");

/// The seconds between notifications that are measured: many a second, and few.
const INTERVALS: [f64; 2] = [0.2, 2.0];

/// Measures wspush and a bare reference server, in turn.
#[derive(Parser)]
struct Options {
    /// How many connections, over all servers
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: usize,

    /// Seconds between notifications [default: first 0.2, then 2]
    #[arg(long, value_name = "S")]
    interval: Option<f64>,

    /// How often each server is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,

    /// How many servers side by side share the connections: a process may not hold enough descriptors for all
    #[arg(long, value_name = "N", default_value = "1")]
    servers: NonZero<usize>,

    /// A server to compare with instead of the bare one; it must take wspush's --listen and --interval
    #[arg(long, value_name = "PATH")]
    reference: Option<OsString>,

    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    role: Option<Role>,
}

/// What the bench starts itself again as.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Bare(bare::Options),
    #[command(hide = true)]
    Client(client::Options),
}

fn main() -> Result<()> {
    let options = Options::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    match &options.role {
        None => measure(&options),
        Some(Role::Bare(bare)) => bare::run(bare),
        Some(Role::Client(client)) => client::run(client),
    }
}

/// Builds the program as it is released: beside a bench, cargo builds it with what only the tests ask of tokio.
fn build() -> Result<()> {
    let target = Path::new(PROGRAM)
        .ancestors()
        .nth(2)
        .ok_or("no target directory")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(target);
    if build.status()?.success() {
        Ok(())
    } else {
        Err("the program could not be built".into())
    }
}

/// Measures every load in every round, and prints the table.
fn measure(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let this = env::current_exe()?.into_os_string();
    build()?;
    let wspush = vec![PROGRAM.into()];
    let reference = match &options.reference {
        Some(path) => vec![path.clone()],
        None => vec![this, "bare".into()],
    };
    let intervals = options
        .interval
        .map_or(INTERVALS.to_vec(), |interval| vec![interval]);
    let mut loads: Vec<_> = intervals.into_iter().map(table::Load::new).collect();
    for round in 1..=options.rounds {
        let expected = begin
            .elapsed()
            .mul_f64(table::count(round) / table::count(round.max(2) - 1));
        if expected > TIME_LIMIT {
            eprintln!("no time for round {round}");
            break;
        }
        eprintln!("round {round} of {}", options.rounds);
        for load in &mut loads {
            // The first is not always the same, for a machine may get slower while it works.
            let mut programs = [&wspush, &reference];
            programs.rotate_left((round + 1) % 2);
            let mut figures = programs
                .map(|program| measure_once(options, load.interval, program, begin + TIME_LIMIT));
            figures.rotate_right((round + 1) % 2);
            let [wspush, reference] = figures;
            load.add(wspush?, reference?);
        }
    }
    table::print(options.connections, options.servers.get(), &loads);
    let size = fs::metadata(PROGRAM)?.len();
    println!("wspush is {} KiB large", size / 1024);
    Ok(())
}

/// Starts the servers and their clients, and collects what these measured.
fn measure_once(
    options: &Options,
    interval: f64,
    program: &[OsString],
    deadline: Instant,
) -> Result<table::Figures> {
    let connections = options.connections / options.servers;
    let mut clients = (0..options.servers.get())
        .map(|_| Client::start(connections, interval, program, deadline))
        .collect::<Result<Vec<_>>>()?;
    // Nothing is measured before the connections of all servers stream.
    for client in &mut clients {
        client.line()?;
    }
    for client in &mut clients {
        client.go()?;
    }
    let figures = clients.iter_mut().map(Client::figures);
    Ok(table::over_all(&figures.collect::<Result<Vec<_>>>()?))
}

/// A process of clients with its server. Both end when this is dropped, or when this process ends in any other way.
struct Client {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(
        connections: usize,
        interval: f64,
        program: &[OsString],
        deadline: Instant,
    ) -> Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut process = Command::new(env::current_exe()?)
            .arg("client")
            .args(["--connections", &connections.to_string()])
            .args(["--interval", &interval.to_string()])
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

    fn figures(&mut self) -> Result<table::Figures> {
        let line = self.line()?;
        let figures = line.split_whitespace().map(str::parse);
        let figures: Vec<f64> = figures.collect::<std::result::Result<_, _>>()?;
        figures.try_into().map_err(|_| line.into())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // This closes its standard input first, whereupon it ends its server and itself.
        let _ = self.process.wait();
    }
}
