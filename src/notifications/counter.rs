//! Numbered notifications at an interval.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{CloseFrame, Notification, Source};

/// `Notification 1` at once, then `Notification k` (k−1) intervals after it.
///
/// Due times are counted from the first, so that lateness never adds up, and a late one is caught up with. Only a client
/// that stops reading misses due times, and then the next number comes at the next due time.
#[derive(Debug)]
pub struct Notifications {
    interval: Duration,
    due: Instant,
    number: u64,
}

impl Notifications {
    /// One each `interval`.
    ///
    /// # Panics
    ///
    /// When the interval is zero.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        assert!(!interval.is_zero(), "the interval must not be zero");
        Self {
            interval,
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
        // The first is due at once, and a timer would round that up to the next millisecond.
        if self.number > 1 {
            sleep_until(self.due).await;
        }
        let text = format!("Notification {}", self.number);
        self.number += 1;
        self.due += self.interval;
        Ok(Notification::new(&text))
    }

    fn resume(&mut self) {
        let late = Instant::now().saturating_duration_since(self.due);
        let interval = self.interval.as_nanos();
        let missed = late.as_nanos().div_ceil(interval) * interval;
        // Nanoseconds in 64 bits are 584 years.
        self.due += Duration::from_nanos(u64::try_from(missed).unwrap_or(u64::MAX));
    }
}
