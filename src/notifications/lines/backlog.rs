//! The lines that some client has not taken yet, kept once for all clients, and where each client stands in them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

use super::Notification;

/// How many lines may wait for a client. The oldest makes room for one more, and is lost to those that have not taken it.
pub(super) const LIMIT: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: Mutex<State>,
    /// For the publisher: the backlog is empty, or what is published was taken by all who read.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest that some client has still to take, and all after it.
    lines: VecDeque<Line>,
    /// How many were published before the oldest.
    first: u64,
    /// How many clients have taken all.
    at_end: usize,
    /// How many of these read.
    readers_at_end: usize,
    /// How many of the others read: it is for the server to send them what they lack.
    readers_behind: usize,
    /// How many have lost lines.
    lost: usize,
    /// How many lines had been published when those that were behind were last waited for in vain.
    given_up: u64,
    has_ended: bool,
}

#[derive(Debug)]
struct Line {
    notification: Notification,
    /// How many clients are to take it next.
    next_of: usize,
}

/// A client's place.
#[derive(Debug)]
pub(super) struct Cursor {
    next: u64,
    is_paused: bool,
}

/// What a client takes.
pub(super) enum Taken {
    /// A line, and how many were published before it.
    Line(u64, Notification),
    Nothing,
    /// The client has taken all, and there will be no more.
    Ended,
    /// Some lines made room before the client had taken them.
    Lost,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Not poisoned: nothing panics under this lock.
        self.state.lock().unwrap()
    }

    /// Whether the next line is to wait, since the oldest, which makes room for it, would be lost to a client that was not
    /// given up.
    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        state.lines.len() == LIMIT && state.first >= state.given_up
    }

    /// Those that are behind are not waited for again before they have taken what is published by now.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.given_up = state.published();
    }

    /// Publishes a line to the clients that there are.
    pub(super) fn push(&self, notification: Notification) {
        let state = &mut *self.lock();
        if state.lines.len() == LIMIT {
            state.lost += state.lines.pop_front().map_or(0, |line| line.next_of);
            state.first += 1;
            state.drop_taken();
        }
        if state.lines.is_empty() && state.at_end == 0 {
            state.first += 1;
            return;
        }
        state.lines.push_back(Line {
            notification,
            next_of: state.at_end,
        });
        state.readers_behind += state.readers_at_end;
        (state.at_end, state.readers_at_end) = (0, 0);
    }

    /// No more lines will be published.
    pub(super) fn end(&self) {
        self.lock().has_ended = true;
    }

    /// Waits until no client is behind.
    pub(super) async fn emptied(&self) {
        while !self.lock().lines.is_empty() {
            self.changed.notified().await;
        }
    }

    /// Waits until all clients that read have taken all.
    pub(super) async fn taken_by_readers(&self) {
        while self.lock().readers_behind > 0 {
            self.changed.notified().await;
        }
    }

    /// The place of a client that takes what is published from now on.
    pub(super) fn join(&self) -> Cursor {
        let mut state = self.lock();
        state.at_end += 1;
        state.readers_at_end += 1;
        Cursor {
            next: state.published(),
            is_paused: false,
        }
    }

    pub(super) fn take(&self, cursor: &mut Cursor) -> Taken {
        let state = &mut *self.lock();
        let Some(index) = cursor.next.checked_sub(state.first) else {
            return Taken::Lost;
        };
        let Some(line) = state.lines.get(place(index)) else {
            return if state.has_ended {
                Taken::Ended
            } else {
                Taken::Nothing
            };
        };
        let taken = Taken::Line(cursor.next, line.notification.clone());
        state.leave(cursor);
        cursor.next += 1;
        state.enter(cursor);
        self.settle(state);
        taken
    }

    /// The client stops reading: the publisher no longer waits for it, but for [`LIMIT`].
    pub(super) fn pause(&self, cursor: &mut Cursor) {
        self.set_paused(cursor, true);
    }

    pub(super) fn resume(&self, cursor: &mut Cursor) {
        self.set_paused(cursor, false);
    }

    fn set_paused(&self, cursor: &mut Cursor, is_paused: bool) {
        let state = &mut *self.lock();
        state.leave(cursor);
        cursor.is_paused = is_paused;
        state.enter(cursor);
        self.settle(state);
    }

    /// Forgets the client's place.
    pub(super) fn leave(&self, cursor: &Cursor) {
        let state = &mut *self.lock();
        state.leave(cursor);
        self.settle(state);
    }

    /// After a client has moved: frees what all have taken, and wakes the publisher if that is what it waits for.
    fn settle(&self, state: &mut State) {
        state.drop_taken();
        if state.readers_behind == 0 || state.lines.is_empty() {
            self.changed.notify_one();
        }
    }
}

