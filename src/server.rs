//! The server as a whole: its start, its limits, its shutdown.

mod accept;
mod listen;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use tracing::info;

use self::accept::Shared;
pub use self::listen::{Listener, listen};
use crate::{
    config::Config,
    connection::Context,
    handshake::{Refusal, Request},
    io::in_time,
    notifications::Source,
    session::Shutdown,
};

/// How long clients have to leave once the server is stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends all its connections at once.
#[derive(Debug)]
pub struct Server {
    shutdown: Shutdown,
    accept_loops: JoinSet<()>,
    connection_permits: Arc<Semaphore>,
    max_connections: usize,
}

impl Server {
    /// Starts serving in background tasks. `new_source` makes each client's source from its handshake, or rejects the
    /// client with [`refuse`](crate::refuse); it must not block.
    ///
    /// # Panics
    ///
    /// When called outside a tokio runtime.
    pub fn start<L, F, N>(listeners: Vec<L>, config: Config, new_source: F) -> Self
    where
        L: Listener,
        F: Fn(&Request, SocketAddr) -> Result<N, Refusal> + Send + Sync + 'static,
        N: Source,
    {
        let shutdown = Shutdown::default();
        let config = config.clamped();
        let max_connections = config.max_connections;
        let shared = Arc::new(Shared::new(Context {
            config,
            new_source,
            shutdown: shutdown.clone(),
        }));
        let connection_permits = Arc::clone(&shared.connection_permits);
        let mut accept_loops = JoinSet::new();
        for listener in listeners {
            accept_loops.spawn(Arc::clone(&shared).accept_loop(listener));
        }
        Self {
            shutdown,
            accept_loops,
            connection_permits,
            max_connections,
        }
    }

    /// Closes the listeners and sends every client Close 1001. Returns when all clients have left, or after 5 s, when the
    /// remaining ones are cut off.
    pub async fn shutdown(mut self) {
        self.shutdown.closing.cancel();
        self.drain().await;
    }

    /// Like [`shutdown`](Self::shutdown), but started clients first receive what their source still has.
    ///
    /// Cancel safe: `shutdown` may follow.
    pub async fn drain(&mut self) {
        info!(connections = self.connection_count(), "stopping");
        self.shutdown.draining.cancel();
        let all_ended = async { while self.accept_loops.join_next().await.is_some() {} };
        let _ = in_time(DRAIN_TIMEOUT, all_ended).await;
        info!(cut_off = self.connection_count(), "stopped");
        self.accept_loops.shutdown().await;
    }

    fn connection_count(&self) -> usize {
        self.max_connections - self.connection_permits.available_permits()
    }
}
