//! A client that sends given bytes at given times, on a paused clock, and notes what comes when.

use std::{cell::RefCell, future::pending, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split},
    runtime, select,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use wspush::{Config, Notifications, Server};

use super::{client::RawClient, pipe::Pipes};

/// How long to wait on a paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The resolution of the clock.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How much longer than its limit a peer has: when the server was stopped, its timers fire before it has looked at its sockets.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// What the client does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// How many bytes the pipe holds each way.
    pub(crate) pipe: usize,
    pub(crate) config: Config,
    pub(crate) interval: Duration,
    /// What it sends, and how long after the previous piece.
    pub(crate) pieces: Vec<(Duration, Vec<u8>)>,
    /// How long it then waits.
    pub(crate) wait: Duration,
    pub(crate) ending: Ending,
}

impl Script {
    /// Makes a script of a fuzzer's input. The first byte says how the rest is sent: its low seven bits are the size of the
    /// pieces, which are a tenth of a second apart, or 0 for all at once. Its high bit says whether a half-close follows.
    pub(crate) fn decode(input: &[u8], pipe: usize) -> Self {
        let (how, bytes) = input.split_first().unwrap_or((&0, &[]));
        let (after, size) = match how & 0x7F {
            0 => (Duration::ZERO, usize::MAX),
            size => (Duration::from_millis(100), usize::from(size)),
        };
        let pieces = bytes.chunks(size).map(|piece| (after, piece.to_vec()));
        Self {
            pipe,
            config: Config::default(),
            interval: Duration::from_secs(15),
            pieces: pieces.collect(),
            wait: TICK,
            ending: match how & 0x80 {
                0 => Ending::Silence,
                _ => Ending::HalfClose,
            },
        }
    }
}

/// What happens last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client is gone.
    Vanish,
    /// The client sends no more, but still reads.
    HalfClose,
    /// The client sends no more, and keeps the connection open.
    Silence,
    /// The server stops.
    Stop,
}

/// What the client heard. Times count from its connection.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) heard: Vec<(Duration, Vec<u8>)>,
    /// When the last thing happened.
    pub(crate) last: Duration,
    /// When the server had ended the connection.
    pub(crate) ended: Duration,
}

/// Plays the script from the first byte of the connection.
pub(crate) fn connect(script: &Script) -> Record {
    block_on(async { Player::connect(script).play(script).await })
}

/// Plays the script after a handshake.
pub(crate) fn converse(script: &Script) -> Record {
    block_on(async {
        let mut player = Player::connect(script);
        player.client = player.client.upgraded().await;
        player.play(script).await
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

struct Player {
    client: RawClient<DuplexStream>,
    connected: Instant,
    served: JoinHandle<Instant>,
    server: Server,
}

impl Player {
    fn connect(script: &Script) -> Self {
        let (pipes, listener) = Pipes::new();
        let (stream, ended) = pipes.connect(script.pipe);
        let interval = script.interval;
        let server = Server::start(vec![listener], script.config.clone(), move |_, _| {
            Ok(Notifications::every(interval))
        });
        Self {
            client: RawClient {
                stream,
                patience: PATIENCE,
            },
            connected: Instant::now(),
            served: tokio::spawn(async move {
                let _ = ended.await;
                Instant::now()
            }),
            server,
        }
    }

    async fn play(self, script: &Script) -> Record {
        let connected = self.connected;
        let (mut read, mut write) = split(self.client.stream);
        let heard = RefCell::new(Vec::new());
        let (mut served, mut running) = (self.served, Some(self.server));
        let talking = async {
            let last = talk(script, &mut write, &mut running, connected).await;
            let ended = match script.ending {
                Ending::Vanish => None,
                _ => Some(end(&mut served).await),
            };
            (last, ended)
        };
        let (last, ended) = select! {
            biased;
            () = listen(&mut read, connected, &heard) => unreachable!(),
            done = talking => done,
        };
        drop((read, write));
        let ended = match ended {
            Some(ended) => ended,
            None => end(&mut served).await,
        } - connected;
        let heard = heard.into_inner();
        Record { heard, last, ended }
    }
}

/// Notes what comes. Never returns.
async fn listen(
    stream: &mut (impl AsyncRead + Unpin),
    connected: Instant,
    heard: &RefCell<Vec<(Duration, Vec<u8>)>>,
) {
    let mut piece = [0; 4096];
    while let Ok(size @ 1..) = stream.read(&mut piece).await {
        let piece = (connected.elapsed(), piece[..size].to_vec());
        heard.borrow_mut().push(piece);
    }
    pending::<()>().await;
}

/// Sends the pieces, and ends. Returns the time.
async fn talk(
    script: &Script,
    stream: &mut (impl AsyncWrite + Unpin),
    server: &mut Option<Server>,
    connected: Instant,
) -> Duration {
    for (after, piece) in &script.pieces {
        pause(*after).await;
        // The server may be gone.
        let _ = stream.write_all(piece).await;
    }
    pause(script.wait).await;
    if script.ending == Ending::Stop {
        // What came at the same time would be read or not.
        pause(TICK).await;
        tokio::spawn(server.take().expect("a server").shutdown());
    }
    if script.ending == Ending::HalfClose {
        let _ = stream.shutdown().await;
    }
    connected.elapsed()
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn end(served: &mut JoinHandle<Instant>) -> Instant {
    timeout(PATIENCE, served)
        .await
        .expect("the connection ends")
        .expect("no panic")
}
