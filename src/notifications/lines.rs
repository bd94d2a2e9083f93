//! The lines of an input, such as standard input, pushed to every client.
//!
//! A thread reads them (`reader`), a task publishes them, and each client takes them from one shared `backlog`. The task
//! stands between, since it would cost the thread a system call to wake each client.

mod backlog;
mod reader;

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
    time::{sleep, timeout},
};

pub use self::reader::InputEnd;
use self::{
    backlog::{Backlog, Lost, Place},
    reader::read_lines,
};
use super::{CloseCode, CloseFrame, Notification, Source};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// How many lines may be read ahead of what is published: enough to seldom wait for the other side's wake-up.
const QUEUE: usize = 64;

/// How long the producer waits for clients that are [`LIMIT`](backlog::LIMIT) lines behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a signal may come after the end of the input. One that ends the producer along with the server, as Ctrl-C does
/// in a pipeline, is to close the clients with 1001, at which they connect again, and not with 1000.
const END_DELAY: Duration = Duration::from_millis(100);

/// The lines of an input, for any number of clients.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backlog: Mutex<Backlog>,
    /// How many notifications were read, published or not.
    read: AtomicU64,
    /// For clients: something was published, or the input has ended.
    published: Notify,
    /// For the publisher: all clients that read have taken all.
    taken: Notify,
}

impl Lines {
    /// Reads the input in a thread of its own. The task that is returned with the lines ends when the input has ended and
    /// all of it is published; clients may still have to take what is left.
    ///
    /// Clients are sent the last `history` lines at their `start`, up to 4,096.
    ///
    /// # Errors
    ///
    /// When the thread can't be started.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
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
        let (queue, queued) = mpsc::channel(QUEUE);
        let counted = Arc::clone(&shared);
        let reader = thread::Builder::new().name("input".into()).spawn(move || {
            read_lines(input, |line| {
                counted.read.fetch_add(1, Ordering::Relaxed);
                // Fails when the server has stopped.
                queue.blocking_send(line).is_ok()
            })
        })?;
        let lines = Self(Arc::clone(&shared));
        let publisher = tokio::spawn(async move {
            shared.publish_all(queued).await;
            // It has dropped the queue, so it has all but ended.
            let panicked = |_| InputEnd::failed(io::Error::other("reading the input panicked"));
            reader.join().unwrap_or_else(panicked)
        });
        Ok((lines, publisher))
    }

    /// What one client is pushed: the lines that are read from its `start` on, and the history before them.
    #[must_use]
    pub fn source(&self) -> LinesSource {
        LinesSource {
            shared: Arc::clone(&self.0),
            place: None,
            since: 0,
        }
    }
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Not poisoned: nothing panics under this lock.
        self.backlog.lock().unwrap()
    }

    /// Publishes what is read. The queue fills and the producer waits as long as clients that read have not been sent what
    /// was published before, and for [`PATIENCE`] for those that do not, once until they have caught up.
    async fn publish_all(&self, mut queued: mpsc::Receiver<Notification>) {
        let mut batch = Vec::with_capacity(QUEUE);
        while queued.recv_many(&mut batch, QUEUE).await > 0 {
            for line in batch.drain(..) {
                if self.backlog().is_full() {
                    self.published.notify_waiters();
                    let taken = timeout(PATIENCE, self.until(Backlog::is_taken_by_all));
                    if taken.await.is_err() {
                        self.backlog().give_up();
                    }
                }
                self.backlog().push(line);
            }
            self.published.notify_waiters();
            self.until(Backlog::is_taken_by_readers).await;
        }
        sleep(END_DELAY).await;
        self.backlog().has_ended = true;
        self.published.notify_waiters();
    }

    async fn until(&self, is_taken: impl Fn(&Backlog) -> bool) {
        while !is_taken(&self.backlog()) {
            self.taken.notified().await;
        }
    }

    /// A client goes from one place to another, or comes, or leaves.
    fn step(&self, backlog: &mut Backlog, place: &mut Option<Place>, to: Option<Place>) {
        backlog.step(*place, to);
        *place = to;
        if backlog.is_taken_by_readers() {
            self.taken.notify_one();
        }
    }
}

/// The lines of an input for one client, from its `start` on.
#[derive(Debug)]
pub struct LinesSource {
    shared: Arc<Shared>,
    /// The client's place in the backlog, once it has said `start`.
    place: Option<Place>,
    /// How many notifications had been read before those that it is sent.
    since: u64,
}

impl LinesSource {
    /// The next line, if there is one; the error is why there will be no more.
    fn take(&mut self) -> Option<Result<Notification, CloseFrame>> {
        let mut backlog = self.shared.backlog();
        loop {
            let place = self.place?;
            let line = match backlog.get(place) {
                Ok(Some(line)) => line.clone(),
                Ok(None) if backlog.has_ended => {
                    return Some(Err(close(CloseCode::Normal, "the input has ended")));
                }
                Ok(None) => return None,
                Err(Lost) => {
                    let reason = "fell more than 4096 lines behind, some were lost";
                    return Some(Err(close(CloseCode::Again, reason)));
                }
            };
            let to = Some(place.after_next());
            self.shared.step(&mut backlog, &mut self.place, to);
            // The others were read before the client's `start`, though published after it.
            if place.next >= self.since {
                return Some(Ok(line));
            }
        }
    }

    fn set_paused(&mut self, is_paused: bool) {
        let to = self.place.map(|place| Place { is_paused, ..place });
        let backlog = &mut self.shared.backlog();
        self.shared.step(backlog, &mut self.place, to);
    }
}

impl Source for LinesSource {
    fn start(&mut self) {
        let backlog = &mut self.shared.backlog();
        let read = self.shared.read.load(Ordering::Relaxed);
        self.since = read.saturating_sub(backlog.history as u64);
        let start = Some(backlog.start());
        self.shared.step(backlog, &mut self.place, start);
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Before looking, so that what is published meanwhile is not missed.
            let published = shared.published.notified();
            match self.take() {
                Some(taken) => return taken,
                None => published.await,
            }
        }
    }

    fn try_next(&mut self) -> Option<Notification> {
        self.take().and_then(Result::ok)
    }

    fn pause(&mut self) {
        self.set_paused(true);
    }

    fn resume(&mut self) {
        self.set_paused(false);
    }
}

impl Drop for LinesSource {
    fn drop(&mut self) {
        let backlog = &mut self.shared.backlog();
        self.shared.step(backlog, &mut self.place, None);
    }
}

fn close(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }
}
