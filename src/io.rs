//! The socket under the handshake and the session: when bytes last came and went, bounded writes, the lingering close.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout},
};

/// How long a write may make no progress before the connection ends (as nginx's `send_timeout`). The kernel reports room
/// only when a third of its buffer is free, so a peer that reads 500 bytes/s shows no progress for half of this time.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the peer may take to close its side: some round trips on a bad network.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// A stream that knows when a byte last came and when one last went: tungstenite reports whole messages only.
#[derive(Debug)]
pub(crate) struct ActivityStream<S> {
    stream: S,
    last_read: Instant,
    last_write: Instant,
    received: bool,
}

impl<S> ActivityStream<S> {
    /// Counts from now.
    pub(crate) fn new(stream: S) -> Self {
        let now = Instant::now();
        Self {
            stream,
            last_read: now,
            last_write: now,
            received: false,
        }
    }

    /// When a byte last came, or the connection if none has.
    pub(crate) fn last_read(&self) -> Instant {
        self.last_read
    }

    /// When a byte last went, or the connection if none has.
    pub(crate) fn last_write(&self) -> Instant {
        self.last_write
    }

    /// Whether a byte ever came.
    pub(crate) fn has_received(&self) -> bool {
        self.received
    }
}

/// Writes all `bytes` within [`WRITE_TIMEOUT`], or fails with [`io::ErrorKind::TimedOut`].
pub(crate) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, stream.write_all(bytes)).await?
}

/// Half-closes, then reads and discards until the peer has closed too, for at most [`LINGER`].
///
/// A socket closed while bytes from the peer are unread answers with a reset, at which the peer may throw away
/// what it was sent last (RFC 9112 §9.6, RFC 6455 §7.1.1).
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let half_close_and_discard = async {
        if stream.shutdown().await.is_ok() {
            discard(stream).await;
        }
    };
    // The peer's time is up or it has closed: either way the connection is over.
    let _ = timeout(LINGER, half_close_and_discard).await;
}

async fn discard(stream: &mut (impl AsyncRead + Unpin)) {
    poll_fn(|cx| {
        loop {
            // On the stack, so that it takes no memory while nothing comes.
            let mut scratch = [MaybeUninit::uninit(); 4096];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut scratch));
            if read.is_err() || scratch.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    })
    .await;
}

impl<S: AsyncRead + Unpin> AsyncRead for ActivityStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.last_read = Instant::now();
            self.received = true;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActivityStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(1..)) = result {
            self.last_write = Instant::now();
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
