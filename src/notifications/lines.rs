//! The lines of an input, such as standard input, pushed to every client.
//!
//! A thread reads them (`reader`), a task publishes them, and every client takes them from one `backlog`. Without the task
//! in between, the thread would need a system call to wake each client.

mod backlog;
mod patience;
mod reader;
mod source;

use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep},
};

use self::{
    backlog::{Backlog, Place},
    patience::Patience,
    reader::read_lines,
};
pub use self::{reader::InputEnd, source::LinesSource};
use super::Notification;
use crate::io::{GRACE, in_time};

/// How many lines are read ahead of the publisher: enough to rarely wait for each other's wake-up.
const QUEUE: usize = 64;

/// How long a signal may come after the end of the input. Ctrl-C ends the producer of a pipeline too, and clients must get
/// 1001, after which they connect again, and not 1000.
const END_DELAY: Duration = Duration::from_millis(100);

/// The lines of an input, for any number of clients.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backlog: Mutex<Backlog>,
    /// How many notifications were read, published or not.
    read: AtomicU64,
    /// Wakes clients: something was published, or the input has ended.
    published: Notify,
    /// Wakes the publisher: all readers have taken everything, or a paused client has moved.
    taken: Notify,
}

impl Lines {
    /// Reads an input in its own thread. A client's `start` brings the last `history` lines first, up to 1,000 and 8 MiB.
    ///
    /// The returned task ends when the input has ended and every line is published. Clients may still have to take some.
    ///
    /// # Errors
    ///
    /// If the thread can't be started.
    ///
    /// # Panics
    ///
    /// When called outside a tokio runtime.
    pub fn read(
        input: impl Read + Send + 'static,
        history: usize,
    ) -> io::Result<(Self, JoinHandle<InputEnd>)> {
        let shared = Arc::new(Shared {
            backlog: Mutex::new(Backlog::new(history)),
            read: AtomicU64::new(0),
            published: Notify::new(),
            taken: Notify::new(),
        });
        let (queue, mut queued) = mpsc::channel(QUEUE);
        // Use each place once, so that the queue allocates its memory now. Among long lines, it would keep their memory from
        // going back to the system.
        for _ in 0..2 * QUEUE {
            let _ = queue
                .try_send(None)
                .or_else(|_| queued.try_recv().map(drop));
        }
        let counted = Arc::clone(&shared);
        let reader = thread::Builder::new().name("input".into()).spawn(move || {
            read_lines(input, |line| {
                counted.read.fetch_add(1, Ordering::Relaxed);
                // It fails once the server has stopped.
                queue.blocking_send(Some(line)).is_ok()
            })
        })?;
        let lines = Self(Arc::clone(&shared));
        let publisher = tokio::spawn(async move {
            shared.publish_all(queued).await;
            // The thread has dropped the queue, so it ends now.
            reader.join().unwrap_or_default()
        });
        Ok((lines, publisher))
    }

    /// Returns a source for one client.
    #[must_use]
    pub fn source(&self) -> LinesSource {
        LinesSource::new(Arc::clone(&self.0))
    }
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Never poisoned: nothing panics while it is locked.
        self.backlog.lock().unwrap()
    }

    /// Publishes what is read. While this waits for clients, the queue fills up and the producer waits too.
    async fn publish_all(&self, mut queued: mpsc::Receiver<Option<Notification>>) {
        let mut patience = Patience::new();
        let mut batch = Vec::with_capacity(QUEUE);
        while queued.recv_many(&mut batch, QUEUE).await > 0 {
            for line in batch.drain(..).flatten() {
                let size = line.size();
                self.wait_for_room(size, &mut patience).await;
                patience.restore(size);
                self.backlog().push(line);
            }
            self.published.notify_waiters();
            self.until(Backlog::is_taken_by_readers).await;
        }
        sleep(END_DELAY).await;
        self.backlog().has_ended = true;
        self.published.notify_waiters();
    }

    /// Waits until no client is at the limit for another line, as long as the patience lasts.
    async fn wait_for_room(&self, size: u64, patience: &mut Patience) {
        loop {
            let Some((place, paused)) = self.backlog().at_limit(size) else {
                return;
            };
            self.published.notify_waiters();
            let limit = patience.limit(paused.proven > 0);
            if limit.is_zero() {
                return;
            }
            let begin = Instant::now();
            let has_moved = self.until(|backlog| {
                let now = backlog.furthest();
                now.is_none_or(|now| now.0 != place || now.1.clients < paused.clients)
            });
            let is_vain = in_time(limit, has_moved).await.is_none();
            // If the server itself was stopped, that was no wait for a client.
            patience.spend(begin.elapsed().min(limit + GRACE), is_vain);
            if is_vain {
                return;
            }
        }
    }

    async fn until(&self, condition: impl Fn(&Backlog) -> bool) {
        while !condition(&self.backlog()) {
            self.taken.notified().await;
        }
    }

    /// Moves a client from one place to another.
    fn step(&self, backlog: &mut Backlog, place: &mut Option<Place>, to: Option<Place>) {
        backlog.step(*place, to);
        *place = to;
        if backlog.is_taken_by_readers() {
            self.taken.notify_one();
        }
    }
}
