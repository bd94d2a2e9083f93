//! Standard output and standard error, each written by a thread of its own: nobody may be reading them.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

/// How many bytes may wait to be written. When nobody reads, what does not fit is lost.
const QUEUE_LIMIT: usize = 1024 * 1024;

/// How long texts are gathered before they are written: a storm of clients is not to cost a write for each line.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// When to try again to write to a full pipe that does not block.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// How long the end of the program waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// The way to a standard stream. `tracing_subscriber::fmt` writes a whole line at a time.
#[derive(Debug)]
pub(crate) struct Output {
    queue: Sender<Text>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    /// Texts that did not fit.
    lost: AtomicUsize,
}

#[derive(Debug)]
enum Text {
    Bytes(Box<[u8]>),
    /// All before it is written once this is dropped.
    Flush(Sender<()>),
}

impl Output {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has none left.
    pub(crate) fn start(stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, queued) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        // Never joined: it may never get to write.
        thread::Builder::new()
            .name("output".into())
            .spawn(move || write_queued(stream, &queued, &counted))?;
        Ok(Self { queue, counts })
    }

    /// Has the text written, whole.
    pub(crate) fn print(&self, text: &impl Display) {
        self.queue(text.to_string().into_bytes().into());
    }

    fn queue(&self, text: Box<[u8]>) {
        let Counts { waiting, lost } = &*self.counts;
        let size = text.len();
        if waiting.fetch_add(size, Relaxed) + size > QUEUE_LIMIT {
            waiting.fetch_sub(size, Relaxed);
            lost.fetch_add(1, Relaxed);
            return;
        }
        // The thread ends only after this.
        let _ = self.queue.send(Text::Bytes(text));
    }

    /// Waits until all is written, or for a while.
    pub(crate) fn flush(&self) {
        let (flush, flushed) = mpsc::channel();
        let _ = self.queue.send(Text::Flush(flush));
        let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
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

/// Writes as long as there is an [`Output`]. The stream may block without end or be broken: only this thread waits for it.
fn write_queued(mut stream: impl Write, queued: &Receiver<Text>, counts: &Counts) {
    while let Ok(first) = queued.recv() {
        let mut batch = Vec::new();
        let mut flushes = Vec::new();
        for text in iter::once(first).chain(queued.try_iter()) {
            match text {
                Text::Bytes(bytes) => batch.extend_from_slice(&bytes),
                Text::Flush(flush) => flushes.push(flush),
            }
        }
        let size = batch.len();
        // A broken stream is no reason to end: then nobody wants to know.
        let _ = write_all(&mut stream, &batch);
        // What was lost was lost while this was written.
        let _ = write_all(
            &mut stream,
            lost_line(counts.lost.swap(0, Relaxed)).as_bytes(),
        );
        counts.waiting.fetch_sub(size, Relaxed);
        drop(flushes);
        thread::sleep(BATCH_DELAY);
    }
}

/// The line of the log that says how many were lost. Through the log itself it could get lost too.
fn lost_line(lost: usize) -> String {
    if lost == 0 {
        return String::new();
    }
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    format!("{time}  WARN log lines lost, they were not read in time lost={lost}\n")
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
