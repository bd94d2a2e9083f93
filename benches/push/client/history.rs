//! Measures clients that all join at once and receive a history, and how late lines reach another client meanwhile.

use std::{
    process::ChildStdin,
    sync::mpsc::{self, Receiver, TryRecvError::Empty},
    thread,
    time::{Duration, Instant},
};

use super::{
    Clients, Options,
    lines::{Line, Lines, lateness, short_line},
};
use crate::{
    Result,
    load::HISTORY,
    server::Server,
    table::{Figures, count},
    times::Times,
};

/// How long to measure the steady client before the others join.
const ALONE: Duration = Duration::from_secs(2);

pub(super) fn measure(options: &Options, server: &mut Server) -> Result<Figures> {
    let connections = options.load.connections;
    let interval = Duration::from_secs_f64(1.0 / options.load.pace);
    let mut input = server.input()?;
    let mut steady = Clients::new(options, Lines::default())?;
    for number in 1..=HISTORY {
        steady.write(&short_line(number), &mut input)?;
    }
    steady.storm(server, 1)?;
    steady.start(Duration::ZERO)?;
    steady.receive(HISTORY)?;
    let mut joiners = Clients::new(options, Lines::default())?;
    joiners.storm(server, connections)?;
    for connection in &mut joiners.connections {
        connection.may_start_anywhere = true;
    }
    joiners.wait_for_the_others()?;

    let begin = Instant::now();
    let (running, ended) = mpsc::channel();
    // In a thread of its own, so that the work of the joiners does not delay it.
    let steady = thread::spawn(move || steady.stream(interval, input, &ended));
    joiners.turn_until(begin + ALONE)?;
    let joining = Instant::now();
    let before = Times::now(joining, server)?;
    joiners.start(Duration::ZERO)?;
    let written = begin.elapsed().as_nanos() / interval.as_nanos();
    joiners.receive(HISTORY + u32::try_from(written)?)?;
    let times = Times::now(joining, server)?.since(before);
    joiners.without_faults()?;
    drop(running);
    let lines = steady.join().map_err(|_| "the steady client panicked")??;

    let delivered = joiners.check.delivered;
    if delivered < connections * usize::try_from(HISTORY)? {
        return Err(format!("only {delivered} lines were delivered").into());
    }
    let cpu = times.server.as_secs_f64() * 1e6;
    let (alone, meanwhile): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.written < joining);
    let [alone, meanwhile] = [alone, meanwhile].map(|lines| lateness(&lines, |line| line.last));
    Ok(vec![
        cpu / count(connections),
        cpu / count(delivered),
        times.clock.as_secs_f64() * 1e3,
        alone[0],
        alone[1],
        meanwhile[0],
        meanwhile[1],
    ])
}

impl Clients<Lines> {
    /// Writes and receives lines at an even pace until the sender is dropped. Returns these lines.
    fn stream(
        mut self,
        interval: Duration,
        mut input: ChildStdin,
        ended: &Receiver<()>,
    ) -> Result<Vec<Line>> {
        let mut due = Instant::now();
        let mut number = HISTORY;
        while ended.try_recv() == Err(Empty) {
            self.turn_until(due)?;
            due += interval;
            number += 1;
            self.write(&short_line(number), &mut input)?;
        }
        self.receive(number)?;
        self.without_faults()?;
        Ok(self.check.timed.split_off(usize::try_from(HISTORY)?))
    }
}
