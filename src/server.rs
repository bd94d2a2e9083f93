//! The server as a whole: accepting connections, serving as many as there may be and refusing the others, the drain.

mod listen;

use std::{future::pending, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

pub use self::listen::{HostPort, Listener, listen};
use crate::{
    connection::{Context, refuse},
    handshake::{AllowedHost, AllowedOrigin, Policy, Rejection, Request},
    notifications::Source,
    session::Shutdown,
};

/// How many connections over the limit are refused at once; the next ones wait in the backlog.
const MAX_REFUSALS: usize = 64;

/// How long to wait after an accept for which there was no descriptor or no memory: until one may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After this long without a failed accept, the same error is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long clients have to leave once the server is stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The browser origins that are let in besides the server's own.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The host names under which the server may be reached; none means any.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The silence, from the client or to it, after which the client is sent a ping; given as long again to answer.
    pub keepalive: Duration,
    /// The most connections at once, those still in their handshake included.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            keepalive: Duration::from_secs(20),
            max_connections: Semaphore::MAX_PERMITS,
        }
    }
}

/// A running server. Dropping it ends all its connections at once.
#[derive(Debug)]
pub struct Server {
    shutdown: watch::Sender<Shutdown>,
    accept_loops: JoinSet<()>,
    connection_permits: Arc<Semaphore>,
    max_connections: usize,
}

impl Server {
    /// Accepts clients from now on, in tasks of their own, and pushes to each what its source gives it from its `start`
    /// on. `new_source` makes the source, or refuses the client, by what its handshake says; it must not block.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn start<L, F, N>(listeners: Vec<L>, config: Config, new_source: F) -> Self
    where
        L: Listener,
        F: Fn(&Request<'_>) -> Result<N, Rejection> + Send + Sync + 'static,
        N: Source,
    {
        let max_connections = config.max_connections.min(Semaphore::MAX_PERMITS);
        let (shutdown, shutdown_asked) = watch::channel(Shutdown::No);
        let shared = Arc::new(Shared {
            max_connections,
            connection_permits: Arc::new(Semaphore::new(max_connections)),
            refusal_permits: Arc::new(Semaphore::new(max_refusals(max_connections))),
            context: Context {
                policy: Policy {
                    allowed_origins: config.allowed_origins,
                    allowed_hosts: config.allowed_hosts,
                },
                keepalive: config.keepalive,
                new_source,
                shutdown: shutdown_asked,
            },
        });
        let connection_permits = Arc::clone(&shared.connection_permits);
        let mut accept_loops = JoinSet::new();
        for listener in listeners {
            accept_loops.spawn(accept_loop(listener, Arc::clone(&shared)));
        }
        Self {
            shutdown,
            accept_loops,
            connection_permits,
            max_connections,
        }
    }

    /// Closes the listeners and sends every client Close 1001. Returns when all have left, or after 5 s, when those that
    /// have not are cut off.
    pub async fn shutdown(mut self) {
        self.drain(Shutdown::Now).await;
    }

    /// The same, but clients that have said `start` are sent what their source still has, until it ends.
    ///
    /// Cancel safe: [`shutdown`](Self::shutdown) may follow.
    pub async fn finish(&mut self) {
        self.drain(Shutdown::WhenSourceEnds).await;
    }

    async fn drain(&mut self, shutdown: Shutdown) {
        info!(connections = self.connection_count(), "stopping");
        self.shutdown.send_replace(shutdown);
        let all_ended = async { while self.accept_loops.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_TIMEOUT, all_ended).await;
        info!(cut = self.connection_count(), "stopped");
        self.accept_loops.shutdown().await;
    }

    fn connection_count(&self) -> usize {
        self.max_connections - self.connection_permits.available_permits()
    }
}

/// What all accept loops and connections share.
#[derive(Debug)]
struct Shared<F> {
    max_connections: usize,
    connection_permits: Arc<Semaphore>,
    refusal_permits: Arc<Semaphore>,
    context: Context<F>,
}

/// A fraction of the connections, so that few descriptors are not all taken by clients that are refused.
fn max_refusals(max_connections: usize) -> usize {
    (max_connections / 3).clamp(1, MAX_REFUSALS)
}

/// Accepts connections until the server stops, then waits for those that it has accepted.
async fn accept_loop<L, F, N>(mut listener: L, shared: Arc<Shared<F>>)
where
    L: Listener,
    F: Fn(&Request<'_>) -> Result<N, Rejection> + Send + Sync + 'static,
    N: Source,
{
    let mut connections = JoinSet::new();
    let mut errors = AcceptErrors::default();
    let mut stopping = pin!(Shutdown::WhenSourceEnds.wait(shared.context.shutdown.clone()));
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
                connections.spawn(Arc::clone(&shared).serve::<L, N>(stream, peer, permit));
            }
            Err(error) if is_of_connection(&error) => debug!(%error, "a client left the backlog"),
            Err(error) => {
                errors.report(&error);
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
    last: Option<(io::ErrorKind, Instant)>,
}

impl AcceptErrors {
    fn report(&mut self, error: &io::Error) {
        if self.should_log(error.kind()) {
            warn!(%error, "can't accept connections, still trying");
        }
    }

    fn should_log(&mut self, kind: io::ErrorKind) -> bool {
        let now = Instant::now();
        let last = self.last.replace((kind, now));
        last.is_none_or(|(last_kind, last)| kind != last_kind || now >= last + LOG_INTERVAL)
    }
}

/// What a connection is accepted for.
#[derive(Debug)]
enum Permit {
    Serve(OwnedSemaphorePermit),
    Refuse(OwnedSemaphorePermit),
}

impl<F> Shared<F> {
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

    async fn serve<L, N>(self: Arc<Self>, mut stream: L::Stream, peer: SocketAddr, permit: Permit)
    where
        L: Listener,
        F: Fn(&Request<'_>) -> Result<N, Rejection>,
        N: Source,
    {
        match permit {
            Permit::Serve(permit) => {
                if self.context.serve(&mut stream, peer).await {
                    L::reset(&stream);
                }
                // In this order, so that there is a descriptor for the next one.
                drop(stream);
                drop(permit);
            }
            Permit::Refuse(permit) => {
                Box::pin(refuse(stream, peer, self.max_connections)).await;
                drop(permit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_accept_error_is_logged_again_only_after_a_minute_without_one() {
        let mut errors = AcceptErrors::default();
        assert!(errors.should_log(io::ErrorKind::Other));
        assert!(errors.should_log(io::ErrorKind::OutOfMemory));
        for (wait, logged) in [(0, false), (59, false), (59, false), (60, true), (90, true)] {
            advance(Duration::from_secs(wait)).await;
            assert_eq!(
                errors.should_log(io::ErrorKind::OutOfMemory),
                logged,
                "{wait}"
            );
        }
    }
}
