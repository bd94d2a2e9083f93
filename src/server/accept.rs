//! Accepting connections: serving as many as there may be, refusing the others, surviving what fails.

use std::{future::pending, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
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

/// How many connections over the limit are refused at once; the next ones wait in the backlog.
const MAX_REFUSALS: usize = 64;

/// How long to wait after an accept for which there was no descriptor or no memory: until one may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After this long without a failed accept, one is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What all accept loops and connections share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    context: Context<F>,
    connection_permits: Arc<Semaphore>,
    refusal_permits: Arc<Semaphore>,
}

/// Accepts connections until the server stops, then waits for those that it has accepted.
pub(super) async fn accept_loop<L, F, N>(mut listener: L, shared: Arc<Shared<F>>)
where
    L: Listener,
    F: Fn(&Request, SocketAddr) -> Result<N, Refusal> + Send + Sync + 'static,
    N: Source,
{
    let mut connections = JoinSet::new();
    let mut last_error: Option<Instant> = None;
    let mut stopping = pin!(shared.context.shutdown.finishing.cancelled());
    loop {
        let accepted = select! {
            () = &mut stopping => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let permit = select! {
                    () = &mut stopping => break,
                    permit = shared.admit() => permit,
                };
                shared.spawn::<L, N>(&mut connections, stream, peer, permit);
            }
            Err(error) if is_of_connection(&error) => {
                debug!(%error, "connection aborted before it was accepted");
            }
            Err(error) => {
                // It may come ten times a second, as long as descriptors are short.
                if last_error.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
                    warn!(%error, "can't accept connections, still trying");
                }
                last_error = Some(Instant::now());
                select! {
                    () = &mut stopping => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Errors of the one connection that was to be accepted, not of the listener (accept(2)).
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// What a connection is accepted for.
#[derive(Debug)]
enum Permit {
    Serve(OwnedSemaphorePermit),
    Refuse(OwnedSemaphorePermit),
}

impl<F> Shared<F> {
    pub(super) fn new(context: Context<F>) -> Self {
        Self {
            connection_permits: Arc::new(Semaphore::new(context.config.max_connections)),
            refusal_permits: Arc::new(Semaphore::new(MAX_REFUSALS)),
            context,
        }
    }

    pub(super) fn connection_permits(&self) -> &Arc<Semaphore> {
        &self.connection_permits
    }

    /// Takes one of the connections that there may be, or else refuses it. When as many are being refused as there may be,
    /// waits: it is served should there be room by then.
    async fn admit(&self) -> Permit {
        let [serve, refuse] = [&self.connection_permits, &self.refusal_permits]
            .map(|permits| Arc::clone(permits).acquire_owned());
        // No semaphore is ever closed.
        select! {
            biased;
            Ok(permit) = serve => Permit::Serve(permit),
            Ok(permit) = refuse => Permit::Refuse(permit),
            else => pending().await,
        }
    }

    /// Serves or refuses the connection in a task of its own.
    fn spawn<L, N>(
        self: &Arc<Self>,
        connections: &mut JoinSet<()>,
        mut stream: L::Stream,
        peer: SocketAddr,
        permit: Permit,
    ) where
        L: Listener,
        F: Fn(&Request, SocketAddr) -> Result<N, Refusal> + Send + Sync + 'static,
        N: Source,
    {
        let shared = Arc::clone(self);
        match permit {
            Permit::Serve(permit) => connections.spawn(async move {
                if shared.context.serve(&mut stream, &peer).await {
                    L::reset(&stream);
                }
                // In this order, so that there is a descriptor for the next one.
                drop(stream);
                drop(permit);
            }),
            Permit::Refuse(permit) => connections.spawn(async move {
                select! {
                    () = shared.context.shutdown.finishing.cancelled() => {}
                    () = refuse(stream, &peer, shared.context.config.max_connections) => {}
                }
                drop(permit);
            }),
        };
    }
}
