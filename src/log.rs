//! The log on standard error. `RUST_LOG` filters it.
//!
//! Lines wait in a queue for a thread that writes them, so that the server never waits for a reader of the log.

use std::{
    collections::VecDeque,
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

/// How many bytes may wait to be written. Further lines are lost, and counted.
const QUEUE_LIMIT: usize = 1024 * 1024;

/// How many bytes are written at once, unless a line is longer. A pipe takes so many whole or not at all (`PIPE_BUF`), so
/// that its next reader starts with a whole line.
const WRITE_LIMIT: usize = 4096;

/// How long lines are gathered: a storm of clients must not cost a write for each line.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// When to write again to a pipe that is full and non-blocking.
const FULL_DELAY: Duration = Duration::from_millis(10);

/// When to write again after an error: the disk is full, or a FIFO has no reader.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long the program waits at its end for lines that are not written yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: Queue = Queue {
    state: Mutex::new(State {
        bytes: VecDeque::new(),
        lost: 0,
    }),
    changed: Condvar::new(),
};

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Whole lines. They stay here until they are written.
    bytes: VecDeque<u8>,
    /// How many lines did not fit since that was last logged.
    lost: usize,
}

/// Starts to log.
pub(crate) fn start() {
    // Never joined: it may be blocked in a write forever.
    thread::spawn(|| {
        loop {
            let chunk = QUEUE.first_chunk();
            write_all(io::stderr(), &chunk, thread::sleep);
            QUEUE.remove(chunk.len());
        }
    });
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = fmt::layer()
        .with_writer(|| &QUEUE)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_target(false)
        // They would bypass the queue, and panic if standard error is broken.
        .log_internal_errors(false);
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    // An empty part, as after a comma at the end, would mean the level error.
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
}

/// Writes a text between the lines of the log.
pub(crate) fn print(text: impl Display) {
    QUEUE.push(text.to_string().as_bytes());
}

/// Waits for a short time until everything is written.
pub(crate) fn flush() {
    let is_waiting = |state: &mut State| !state.bytes.is_empty();
    let _ = QUEUE
        .changed
        .wait_timeout_while(QUEUE.lock(), FLUSH_TIMEOUT, is_waiting);
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Never poisoned: nothing panics while it is locked.
        self.state.lock().unwrap()
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes.len() + line.len() > QUEUE_LIMIT {
            state.lost += 1;
            return;
        }
        state.bytes.extend(line);
        self.changed.notify_all();
    }

    /// Waits for lines. Returns as many of the first ones as are written at once.
    fn first_chunk(&self) -> Vec<u8> {
        let mut state = self.lock();
        if state.bytes.is_empty() {
            let is_empty = |state: &mut State| state.bytes.is_empty();
            drop(self.changed.wait_while(state, is_empty));
            thread::sleep(BATCH_DELAY);
            state = self.lock();
        }
        let bytes = &*state.bytes.make_contiguous();
        let first = &bytes[..bytes.len().min(WRITE_LIMIT)];
        let is_end = |&b: &u8| b == b'\n';
        // The first line may be longer.
        let end = first.iter().rposition(is_end);
        let end = end.or_else(|| bytes.iter().position(is_end));
        bytes[..end.map_or(bytes.len(), |end| end + 1)].to_vec()
    }

    /// Removes bytes that are written. Logs how many lines were lost, now that there is room again.
    fn remove(&self, size: usize) {
        let mut state = self.lock();
        state.bytes.drain(..size);
        let is_half_empty = state.bytes.len() <= QUEUE_LIMIT / 2;
        let lost = if is_half_empty {
            mem::take(&mut state.lost)
        } else {
            0
        };
        drop(state);
        self.changed.notify_all();
        if lost > 0 {
            warn!(
                lines = lost,
                "log lines lost: they could not be written in time"
            );
        }
    }
}

