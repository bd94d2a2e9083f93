//! Measures the counter: each notification is due at a time of its own.

use std::{
    mem,
    num::NonZero,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use super::{Check, Clients, Connection, LOST, percentiles};
use crate::{
    Result,
    load::Load,
    server::Server,
    table::{Figures, count},
    times::Times,
};

/// How long to measure the connections that receive notifications.
const WINDOW: Duration = Duration::from_secs(5);

/// How long to hold very many connections.
const HOLD: Duration = Duration::from_secs(60);

/// The least time over which the clients say `start` one after another.
const SPREAD: Duration = Duration::from_secs(2);

pub(super) struct Counter {
    interval: Duration,
    /// How late each notification arrived while measuring.
    lateness: Vec<Duration>,
    measuring: bool,
}

impl Counter {
    pub(super) fn of(load: &Load) -> Self {
        Self {
            interval: Duration::from_secs_f64(load.pace),
            lateness: Vec::new(),
            measuring: false,
        }
    }

    fn due(&self, connection: &Connection, number: u32) -> Result<Instant> {
        let started = connection.started.ok_or("a notification before start")?;
        Ok(started + self.interval * (number - 1))
    }
}

impl Check for Counter {
    const PREFIX: &'static [u8] = b"Notification ";

    fn take(&mut self, connection: &Connection, now: &mut Instant) -> Result<()> {
        let number = connection.received;
        let due = self.due(connection, number)?;
        // It may have arrived while this process read from others.
        if due > *now {
            *now = Instant::now();
        }
        let Some(late) = now.checked_duration_since(due) else {
            return Err(format!("notification {number} arrived too early").into());
        };
        if self.measuring {
            self.lateness.push(late);
        }
        Ok(())
    }
}

/// Two waves of clients connect and leave.
pub(super) fn measure(clients: &mut Clients<Counter>, server: &Server) -> Result<Figures> {
    let connections = clients.load.connections;
    let each = 1.0 / count(connections);
    let spread = clients.check.interval.max(SPREAD);
    let (descriptors, fresh) = clients.warm_up(server)?;

    let first = clients.storm(server, connections)?;
    clients.start(spread)?;
    clients.wait_for_the_others()?;
    let (streaming, lateness) = clients.stream(server, WINDOW)?;
    let grown = count(server.memory()?) - fresh;
    clients.leave(server, descriptors)?;
    let after_first = count(server.memory()?);

    let second = clients.storm(server, connections)?;
    clients.start(spread)?;
    clients.leave(server, descriptors)?;
    let after_second = count(server.memory()?);
    clients.without_faults()?;

    let in_storms = |figure| second.unless_saturated(first.unless_saturated(figure));
    let storms = first.clock + second.clock;
    let cpu = streaming.server.as_secs_f64() * 1e6 / count(lateness.len());
    let [median, late] = percentiles(lateness);
    Ok(vec![
        in_storms(2.0 / each / storms.as_secs_f64()),
        (first.server + second.server).as_secs_f64() * 1e6 * each / 2.0,
        streaming.unless_saturated(cpu),
        streaming.unless_starved(median),
        streaming.unless_starved(late),
        grown * each,
        after_first / 1024.0,
        after_second / 1024.0,
        (after_second - after_first) / 1024.0,
    ])
}

/// One wave of clients, which with those of other servers are very many, stays for a while.
pub(super) fn hold(clients: &mut Clients<Counter>, server: &Server) -> Result<Figures> {
    let connections = clients.load.connections;
    let (_, fresh) = clients.warm_up(server)?;
    let report = clients.progress.report();
    let opening = clients.storm(server, connections)?;
    clients.start(clients.check.interval)?;
    drop(report);
    clients.wait_for_the_others()?;
    let _report = clients.progress.report();
    let (streaming, lateness) = clients.stream(server, HOLD)?;
    let grown = count(server.memory()?) - fresh;
    let cores = available_parallelism().map_or(1, NonZero::get);
    let window = streaming.clock.as_secs_f64() * count(cores);
    let received = count(lateness.len());
    let [median, late] = percentiles(lateness);
    let share = |cpu: Duration| 100.0 * cpu.as_secs_f64() / window;
    Ok(vec![
        count(clients.open()),
        count(clients.failed()),
        count(clients.lost),
        count(clients.out_of_sequence),
        opening.clock.as_secs_f64(),
        received / HOLD.as_secs_f64(),
        median,
        late,
        late,
        share(streaming.server),
        share(streaming.client),
        grown / count(connections),
    ])
}

impl Clients<Counter> {
    /// Measures while all clients receive notifications. Returns how late these were.
    fn stream(&mut self, server: &Server, window: Duration) -> Result<(Times, Vec<Duration>)> {
        let begin = Instant::now();
        let before = Times::now(begin, server)?;
        self.check.measuring = true;
        self.turn_until(begin + window)?;
        self.check.measuring = false;
        let times = Times::now(begin, server)?.since(before);
        self.catch_up()?;
        Ok((times, mem::take(&mut self.check.lateness)))
    }

    /// Waits until everything due by now has arrived. This takes a while on a machine that is too slow.
    fn catch_up(&mut self) -> Result<()> {
        let end = Instant::now();
        for place in 0..self.connections.len() {
            while self.connections[place].is_open() {
                let connection = &self.connections[place];
                let next = self.check.due(connection, connection.received + 1)?;
                if next > end {
                    break;
                }
                if end.elapsed() > LOST {
                    self.lost += 1;
                    break;
                }
                self.turn(end + LOST)?;
            }
        }
        Ok(())
    }
}
