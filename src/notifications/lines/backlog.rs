//! The lines that some client has not taken yet, kept once for all clients, and each client's place among them.

use std::collections::{BTreeMap, VecDeque};

use tracing::warn;

use super::{Notification, QUEUE};

/// How many lines may wait for a client.
pub(super) const MAX_LINES: u64 = 4096;

/// How many bytes may wait for a client.
pub(super) const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How many lines are kept for clients that are still to come, at most.
const MAX_HISTORY: usize = 1000;

/// How many bytes of them are kept.
const MAX_HISTORY_BYTES: u64 = 8 * 1024 * 1024;

/// The publisher waits for reading clients after every batch, so they are never far behind. Only paused clients are, and
/// only their places are counted.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The last published lines.
    lines: VecDeque<Line>,
    /// How many lines were published.
    published: u64,
    /// How many bytes were published.
    bytes: u64,
    /// How many lines are kept for clients that are still to come.
    history: usize,
    is_history_cut: bool,
    readers: usize,
    /// Readers that have not taken every line yet.
    readers_behind: usize,
    /// The paused clients at each place, except those given up.
    paused: BTreeMap<u64, Paused>,
    /// Clients that are paused at a place before this one are given up.
    given_up: u64,
    /// How often a client took a line that was furthest behind.
    pub(super) taken: u64,
    pub(super) has_ended: bool,
}

#[derive(Debug)]
struct Line {
    notification: Notification,
    /// How many bytes were published before it.
    start: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Paused {
    pub(super) clients: usize,
    /// Those that have resumed before.
    pub(super) proven: usize,
}

/// A client's place in the backlog.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The number of the line that the client takes next, counted from 0.
    pub(super) next: u64,
    /// Whether the client is not reading, or has joined and not caught up yet.
    pub(super) is_paused: bool,
    /// Whether the client has resumed since it caught up.
    pub(super) is_proven: bool,
}

/// The client's next line is no longer kept.
#[derive(Debug)]
pub(super) struct Lost;

impl Backlog {
    pub(super) fn new(history: usize) -> Self {
        Self {
            history: history.min(MAX_HISTORY),
            ..Self::default()
        }
    }

    /// Publishes a line.
    pub(super) fn push(&mut self, line: Notification) {
        let size = line.size();
        self.lines.push_back(Line {
            notification: line,
            start: self.bytes,
        });
        self.published += 1;
        self.bytes += size;
        self.readers_behind = self.readers;
        self.free_taken();
    }

    /// Gives up the paused clients at a place.
    pub(super) fn give_up(&mut self, place: u64) {
        self.paused.remove(&place);
        self.given_up = place + 1;
        self.free_taken();
    }

    /// The place of the paused clients that are furthest behind.
    pub(super) fn furthest(&self) -> Option<(u64, Paused)> {
        let (&place, &paused) = self.paused.first_key_value()?;
        Some((place, paused))
    }

    /// The same, if a line of this size would leave them too far behind.
    pub(super) fn at_limit(&self, size: u64) -> Option<(u64, Paused)> {
        let (place, paused) = self.furthest()?;
        let line = self.line(place).ok()??;
        let bytes = self.bytes - line.start;
        let is_at_limit = self.published - place >= MAX_LINES || bytes + size > MAX_BYTES;
        is_at_limit.then_some((place, paused))
    }

    /// Whether all readers have taken every line.
    pub(super) fn is_taken_by_readers(&self) -> bool {
        self.readers_behind == 0
    }

    /// The place of a client that has said `start` when `read` lines had been read.
    pub(super) fn join(&self, read: u64) -> Place {
        let is_too_old = |line: &Line| self.bytes - line.start > MAX_HISTORY_BYTES;
        let too_old = self.lines.partition_point(is_too_old) as u64;
        let oldest = read.saturating_sub(self.history as u64);
        Place {
            next: oldest.max(self.first() + too_old),
            is_paused: true,
            is_proven: false,
        }
    }

    /// Whether the client has taken every line, but for the batch that readers have still to take too.
    pub(super) fn has_caught_up(&self, place: Place) -> bool {
        let behind = self.published.checked_sub(place.next);
        behind.is_some_and(|behind| behind <= QUEUE as u64)
    }

    /// The line to take next, if it is published.
    pub(super) fn get(&self, place: Place) -> Result<Option<&Notification>, Lost> {
        Ok(self.line(place.next)?.map(|line| &line.notification))
    }

    fn line(&self, number: u64) -> Result<Option<&Line>, Lost> {
        let index = number.checked_sub(self.first()).ok_or(Lost)?;
        Ok(self.lines.get(usize::try_from(index).unwrap_or(usize::MAX)))
    }

    /// Moves a client from one place to another. It has none before it joins, and after it has left.
    pub(super) fn step(&mut self, from: Option<Place>, to: Option<Place>) {
        if let Some(place) = from {
            let is_furthest = self.paused.keys().next() == Some(&place.next);
            self.taken += u64::from(place.is_paused && is_furthest && to.is_some());
            self.leave(place);
        }
        if let Some(place) = to {
            self.enter(place);
        }
        self.free_taken();
    }

