//! Waiting for a peer, never for ever: every such wait is bounded by the one timer that each connection has.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use futures_util::poll;
use tokio::{
    select,
    time::{Instant, Sleep},
};

/// How long a write may make no way before the connection ends.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What `wait` gives within `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    mut timer: Pin<&mut Sleep>,
    wait: impl Future<Output = T>,
) -> Option<T> {
    timer.as_mut().reset(Instant::now() + limit);
    select! {
        biased;
        result = wait => Some(result),
        () = timer => None,
    }
}

/// Finishes `write`, or fails with [`io::ErrorKind::TimedOut`]. Tells whether the peer kept it waiting, which alone
/// sets the timer.
pub(crate) async fn write<E: From<io::Error>>(
    timer: Pin<&mut Sleep>,
    write: impl Future<Output = Result<(), E>>,
) -> Result<bool, E> {
    let mut write = pin!(write);
    if let Poll::Ready(result) = poll!(&mut write) {
        return result.map(|()| false);
    }
    match within(WRITE_TIMEOUT, timer, write).await {
        Some(result) => result.map(|()| true),
        None => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}
