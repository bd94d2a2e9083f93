//! The end of a connection on which the server had the last word, a Close frame or a refusal.

use std::{
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};

/// How long the peer may take to close its side: some round trips on a bad network.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Half-closes, then reads and discards until the peer has closed too, for at most [`LINGER`].
///
/// A socket closed while bytes from the peer are unread answers with a reset, at which the peer may throw away
/// what it was told last (RFC 9112 §9.6, RFC 6455 §7.1.1).
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
