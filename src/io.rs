//! The socket under the handshake and the session: times of the last read and write, time limits, the lingering close.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::Bytes;

/// How long a write may make no progress, as nginx's `send_timeout`. The kernel reports room only when a third of its buffer
/// is free: a peer that reads 500 bytes/s shows no progress for half of this time.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what a peer has already done may take to be noticed after its time is up.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// How many frames are written at once.
pub(crate) const MAX_FRAMES: usize = 64;

/// How long the peer may take to close its side: a few round trips on a bad network.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream that knows when bytes were last read and written. tungstenite reports whole messages only.
#[derive(Debug)]
pub(crate) struct ActivityStream<S> {
    stream: S,
    last_read: Option<Instant>,
    last_write: Instant,
    /// Complete frames, less what was already written of the first. They are written before anything else.
    queue: Vec<Bytes>,
}

impl<S> ActivityStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            last_read: None,
            last_write: Instant::now(),
            queue: Vec::new(),
        }
    }

    /// Queues a complete frame for the next flush.
    pub(crate) fn queue(&mut self, frame: Bytes) {
        self.queue.push(frame);
    }

    /// Time of the last byte read, or of the last write if there was none.
    pub(crate) fn last_read(&self) -> Instant {
        self.last_read.unwrap_or(self.last_write)
    }

    /// Time of the last byte written, or of the connection's start if there was none.
    pub(crate) fn last_write(&self) -> Instant {
        self.last_write
    }

    pub(crate) fn has_received(&self) -> bool {
        self.last_read.is_some()
    }
}

/// Like [`timeout`], but fair to a peer when the server itself was stopped: then timers fire before anybody has looked at
/// the sockets. Past the limit, the future gets [`GRACE`] more, and again if that took twice as long.
pub(crate) async fn in_time<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut limit = limit;
    let mut is_grace = false;
    loop {
        let begin = Instant::now();
        if let Ok(output) = timeout(limit, &mut future).await {
            return Some(output);
        }
        if is_grace && begin.elapsed() < 2 * GRACE {
            return None;
        }
        (limit, is_grace) = (GRACE, true);
    }
}

/// Writes all bytes within [`WRITE_TIMEOUT`], or fails with [`io::ErrorKind::TimedOut`].
pub(crate) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let result = in_time(WRITE_TIMEOUT, write).await;
    result.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// Half-closes, then reads and discards until the peer has closed too, or its time is up.
///
/// Closing a socket with unread data resets the connection, and the peer may lose what was sent last (RFC 9112 §9.6,
/// RFC 6455 §7.1.1).
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let half_close_and_discard = async {
        if stream.shutdown().await.is_ok() {
            while matches!(stream.read(&mut [0; 512]).await, Ok(1..)) {}
        }
    };
    // Either way the connection is over.
    let _ = in_time(LINGER_TIMEOUT, half_close_and_discard).await;
}

impl<S: AsyncWrite + Unpin> ActivityStream<S> {
    /// Writes the queue, many frames at once.
    fn poll_write_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let written = ready!(self.poll_write_frames(cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            self.last_write = Instant::now();
        }
        // An empty queue keeps no memory.
        self.queue = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_write_frames(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        // The usual case: send(2) costs less than writev(2).
        if let [frame] = &*self.queue {
            return stream.poll_write(cx, frame);
        }
        let mut slices = [IoSlice::new(&[]); MAX_FRAMES];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        stream.poll_write_vectored(cx, &slices[..count])
    }

    /// Removes bytes that were written.
    fn advance(&mut self, mut written: usize) {
        let mut whole = 0;
        for frame in &mut self.queue {
            if written < frame.len() {
                *frame = frame.slice(written..);
                break;
            }
            written -= frame.len();
            whole += 1;
        }
        self.queue.drain(..whole);
    }
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
            self.last_read = Some(Instant::now());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActivityStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_queue(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.last_write = Instant::now();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_queue(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