/// `tracing_subscriber::fmt` writes a whole line at a time.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Like [`Write::write_all`], but retries after a pause until everything is written.
fn write_all(mut stream: impl Write, mut bytes: &[u8], pause: impl Fn(Duration)) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) if written > 0 => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(FULL_DELAY),
            Ok(_) | Err(_) => pause(RETRY_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, iter::repeat_n};

    use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
    use tracing::subscriber::with_default;

    use super::*;

    fn queue() -> Queue {
        Queue {
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                lost: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes so many bytes, or fails.
    struct Stream {
        results: VecDeque<Result<usize, i32>>,
        written: Vec<u8>,
    }

    impl Write for &mut Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let result = self.results.pop_front().unwrap();
            let size = result.map_err(io::Error::from_raw_os_error)?;
            self.written.extend(&bytes[..size]);
            Ok(size)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_each_second_and_nothing_is_lost_or_cut() {
        const FULL_PIPE: i32 = libc::EAGAIN;
        let mut stream = Stream {
            results: [
                Err(libc::ENOSPC),
                Err(libc::EINTR),
                Ok(2),
                Err(libc::ENOSPC),
                Err(libc::EPIPE),
                Ok(0),
                Err(FULL_PIPE),
                Ok(3),
            ]
            .into(),
            written: Vec::new(),
        };
        let pauses = RefCell::new(Vec::new());
        write_all(&mut stream, b"line\n", |pause| {
            pauses.borrow_mut().push(pause);
        });
        assert_eq!(stream.written, b"line\n");
        let [second, moment] = [RETRY_DELAY, FULL_DELAY];
        assert_eq!(
            pauses.into_inner(),
            [second, second, second, second, moment]
        );
    }

    /// What is written of a queue.
    fn write_chunk(queue: &Queue) -> Vec<u8> {
        let chunk = queue.first_chunk();
        queue.remove(chunk.len());
        chunk
    }

    fn is_empty(queue: &Queue) -> bool {
        queue.lock().bytes.is_empty()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(6455),
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_write_has_whole_lines_and_at_most_4096_bytes_unless_one_line_is_longer(
            sizes in vec(prop_oneof![0..200_usize, 4000..4200_usize, 0..10_000_usize], 1..50),
        ) {
            let queue = queue();
            let lines = sizes.into_iter().map(|size| repeat_n('x', size).collect::<String>() + "\n");
            let lines: Vec<_> = lines.collect();
            for line in &lines {
                queue.push(line.as_bytes());
            }
            let mut written = Vec::new();
            while !is_empty(&queue) {
                let chunk = write_chunk(&queue);
                let lines = chunk.split_inclusive(|byte| *byte == b'\n');
                prop_assert!(chunk.ends_with(b"\n"));
                prop_assert!(chunk.len() <= 4096 || lines.count() == 1);
                written.extend(chunk);
            }
            prop_assert_eq!(written, lines.concat().into_bytes());
        }
    }

    #[test]
    fn only_what_overflows_1_mib_is_lost_and_the_log_says_how_many_lines_once_there_is_room() {
        let queue: &Queue = Box::leak(Box::new(queue()));
        let subscriber = fmt().with_writer(move || queue).with_ansi(false).finish();
        // 256 lines are 1 MiB.
        let lines = (0..300).map(|number| format!("{number:04095}\n"));
        let lines: Vec<_> = lines.collect();
        let mut written = Vec::new();
        with_default(subscriber, || {
            for line in &lines {
                queue.push(line.as_bytes());
            }
            while !is_empty(queue) {
                written.extend(write_chunk(queue));
            }
        });
        let written = String::from_utf8(written).unwrap();
        let (kept, rest) = written.split_at(1024 * 1024);
        assert_eq!(kept, lines[..256].concat());
        assert_eq!(rest.lines().count(), 1, "{rest}");
        let warning =
            "WARN wspush::log: log lines lost: they could not be written in time lines=44";
        assert!(rest.trim_end().ends_with(warning), "{rest}");
    }
}
