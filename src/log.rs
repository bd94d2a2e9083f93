//! The log on standard error: which lines are written, and how they look. `RUST_LOG` filters them.
//!
//! A thread of its own writes them: nobody may be reading them.

use std::{
    env,
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    mem,
    sync::{Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use tracing::{Level, warn};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How many bytes may wait to be written. When nobody reads, what does not fit is lost.
const QUEUE_LIMIT: usize = 1024 * 1024;

/// How long lines are gathered before they are written: a storm of clients is not to cost a write for each line.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// When to try again to write to a full pipe that does not block.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// How long the end of the program waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

static QUEUE: Queue = Queue {
    state: Mutex::new(State {
        bytes: Vec::new(),
        lost: 0,
    }),
    changed: Condvar::new(),
};

/// What is to be written, or is being written. `tracing_subscriber::fmt` writes a whole line at a time.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    bytes: Vec<u8>,
    /// How many lines did not fit.
    lost: usize,
}

/// Starts the thread, and logs from now on.
///
/// # Errors
///
/// When the system has no thread left.
pub(crate) fn start() -> io::Result<()> {
    // Never joined: it may never get to write.
    thread::Builder::new().name("log".into()).spawn(|| {
        loop {
            QUEUE.write();
            thread::sleep(BATCH_DELAY);
        }
    })?;
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = fmt::layer()
        .with_writer(|| &QUEUE)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_target(false)
        // It would be written to standard error past the queue, and panic when that is broken.
        .log_internal_errors(false);
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    // An empty part, as behind a comma at the end, would be read as the level error.
    let parts = wanted.split(',').filter(|part| !part.trim().is_empty());
    let parts = parts.collect::<Vec<_>>().join(",");
    let default = Targets::new().with_default(Level::INFO);
    let (filter, error) = match parts.parse() {
        _ if parts.is_empty() => (default, None),
        Ok(filter) => (filter, None),
        Err(error) => (default, Some(error)),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    if let Some(error) = error {
        warn!(RUST_LOG = wanted, %error, "invalid RUST_LOG, using info; wspush=debug would log more");
    }
    Ok(())
}

/// Has the text written to standard error among the lines of the log.
pub(crate) fn print(text: impl Display) {
    QUEUE.push(text.to_string().as_bytes());
}

/// Waits until all is written, or for a while.
pub(crate) fn flush() {
    let is_waiting = |state: &mut State| !state.bytes.is_empty();
    let _ = QUEUE
        .changed
        .wait_timeout_while(QUEUE.lock(), FLUSH_TIMEOUT, is_waiting);
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Not poisoned: nothing panics under this lock.
        self.state.lock().unwrap()
    }

    fn push(&self, text: &[u8]) {
        let mut state = self.lock();
        if state.bytes.len() + text.len() > QUEUE_LIMIT {
            state.lost += 1;
            return;
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend_from_slice(text);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits for bytes and writes them. Standard error may block without end: only the log's thread waits for it.
    fn write(&self) {
        let is_empty = |state: &mut State| state.bytes.is_empty();
        let state = self.changed.wait_while(self.lock(), is_empty).unwrap();
        let bytes = state.bytes.clone();
        drop(state);
        write_all(io::stderr(), &bytes);
        let mut state = self.lock();
        state.bytes.drain(..bytes.len());
        // What was lost was lost while this was written, and came after what waits now.
        let lost = mem::take(&mut state.lost);
        if lost > 0 {
            let line =
                format!("wspush: {lost} lines of the log were lost, nobody read it in time\n");
            state.bytes.extend_from_slice(line.as_bytes());
        }
        self.changed.notify_all();
    }
}

impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Like [`Write::write_all`], for a stream that may be set not to block. That it is broken is no reason to end: then nobody
/// wants to know.
fn write_all(mut stream: impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte at a time, and each only at the second try.
    #[derive(Default)]
    struct Slow {
        written: Vec<u8>,
        tries: usize,
    }

    impl Write for &mut Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.tries += 1;
            if self.tries % 2 == 1 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.written.push(bytes[0]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_gets_all_of_a_line() {
        let mut slow = Slow::default();
        write_all(&mut slow, b"line\n");
        assert_eq!(slow.written, b"line\n");
    }
}
