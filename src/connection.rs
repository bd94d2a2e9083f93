//! One connection from its first byte to its last: handshake, conversation, linger, and what the log says of it.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
};

use futures_util::future::{BoxFuture, Shared};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tracing::info;

use crate::{
    handshake,
    head::Failure,
    linger::linger,
    liveness::Watched,
    notifications::Source,
    origin::AllowedOrigin,
    refusal::Refusal,
    session::{Session, config},
};

/// What every connection needs to know.
pub struct Service<F> {
    /// The browser origins that are let in besides the server's own.
    pub allowed: Vec<AllowedOrigin>,
    /// Makes the source of a client's notifications when it has said `start`.
    pub start: F,
    /// Ready when the server stops.
    pub stopping: Shared<BoxFuture<'static, ()>>,
}

impl<F: Fn() -> N, N: Source> Service<F> {
    /// Serves the client at the other end of `stream` until one side ends the connection or the server stops.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, peer: &SocketAddr) {
        let opened = Instant::now();
        let mut timer = pin!(sleep_until(opened));
        let mut stopping = self.stopping.clone();
        // In a box, since it needs far more memory than the conversation and is soon over.
        let opening = Box::pin(open(
            stream,
            peer,
            &self.allowed,
            timer.as_mut(),
            &mut stopping,
        ));
        let Some(socket) = opening.await else { return };
        let mut session = Session::new(socket, peer, timer);
        let end = session.run(&self.start, &mut stopping).await;
        let seconds = opened.elapsed().as_secs();
        info!(%peer, end = end.to_string(), notifications = session.pushed, seconds, "gone");
    }
}

/// Performs the handshake. `None` when there was none.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: &SocketAddr,
    allowed: &[AllowedOrigin],
    mut timer: Pin<&mut Sleep>,
    stopping: impl Future<Output = ()>,
) -> Option<WebSocketStream<Watched<S>>> {
    let mut stream = Watched::new(stream);
    let upgraded = select! {
        upgraded = handshake::upgrade(&mut stream, allowed, timer.as_mut()) => upgraded,
        () = stopping => return None,
    };
    match upgraded {
        Ok(origin) => info!(%peer, origin = origin.map(display), "connected"),
        Err(Failure::Refused(refusal)) => {
            log(peer, &refusal);
            refuse(&mut stream, &refusal, timer).await;
            return None;
        }
        Err(Failure::Vanished) => return None,
    }
    Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
}

/// Refuses a connection over the limit, and tells of it unless it was a balancer's health check, which says nothing.
pub(crate) async fn refuse_at_limit<S>(stream: S, peer: &SocketAddr, limit: u32)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = Watched::new(stream);
    let refusal = Refusal::full(limit);
    refuse(&mut stream, &refusal, pin!(sleep_until(Instant::now()))).await;
    if stream.has_spoken() {
        log(peer, &refusal);
    }
}

async fn refuse<S>(stream: &mut Watched<S>, refusal: &Refusal, mut timer: Pin<&mut Sleep>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if refusal.send(stream, timer.as_mut()).await.is_ok() {
        linger(stream, timer).await;
    }
}

fn log(peer: &SocketAddr, refusal: &Refusal) {
    info!(%peer, status = refusal.status.as_u16(), reason = refusal.reason, "refused");
}
