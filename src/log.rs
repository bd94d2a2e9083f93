//! The log, on standard error: what is logged is filtered by `RUST_LOG`, and nobody waits for it to be written.

use std::{
    env,
    io::{self, IsTerminal, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use tracing::{Level, warn};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How much may wait to be written. Once nobody reads standard error, what does not fit is lost.
const QUEUE_LIMIT: usize = 1024 * 1024;

/// How long lines are gathered before they are written: a storm of clients is not to cost a write for each.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// How long the end of the program waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Starts the log. What waits to be written when the guard is dropped is written then.
pub(crate) fn start() -> Guard {
    let queue = Arc::new(Queue::default());
    let (running, ended) = mpsc::channel::<()>();
    let writer = Arc::clone(&queue);
    // Where not even this thread can be started, the program says so when it starts its workers.
    let _ = thread::Builder::new().name("log".into()).spawn(move || {
        writer.write_out();
        drop(running);
    });
    let lines = fmt::layer()
        .with_writer(Arc::clone(&queue))
        .with_ansi(
            io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        )
        .with_target(false)
        // It would be written to standard error past the queue, and panic when that is broken.
        .log_internal_errors(false);
    let wanted = env::var("RUST_LOG")
        .ok()
        .filter(|wanted| !wanted.is_empty());
    let (filter, error) = match wanted.as_deref().unwrap_or("info").parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error)),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    if let Some(error) = error {
        warn!(RUST_LOG = wanted, %error, "that is no log filter; logging at info, and wspush=debug would show more");
    }
    Guard { queue, ended }
}

/// Lines on their way to standard error.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the queue is closed and empty. Standard error may block for ever or be broken: only this thread sees it.
    fn write_out(&self) {
        loop {
            let mut waiting = self.lock();
            while waiting.lines.is_empty() && !waiting.closed {
                waiting = self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let lines = mem::take(&mut waiting.lines);
            drop(waiting);
            if lines.is_empty() {
                return;
            }
            let _ = io::stderr().write_all(&lines);
            thread::sleep(BATCH_DELAY);
        }
    }
}

/// Takes a whole line at a time, which is what `fmt` writes.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() <= QUEUE_LIMIT {
            let first = waiting.lines.is_empty();
            waiting.lines.extend_from_slice(line);
            drop(waiting);
            if first {
                self.changed.notify_one();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends the log when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    queue: Arc<Queue>,
    ended: Receiver<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
        let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
    }
}
