//! Splitting the input into lines, and each line into no more than fits a notification.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, ErrorKind, Read},
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::Notification;

/// The longest line in bytes. What is longer is cut.
const LINE_LIMIT: usize = 64 * 1024;

/// How much is read at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// When to look again whether a non-blocking input has something to read.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// The time between two warnings, however many lines are cut or are not UTF-8.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What was read when the input ended.
#[derive(Debug, Default)]
pub struct InputEnd {
    /// How many lines, empty ones included.
    pub lines: u64,
    /// Why no more could be read, if that was not the end of the input.
    pub error: Option<io::Error>,
}

impl InputEnd {
    pub(super) fn failed(error: io::Error) -> Self {
        Self {
            lines: 0,
            error: Some(error),
        }
    }
}

/// An input that may be set not to block.
struct Patient<R>(R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
                result => return result,
            }
        }
    }
}

/// Reads until the input ends, or until `push` returns that nobody wants more.
pub(super) fn read_lines(input: impl Read, push: impl FnMut(Notification) -> bool) -> InputEnd {
    info!("reading lines");
    let mut lines = 0;
    let mut faults = Faults::default();
    let error = read_all(input, push, &mut lines, &mut faults).err();
    // Faults since the last warning, so that there is no second one within its minute.
    let Faults { cut, not_utf8, .. } = faults;
    let error_shown = error.as_ref().map(tracing::field::display);
    info!(lines, cut, not_utf8, error = error_shown, "input ended");
    InputEnd { lines, error }
}

fn read_all(
    input: impl Read,
    mut push: impl FnMut(Notification) -> bool,
    lines: &mut u64,
    faults: &mut Faults,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(CHUNK, Patient(input));
    let mut line = Vec::new();
    // With its line break, and a byte over the limit to know that it is longer.
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
        let is_cut = line.len() > LINE_LIMIT;
        if is_cut {
            cut(&mut line);
        }
        let text = String::from_utf8_lossy(&line);
        faults.count(is_cut, matches!(text, Cow::Owned(_)));
        *lines += 1;
        if !text.is_empty() && !push(Notification::new(&text)) {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// Leaves the whole characters within the limit.
fn cut(line: &mut Vec<u8>) {
    line.truncate(LINE_LIMIT);
    let last = line
        .utf8_chunks()
        .last()
        .map_or(&[][..], |chunk| chunk.invalid());
    // An error without a length is a character that is cut, not a byte that is none.
    if str::from_utf8(last).is_err_and(|error| error.error_len().is_none()) {
        line.truncate(LINE_LIMIT - last.len());
    }
}

/// Lines that could not be pushed as they are.
#[derive(Debug, Default)]
struct Faults {
    cut: u64,
    not_utf8: u64,
    reported: Option<Instant>,
}

impl Faults {
    fn count(&mut self, is_cut: bool, is_not_utf8: bool) {
        self.cut += u64::from(is_cut);
        self.not_utf8 += u64::from(is_not_utf8);
        let is_recent = |reported: Instant| reported.elapsed() < LOG_INTERVAL;
        if (is_cut || is_not_utf8) && !self.reported.is_some_and(is_recent) {
            self.report();
        }
    }

    fn report(&mut self) {
        let Self { cut, not_utf8, .. } = *self;
        if cut + not_utf8 > 0 {
            warn!(
                cut,
                not_utf8, "lines truncated at 64 KiB or with invalid UTF-8 replaced"
            );
            *self = Self {
                reported: Some(Instant::now()),
                ..Self::default()
            };
        }
    }
}
