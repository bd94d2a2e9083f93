//! The one way to write to a peer: within [`WRITE_TIMEOUT`].

use std::{future::Future, io, pin::pin, task::Poll, time::Duration};

use futures_util::poll;
use tokio::time::timeout;

/// How long a write may make no way before the connection ends.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Finishes `write`, or fails with [`io::ErrorKind::TimedOut`]. Tells whether the peer kept it waiting.
pub(crate) async fn in_time<E: From<io::Error>>(
    write: impl Future<Output = Result<(), E>>,
) -> Result<bool, E> {
    let mut write = pin!(write);
    // Nearly every write goes at once, and then sets no timer.
    if let Poll::Ready(result) = poll!(&mut write) {
        return result.map(|()| false);
    }
    match timeout(WRITE_TIMEOUT, write).await {
        Ok(result) => result.map(|()| true),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}
