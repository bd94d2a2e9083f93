//! `cargo bench`: the cost of a connection, a notification and a handshake, beside a bare server that does the same work.
//!
//! The same run measures both in turn: on a machine shared with others, only their ratio means much. Each server has a
//! process of clients that starts it, measures it and ends it: see `client`.

mod bare;
mod client;
mod fleet;
mod load;
mod million;
mod progress;
#[path = "../common/server.rs"]
mod server;
mod storm;
mod table;
mod times;

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    num::NonZero,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand, builder::ArgPredicate::IsPresent};

use self::{
    fleet::Fleet,
    load::{Kind, Load},
    table::Table,
};

/// Any failure ends the whole run: an unchecked figure is worthless.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A run ends within five minutes, or ten with very many connections.
const TIME_LIMIT: Duration = Duration::from_secs(290);
const TIME_LIMIT_OF_A_MILLION: Duration = Duration::from_secs(590);

const PROGRAM: &str = env!("CARGO_BIN_EXE_wspush");

/// Seconds between notifications: many notifications a second, then few.
const INTERVALS: [f64; 2] = [0.2, 2.0];

/// Lines per second: few, many, and more than a server can send to ten thousand clients.
const PACES: [f64; 3] = [1.0, 5.0, 50.0];

/// Numbers of clients for a burst of lines, if there are as many.
const BURSTS: [usize; 2] = [10, 1000];

/// The number of clients that join at once with a history, if there are as many, and the lines per second meanwhile.
const JOINERS: usize = 1000;
const PACE_WHILE_JOINING: f64 = 20.0;

/// Measures wspush and a bare reference server, in turn.
#[derive(Parser)]
struct Options {
    /// Number of connections, over all servers [default: 10000]
    #[arg(long, value_name = "N", hide_default_value = true)]
    #[arg(
        default_value = "10000",
        default_value_if("million", IsPresent, "1000000")
    )]
    connections: usize,

    /// Seconds between notifications [default: 0.2, then 2]
    #[arg(long, value_name = "S", default_value_if("million", IsPresent, "120"))]
    interval: Option<f64>,

    /// How often to measure each server
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,

    /// Number of servers that share the connections: one process may not have enough descriptors [default: 1]
    #[arg(long, value_name = "N", hide_default_value = true)]
    #[arg(default_value = "1", default_value_if("million", IsPresent, "75"))]
    servers: NonZero<usize>,

    /// --keepalive of wspush
    #[arg(long, value_name = "S", default_value_if("million", IsPresent, "900"))]
    keepalive: Option<u32>,

    /// Measure lines of standard input instead of numbered notifications
    #[arg(long, conflicts_with = "interval")]
    stdin: bool,

    /// Hold a million connections for a minute, without a reference. Sets --connections, --servers, --interval and
    /// --keepalive unless they are given
    #[arg(long, conflicts_with_all = ["stdin", "rounds", "reference"])]
    million: bool,

    /// Server to compare with instead of the bare one. It must accept wspush's --listen, --interval and --stdin
    #[arg(long, value_name = "PATH")]
    reference: Option<OsString>,

    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    role: Option<Role>,
}

/// What further processes of the bench do.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Bare(bare::Options),
    #[command(hide = true)]
    Client(client::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.role {
        None if options.million => hold(&options),
        None => measure(&options),
        Some(Role::Bare(bare)) => bare::run(bare),
        Some(Role::Client(client)) => client::run(client),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        let most = self.connections.div_ceil(self.servers.get());
        let load = |kind, pace, connections| Load {
            kind,
            pace,
            connections,
        };
        if self.stdin {
            let paces = PACES.map(|pace| load(Kind::Lines, pace, most));
            let bursts = BURSTS.map(|connections| load(Kind::Burst, 0.0, most.min(connections)));
            let history = load(Kind::History, PACE_WHILE_JOINING, most.min(JOINERS));
            return paces.into_iter().chain(bursts).chain([history]).collect();
        }
        let kind = if self.million {
            Kind::Hold
        } else {
            Kind::Counter
        };
        let intervals = match self.interval {
            Some(interval) => vec![interval],
            None => INTERVALS.to_vec(),
        };
        let intervals = intervals.into_iter();
        intervals
            .map(|interval| load(kind, interval, most))
            .collect()
    }

    /// wspush's command line, without the load's arguments.
    fn wspush(&self) -> Vec<OsString> {
        let mut command = vec![PROGRAM.into()];
        if let Some(seconds) = self.keepalive {
            command.extend(["--keepalive".into(), seconds.to_string().into()]);
        }
        command
    }
}

/// Builds the program as it is released: for a bench, cargo builds it with the features that only tests need.
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
        Err("can't build the program".into())
    }
}

/// Whether the server has `--history`, unlike the bare one and older builds.
fn has_history(program: &[OsString]) -> Result<bool> {
    let help = Command::new(&program[0])
        .args(&program[1..])
        .arg("--help")
        .output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("--history"))
}

/// Measures every load in every round, and prints the tables.
fn measure(options: &Options) -> Result<()> {
    let begin = Instant::now();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let this = env::current_exe()?.into_os_string();
    build()?;
    let reference = match &options.reference {
        Some(path) => vec![path.clone()],
        None => vec![this, "bare".into()],
    };
    let programs = [options.wspush(), reference];
    let has_history = [has_history(&programs[0])?, has_history(&programs[1])?];
    let servers = options.servers.get();
    let with_table = |load: Load| (Table::new(load.title(servers), load.rows()), load);
    let mut tables: Vec<_> = options.loads().into_iter().map(with_table).collect();
    for round in 1..=options.rounds {
        let expected = begin
            .elapsed()
            .mul_f64(table::count(round) / table::count(round.max(2) - 1));
        if expected > TIME_LIMIT {
            eprintln!("no time for round {round}");
            break;
        }
        eprintln!("round {round} of {}", options.rounds);
        for (table, load) in &mut tables {
            // Take turns at being first: a machine may slow down while it works.
            let mut turns = [0, 1];
            turns.rotate_left((round + 1) % 2);
            let mut figures = [None, None];
            for turn in turns {
                if load.kind != Kind::History || has_history[turn] {
                    let fleet = Fleet::start(servers, load, &programs[turn], begin + TIME_LIMIT)?;
                    figures[turn] = Some(fleet.measure(load)?);
                }
            }
            table.add(figures);
        }
    }
    println!(
        "{} connections, {servers} server(s), median (lowest–highest) of the rounds",
        options.connections
    );
    for (table, _) in &tables {
        table.print();
    }
    let size = fs::metadata(PROGRAM)?.len();
    println!("size of wspush: {} KiB", size / 1024);
    Ok(())
}

/// Holds very many connections, if the machine can.
fn hold(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let descriptors = rlimit::increase_nofile_limit(u64::MAX)?;
    let servers = options.servers.get();
    let load = options.loads().pop().ok_or("no load")?;
    million::check(servers, &load, descriptors)?;
    build()?;
    million::hold(
        servers,
        &load,
        &options.wspush(),
        begin + TIME_LIMIT_OF_A_MILLION,
    )
}
