//! Waiting for a peer, never for ever: every such wait is bounded by the timer that each connection has.

use std::{future::Future, io, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
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

/// Writes all `bytes` within [`WRITE_TIMEOUT`], or fails with [`io::ErrorKind::TimedOut`].
pub(crate) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    timer: Pin<&mut Sleep>,
) -> io::Result<()> {
    let written = within(WRITE_TIMEOUT, timer, stream.write_all(bytes)).await;
    written.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}
