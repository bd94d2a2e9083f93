//! One connection from its first byte to its last: handshake, conversation, linger, and what the log says of it.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tracing::info;

use crate::{
    handshake::{self, Failure, Refusal},
    linger::linger,
    liveness::Heard,
    notifications::Source,
    origin::AllowedOrigin,
    session::{Session, config},
};

/// Serves the client at the other end of `stream` until it is gone or `stopping` is ready.
///
/// `start` makes the source of its notifications, when it has said `start`.
pub async fn serve<S, N>(
    stream: S,
    peer: SocketAddr,
    allowed: &[AllowedOrigin],
    start: impl Fn() -> N,
    stopping: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    N: Source,
{
    let opened = Instant::now();
    let mut timer = pin!(sleep_until(opened));
    let mut stopping = pin!(stopping);
    // In a box, since it needs far more memory than the conversation and is soon over.
    let opening = Box::pin(open(
        stream,
        peer,
        allowed,
        timer.as_mut(),
        stopping.as_mut(),
    ));
    let Some(socket) = opening.await else { return };
    let mut session = Session::new(socket, peer, timer);
    let end = session.run(start, stopping).await;
    info!(%peer, end = end.to_string(), notifications = session.pushed, seconds = opened.elapsed().as_secs(), "gone");
}

/// Performs the handshake. `None` when there was none.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: SocketAddr,
    allowed: &[AllowedOrigin],
    timer: Pin<&mut Sleep>,
    stopping: impl Future<Output = ()>,
) -> Option<WebSocketStream<Heard<S>>> {
    let mut stream = Heard::new(stream);
    let upgraded = select! {
        upgraded = handshake::upgrade(&mut stream, allowed, timer) => upgraded,
        () = stopping => return None,
    };
    match upgraded {
        Ok(origin) => info!(%peer, origin, "connected"),
        Err(Failure::Refused(refusal)) => {
            refuse(stream, peer, refusal).await;
            return None;
        }
        Err(Failure::Vanished) => return None,
    }
    Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
}

/// Answers with `refusal` and closes.
pub(crate) async fn refuse<S>(mut stream: S, peer: SocketAddr, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut timer = pin!(sleep_until(Instant::now()));
    info!(%peer, status = refusal.status.as_u16(), reason = refusal.reason, "refused");
    if refusal.send(&mut stream, timer.as_mut()).await.is_ok() {
        linger(&mut stream, timer).await;
    }
}
