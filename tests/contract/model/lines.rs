//! What becomes of an input (the contract's section "Lines of standard input"), and an input that a test writes.

use std::{
    future::Future,
    io::{self, Read},
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use tokio::{
    runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_blocking,
    time::timeout,
};
use wspush::{Config, Lines, Server};

use super::{
    client::RawClient,
    frame::{CLOSE, FIN, PING, PONG, TEXT},
    pipe::Pipes,
};

/// The longest line. What is longer is cut.
pub(crate) const LINE_LIMIT: usize = 64 * 1024;

/// The notifications that an input is.
pub(crate) fn lines(input: &[u8]) -> Vec<String> {
    let lines = input.split_inclusive(|byte| *byte == b'\n');
    let lines = lines.map(|line| match line {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] | line => cut(line),
    });
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| String::from_utf8_lossy(line).into())
        .collect()
}

/// The whole characters within the limit.
fn cut(line: &[u8]) -> &[u8] {
    let Some(start) = line
        .get(..LINE_LIMIT)
        .filter(|start| line.len() > start.len())
    else {
        return line;
    };
    let is_part = |size: &usize| {
        let error = str::from_utf8(&start[LINE_LIMIT - size..]).err();
        error.is_some_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    &start[..LINE_LIMIT - (1..4).find(is_part).unwrap_or(0)]
}

/// Checks that one client, which is there from the first piece on, is sent what the contract has it sent.
pub(crate) fn check_lines(pieces: Vec<Vec<u8>>) {
    let due = lines(&pieces.concat());
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let received = runtime.unwrap().block_on(receive(pieces));
    let close = [&1000_u16.to_be_bytes()[..], b"the input has ended"].concat();
    let due = due.into_iter().map(|line| (FIN | TEXT, line.into_bytes()));
    let due: Vec<_> = due.chain([(FIN | CLOSE, close)]).collect();
    assert!(received == due, "{received:?} is not {due:?}");
}

async fn receive(pieces: Vec<Vec<u8>>) -> Vec<(u8, Vec<u8>)> {
    let (mut producer, input) = input();
    let (lines, _end) = Lines::read(input, 0).unwrap();
    let (pipes, listener) = Pipes::new();
    let _server = Server::start(vec![listener], Config::default(), move |_, _| {
        Ok(lines.source())
    });
    let (stream, _ended) = pipes.connect(64 * 1024);
    let patience = Duration::from_secs(1_000_000);
    let mut client = RawClient { stream, patience }.upgraded().await;
    client.send_frame(FIN | TEXT, "start").await;
    // Its answer stands behind the start.
    client.send_frame(FIN | PING, "").await;
    assert_eq!(client.recv_frame().await.0, FIN | PONG);
    for piece in pieces {
        without_time(producer.write(piece)).await;
    }
    drop(producer);
    let mut received = Vec::new();
    while received
        .last()
        .is_none_or(|(first, _)| *first != FIN | CLOSE)
    {
        match client.recv_frame().await {
            // Time leaps while the input ends.
            (first, payload) if first == FIN | PING => client.send_frame(FIN | PONG, payload).await,
            frame => received.push(frame),
        }
    }
    received
}

/// Waits while a paused clock stands still, as it does while a blocking task runs: the thread that reads the input is
/// none that the clock knows of.
pub(crate) async fn without_time<T>(future: impl Future<Output = T>) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let blocking = spawn_blocking(move || is_done.recv_timeout(Duration::from_secs(20)));
    let output = timeout(Duration::from_secs(1), future).await;
    drop(done);
    let _ = blocking.await;
    output.expect("no time passes")
}

/// The test's side of an input. Its end is the end of the input.
pub(crate) struct Producer {
    pieces: Sender<Vec<u8>>,
    taken: UnboundedReceiver<()>,
}

/// The server's side of it.
pub(crate) struct Input {
    pieces: Receiver<Vec<u8>>,
    /// Word of each piece that is read and handed on.
    taken: UnboundedSender<()>,
    /// What is left of the last one.
    rest: Vec<u8>,
    has_begun: bool,
}

/// An input that comes in pieces.
pub(crate) fn input() -> (Producer, Input) {
    let (sender, pieces) = mpsc::channel();
    let (taking, taken) = unbounded_channel();
    let producer = Producer {
        pieces: sender,
        taken,
    };
    let input = Input {
        pieces,
        taken: taking,
        rest: Vec::new(),
        has_begun: false,
    };
    (producer, input)
}

impl Producer {
    /// Waits until the piece is read and handed on.
    pub(crate) async fn write(&mut self, piece: impl Into<Vec<u8>>) {
        let piece = piece.into();
        // An empty read would be the end.
        if !piece.is_empty() {
            self.pieces.send(piece).expect("the input is read");
            self.taken.recv().await.expect("the input is read on");
        }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            if self.has_begun {
                // Fails when the test no longer cares.
                let _ = self.taken.send(());
            }
            self.has_begun = true;
            self.rest = self.pieces.recv().unwrap_or_default();
        }
        let size = self.rest.len().min(buf.len());
        buf[..size].copy_from_slice(&self.rest[..size]);
        self.rest.drain(..size);
        Ok(size)
    }
}
