//! Whether the peer is still there: when it was last heard from, and when to ask. What is sent and ended then stands in `session`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// After this long in which nothing came, the peer is sent a ping; after as long again, it is gone.
/// Proxies commonly close what is idle for 60 s (nginx's `proxy_read_timeout`): that leaves room for two pings.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// How late a check may be and still prove that nothing came.
const LATE: Duration = Duration::from_secs(1);

/// A stream that knows when a byte last came and when one last went: tungstenite tells of whole messages only.
#[derive(Debug)]
pub(crate) struct ActivityStream<S> {
    stream: S,
    last_read: Instant,
    received: bool,
    last_write: Instant,
}

impl<S> ActivityStream<S> {
    /// Counts from now.
    pub(crate) fn new(stream: S) -> Self {
        let now = Instant::now();
        Self {
            stream,
            last_read: now,
            received: false,
            last_write: now,
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

/// What a check on the peer finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer was heard from meanwhile.
    Active,
    /// Nothing came for [`SILENCE`]: ask with a ping.
    SendPing,
    /// Nothing came for [`SILENCE`] after the ping either.
    Dead,
}

/// Whether the peer is being asked.
#[derive(Debug, Default)]
pub(crate) struct Keepalive {
    pinged: Option<Instant>,
}

impl Keepalive {
    /// Checks on a peer that was last heard from at `heard`, and tells when the next check is due. A check is not moved by
    /// every byte: what was heard by then decides.
    pub(crate) fn check(&mut self, heard: Instant, due: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        // A server that was stopped for a while has not read what came meanwhile: it asks once more.
        let late = now > due + LATE;
        let (verdict, since) = match self.pinged {
            Some(pinged) if heard < pinged && !late => (Verdict::Dead, now),
            _ if now < heard + SILENCE => (Verdict::Active, heard),
            _ => (Verdict::SendPing, now),
        };
        self.pinged = (verdict == Verdict::SendPing).then_some(now);
        (verdict, since + SILENCE)
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
            self.last_read = Instant::now();
            self.received = true;
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
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = result {
            self.last_write = Instant::now();
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_stopped_for_a_while_asks_once_more() {
        let heard = Instant::now();
        let mut keepalive = Keepalive::default();
        let mut due = heard + SILENCE;
        for (wait, expected) in [
            (SILENCE, Verdict::SendPing),
            (SILENCE + 2 * LATE, Verdict::SendPing),
            (SILENCE, Verdict::Dead),
        ] {
            advance(wait).await;
            let (verdict, next) = keepalive.check(heard, due);
            assert_eq!(verdict, expected);
            due = next;
        }
    }
}
