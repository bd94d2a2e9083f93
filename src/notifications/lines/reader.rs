//! Reading an input line by line. A line that is too long is truncated.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, ErrorKind, Read},
    thread,
    time::Duration,
};

use tracing::{field::display, info, warn};

use super::Notification;

/// The longest line, in bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// How many bytes are read at once: as many as a pipe holds.
const CHUNK: usize = 64 * 1024;

/// How long to wait before reading a non-blocking input again.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// How the input ended.
#[derive(Debug, Default)]
pub struct InputEnd {
    /// How many lines, empty ones included.
    pub lines: u64,
    /// The error that ended it, unless it was the end of the file.
    pub error: Option<io::Error>,
}

/// A reader that waits even if the input is non-blocking.
struct RetryingReader<R>(R);

impl<R: Read> Read for RetryingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
                result => return result,
            }
        }
    }
}

/// Reads until the input ends, or until `push` returns `false`: nobody wants more.
pub(super) fn read_lines(input: impl Read, push: impl FnMut(Notification) -> bool) -> InputEnd {
    info!("reading lines");
    let mut counts = Counts::default();
    let error = read_all(input, push, &mut counts).err();
    let Counts {
        lines,
        truncated,
        not_utf8,
    } = counts;
    let shown = error.as_ref().map(display);
    info!(lines, truncated, not_utf8, error = shown, "input ended");
    InputEnd { lines, error }
}

fn read_all(
    input: impl Read,
    mut push: impl FnMut(Notification) -> bool,
    counts: &mut Counts,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(CHUNK, RetryingReader(input));
    let mut line = Vec::new();
    // Room for the line break, or for a byte over the limit.
    let most = LINE_LIMIT as u64 + 2;
    while input.by_ref().take(most).read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
        } else if line.len() > LINE_LIMIT {
            input.skip_until(b'\n')?;
        }
        let is_long = line.len() > LINE_LIMIT;
        if is_long {
            truncate(&mut line);
        }
        let text = String::from_utf8_lossy(&line);
        counts.add(is_long, matches!(text, Cow::Owned(_)));
        if !text.is_empty() && !push(Notification::new(&text)) {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// Keeps the whole characters within the limit.
fn truncate(line: &mut Vec<u8>) {
    line.truncate(LINE_LIMIT);
    let last_chunk = line.utf8_chunks().last();
    let invalid = last_chunk.map_or(&[][..], |chunk| chunk.invalid());
    // An error without a length is the start of a character, not an invalid byte.
    if str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
        line.truncate(LINE_LIMIT - invalid.len());
    }
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    truncated: u64,
    not_utf8: u64,
}

impl Counts {
    /// Counts a line, and warns of the first of each kind.
    fn add(&mut self, is_truncated: bool, is_not_utf8: bool) {
        self.lines += 1;
        self.truncated += u64::from(is_truncated);
        self.not_utf8 += u64::from(is_not_utf8);
        if is_truncated && self.truncated == 1 {
            warn!(line = self.lines, "a line over 64 KiB was truncated");
        }
        if is_not_utf8 && self.not_utf8 == 1 {
            warn!(
                line = self.lines,
                "a line was not UTF-8, invalid bytes were replaced"
            );
        }
    }
}
