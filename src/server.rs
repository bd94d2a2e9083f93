//! The server as a whole: accepting in the workers, refusing over the limit, the drain.

mod limits;
pub mod listen;

use std::{
    future::Future,
    io, mem,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{Mutex, Semaphore, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::info;

use crate::{
    connection::{Service, refuse_at_limit},
    failures::Failures,
    notifications::Source,
    options::Options,
    server::limits::Limits,
    workers::Worker,
};

/// How many connections a worker accepts in its turn: enough that passing the turn on costs next to nothing, few enough
/// that each worker serves as many as the others.
const TURN: usize = 32;

/// How long to wait before the next try after a failed accept, for a descriptor to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients have to leave once the server is stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts clients from now on, and pushes to each what `start` makes for it once it has said `start`. The future that
/// it returns waits until `shutdown` is ready and every client has left, or 5 s later; dropping it ends all at once.
///
/// From `options` it uses who may connect, how many at once, and the interval, which decides how many connections a
/// thread serves before the next one takes part.
///
/// # Errors
///
/// When the threads for the connections can't be started, or the system has no descriptors left for them.
pub fn run<F, N>(
    listeners: Vec<TcpListener>,
    options: &Options,
    start: F,
    shutdown: impl Future<Output = ()>,
) -> io::Result<impl Future<Output = ()>>
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source + 'static,
{
    let workers = Worker::start_all()?;
    let limits = Limits::new(options, workers.len());
    let (stop, stopped) = oneshot::channel::<()>();
    let stopping = async { drop(stopped.await) }.boxed().shared();
    let server = Arc::new(Server {
        limits,
        slots: Arc::new(Semaphore::new(limits.connections as usize)),
        refusals: Arc::new(Semaphore::new(limits.refusals as usize)),
        needed: watch::Sender::new(1),
        failures: Failures::default(),
        service: Service::new(
            options.allow_origin.clone(),
            options.allow_host.clone(),
            start,
            stopping,
        ),
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let listener = Arc::new(Mutex::new(listener.into_std()?));
        for (place, worker) in (0..).zip(&workers) {
            let accept = Arc::clone(&server).accept(Arc::clone(&listener), place);
            accepting.spawn_on(accept, worker.runtime());
        }
    }
    Ok(async move {
        shutdown.await;
        accepting.shutdown().await;
        drop(stop);
        server.drain().await;
        // What has not ended yet ends with its worker.
        drop(workers);
    })
}

/// What all workers share.
struct Server<F> {
    limits: Limits,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// How many workers it takes to serve the connections that there are.
    needed: watch::Sender<u32>,
    failures: Failures,
    service: Service<F>,
}

impl<F, N> Server<F>
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source + 'static,
{
    /// Accepts connections in the worker at this place, in turn with the others, as long as so many are needed.
    async fn accept(self: Arc<Self>, listener: Arc<Mutex<StdListener>>, place: u32) {
        let mut needed = self.needed.subscribe();
        loop {
            // Never fails, since `self` holds the sender.
            let _ = needed.wait_for(|&needed| needed > place).await;
            let listener = listener.lock().await;
            // The wait was perhaps for long, and fewer are needed by now.
            if *needed.borrow() <= place {
                continue;
            }
            if let Err(error) = self.take_turn(&listener).await {
                // Nearly always for want of descriptors: the connection stays in the backlog until one is free.
                self.failures.tell(&error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Waits at the listener alone, so that a new connection wakes no other worker.
    async fn take_turn(self: &Arc<Self>, listener: &StdListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener.try_clone()?)?;
        for _ in 0..TURN {
            let (stream, peer) = listener.accept().await?;
            self.admit(stream, peer).await;
        }
        Ok(())
    }

    /// Serves the connection, or refuses it when there are as many as there may be.
    async fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let server = Arc::clone(self);
        // Those who are being refused may keep the next one waiting: it is served should there be a slot by then.
        select! {
            biased;
            slot = Arc::clone(&self.slots).acquire_owned() => {
                self.call_workers();
                tokio::spawn(async move {
                    server.service.serve(stream, &peer).await;
                    drop(slot);
                });
            }
            permit = Arc::clone(&self.refusals).acquire_owned() => {
                tokio::spawn(async move {
                    refuse_at_limit(stream, &peer, server.limits.connections).await;
                    drop(permit);
                });
            }
        }
    }
}

impl<F> Server<F> {
    /// How many connections there are.
    fn open(&self) -> u32 {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        self.limits.connections.saturating_sub(free)
    }

    /// Has as many workers take part as there are connections for.
    fn call_workers(&self) {
        let needed = self.open().div_ceil(self.limits.per_worker);
        self.needed
            .send_if_modified(|workers| mem::replace(workers, needed) != needed);
    }

    /// Waits for every connection to end, in time.
    async fn drain(&self) {
        info!(connections = self.open(), "stopping");
        let all_ended = async {
            let _slots = self.slots.acquire_many(self.limits.connections).await;
            let _refusals = self.refusals.acquire_many(self.limits.refusals).await;
        };
        let _ = timeout(DRAIN_TIMEOUT, all_ended).await;
        info!(cut = self.open(), "stopped");
    }
}
