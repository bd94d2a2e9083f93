//! How long the producer waits for clients that are as far behind as they may be.

use std::time::Duration;

use tokio::time::Instant;

use super::backlog::{MAX_BYTES, MAX_LINES};

/// The size of either allowance.
const ALLOWANCE: Duration = Duration::from_nanos(NANOS);

const NANOS: u64 = 1_000_000_000;

/// How long to wait for a client that has resumed before, though waiting was in vain too often.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// What is spent of two allowances for all clients together. A client that takes [`MAX_LINES`] a second never uses up the
/// first, and clients that take nothing cost a tenth of the time, however many there are.
#[derive(Debug)]
pub(super) struct Patience {
    /// Spent by every wait, and restored by published lines.
    pace: Duration,
    /// Spent by waits in which nobody takes a line, and restored by time.
    vain: Duration,
    updated: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            pace: Duration::ZERO,
            vain: Duration::ZERO,
            updated: Instant::now(),
        }
    }

    /// How long to wait now. `is_proven` is whether one of the clients has resumed before.
    pub(super) fn limit(&mut self, is_proven: bool) -> Duration {
        let now = Instant::now();
        self.vain = self.vain.saturating_sub((now - self.updated) / 10);
        self.updated = now;
        let least = if is_proven {
            SHORT_WAIT
        } else {
            Duration::ZERO
        };
        let [pace, vain] = [self.pace, self.vain].map(|spent| ALLOWANCE.saturating_sub(spent));
        pace.min(vain.max(least))
    }

    /// The wait may have been a little longer than the limit. That counts too.
    pub(super) fn spend(&mut self, waited: Duration, in_vain: bool) {
        self.pace += waited;
        if in_vain {
            self.vain += waited;
        }
    }

    /// Restores the share of a published line.
    pub(super) fn restore(&mut self, size: u64) {
        let share = (NANOS * size / MAX_BYTES).max(NANOS / MAX_LINES);
        self.pace = self.pace.saturating_sub(Duration::from_nanos(share));
    }
}
