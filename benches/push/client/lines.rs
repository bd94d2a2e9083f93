//! Measures lines of standard input: each is written once and due at once for every client.

use std::{
    io::Write,
    process::ChildStdin,
    thread,
    time::{Duration, Instant},
};

use super::{Check, Clients, Connection, LOST, percentiles};
use crate::{
    Result,
    server::Server,
    table::{Figures, count},
    times::Times,
};

/// How long to write lines at an even pace, up to `MOST`. At the fastest pace no server keeps up with that many clients, and
/// the figure is the time that it takes for all lines.
const WINDOW: Duration = Duration::from_secs(5);
const MOST: f64 = 100.0;

/// The number of longest lines that follow, and their length.
const LONG: u32 = 2;
const LENGTH: usize = 64 * 1024;

/// The number of lines in a burst, unless they take the server longer than this, and their length. With shorter lines, the
/// pipe alone would hold more than the reference can send in 15 s.
const BURST: u32 = 100_000;
const BURST_WINDOW: Duration = Duration::from_secs(2);
const SHORT: usize = 100;

/// When a line was written, and when the first and last client received it.
pub(super) struct Line {
    pub(super) written: Instant,
    first: Option<Instant>,
    pub(super) last: Instant,
}

#[derive(Default)]
pub(super) struct Lines {
    /// The lines to take times of.
    pub(super) timed: Vec<Line>,
    /// Lines received, over all clients.
    pub(super) delivered: usize,
}

impl Check for Lines {
    const PREFIX: &'static [u8] = b"Line ";

    fn take(&mut self, connection: &Connection, now: &mut Instant) -> Result<()> {
        self.delivered += 1;
        let place = usize::try_from(connection.received)?.wrapping_sub(1);
        if let Some(line) = self.timed.get_mut(place) {
            line.first.get_or_insert(*now);
            line.last = *now;
        }
        Ok(())
    }
}

/// Writes lines at an even pace, then long ones.
pub(super) fn measure(clients: &mut Clients<Lines>, server: &mut Server) -> Result<Figures> {
    let connections = clients.load.connections;
    let pace = clients.load.pace;
    let mut input = server.input()?;
    let (_, fresh) = clients.warm_up(server)?;
    let (begin, before) = clients.begin(server)?;
    let mut number = 0;
    while f64::from(number) < (WINDOW.as_secs_f64() * pace).min(MOST) {
        clients.turn_until(begin + Duration::from_secs_f64(f64::from(number) / pace))?;
        number += 1;
        clients.write(&format!("Line {number}\n"), &mut input)?;
    }
    clients.receive(number)?;
    let times = Times::now(begin, server)?.since(before);
    let grown = count(server.memory()?) - fresh;
    let delivered = count(clients.check.delivered);

    for number in number + 1..=number + LONG {
        let mut line = format!("Line {number} ").into_bytes();
        line.resize(LENGTH, b'x');
        line.push(b'\n');
        input.write_all(&line)?;
        clients.receive(number)?;
    }
    let grown_by_long = count(server.memory()?) - fresh;
    clients.without_faults()?;

    let lines = &clients.check.timed;
    let first = lateness(lines, |line| line.first.unwrap_or(line.last));
    let last = lateness(lines, |line| line.last);
    let cpu = times.server.as_secs_f64() * 1e6 / delivered;
    Ok(vec![
        times.unless_saturated(cpu),
        first[0],
        first[1],
        last[0],
        last[1],
        grown / count(connections),
        grown_by_long / count(connections),
    ])
}

/// Writes lines as fast as the server reads them.
pub(super) fn burst(clients: &mut Clients<Lines>, server: &mut Server) -> Result<Figures> {
    let input = server.input()?;
    let (begin, before) = clients.begin(server)?;
    let producer = thread::spawn(|| produce(input));
    while !producer.is_finished() {
        clients.turn(Instant::now() + Duration::from_millis(10))?;
    }
    let (lines, end, _input) = producer.join().map_err(|_| "the producer panicked")??;
    clients.receive(lines)?;
    let late = end.elapsed();
    let times = Times::now(begin, server)?.since(before);
    let delivered = count(clients.check.delivered);
    Ok(vec![
        f64::from(lines),
        delivered / times.clock.as_secs_f64(),
        times.server.as_secs_f64() * 1e6 / delivered,
        count(clients.lost + clients.out_of_sequence),
        count(clients.failed()),
        late.as_secs_f64() * 1e3,
    ])
}

/// The median and the 99th percentile of the time until a line is received, in milliseconds.
pub(super) fn lateness(lines: &[Line], received: fn(&Line) -> Instant) -> [f64; 2] {
    percentiles(lines.iter().map(|line| received(line) - line.written))
}

/// With its line break.
pub(super) fn short_line(number: u32) -> String {
    format!("{:x<SHORT$}\n", format!("Line {number} "))
}

/// Writes the burst. Returns its number of lines and its end, and the input, which must stay open.
fn produce(mut input: ChildStdin) -> Result<(u32, Instant, ChildStdin)> {
    let begin = Instant::now();
    let mut number = 0;
    while number < BURST && begin.elapsed() < BURST_WINDOW {
        let mut lines = String::new();
        for _ in 0..100 {
            number += 1;
            lines += &short_line(number);
        }
        input.write_all(lines.as_bytes())?;
    }
    Ok((number, Instant::now(), input))
}

impl Clients<Lines> {
    /// Connects and starts all clients. Returns the time once those of all servers are ready.
    fn begin(&mut self, server: &Server) -> Result<(Instant, Times)> {
        self.storm(server, self.load.connections)?;
        self.start(Duration::ZERO)?;
        self.wait_for_the_others()?;
        let begin = Instant::now();
        Ok((begin, Times::now(begin, server)?))
    }

    /// Writes the next line to the server and takes its times.
    pub(super) fn write(&mut self, line: &str, input: &mut ChildStdin) -> Result<()> {
        let written = Instant::now();
        self.check.timed.push(Line {
            written,
            first: None,
            last: written,
        });
        Ok(input.write_all(line.as_bytes())?)
    }

    /// Waits until every client has this line.
    pub(super) fn receive(&mut self, lines: u32) -> Result<()> {
        let mut progress = (Instant::now(), 0);
        loop {
            let open = self.connections.iter().filter(|client| client.is_open());
            let missing = open.map(|client| lines.saturating_sub(client.received));
            let missing = usize::try_from(missing.map(u64::from).sum::<u64>())?;
            if missing == 0 {
                return Ok(());
            }
            if missing != progress.1 {
                progress = (Instant::now(), missing);
            }
            if progress.0.elapsed() > LOST {
                self.lost += missing;
                return Ok(());
            }
            self.turn(progress.0 + LOST)?;
        }
    }
}