impl State {
    /// How many lines were published so far.
    fn published(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn drop_taken(&mut self) {
        while self.lines.front().is_some_and(|line| line.next_of == 0) {
            self.lines.pop_front();
            self.first += 1;
        }
    }

    /// Counts the client where it stands.
    fn enter(&mut self, cursor: &Cursor) {
        let [here, readers] = self.counts(cursor);
        *here += 1;
        *readers += usize::from(!cursor.is_paused);
    }

    fn leave(&mut self, cursor: &Cursor) {
        let [here, readers] = self.counts(cursor);
        *here -= 1;
        *readers -= usize::from(!cursor.is_paused);
    }

    /// How many clients stand where this one does, and the count of those that read to which it belongs if it does.
    fn counts(&mut self, cursor: &Cursor) -> [&mut usize; 2] {
        let Some(index) = cursor.next.checked_sub(self.first) else {
            return [&mut self.lost, &mut self.readers_behind];
        };
        match self.lines.get_mut(place(index)) {
            Some(line) => [&mut line.next_of, &mut self.readers_behind],
            None => [&mut self.at_end, &mut self.readers_at_end],
        }
    }
}

/// Lines in memory: their number fits.
fn place(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(backlog: &Backlog, count: usize) {
        for _ in 0..count {
            backlog.push(Notification::new("line"));
        }
    }

    fn len(backlog: &Backlog) -> usize {
        backlog.lock().lines.len()
    }

    fn take(backlog: &Backlog, cursor: &mut Cursor, count: usize) {
        for _ in 0..count {
            assert!(matches!(backlog.take(cursor), Taken::Line(..)));
        }
    }

    #[test]
    fn a_line_is_freed_when_the_last_client_has_taken_it_or_left() {
        let backlog = Backlog::default();
        let [mut fast, mut slow] = [backlog.join(), backlog.join()];
        push(&backlog, 100);
        take(&backlog, &mut fast, 100);
        assert_eq!(len(&backlog), 100);
        take(&backlog, &mut slow, 60);
        assert_eq!(len(&backlog), 40);
        backlog.leave(&slow);
        assert_eq!(len(&backlog), 0);
        push(&backlog, 1);
        take(&backlog, &mut fast, 1);
        assert_eq!(len(&backlog), 0);
    }

    #[test]
    fn with_nobody_there_nothing_is_kept() {
        let backlog = Backlog::default();
        push(&backlog, 10);
        assert_eq!(len(&backlog), 0);
        let mut late = backlog.join();
        assert!(matches!(backlog.take(&mut late), Taken::Nothing));
    }

    #[test]
    fn no_more_than_the_limit_is_kept_and_the_oldest_is_lost() {
        let backlog = Backlog::default();
        let [mut behind, mut further] = [backlog.join(), backlog.join()];
        push(&backlog, LIMIT);
        take(&backlog, &mut behind, 1);
        push(&backlog, 1);
        assert_eq!(len(&backlog), LIMIT);
        assert!(matches!(backlog.take(&mut further), Taken::Lost));
        take(&backlog, &mut behind, LIMIT);
        assert_eq!(len(&backlog), 0);
        backlog.leave(&further);
    }

    #[test]
    fn only_who_is_given_up_loses_lines_without_being_waited_for() {
        let backlog = Backlog::default();
        let [mut reader, behind] = [backlog.join(), backlog.join()];
        push(&backlog, 100);
        let less_behind = backlog.join();
        push(&backlog, LIMIT - 100);
        assert!(backlog.is_full());
        take(&backlog, &mut reader, LIMIT);
        backlog.give_up();
        for _ in 0..LIMIT {
            assert!(!backlog.is_full());
            push(&backlog, 1);
        }
        assert!(backlog.is_full(), "the reader is as far behind now");
        take(&backlog, &mut reader, LIMIT);
        assert!(!backlog.is_full());
        for cursor in [reader, behind, less_behind] {
            backlog.leave(&cursor);
        }
    }
}
