//! How long the producer waits for clients that are as far behind as they may be.

use std::time::Duration;

use tokio::time::Instant;

use super::backlog::{MAX_BYTES, MAX_LINES};

/// The size of either allowance.
const ALLOWANCE: Duration = Duration::from_nanos(NANOS);

const NANOS: u64 = 1_000_000_000;

/// How long to wait for a client that has resumed before, though waiting was in vain too often.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// Two allowances for all clients together. A client that takes [`MAX_LINES`] a second never uses up the first, and clients
/// that take nothing cost a tenth of the time, however many there are.
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
            pace: ALLOWANCE,
            vain: ALLOWANCE,
            updated: Instant::now(),
        }
    }

    /// How long to wait now. `is_proven` is whether one of the clients has resumed before.
    pub(super) fn limit(&mut self, is_proven: bool) -> Duration {
        let now = Instant::now();
        self.vain = ALLOWANCE.min(self.vain + (now - self.updated) / 10);
        self.updated = now;
        let least = if is_proven {
            SHORT_WAIT
        } else {
            Duration::ZERO
        };
        self.pace.min(self.vain.max(least))
    }

    pub(super) fn spend(&mut self, waited: Duration, in_vain: bool) {
        self.pace = self.pace.saturating_sub(waited);
        if in_vain {
            self.vain = self.vain.saturating_sub(waited);
        }
    }

    /// Restores the share of a published line.
    pub(super) fn restore(&mut self, size: u64) {
        let share = (NANOS * size / MAX_BYTES).max(NANOS / MAX_LINES);
        self.pace = ALLOWANCE.min(self.pace + Duration::from_nanos(share));
    }
}
