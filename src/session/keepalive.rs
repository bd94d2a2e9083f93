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
pub(crate) struct Watched<S> {
    stream: S,
    last: Instant,
    spoken: bool,
    written: Instant,
}

impl<S> Watched<S> {
    /// Counts from now.
    pub(crate) fn new(stream: S) -> Self {
        let now = Instant::now();
        Self {
            stream,
            last: now,
            spoken: false,
            written: now,
        }
    }

    /// When a byte last came, or the connection if none has.
    pub(crate) fn last(&self) -> Instant {
        self.last
    }

    /// When a byte last went, or the connection if none has.
    pub(crate) fn written(&self) -> Instant {
        self.written
    }

    /// Whether a byte ever came.
    pub(crate) fn has_spoken(&self) -> bool {
        self.spoken
    }
}

/// What a check on the peer finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer was heard from meanwhile.
    Alive,
    /// Nothing came for [`SILENCE`]: ask with a ping.
    Silent,
    /// Nothing came for [`SILENCE`] after the ping either.
    Gone,
}

/// Whether the peer is being asked.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    pinged: Option<Instant>,
}

impl Liveness {
    /// Checks on a peer that was last heard from at `heard`, and tells when the next check is due. A check is not moved by
    /// every byte: what was heard by then decides.
    pub(crate) fn check(&mut self, heard: Instant, due: Instant) -> (Verdict, Instant) {
        let now = Instant::now();
        // A server that was stopped for a while has not read what came meanwhile: it asks once more.
        let late = now > due + LATE;
        let (verdict, since) = match self.pinged {
            Some(pinged) if heard < pinged && !late => (Verdict::Gone, now),
            _ if now < heard + SILENCE => (Verdict::Alive, heard),
            _ => (Verdict::Silent, now),
        };
        self.pinged = (verdict == Verdict::Silent).then_some(now);
        (verdict, since + SILENCE)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.last = Instant::now();
            self.spoken = true;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = result {
            self.written = Instant::now();
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
        let mut liveness = Liveness::default();
        let mut due = heard + SILENCE;
        for (wait, expected) in [
            (SILENCE, Verdict::Silent),
            (SILENCE + 2 * LATE, Verdict::Silent),
            (SILENCE, Verdict::Gone),
        ] {
            advance(wait).await;
            let (verdict, next) = liveness.check(heard, due);
            assert_eq!(verdict, expected);
            due = next;
        }
    }
}
