//! Whether the peer is still there: when it was last heard from, and when to ask. What is sent and ended then stands in `session`.

use std::time::Duration;

use tokio::time::Instant;

/// After this long in which nothing came, the peer is sent a ping; after as long again, it is gone.
/// Proxies commonly close what is idle for 60 s (nginx's `proxy_read_timeout`): that leaves room for two pings.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// How late a check may be and still prove that nothing came.
const LATE: Duration = Duration::from_secs(1);

/// What a check on the peer finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer was heard from meanwhile.
    Active,
    /// Nothing came for [`SILENCE`]: ask with a ping.
    SendPing,
    /// Nothing came for [`SILENCE`] after the ping either.
    Dead,
}

/// Whether the peer is being asked.
#[derive(Debug, Default)]
pub(crate) struct Keepalive {
    pinged: Option<Instant>,
}

impl Keepalive {
    /// Checks on a peer that was last heard from at `heard`, and tells when the next check is due. A check is not moved by
    /// every byte: what was heard by then decides.
    pub(crate) fn check(&mut self, heard: Instant, due: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        // A server that was stopped for a while has not read what came meanwhile: it asks once more.
        let late = now > due + LATE;
        let (verdict, since) = match self.pinged {
            Some(pinged) if heard < pinged && !late => (Verdict::Dead, now),
            _ if now < heard + SILENCE => (Verdict::Active, heard),
            _ => (Verdict::SendPing, now),
        };
        self.pinged = (verdict == Verdict::SendPing).then_some(now);
        (verdict, since + SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_stopped_for_a_while_asks_once_more() {
        let heard = Instant::now();
        let mut keepalive = Keepalive::default();
        let mut due = heard + SILENCE;
        for (wait, expected) in [
            (SILENCE, Verdict::SendPing),
            (SILENCE + 2 * LATE, Verdict::SendPing),
            (SILENCE, Verdict::Dead),
        ] {
            advance(wait).await;
            let (verdict, next) = keepalive.check(heard, due);
            assert_eq!(verdict, expected);
            due = next;
        }
    }
}
