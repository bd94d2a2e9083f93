//! One connection from its first byte to its last: handshake, session, lingering close, and its log lines.

use std::{net::SocketAddr, pin::pin, time::Duration};

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
    session::{Session, Shutdown, Socket},
};

/// How long to wait for a request before answering 503: clients treat an earlier response as garbage.
const REFUSAL_DELAY: Duration = Duration::from_secs(2);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Context<F> {
    pub(crate) config: Config,
    /// Makes a client's source, or refuses the client.
    pub(crate) new_source: F,
    pub(crate) shutdown: Shutdown,
}

impl<F, N> Context<F>
where
    F: Fn(&Request, SocketAddr) -> Result<N, Refusal>,
    N: Source,
{
    /// Serves one client until either side ends the connection or the server stops. Returns whether the client timed out:
    /// then nobody may be left to read what the kernel still holds for it.
    pub(crate) async fn serve<S>(&self, stream: &mut S, peer: &SocketAddr) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connected = Instant::now();
        let timer = pin!(sleep_until(connected));
        // Handshake and close are boxed: they take no memory while the session runs.
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
        let Err(reason) = session.run().await;
        let notifications = session.pushed;
        Box::pin(session.close(&reason)).await;
        let seconds = connected.elapsed().as_secs();
        // As a string, which the log quotes and escapes.
        info!(%peer, reason = reason.to_string(), notifications, seconds, "disconnected");
        reason.is_timeout()
    }

    /// Returns `None` if the connection ends with the handshake.
    async fn handshake<'a, S>(
        &self,
        stream: &'a mut S,
        peer: &SocketAddr,
    ) -> Option<(Socket<&'a mut S>, N)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = ActivityStream::new(stream);
        let new_source = |request: &Request| (self.new_source)(request, *peer);
        let upgraded = select! {
            // Check shutdown first: a proxy retries elsewhere if dropped here, but not after a 101.
            biased;
            () = self.shutdown.draining.cancelled() => return None,
            upgraded = handshake::upgrade(&mut stream, &self.config, new_source) => upgraded,
        };
        match upgraded {
            Ok((request, source)) => {
                let origin = request.headers().get(ORIGIN).map(handshake::quote);
                info!(%peer, origin = origin.map(tracing::field::display), "connected");
                return Some((Socket::new(stream).await, source));
            }
            Err(HandshakeError::Refused(refusal)) => {
                log_refusal(peer, &refusal);
                answer(&mut stream, refusal).await;
            }
            Err(HandshakeError::Disconnected) => {}
        }
        None
    }
}

/// Answers a connection over the limit with 503.
pub(crate) async fn refuse<S>(stream: S, peer: &SocketAddr, limit: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = ActivityStream::new(stream);
    let request = handshake::read_request(&mut stream);
    // A load balancer's health check may close without a request.
    if let Ok(Err(HandshakeError::Disconnected)) = timeout(REFUSAL_DELAY, request).await {
        return;
    }
    let reason = format!("All {limit} connections are in use. Try again soon.");
    let refusal = handshake::refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    if stream.has_received() {
        log_refusal(peer, &refusal);
    }
    answer(&mut stream, refusal).await;
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), refusal: Refusal) {
    if handshake::send(refusal, stream).await.is_ok() {
        linger(stream).await;
    }
}

/// The page leaves no line: health checks may request it every second.
fn log_refusal(peer: &SocketAddr, refusal: &Refusal) {
    if !refusal.status().is_success() {
        info!(%peer, status = refusal.status().as_u16(), reason = refusal.body(), "refused");
    }
}
