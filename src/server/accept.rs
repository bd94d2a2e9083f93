//! Accepting connections: serving as many as there may be, refusing the others, surviving what fails.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

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
    handshake::{Request, Response},
    notifications::Source,
};

/// How many connections over the limit are refused at once; the next ones wait in the backlog.
const MAX_REFUSALS: usize = 64;

/// How long to wait after an accept for which there was no descriptor or no memory: until one may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After this long without a failed accept, the same error is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What all accept loops and connections share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    context: Context<F>,
    max_connections: usize,
    connection_permits: Arc<Semaphore>,
    refusal_permits: Arc<Semaphore>,
    errors: Mutex<AcceptErrors>,
}

/// Accepts connections until the server stops, then waits for those that it has accepted.
pub(super) async fn accept_loop<L, F, N>(mut listener: L, shared: Arc<Shared<F>>)
where
    L: Listener,
    F: Fn(&Request, SocketAddr) -> Result<N, Response> + Send + Sync + 'static,
    N: Source,
{
    let mut connections = JoinSet::new();
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
                shared.report(&error);
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
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    ) || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EPERM))
}

/// Rate-limits accept errors, which come ten times a second as long as descriptors are short.
#[derive(Debug, Default)]
struct AcceptErrors {
    /// The number of the last one, and when it came.
    last: Option<(Option<i32>, Instant)>,
}

impl AcceptErrors {
    fn should_log(&mut self, error: Option<i32>) -> bool {
        let now = Instant::now();
        let last = self.last.replace((error, now));
        last.is_none_or(|(last_error, last)| error != last_error || now >= last + LOG_INTERVAL)
    }
}

/// What a connection is accepted for.
#[derive(Debug)]
enum Permit {
    Serve(OwnedSemaphorePermit),
    Refuse(OwnedSemaphorePermit),
}

impl<F> Shared<F> {
    pub(super) fn new(context: Context<F>, max_connections: usize) -> Self {
        Self {
            context,
            max_connections,
            connection_permits: Arc::new(Semaphore::new(max_connections)),
            refusal_permits: Arc::new(Semaphore::new(MAX_REFUSALS)),
            errors: Mutex::default(),
        }
    }

    pub(super) fn connection_permits(&self) -> &Arc<Semaphore> {
        &self.connection_permits
    }

    fn report(&self, error: &io::Error) {
        // Not poisoned: nothing panics under this lock.
        let mut errors = self.errors.lock().unwrap();
        if errors.should_log(error.raw_os_error()) {
            warn!(%error, "can't accept connections, still trying");
        }
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
        F: Fn(&Request, SocketAddr) -> Result<N, Response> + Send + Sync + 'static,
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
                    () = refuse(stream, &peer, shared.max_connections) => {}
                }
                drop(permit);
            }),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_accept_error_is_logged_again_only_after_a_minute_without_one() {
        let mut errors = AcceptErrors::default();
        assert!(errors.should_log(Some(libc::EMFILE)));
        assert!(errors.should_log(Some(libc::ENOMEM)));
        for (wait, logged) in [(0, false), (59, false), (59, false), (60, true), (90, true)] {
            advance(Duration::from_secs(wait)).await;
            assert_eq!(errors.should_log(Some(libc::ENOMEM)), logged, "{wait}");
        }
    }
}
