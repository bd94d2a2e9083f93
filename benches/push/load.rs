//! The loads: what a server does while it is measured, and which figures that yields.

use clap::{Args, ValueEnum};

use crate::table::{
    Across::{Mean, Sum, Worst},
    Row, count,
};

/// `--history`: how many of the last lines a client receives when it joins.
pub(crate) const HISTORY: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A counter for each client, in two waves of clients
    Counter,
    /// A counter for each of very many clients, held for a while
    Hold,
    /// Lines of standard input at an even pace
    Lines,
    /// Lines of standard input as fast as the server takes them
    Burst,
    /// Lines of standard input to clients that all join at once, with a history
    History,
}

#[derive(Clone, Args)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) kind: Kind,
    /// Seconds between notifications, or lines per second
    #[arg(long)]
    pub(crate) pace: f64,
    /// Clients per server
    #[arg(long)]
    pub(crate) connections: usize,
}

impl Load {
    pub(crate) fn title(&self, servers: usize) -> String {
        let connections = self.connections * servers;
        let pace = self.pace;
        match self.kind {
            Kind::Counter | Kind::Hold => {
                let rate = count(connections) / pace;
                format!("every {pace} s: {rate:.0} notifications/s")
            }
            Kind::Lines => format!("{pace} lines/s to {connections} clients"),
            Kind::Burst => format!("a burst of lines to {connections} clients"),
            Kind::History => {
                format!("{connections} join, {HISTORY} lines of history")
            }
        }
    }

    /// The server's arguments.
    pub(crate) fn source(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Hold => vec!["--interval".into(), self.pace.to_string()],
            Kind::Lines | Kind::Burst => vec!["--stdin".into()],
            Kind::History => vec!["--stdin".into(), "--history".into(), HISTORY.to_string()],
        }
    }

    /// The figures of each round, in order.
    pub(crate) fn rows(&self) -> &'static [Row] {
        match self.kind {
            Kind::Counter => &[
                ("handshakes/s", Sum),
                ("CPU per handshake, µs", Mean),
                ("CPU per notification, µs", Mean),
                ("lateness, median, ms", Worst),
                ("lateness, 99th percentile, ms", Worst),
                ("memory per connection, bytes", Mean),
                ("memory after a wave of clients, KiB", Sum),
                ("memory after a second wave, KiB", Sum),
                ("growth from wave to wave, KiB", Sum),
            ],
            Kind::Hold => &[
                ("connections", Sum),
                ("failed", Sum),
                ("lost", Sum),
                ("out of sequence", Sum),
                ("time to connect, s", Worst),
                ("notifications/s", Sum),
                ("lateness, median, ms", Mean),
                ("lateness, 99th percentile, ms", Mean),
                ("  at the worst server", Worst),
                ("CPU of the servers, % of all cores", Sum),
                ("CPU of the clients, % of all cores", Sum),
                ("memory per connection, bytes", Mean),
            ],
            Kind::Lines => &[
                ("CPU per delivered line, µs", Mean),
                ("at the first client, median, ms", Worst),
                ("at the first, 99th percentile, ms", Worst),
                ("at the last client, median, ms", Worst),
                ("at the last, 99th percentile, ms", Worst),
                ("memory per connection, bytes", Mean),
                ("  after lines of 64 KiB", Mean),
            ],
            Kind::Burst => &[
                ("lines written", Sum),
                ("lines delivered/s", Sum),
                ("CPU per delivered line, µs", Mean),
                ("lines lost", Sum),
                ("clients closed", Sum),
                ("last line late by, ms", Worst),
            ],
            // The lateness is that of lines to a client that was there before.
            Kind::History => &[
                ("CPU per joiner, µs", Mean),
                ("CPU per delivered line, µs", Mean),
                ("time until all have all, ms", Worst),
                ("lateness before, median, ms", Worst),
                ("  99th percentile, ms", Worst),
                ("lateness meanwhile, median, ms", Worst),
                ("  99th percentile, ms", Worst),
            ],
        }
    }
}