    fn enter(&mut self, place: Place) {
        if !place.is_paused {
            self.readers += 1;
            self.readers_behind += usize::from(place.next < self.published);
        } else if place.next >= self.given_up {
            let paused = self.paused.entry(place.next).or_default();
            paused.clients += 1;
            paused.proven += usize::from(place.is_proven);
        }
    }

    fn leave(&mut self, place: Place) {
        if !place.is_paused {
            self.readers -= 1;
            self.readers_behind -= usize::from(place.next < self.published);
        } else if let Some(paused) = self.paused.get_mut(&place.next) {
            paused.clients -= 1;
            paused.proven -= usize::from(place.is_proven);
            if paused.clients == 0 {
                self.paused.remove(&place.next);
            }
        }
    }

    /// The number of the oldest line that is kept.
    fn first(&self) -> u64 {
        self.published - self.lines.len() as u64
    }

    /// Frees the lines that every client has taken, except the history.
    fn free_taken(&mut self) {
        let wanted = *self.paused.keys().next().unwrap_or(&self.published);
        while self.readers_behind == 0 && self.first() < wanted {
            let is_history = self.lines.len() <= self.history;
            let size = self.lines.front().map_or(0, |line| self.bytes - line.start);
            if is_history && size <= MAX_HISTORY_BYTES {
                return;
            }
            if is_history && !self.is_history_cut {
                self.is_history_cut = true;
                warn!(
                    lines = self.lines.len() - 1,
                    "the history is shorter: it would be over 8 MiB"
                );
            }
            self.lines.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(backlog: &mut Backlog, count: usize) {
        for _ in 0..count {
            backlog.push(Notification::new("line"));
        }
    }

    /// A client that has joined and caught up.
    fn reader(backlog: &mut Backlog) -> Place {
        let mut place = backlog.join(backlog.published);
        place.is_paused = false;
        backlog.step(None, Some(place));
        place
    }

    fn take(backlog: &mut Backlog, place: &mut Place, count: u64) {
        for _ in 0..count {
            assert!(backlog.get(*place).unwrap().is_some());
            let from = *place;
            place.next += 1;
            backlog.step(Some(from), Some(*place));
        }
    }

    fn set_paused(backlog: &mut Backlog, place: &mut Place, is_paused: bool) {
        let from = *place;
        place.is_paused = is_paused;
        backlog.step(Some(from), Some(*place));
    }

    #[test]
    fn a_line_is_freed_when_the_last_client_has_taken_it_or_left() {
        let backlog = &mut Backlog::default();
        let [mut fast, mut slow] = [reader(backlog), reader(backlog)];
        push(backlog, 100);
        take(backlog, &mut slow, 60);
        set_paused(backlog, &mut slow, true);
        assert_eq!(backlog.lines.len(), 100);
        take(backlog, &mut fast, 100);
        assert_eq!(backlog.lines.len(), 40);
        backlog.step(Some(slow), None);
        assert_eq!(backlog.lines.len(), 0);
        push(backlog, 1);
        take(backlog, &mut fast, 1);
        assert_eq!(backlog.lines.len(), 0);
    }

    #[test]
    fn without_clients_nothing_is_kept() {
        let backlog = &mut Backlog::default();
        push(backlog, 10);
        assert_eq!(backlog.lines.len(), 0);
        let late = reader(backlog);
        assert!(backlog.get(late).unwrap().is_none());
    }

    #[test]
    fn the_history_is_the_last_lines_that_were_read() {
        let backlog = &mut Backlog::new(3);
        push(backlog, 2);
        assert_eq!(backlog.join(2).next, 0);
        push(backlog, 8);
        assert_eq!(backlog.lines.len(), 3);
        assert_eq!(backlog.join(10).next, 7);
        // Two more were read, but are not published yet.
        assert_eq!(backlog.join(12).next, 9);
        assert_eq!(backlog.join(20).next, 17);
    }

    #[test]
    fn the_history_is_at_most_8_mib() {
        let backlog = &mut Backlog::new(1000);
        let line = Notification::new(&"x".repeat(64 * 1024));
        for _ in 0..1000 {
            backlog.push(line.clone());
        }
        assert_eq!(backlog.lines.len(), 127);
    }

    #[test]
    fn a_client_that_is_too_far_behind_is_given_up_and_the_others_lose_nothing() {
        for (line, limit) in [("line".into(), 4096), ("x".repeat(65526), 256)] {
            let line = Notification::new(&line);
            let backlog = &mut Backlog::default();
            let [mut ahead, mut behind] = [reader(backlog), reader(backlog)];
            for _ in 0..limit {
                assert!(backlog.at_limit(line.size()).is_none());
                backlog.push(line.clone());
            }
            take(backlog, &mut ahead, 1);
            set_paused(backlog, &mut ahead, true);
            set_paused(backlog, &mut behind, true);
            let (place, _) = backlog.at_limit(line.size()).unwrap();
            backlog.give_up(place);
            backlog.push(line.clone());
            assert_eq!(backlog.lines.len(), limit);
            assert!(backlog.get(behind).is_err());
            set_paused(backlog, &mut ahead, false);
            take(backlog, &mut ahead, limit as u64);
            assert_eq!(backlog.lines.len(), 0);
            backlog.step(Some(behind), None);
        }
    }
}
