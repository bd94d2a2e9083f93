//! Standard output and standard error, each written by a thread of its own: nobody may be reading them.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use tracing::warn;

/// How many texts may wait to be written. When nobody reads, what does not fit is lost.
const QUEUE_LIMIT: usize = 4096;

/// How long texts are gathered before they are written: a storm of clients is not to cost a write for each line.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// When to try again to write to a full pipe that does not block.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// How long the end of the program waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The way to a standard stream. `tracing_subscriber::fmt` writes a whole line at a time.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    queue: SyncSender<Text>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Text {
    Bytes(Box<[u8]>),
    /// All before it is written.
    Flush(mpsc::Sender<()>),
}

impl Output {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has none left.
    pub(crate) fn start(stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, queued) = mpsc::sync_channel(QUEUE_LIMIT);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // Never joined: it may never get to write.
        thread::Builder::new()
            .name("output".into())
            .spawn(move || write_queued(stream, &queued, &counted))?;
        Ok(Self { queue, lost })
    }

    /// Has the text written, whole.
    pub(crate) fn print(&self, text: &impl Display) {
        self.queue(text.to_string().into_bytes().into());
    }

    fn queue(&self, text: Box<[u8]>) {
        if self.queue.try_send(Text::Bytes(text)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all is written, or for a while.
    pub(crate) fn flush(&self) {
        let (written, is_written) = mpsc::channel();
        // A full queue means that nobody reads.
        if self.queue.try_send(Text::Flush(written)).is_ok() {
            let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Write for &Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as long as there is an [`Output`]. The stream may block for ever or be broken: only this thread waits for it.
fn write_queued(mut stream: impl Write, queued: &Receiver<Text>, lost: &AtomicU64) {
    let mut batch = Vec::new();
    while let Ok(first) = queued.recv() {
        let mut flushes = Vec::new();
        for text in [first]
            .into_iter()
            .chain(queued.try_iter().take(QUEUE_LIMIT))
        {
            match text {
                Text::Bytes(bytes) => batch.extend_from_slice(&bytes),
                Text::Flush(written) => flushes.push(written),
            }
        }
        // A broken stream is no reason to end: then nobody wants to know.
        let _ = write_all(&mut stream, &batch);
        batch = Vec::new();
        flushes.clear();
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lost, "log lines were lost, since nobody read them in time");
        }
        thread::sleep(BATCH_DELAY);
    }
}

/// Like [`Write::write_all`], for a stream that may be set not to block.
fn write_all(stream: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let result = match bytes {
            [] => stream.flush().map(|()| 0),
            _ => stream.write(bytes),
        };
        match result {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
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

    impl Write for Slow {
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
        write_all(&mut slow, b"line\n").unwrap();
        assert_eq!(slow.written, b"line\n");
    }
}
