//! Splitting the input into lines, and each line into no more than fits a notification.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Read},
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

pub(super) struct Reader<R> {
    input: R,
    /// The start of the line that is being read, with one byte over the limit to know that it is longer.
    line: Vec<u8>,
    /// How long that line is so far.
    length: u64,
    lines: u64,
    faults: Faults,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            length: 0,
            lines: 0,
            faults: Faults::default(),
        }
    }

    /// Reads until the input ends, or until `push` returns that nobody wants more.
    pub(super) fn run(mut self, mut push: impl FnMut(Notification) -> bool) -> InputEnd {
        info!("reading lines");
        let error = self.read_all(&mut push).err();
        let lines = self.lines;
        // Faults since the last warning, so that there is no second one within its minute.
        let Faults { cut, not_utf8, .. } = self.faults;
        let error_shown = error.as_ref().map(tracing::field::display);
        info!(lines, cut, not_utf8, error = error_shown, "input ended");
        InputEnd { lines, error }
    }

    fn read_all(&mut self, push: &mut impl FnMut(Notification) -> bool) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let mut rest = match self.input.read(&mut chunk) {
                Ok(0) => break,
                Ok(size) => &chunk[..size],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(RETRY_DELAY);
                    continue;
                }
                Err(error) => return Err(error),
            };
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                self.append(&rest[..end]);
                if self.length == self.line.len() as u64 && self.line.ends_with(b"\r") {
                    self.line.pop();
                }
                if !self.end_line(push) {
                    return Ok(());
                }
                rest = &rest[end + 1..];
            }
            self.append(rest);
        }
        // What is left counts as a line without its line break.
        if self.length > 0 {
            self.end_line(push);
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LINE_LIMIT + 1 - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.length += bytes.len() as u64;
    }

    /// Pushes the line, unless it is empty. Returns whether more is wanted.
    fn end_line(&mut self, push: &mut impl FnMut(Notification) -> bool) -> bool {
        let is_cut = self.line.len() > LINE_LIMIT;
        if is_cut {
            cut(&mut self.line);
        }
        let text = String::from_utf8_lossy(&self.line);
        self.faults.count(is_cut, matches!(text, Cow::Owned(_)));
        let is_wanted = text.is_empty() || push(Notification::new(&text));
        self.lines += 1;
        self.length = 0;
        self.line.clear();
        is_wanted
    }
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
