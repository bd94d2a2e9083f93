//! The accept loop: serve as many connections as allowed, refuse the others, survive errors.

use std::{future::pending, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    select,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use super::Listener;
use crate::{
    connection::{Context, refuse},
    handshake::{Refusal, Request},
    notifications::Source,
};

/// How long to wait after an accept that failed for want of a descriptor or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a listener logs that accepting fails: it may fail ten times a second.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What all accept loops and connections share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    context: Context<F>,
    pub(super) connection_permits: Arc<Semaphore>,
    refusal_permits: Arc<Semaphore>,
    /// Ends the refusal that has waited longest for a request.
    make_room: Notify,
}

/// What happens to an accepted connection.
#[derive(Debug)]
enum Permit {
    Serve(OwnedSemaphorePermit),
    Refuse(OwnedSemaphorePermit),
}

/// Whether only the connection failed and not the listener (accept(2)). The same errors as in axum's `serve`.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

impl<F, N> Shared<F>
where
    F: Fn(&Request, SocketAddr) -> Result<N, Refusal> + Send + Sync + 'static,
    N: Source,
{
    pub(super) fn new(context: Context<F>) -> Self {
        Self {
            connection_permits: Arc::new(Semaphore::new(context.config.max_connections)),
            refusal_permits: Arc::new(Semaphore::new(context.config.max_refusals)),
            make_room: Notify::new(),
            context,
        }
    }

    /// Accepts connections until the server stops, then waits until they have ended.
    pub(super) async fn accept_loop<L: Listener>(self: Arc<Self>, mut listener: L) {
        let mut connections = JoinSet::new();
        let mut last_logged: Option<Instant> = None;
        let mut draining = pin!(self.context.shutdown.draining.cancelled());
        loop {
            let accepted = select! {
                () = &mut draining => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let permit = select! {
                        () = &mut draining => break,
                        permit = self.admit() => permit,
                    };
                    self.spawn::<L>(&mut connections, stream, peer, permit);
                }
                Err(error) if is_connection_error(&error) => {
                    debug!(%error, "connection aborted before it was accepted");
                }
                Err(error) => {
                    if last_logged.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
                        last_logged = Some(Instant::now());
                        warn!(%error, "can't accept connections, still trying");
                    }
                    select! {
                        () = &mut draining => break,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Admits a connection if there is room for it, and otherwise has it refused.
    async fn admit(&self) -> Permit {
        let permits = [&self.connection_permits, &self.refusal_permits];
        if permits.map(|permits| permits.available_permits()) == [0, 0] {
            self.make_room.notify_one();
        }
        let [serve, refuse] = permits.map(|permits| Arc::clone(permits).acquire_owned());
        // No semaphore is ever closed.
        let permit = select! {
            biased;
            Ok(permit) = serve => Permit::Serve(permit),
            Ok(permit) = refuse => Permit::Refuse(permit),
            else => pending().await,
        };
        // Left over, the notification would end a refusal that has just begun.
        let _ = self.make_room.notified().now_or_never();
        permit
    }

    /// Serves or refuses the connection in its own task. A source that panics ends only that task.
    fn spawn<L: Listener>(
        self: &Arc<Self>,
        connections: &mut JoinSet<()>,
        mut stream: L::Stream,
        peer: SocketAddr,
        permit: Permit,
    ) {
        let shared = Arc::clone(self);
        match permit {
            Permit::Serve(permit) => connections.spawn(async move {
                if shared.context.serve(&mut stream, &peer).await {
                    L::reset(&stream);
                }
                // In this order: the next connection needs the descriptor.
                drop(stream);
                drop(permit);
            }),
            Permit::Refuse(permit) => connections.spawn(async move {
                let limit = shared.context.config.max_connections;
                select! {
                    () = shared.context.shutdown.draining.cancelled() => {}
                    () = refuse(stream, &peer, limit, &shared.make_room) => {}
                }
                drop(permit);
            }),
        };
    }
}
