//! Whether the peer is still there, and whether a proxy between may think that it is not: when to send a ping, and when
//! to give the peer up. `session` does either.

use std::time::Duration;

use tokio::time::Instant;

/// How long what already lies in the socket may take to be read once the peer's time is up: the server itself may have
/// been stopped, and then the timers of all its connections are due before it has read from the last of them.
const LAST_READ: Duration = Duration::from_millis(50);

/// What a check finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Enough was said, or the peer has still time to answer.
    Active,
    /// Nothing came from the peer, or nothing was sent to it, for as long as the interval.
    SendPing,
    /// Nothing came for the interval after the ping either.
    Dead,
}

/// What a peer owes.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing.
    Active,
    /// An answer to the ping that was sent at this time, since nothing had come.
    Pinged(Instant),
    /// The same, and its time is up since then: what lies in the socket is read.
    LastRead(Instant),
}

/// Judges a peer by when bytes came and went.
#[derive(Debug)]
pub(super) struct Keepalive<'a> {
    /// How long one side may be silent.
    interval: &'a Duration,
    state: State,
}

impl<'a> Keepalive<'a> {
    pub(super) fn new(interval: &'a Duration) -> Self {
        Self {
            interval,
            state: State::Active,
        }
    }

    /// Judges by when a byte last came and when one last went. Returns also when to check next: a check is not moved by
    /// every byte.
    pub(super) fn check(&mut self, last_read: Instant, last_write: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        match self.state {
            State::Pinged(since) | State::LastRead(since) if last_read < since => {
                self.check_answer(now, since)
            }
            _ => self.check_silence(now, last_read, last_write),
        }
    }

    fn check_answer(&mut self, now: Instant, since: Instant) -> (Verdict, Instant) {
        match self.state {
            State::Pinged(_) if now < since + *self.interval => {
                (Verdict::Active, since + *self.interval)
            }
            State::LastRead(_) if now < since + 2 * LAST_READ => (Verdict::Dead, now),
            // A last read that is over so late means that the server was stopped again.
            _ => {
                self.state = State::LastRead(now);
                (Verdict::Active, now + LAST_READ)
            }
        }
    }

    fn check_silence(
        &mut self,
        now: Instant,
        last_read: Instant,
        last_write: Instant,
    ) -> (Verdict, Instant) {
        let is_due = |last: Instant| now >= last + *self.interval;
        if is_due(last_read) {
            self.state = State::Pinged(now);
            return (Verdict::SendPing, now + *self.interval);
        }
        self.state = State::Active;
        if is_due(last_write) {
            (Verdict::SendPing, last_read + *self.interval)
        } else {
            (Verdict::Active, last_read.min(last_write) + *self.interval)
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_given_up_only_by_a_check_that_was_in_time() {
        let interval = Duration::from_secs(20);
        let heard = Instant::now();
        let mut keepalive = Keepalive::new(&interval);
        for (wait, expected) in [
            (interval, Verdict::SendPing),
            (interval, Verdict::Active),
            (3 * LAST_READ, Verdict::Active),
            (LAST_READ, Verdict::Dead),
        ] {
            advance(wait).await;
            assert_eq!(keepalive.check(heard, heard).0, expected);
        }
    }
}
