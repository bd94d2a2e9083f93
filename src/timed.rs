//! Writing to a peer, never for ever.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// How long a write may make no way before the connection ends.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes all `bytes` within [`WRITE_TIMEOUT`], or fails with [`io::ErrorKind::TimedOut`].
pub(crate) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, stream.write_all(bytes)).await?
}
