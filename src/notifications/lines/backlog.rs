//! The lines that some client has not taken yet, kept once for all clients, and where the clients stand in them.

use std::collections::{BTreeMap, VecDeque};

use super::Notification;

/// How many lines may wait for a client. The oldest makes room for one more, and is lost to those that have not taken it.
pub(super) const LIMIT: usize = 4096;

/// A client either reads, and then the publisher waits for it before it goes on, or is paused where it stands. So only
/// those that are paused have lines kept for longer.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The last that were published.
    lines: VecDeque<Notification>,
    /// How many were published so far.
    published: u64,
    /// How many are kept for clients that are still to come.
    pub(super) history: usize,
    /// How many clients read.
    readers: usize,
    /// How many of these have not taken all yet.
    readers_behind: usize,
    /// How many clients are paused at each place where one is.
    paused: BTreeMap<u64, usize>,
    /// How many lines had been published when those that were behind were last waited for in vain.
    given_up: u64,
    pub(super) has_ended: bool,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// How many lines were published before the one that it is to take next.
    pub(super) next: u64,
    pub(super) is_paused: bool,
}

/// The line made room before the client had taken it.
#[derive(Debug)]
pub(super) struct Lost;

impl Place {
    pub(super) fn after_next(self) -> Self {
        let next = self.next + 1;
        Self { next, ..self }
    }
}

impl Backlog {
    pub(super) fn new(history: usize) -> Self {
        Self {
            history: history.min(LIMIT),
            ..Self::default()
        }
    }

    /// Publishes a line to the clients that there are.
    pub(super) fn push(&mut self, line: Notification) {
        if self.lines.len() == LIMIT {
            self.lines.pop_front();
            self.paused = self.paused.split_off(&self.first());
        }
        self.lines.push_back(line);
        self.published += 1;
        self.readers_behind = self.readers;
        self.free_taken();
    }

    /// Whether the next line is to wait, since the oldest, which makes room for it, would be lost to a client that was not
    /// given up.
    pub(super) fn is_full(&self) -> bool {
        let wanted = self.first_wanted();
        self.published - wanted == LIMIT as u64 && wanted >= self.given_up
    }

    /// Those that are behind are not waited for again before they have taken what is published by now.
    pub(super) fn give_up(&mut self) {
        self.given_up = self.published;
    }

    /// Whether all clients that read have taken all.
    pub(super) fn is_taken_by_readers(&self) -> bool {
        self.readers_behind == 0
    }

    /// Whether all clients have.
    pub(super) fn is_taken_by_all(&self) -> bool {
        self.is_taken_by_readers() && self.first_wanted() == self.published
    }

    /// Where a client starts.
    pub(super) fn start(&self) -> Place {
        let history = self.lines.len().min(self.history);
        Place {
            next: self.published - history as u64,
            is_paused: false,
        }
    }

    /// The line to take next, if it is published.
    pub(super) fn get(&self, place: Place) -> Result<Option<&Notification>, Lost> {
        let index = place.next.checked_sub(self.first()).ok_or(Lost)?;
        // Lines in memory: their number fits.
        Ok(self.lines.get(usize::try_from(index).unwrap_or(usize::MAX)))
    }

    /// A client goes from one place to another, or comes, or leaves.
    pub(super) fn step(&mut self, from: Option<Place>, to: Option<Place>) {
        if let Some(place) = from {
            self.leave(place);
        }
        if let Some(place) = to {
            self.enter(place);
        }
        self.free_taken();
    }

    fn enter(&mut self, Place { next, is_paused }: Place) {
        if is_paused {
            *self.paused.entry(next).or_default() += 1;
        } else {
            self.readers += 1;
            self.readers_behind += usize::from(next < self.published);
        }
    }

    fn leave(&mut self, Place { next, is_paused }: Place) {
        if !is_paused {
            self.readers -= 1;
            self.readers_behind -= usize::from(next < self.published);
        } else if let Some(count) = self.paused.get_mut(&next) {
            *count -= 1;
            if *count == 0 {
                self.paused.remove(&next);
            }
        }
    }

    /// How many lines were published before the oldest that is kept.
    fn first(&self) -> u64 {
        self.published - self.lines.len() as u64
    }

    /// The same of the oldest that a paused client has still to take.
    fn first_wanted(&self) -> u64 {
        *self.paused.keys().next().unwrap_or(&self.published)
    }

    fn free_taken(&mut self) {
        while self.readers_behind == 0
            && self.lines.len() > self.history
            && self.first() < self.first_wanted()
        {
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

    fn join(backlog: &mut Backlog) -> Place {
        let place = backlog.start();
        backlog.step(None, Some(place));
        place
    }

    fn take(backlog: &mut Backlog, place: &mut Place, count: u64) {
        for _ in 0..count {
            assert!(backlog.get(*place).unwrap().is_some());
            let from = *place;
            *place = from.after_next();
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
        let [mut fast, mut slow] = [join(backlog), join(backlog)];
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
    fn with_nobody_there_nothing_is_kept() {
        let backlog = &mut Backlog::default();
        push(backlog, 10);
        assert_eq!(backlog.lines.len(), 0);
        let late = join(backlog);
        assert!(backlog.get(late).unwrap().is_none());
    }

    #[test]
    fn with_a_history_the_last_lines_are_kept_for_who_comes() {
        let backlog = &mut Backlog::new(3);
        push(backlog, 2);
        assert_eq!(join(backlog).next, 0);
        let backlog = &mut Backlog::new(3);
        push(backlog, 10);
        let mut late = join(backlog);
        push(backlog, 1);
        take(backlog, &mut late, 4);
        assert!(backlog.get(late).unwrap().is_none());
        assert_eq!(backlog.lines.len(), 3);
    }

    #[test]
    fn no_more_than_the_limit_is_kept_and_the_oldest_is_lost() {
        let backlog = &mut Backlog::default();
        let [mut behind, mut further] = [join(backlog), join(backlog)];
        push(backlog, LIMIT);
        take(backlog, &mut behind, 1);
        set_paused(backlog, &mut behind, true);
        set_paused(backlog, &mut further, true);
        push(backlog, 1);
        assert_eq!(backlog.lines.len(), LIMIT);
        assert!(backlog.get(further).is_err());
        set_paused(backlog, &mut behind, false);
        take(backlog, &mut behind, LIMIT as u64);
        assert_eq!(backlog.lines.len(), 0);
        backlog.step(Some(further), None);
    }

    #[test]
    fn only_who_is_given_up_loses_lines_without_being_waited_for() {
        let backlog = &mut Backlog::default();
        let [mut reader, mut behind] = [join(backlog), join(backlog)];
        set_paused(backlog, &mut behind, true);
        push(backlog, 100);
        let mut less_behind = join(backlog);
        set_paused(backlog, &mut less_behind, true);
        push(backlog, LIMIT - 100);
        assert!(backlog.is_full());
        take(backlog, &mut reader, LIMIT as u64);
        backlog.give_up();
        set_paused(backlog, &mut reader, true);
        for _ in 0..LIMIT {
            assert!(!backlog.is_full());
            push(backlog, 1);
        }
        assert!(backlog.is_full(), "the reader is as far behind now");
        set_paused(backlog, &mut reader, false);
        take(backlog, &mut reader, LIMIT as u64);
        assert!(!backlog.is_full());
        for place in [reader, behind, less_behind] {
            backlog.step(Some(place), None);
        }
    }
}
