//! One connection from its first byte to its last: handshake, conversation, linger, and what the log says of it.

use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};

use futures_util::future::{BoxFuture, Shared};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};
use tracing::info;

use crate::{
    handshake::{self, AllowedHost, AllowedOrigin, HandshakeError, Policy, Response},
    io::{ActivityStream, linger},
    notifications::Source,
    session::Session,
};

/// How long a client that is to be refused for want of room may take to send its request: one that is answered before it
/// has asked takes the answer for garbage.
const REFUSAL_DELAY: Duration = Duration::from_secs(2);

/// The largest frame and message that a client may send: `start` needs 5 bytes, `wrong words` a line.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Room for `start` and for pongs; what is larger makes it grow. Allocated for each connection.
const READ_BUFFER: usize = 64;

/// What every connection needs to know.
pub struct Service<F> {
    policy: Policy,
    /// Makes the source of a client's notifications when it has said `start`.
    start: F,
    /// Ready when the server stops.
    stopping: Shared<BoxFuture<'static, ()>>,
}

impl<F: Fn() -> N, N: Source> Service<F> {
    /// Lets in the server's own origin and those listed, under any host or those listed.
    pub fn new(
        allowed_origins: Vec<AllowedOrigin>,
        allowed_hosts: Vec<AllowedHost>,
        start: F,
        stopping: Shared<BoxFuture<'static, ()>>,
    ) -> Self {
        let policy = Policy {
            allowed_origins,
            allowed_hosts,
        };
        Self {
            policy,
            start,
            stopping,
        }
    }

    /// Serves the client at the other end of `stream` until one side ends the connection or the server stops.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, peer: &SocketAddr) {
        let opened = Instant::now();
        let mut stopping = self.stopping.clone();
        // In a box, since it needs far more memory than the conversation and is soon over.
        let opening = Box::pin(open(stream, peer, &self.policy, &mut stopping));
        let Some(socket) = opening.await else { return };
        let timer = pin!(sleep_until(opened));
        let mut session = Session::new(socket, peer, timer);
        let Err(end) = session.run(&self.start, &mut stopping).await;
        session.close(&end).await;
        let seconds = opened.elapsed().as_secs();
        // As a string, which the log quotes and escapes.
        info!(%peer, end = end.to_string(), notifications = session.pushed, seconds, "gone");
    }
}

/// Limits for tungstenite, whose default buffers are 128 KiB and whose default message limit is 64 MiB. What is to be
/// written needs none: a flush follows every message, and only last words are two.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_frame_size(Some(MESSAGE_LIMIT))
        .max_message_size(Some(MESSAGE_LIMIT))
}

/// Performs the handshake. `None` when there was none.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: &SocketAddr,
    policy: &Policy,
    stopping: impl Future<Output = ()>,
) -> Option<WebSocketStream<ActivityStream<S>>> {
    let mut stream = ActivityStream::new(stream);
    let upgraded = select! {
        // First, for a proxy tries another server when it is dropped, and not when it is upgraded and then sent 1001.
        biased;
        () = stopping => return None,
        upgraded = handshake::upgrade(&mut stream, *peer, policy, |_| Ok(())) => upgraded,
    };
    match upgraded {
        Ok((origin, ())) => {
            info!(%peer, origin = origin.map(tracing::field::display), "connected");
        }
        Err(HandshakeError::Answered(response)) => {
            log(peer, &response);
            answer(&mut stream, &response).await;
            return None;
        }
        Err(HandshakeError::Disconnected) => return None,
    }
    Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
}

/// Refuses a connection over the limit.
pub(crate) async fn refuse_at_limit<S>(stream: S, peer: &SocketAddr, limit: u32)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = ActivityStream::new(stream);
    let request = handshake::discard_request(&mut stream, *peer);
    // A balancer's health check may close without a request.
    if let Ok(Err(HandshakeError::Disconnected)) = timeout(REFUSAL_DELAY, request).await {
        return;
    }
    let response = Response::too_many_connections(limit);
    answer(&mut stream, &response).await;
    if stream.has_received() {
        log(peer, &response);
    }
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), response: &Response) {
    if response.send(stream).await.is_ok() {
        linger(stream).await;
    }
}

fn log(peer: &SocketAddr, response: &Response) {
    if let Some(reason) = response.reason() {
        info!(%peer, status = %response.status(), reason, "refused");
    }
}
