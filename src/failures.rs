//! Telling of accepts that fail: once, however many do.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

/// After this long without a failed accept, the next one is told again.
const QUIET: Duration = Duration::from_secs(60);

/// The accepts that failed, in all workers.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    last: Mutex<Option<Instant>>,
}

impl Failures {
    pub(crate) fn tell(&self, error: &io::Error) {
        if self.is_news() {
            warn!(%error, "can't accept connections, still trying");
        }
    }

    fn is_news(&self) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace(now).is_none_or(|last| now >= last + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_news_only_after_a_minute_without_one() {
        let failures = Failures::default();
        assert!(failures.is_news());
        for (wait, news) in [(0, false), (59, false), (59, false), (60, true), (90, true)] {
            advance(Duration::from_secs(wait)).await;
            assert_eq!(failures.is_news(), news, "{wait}");
        }
    }
}
