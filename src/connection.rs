//! One connection from its first byte to its last: handshake, conversation, linger, and what the log says of it.

use std::{future::Future, net::SocketAddr, pin::pin};

use futures_util::SinkExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use tracing::info;

use crate::{
    handshake::{self, Failure, Refusal},
    linger::linger,
    liveness::Heard,
    notifications::Source,
    origin::AllowedOrigin,
    session::{self, End, Session},
    write::in_time,
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
    let mut stopping = pin!(stopping);
    let mut stream = Heard::new(stream);
    // In a box of its own, for the handshake needs far more memory than the conversation, which is long.
    let upgraded = select! {
        upgraded = Box::pin(handshake::upgrade(&mut stream, allowed)) => upgraded,
        () = &mut stopping => return,
    };
    match upgraded {
        Ok(origin) => info!(%peer, origin, "connected"),
        Err(Failure::Refused(refusal)) => return refuse(stream, peer, &refusal).await,
        Err(Failure::Vanished) => return,
    }
    let mut socket =
        WebSocketStream::from_raw_socket(stream, Role::Server, Some(session::config())).await;
    let mut session = Session {
        socket: &mut socket,
        peer,
        source: None,
        pushed: 0,
    };
    let end = session.run(start, stopping).await;
    info!(%peer, %end, notifications = session.pushed, seconds = opened.elapsed().as_secs(), "gone");
    close(socket, &end).await;
}

/// Answers with `refusal` and closes.
pub(crate) async fn refuse<S>(mut stream: S, peer: SocketAddr, refusal: &Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    info!(%peer, status = refusal.status.as_u16(), reason = refusal.reason, "refused");
    if refusal.send(&mut stream).await.is_ok() {
        linger(&mut stream).await;
    }
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, end: &End) {
    let said = match end.close_frame() {
        Some(frame) => in_time(socket.send(Message::Close(Some(frame))))
            .await
            .is_ok(),
        None => matches!(end, End::Closed(_)),
    };
    if said {
        linger(&mut socket.into_inner()).await;
    }
}
