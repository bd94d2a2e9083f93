//! The lines of an input, such as standard input, pushed to every client.
//!
//! A thread reads them (`reader`), a task publishes them, and each client takes them from one shared `backlog`. The task
//! stands between, since it would cost the thread a system call to wake each client.

mod backlog;
mod reader;

use std::{
    io::{self, Read},
    sync::{
        Arc,
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
    backlog::{Backlog, Cursor, Taken},
    reader::Reader,
};
use super::{CloseCode, CloseFrame, Notification, Source};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// How many lines may be read ahead of what is published: enough to seldom wait for the other side's wake-up.
const QUEUE: usize = 64;

/// How long the producer waits for clients that are [`LIMIT`] lines behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a signal may come after the end of the input. One that ends the producer along with the server, as Ctrl-C does
/// in a pipeline, is to close the clients with 1001, at which they connect again, and not with 1000.
const END_DELAY: Duration = Duration::from_millis(100);

/// The lines of an input, for any number of clients.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backlog: Backlog,
    /// How many notifications were read, published or not.
    read: AtomicU64,
    /// Something was published, or the input has ended.
    published: Notify,
}

impl Lines {
    /// Reads the input in a thread of its own. The task that is returned with the lines ends when the input has ended and
    /// all of it is published; clients may still have to take what is left.
    ///
    /// # Errors
    ///
    /// When the thread can't be started.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn read(input: impl Read + Send + 'static) -> io::Result<(Self, JoinHandle<InputEnd>)> {
        let shared = Arc::new(Shared {
            backlog: Backlog::default(),
            read: AtomicU64::new(0),
            published: Notify::new(),
        });
        let (queue, queued) = mpsc::channel(QUEUE);
        let counted = Arc::clone(&shared);
        let reader = thread::Builder::new().name("input".into()).spawn(move || {
            Reader::new(input).run(|line| {
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

    /// What one client is pushed: the lines that are read from its `start` on.
    #[must_use]
    pub fn source(&self) -> LinesSource {
        LinesSource {
            shared: Arc::clone(&self.0),
            cursor: None,
            since: 0,
        }
    }
}

impl Shared {
    /// Publishes what is read. The queue fills and the producer waits as long as clients that read have not been sent what
    /// was published before, and for [`PATIENCE`] for those that do not, once until they have caught up.
    async fn publish_all(&self, mut queued: mpsc::Receiver<Notification>) {
        let mut batch = Vec::with_capacity(QUEUE);
        while queued.recv_many(&mut batch, QUEUE).await > 0 {
            for line in batch.drain(..) {
                if self.backlog.is_full() {
                    self.published.notify_waiters();
                    let emptied = timeout(PATIENCE, self.backlog.emptied());
                    if emptied.await.is_err() {
                        self.backlog.give_up();
                    }
                }
                self.backlog.push(line);
            }
            self.published.notify_waiters();
            self.backlog.taken_by_readers().await;
        }
        sleep(END_DELAY).await;
        self.backlog.end();
        self.published.notify_waiters();
    }
}

/// The lines of an input for one client, from its `start` on.
#[derive(Debug)]
pub struct LinesSource {
    shared: Arc<Shared>,
    /// The client's place in the backlog, once it has said `start`.
    cursor: Option<Cursor>,
    /// How many notifications had been read before.
    since: u64,
}

impl LinesSource {
    fn take(&mut self) -> Taken {
        let Some(cursor) = &mut self.cursor else {
            return Taken::Nothing;
        };
        loop {
            match self.shared.backlog.take(cursor) {
                // Read before the client's `start`, though published after it.
                Taken::Line(index, _) if index < self.since => {}
                taken => return taken,
            }
        }
    }
}

impl Source for LinesSource {
    fn start(&mut self) {
        self.cursor = Some(self.shared.backlog.join());
        self.since = self.shared.read.load(Ordering::Relaxed);
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Before looking, so that what is published meanwhile is not missed.
            let published = shared.published.notified();
            match self.take() {
                Taken::Line(_, line) => return Ok(line),
                Taken::Nothing => published.await,
                Taken::Ended => return Err(close(CloseCode::Normal, "the input has ended")),
                Taken::Lost => {
                    let reason = "fell more than 4096 lines behind, some were lost";
                    return Err(close(CloseCode::Again, reason));
                }
            }
        }
    }

    fn try_next(&mut self) -> Option<Notification> {
        match self.take() {
            Taken::Line(_, line) => Some(line),
            _ => None,
        }
    }

    fn pause(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            self.shared.backlog.pause(cursor);
        }
    }

    fn resume(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            self.shared.backlog.resume(cursor);
        }
    }
}

impl Drop for LinesSource {
    fn drop(&mut self) {
        if let Some(cursor) = &self.cursor {
            self.shared.backlog.leave(cursor);
        }
    }
}

fn close(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }
}
