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

/// What is known of a peer beside the times at which bytes came and went.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// How long one side may be silent.
    interval: Duration,
    /// When a ping was sent since nothing had come.
    pinged: Option<Instant>,
    /// When the last read is to be over.
    last_read_due: Option<Instant>,
}

impl Keepalive {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            pinged: None,
            last_read_due: None,
        }
    }

    /// Judges the peer by when a byte last came and when one last went. Returns also when to check next: a check is not
    /// moved by every byte.
    pub(super) fn check(&mut self, last_read: Instant, last_write: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        if let Some(pinged) = self.pinged.filter(|&pinged| last_read < pinged) {
            return self.await_pong(now, pinged);
        }
        let is_silent = now >= last_read + self.interval;
        self.pinged = is_silent.then_some(now);
        self.last_read_due = None;
        if is_silent {
            (Verdict::SendPing, now + self.interval)
        } else if now >= last_write + self.interval {
            (Verdict::SendPing, last_read + self.interval)
        } else {
            (Verdict::Active, last_read.min(last_write) + self.interval)
        }
    }

    fn await_pong(&mut self, now: Instant, pinged: Instant) -> (Verdict, Instant) {
        let due = pinged + self.interval;
        if now < due {
            return (Verdict::Active, due);
        }
        // Late again means that the server was stopped again, and has perhaps not read.
        match self.last_read_due {
            Some(due) if now < due + LAST_READ => (Verdict::Dead, now),
            _ => {
                let due = now + LAST_READ;
                self.last_read_due = Some(due);
                (Verdict::Active, due)
            }
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
        let mut keepalive = Keepalive::new(interval);
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
