//! One connection from its first byte to its last: handshake, session, linger, and what the log says of it.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::http::{StatusCode, header::ORIGIN};
use tracing::info;

use crate::{
    config::Config,
    handshake::{self, HandshakeError, Refusal, Request},
    io::{ActivityStream, linger},
    notifications::Source,
    session::{CloseReason, Session, Shutdown, Socket},
};

/// How long a client that is to be refused for want of room may take to send its request: one that is answered before it
/// has asked takes the answer for garbage.
const REFUSAL_DELAY: Duration = Duration::from_secs(2);

/// What every connection needs to know.
#[derive(Debug)]
pub(crate) struct Context<F> {
    pub(crate) config: Config,
    /// Makes what a client is pushed, or refuses the client.
    pub(crate) new_source: F,
    pub(crate) shutdown: Shutdown,
}

impl<F, N> Context<F>
where
    F: Fn(&Request, SocketAddr) -> Result<N, Refusal>,
    N: Source,
{
    /// Serves the client at the other end of `stream` until one side ends the connection or the server stops. Returns
    /// whether the client timed out, so that nobody may be left to read what the kernel still holds for it.
    pub(crate) async fn serve<S>(&self, stream: &mut S, peer: &SocketAddr) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connected = Instant::now();
        let timer = pin!(sleep_until(connected));
        // Beginning and end are in boxes, to take no memory in between.
        let Some((socket, source)) = Box::pin(self.handshake(stream, peer)).await else {
            return false;
        };
        let mut session = Session::new(
            socket,
            source,
            peer,
            &self.shutdown,
            &self.config.keepalive,
            timer,
        );
        let running = AssertUnwindSafe(session.run()).catch_unwind();
        let reason = match running.await {
            Ok(Err(reason)) => reason,
            Err(_) => CloseReason::panic(),
        };
        let notifications = session.pushed;
        Box::pin(session.close(&reason)).await;
        let seconds = connected.elapsed().as_secs();
        // As a string, which the log quotes and escapes.
        info!(%peer, reason = reason.to_string(), notifications, seconds, "disconnected");
        reason.is_timeout()
    }

    /// Performs the handshake. `None` when it was not one, and that is all of the connection.
    async fn handshake<'a, S>(
        &self,
        stream: &'a mut S,
        peer: &SocketAddr,
    ) -> Option<(Socket<&'a mut S>, N)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = ActivityStream::new(stream);
        let upgraded = select! {
            // First, for a proxy tries another server when it is dropped, and not when it is upgraded and then sent 1001.
            biased;
            () = self.shutdown.finishing.cancelled() => return None,
            upgraded = handshake::upgrade(&mut stream, &self.config, |request| self.accept(request, *peer)) => upgraded,
        };
        match upgraded {
            Ok((request, source)) => {
                let origin = request.headers().get(ORIGIN).map(handshake::quote);
                info!(%peer, origin = origin.map(tracing::field::display), "connected");
                return Some((Socket::new(stream).await, source));
            }
            Err(HandshakeError::Answered(response)) => {
                log(peer, &response);
                answer(&mut stream, response).await;
            }
            Err(HandshakeError::Disconnected) => {}
        }
        None
    }

    fn accept(&self, request: &Request, peer: SocketAddr) -> Result<N, Refusal> {
        let source = catch_unwind(AssertUnwindSafe(|| (self.new_source)(request, peer)));
        source.unwrap_or_else(|_| {
            let reason = "The server failed. Try again later.";
            Err(handshake::refuse(StatusCode::INTERNAL_SERVER_ERROR, reason))
        })
    }
}

/// Refuses a connection over the limit.
pub(crate) async fn refuse<S>(stream: S, peer: &SocketAddr, limit: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = ActivityStream::new(stream);
    let request = handshake::read_request(&mut stream);
    // A balancer's health check may close without a request.
    if let Ok(Err(HandshakeError::Disconnected)) = timeout(REFUSAL_DELAY, request).await {
        return;
    }
    let reason = format!("All {limit} connections are in use. Try again soon.");
    let response = handshake::refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    if stream.has_received() {
        log(peer, &response);
    }
    answer(&mut stream, response).await;
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), response: Refusal) {
    if handshake::send(response, stream).await.is_ok() {
        linger(stream).await;
    }
}

/// The page leaves no line: health checks may ask for it every second.
fn log(peer: &SocketAddr, response: &Refusal) {
    if !response.status().is_success() {
        info!(%peer, status = response.status().as_u16(), reason = response.body(), "refused");
    }
}
