//! Whether the peer is still there, and whether a proxy between may think that it is not: when to send a ping, and when
//! to give the peer up. `session` does either.

use std::time::Duration;

use tokio::time::Instant;

/// How long what already lies in the socket may take to be read once the peer's time is up, and how late a check may be
/// that gives the peer up: the server itself may have been stopped, and then the timers of all its connections are due
/// before it has read from the last of them.
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

/// Judges a peer by when bytes came and went.
#[derive(Debug)]
pub(super) struct Keepalive<'a> {
    /// How long one side may be silent.
    interval: &'a Duration,
    /// When the peer was sent a ping, since nothing had come, and when it is to be given up.
    pinged: Option<(Instant, Instant)>,
}

impl<'a> Keepalive<'a> {
    pub(super) fn new(interval: &'a Duration) -> Self {
        Self {
            interval,
            pinged: None,
        }
    }

    /// Judges by when a byte last came and when one last went. Returns also when to check next: a check is not moved by
    /// every byte.
    pub(super) fn check(&mut self, last_read: Instant, last_write: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        let is_due = |last: Instant| now >= last + *self.interval;
        match &mut self.pinged {
            Some((since, due)) if last_read < *since => {
                if now >= *due + LAST_READ {
                    *due = now + LAST_READ;
                } else if now >= *due {
                    return (Verdict::Dead, now);
                }
                (Verdict::Active, *due)
            }
            pinged if is_due(last_read) => {
                let next = now + *self.interval;
                *pinged = Some((now, next + LAST_READ));
                (Verdict::SendPing, next)
            }
            _ if is_due(last_write) => (Verdict::SendPing, last_read + *self.interval),
            _ => (Verdict::Active, last_read.min(last_write) + *self.interval),
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
