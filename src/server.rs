//! The server as a whole: listening on every address, accepting, the connection limit, the drain.

use std::{
    collections::BTreeSet, fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    connection::{Service, refuse},
    notifications::Source,
    options::{HostPort, Options},
    refusal::Refusal,
    workers::Workers,
};

/// How many connections may wait to be accepted. A storm of clients overflows a smaller one, and each then tries
/// again after a second. (Linux cuts it to `net.core.somaxconn`, by default the same.)
const BACKLOG: u32 = 4096;

/// What the kernel may keep for a client that does not read: about a hundred notifications.
const SEND_BUFFER: u32 = 16 * 1024;

/// How long to wait before the next try after a failed accept, for a descriptor to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After this long without a failed accept, the next one is told again.
const ACCEPT_QUIET: Duration = Duration::from_secs(60);

/// How long clients have to leave once the server is stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections over the limit are told so at once; the next ones wait in the backlog.
const REFUSALS: u32 = 64;

/// Descriptors for neither connections nor workers: standard streams, listeners, signals, with some to spare.
const OWN_DESCRIPTORS: u32 = 24;

/// Listens on every address that the host resolves to. An address that this machine does not have is passed over.
///
/// # Errors
///
/// When the host does not resolve, when one of its addresses can't be listened on, or when the machine has none of them.
pub async fn listen(host: &HostPort) -> io::Result<Vec<TcpListener>> {
    // A set, since a host may be listed with one address twice.
    let addresses: BTreeSet<SocketAddr> = lookup_host((host.host.as_str(), host.port))
        .await
        .map_err(|error| with_address(host, &error))?
        .collect();
    let mut listeners = Vec::new();
    let mut passed_over = None;
    for address in addresses {
        match listen_on(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_not_ours(&error) => passed_over = Some(with_address(address, &error)),
            Err(error) => return Err(with_address(address, &error)),
        }
    }
    match passed_over {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // So that the address can be listened on again at once after the server has stopped.
    socket.set_reuseaddr(true)?;
    // Both are inherited by the connections.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_not_ours(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn with_address(address: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Accepts clients and pushes to each what `start` makes for it once it has said `start`, until `shutdown` is ready
/// and every client has left or [`DRAIN_TIMEOUT`] is over.
///
/// # Errors
///
/// When the threads for the connections can't be started.
pub async fn run<F, N>(
    listeners: Vec<TcpListener>,
    options: &Options,
    start: F,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source + 'static,
{
    let workers = Workers::start()?;
    let limits = Limits::new(options, &workers);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopping = async { drop(stopped.await) }.boxed().shared();
    let acceptor = Arc::new(Acceptor {
        limits,
        slots: Arc::new(Semaphore::new(limits.connections as usize)),
        refusals: Arc::new(Semaphore::new(limits.refusals as usize)),
        workers,
        service: Arc::new(Service {
            allowed: options.allow_origin.clone(),
            start,
            stopping,
        }),
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&acceptor)));
    }
    shutdown.await;
    accepting.shutdown().await;
    drop(stop);
    acceptor.drain().await;
    Ok(())
}

/// How many connections there may be at once, and how many more that are being refused.
#[derive(Clone, Copy)]
struct Limits {
    connections: u32,
    refusals: u32,
}

impl Limits {
    /// What the descriptor limit leaves, unless the options say how many.
    fn new(options: &Options, workers: &Workers) -> Self {
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
        let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let spare = descriptors.saturating_sub(OWN_DESCRIPTORS + workers.descriptors());
        let refusals = (spare / 4).clamp(1, REFUSALS);
        let rest = spare.saturating_sub(refusals).max(1);
        Self {
            connections: options.max_connections.map_or(rest, u32::from),
            refusals,
        }
    }
}

struct Acceptor<F> {
    limits: Limits,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    workers: Workers,
    service: Arc<Service<F>>,
}

async fn accept<F, N>(listener: TcpListener, acceptor: Arc<Acceptor<F>>)
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source + 'static,
{
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => acceptor.admit(stream, peer).await,
            // Nearly always for want of descriptors: the connection stays in the backlog until one is free.
            Err(error) => {
                let now = Instant::now();
                if told.is_none_or(|told| now > told + ACCEPT_QUIET) {
                    warn!(%error, "can't accept connections, trying on");
                }
                told = Some(now);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl<F, N> Acceptor<F>
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source + 'static,
{
    /// Deals the connection out to a worker, or has it refused when there are as many as there may be.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return self.refuse(stream, peer).await;
        };
        // It fails only for a socket that is none.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let service = Arc::clone(&self.service);
        self.workers.next().spawn(async move {
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            service.serve(stream, &peer).await;
            drop(slot);
        });
    }

    async fn refuse(&self, stream: TcpStream, peer: SocketAddr) {
        let limit = self.limits.connections;
        let refusal = Arc::clone(&self.refusals).acquire_owned().await;
        tokio::spawn(async move {
            refuse(stream, &peer, Refusal::full(limit)).await;
            drop(refusal);
        });
    }
}

impl<F> Acceptor<F> {
    /// Waits for every connection to end. What has not ended in time ends with the workers.
    async fn drain(&self) {
        let open = || self.limits.connections as usize - self.slots.available_permits();
        info!(clients = open(), "stopping");
        let all_left = async {
            let _slots = self.slots.acquire_many(self.limits.connections).await;
            let _refusals = self.refusals.acquire_many(self.limits.refusals).await;
        };
        let _ = timeout(DRAIN_TIMEOUT, all_left).await;
        info!(cut = open(), "stopped");
    }
}
