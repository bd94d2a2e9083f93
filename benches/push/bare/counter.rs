//! The counter: `Notification N`, for each client at its own times.

use std::{
    collections::VecDeque,
    io::Write,
    time::{Duration, Instant},
};

use super::{Connection, Connections, Source};
use crate::Result;

pub(super) struct Counter {
    begin: Instant,
    interval: u64,
    /// When the next notification is due for which descriptor. In order, because all intervals are equal.
    queue: VecDeque<(u64, u32)>,
}

impl Counter {
    pub(super) fn every(seconds: f64) -> Result<Self> {
        Ok(Self {
            begin: Instant::now(),
            interval: Duration::from_secs_f64(seconds).as_nanos().try_into()?,
            queue: VecDeque::new(),
        })
    }

    fn now(&self) -> u64 {
        // Enough for five hundred years.
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Source for Counter {
    fn start(&mut self, connection: &mut Connection, descriptor: u32) {
        connection.number = 1;
        connection.due = self.now();
        self.queue.push_front((connection.due, descriptor));
    }

    fn push(&mut self, connections: &mut Connections) -> Result<Option<Duration>> {
        let now = self.now();
        while let Some(&(due, descriptor)) = self.queue.front() {
            if due > now {
                return Ok(Some(Duration::from_nanos(due - now)));
            }
            self.queue.pop_front();
            let place = &mut connections[descriptor as usize];
            // The client may be gone, and another one may have its descriptor.
            if let Some(connection) = place.as_mut().filter(|connection| connection.due == due) {
                if push(connection).is_err() {
                    *place = None;
                    continue;
                }
                connection.due += self.interval;
                self.queue.push_back((connection.due, descriptor));
            }
        }
        Ok(None)
    }
}

fn push(connection: &mut Connection) -> Result<()> {
    let mut frame = [0; 32];
    let mut rest = &mut frame[2..];
    write!(rest, "Notification {}", connection.number)?;
    let length = 30 - rest.len();
    frame[0] = 0x81;
    frame[1] = length.try_into()?;
    connection.number += 1;
    Ok(connection.stream.write_all(&frame[..2 + length])?)
}
