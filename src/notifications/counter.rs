//! Numbered notifications at an interval.

use std::{sync::LazyLock, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{CloseFrame, Notification, Source};
use crate::config::FOREVER;

/// How long a notification may be delayed, so that one wake-up of the runtime's threads sends several. A wake-up costs as much
/// as a few notifications.
const MAX_SLACK: Duration = Duration::from_millis(2);

/// Due times are rounded up to a whole number of slacks after this time.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// `Notification 1` at once, then `Notification k` (k−1) intervals after it.
///
/// Due times are multiples of the interval after the first notification, so lateness never adds up. A client that stops
/// reading misses due times, but no numbers: when it reads again, the next number comes at the next due time.
#[derive(Debug)]
pub struct Notifications {
    interval: Duration,
    due: Instant,
    number: u64,
}

impl Notifications {
    /// Sends one notification every `interval`.
    ///
    /// # Panics
    ///
    /// If the interval is zero.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        assert!(!interval.is_zero(), "the interval must not be zero");
        Self {
            interval: interval.min(FOREVER),
            due: Instant::now(),
            number: 1,
        }
    }
}

impl Source for Notifications {
    fn start(&mut self) {
        self.due = Instant::now();
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        // The first is due at once. A timer would round that up to the next millisecond.
        if self.number > 1 {
            // A thousandth, as in Linux for select(2) and poll(2).
            let slack = (self.interval / 1000).clamp(Duration::from_nanos(1), MAX_SLACK);
            sleep_until(*EPOCH + round_up(self.due - *EPOCH, slack)).await;
        }
        let text = format!("Notification {}", self.number);
        self.number += 1;
        self.due += self.interval;
        Ok(Notification::new(&text))
    }

    fn resume(&mut self) {
        self.due += round_up(Instant::now() - self.due, self.interval);
    }
}

fn round_up(time: Duration, step: Duration) -> Duration {
    let step = step.as_nanos();
    let rounded = time.as_nanos().div_ceil(step) * step;
    // 64 bits of nanoseconds are 584 years.
    Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX))
}
