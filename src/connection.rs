//! One connection from its first byte to its last: handshake, session, lingering close, and its log lines.

use std::{net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tracing::{field::display, info};

use crate::{
    config::Config,
    handshake::{self, Refusal, RefusedField, Request},
    io::{ActivityStream, in_time, linger},
    notifications::Source,
    session::{Keepalive, Session, Shutdown, Socket},
};

/// How long to wait for a request to answer with 503. Clients treat an earlier response as garbage.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

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
        let mut session = Session {
            socket,
            peer,
            shutdown: &self.shutdown,
            keepalive: Keepalive::new(&self.config.keepalive),
            timer,
            source,
            has_started: false,
            pushed: 0,
        };
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
                log_connected(peer, &request);
                Some((Socket::new(stream).await, source))
            }
            Err(refusal) => {
                if let Some(refusal) = refusal {
                    answer(&mut stream, peer, refusal).await;
                }
                None
            }
        }
    }
}

/// Answers a connection over the limit with 503 once it has sent a request. Until then, it ends without an answer when it
/// has to make room for another one.
pub(crate) async fn refuse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: &SocketAddr,
    limit: usize,
    make_room: &Notify,
) {
    let mut stream = ActivityStream::new(stream);
    let request = select! {
        biased;
        request = in_time(REQUEST_TIMEOUT, handshake::read_head(&mut stream)) => request,
        () = make_room.notified() => return,
    };
    // A load balancer's health check may close without a request.
    if matches!(request, None | Some(Err(None))) {
        return;
    }
    let reason = format!("All {limit} connections are in use. Try again soon.");
    let refusal = handshake::refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    answer(&mut stream, peer, refusal).await;
}

async fn answer<S>(stream: &mut ActivityStream<S>, peer: &SocketAddr, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Browsers open spare connections that never send a byte. Health checks request the page, or OPTIONS, every second.
    if stream.has_received() && !refusal.status().is_success() {
        log_refusal(peer, &refusal);
    }
    if handshake::send(refusal, stream).await.is_ok() {
        linger(stream).await;
    }
}

fn log_connected(peer: &SocketAddr, request: &Request) {
    let field = |name| handshake::quote_all(request, name).map(display);
    let origin = field("Origin");
    // What a proxy claims.
    let forwarded_for = field("X-Forwarded-For");
    // None is selected. Some clients then give up.
    let subprotocols = field("Sec-WebSocket-Protocol");
    info!(%peer, origin, forwarded_for, subprotocols, "connected");
}

fn log_refusal(peer: &SocketAddr, refusal: &Refusal) {
    let status = refusal.status().as_u16();
    let refused = refusal.extensions().get::<RefusedField>();
    let reason = refused.map_or(refusal.body(), |refused| &refused.reason);
    let field = |name| refused.filter(|refused| refused.name == name);
    let value = |name| field(name).map(|refused| display(&refused.value));
    let [host, origin] = ["Host", "Origin"].map(value);
    let [key, version] = ["Sec-WebSocket-Key", "Sec-WebSocket-Version"].map(value);
    info!(%peer, status, reason, host, origin, key, version, "refused");
}
