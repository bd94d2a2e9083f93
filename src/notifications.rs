//! Where notifications come from: the one thing to replace for a push service of another kind.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep_until};
pub use tokio_tungstenite::tungstenite::Utf8Bytes;

/// What is pushed to one client from its `start` on.
///
/// The conversation asks for the next notification only while the client keeps up, so nothing is ever queued for it.
pub trait Source: Send {
    /// Waits for the next notification; `None` when no more will come. Cancel safe: what was not returned is not lost.
    fn next(&mut self) -> impl Future<Output = Option<Utf8Bytes>> + Send;

    /// The client did not read for a while, and reads again: what came due meanwhile is not to be sent.
    fn skip_missed(&mut self);
}

/// `Notification 1` at once, then `Notification k` (k−1) intervals after it.
///
/// Due times are counted from the first, so that lateness never adds up, and a late one is caught up with:
/// only [`Source::skip_missed`] leaves times out, and then the next number comes at the next due time.
#[derive(Debug)]
pub struct Notifications {
    interval: Duration,
    due: Instant,
    number: u64,
}

impl Notifications {
    /// Starts now.
    ///
    /// # Panics
    ///
    /// When the interval is zero.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        assert!(
            !interval.is_zero(),
            "notifications need an interval, and it is zero"
        );
        Self {
            interval,
            due: Instant::now(),
            number: 1,
        }
    }
}

impl Source for Notifications {
    async fn next(&mut self) -> Option<Utf8Bytes> {
        // The first is due at once, and a timer would round that up to the next millisecond.
        if self.number > 1 {
            sleep_until(self.due).await;
        }
        let text = format!("Notification {}", self.number);
        self.number += 1;
        self.due += self.interval;
        Some(text.into())
    }

    fn skip_missed(&mut self) {
        let late = Instant::now().saturating_duration_since(self.due);
        let missed = late.as_nanos().div_ceil(self.interval.as_nanos());
        self.due += self.interval * u32::try_from(missed).unwrap_or(u32::MAX);
    }
}
