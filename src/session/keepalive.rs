//! When to ping a silent peer, and when to drop it. Also when to ping a peer that is sent nothing: a proxy in between
//! would close the connection.

use std::time::Duration;

use tokio::time::Instant;

use crate::io::GRACE;

/// What to do about a peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// One side was silent for the interval.
    Ping,
    /// The peer was silent for another interval after the ping.
    Drop,
}

#[derive(Debug)]
pub(crate) struct Keepalive<'a> {
    /// How long a side may be silent.
    interval: &'a Duration,
    /// When the silent peer was pinged, and when to drop it.
    pinged: Option<(Instant, Instant)>,
}

impl<'a> Keepalive<'a> {
    pub(crate) fn new(interval: &'a Duration) -> Self {
        Self {
            interval,
            pinged: None,
        }
    }

    /// Judges by the times of the last read and the last write. Also returns when to check next: later bytes don't move a
    /// check. One that is late by more than [`GRACE`] drops nobody: the server itself was stopped.
    pub(super) fn check(&mut self, last_read: Instant, last_write: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        let is_silent = |last: Instant| now >= last + *self.interval;
        match &mut self.pinged {
            Some((pinged, deadline)) if last_read < *pinged => {
                if now >= *deadline + GRACE {
                    *deadline = now + GRACE;
                } else if now >= *deadline {
                    return (Verdict::Drop, now);
                }
                (Verdict::Wait, *deadline)
            }
            pinged if is_silent(last_read) => {
                let next = now + *self.interval;
                *pinged = Some((now, next + GRACE));
                (Verdict::Ping, next)
            }
            _ if is_silent(last_write) => (Verdict::Ping, last_read + *self.interval),
            _ => (Verdict::Wait, last_read.min(last_write) + *self.interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_dropped_only_by_a_check_that_was_in_time() {
        let interval = Duration::from_secs(20);
        let last = Instant::now();
        let mut keepalive = Keepalive::new(&interval);
        for (wait, expected) in [
            (interval, Verdict::Ping),
            (interval, Verdict::Wait),
            (3 * GRACE, Verdict::Wait),
            (GRACE, Verdict::Drop),
        ] {
            advance(wait).await;
            assert_eq!(keepalive.check(last, last).0, expected);
        }
    }
}
