//! A client that sends given bytes at given times, and notes what comes when. For a paused clock.

use std::{cell::RefCell, future::pending, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split},
    runtime, select,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use wspush::{Config, Notifications, Server};

use super::pipe::Pipes;

/// The clock's grain.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// A request that is granted, with the key of RFC 6455 §1.3.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What the client does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// How many bytes are under way at most in either direction.
    pub(crate) pipe: usize,
    pub(crate) interval: Duration,
    /// What it sends, and how long after the piece before.
    pub(crate) pieces: Vec<(Duration, Vec<u8>)>,
    /// How long it then waits.
    pub(crate) wait: Duration,
    pub(crate) ending: Ending,
}

/// What happens last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client is gone.
    Vanish,
    /// The client sends no more, but still reads.
    HalfClose,
    /// The client says nothing more.
    Silence,
    /// The server is told to stop.
    Stop,
}

/// What the client heard. Times count from its connection.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) heard: Vec<(Duration, Vec<u8>)>,
    /// When the last thing happened.
    pub(crate) last: Duration,
    /// When the server was done with the connection.
    pub(crate) ended: Duration,
}

/// Plays the script from the connection's first byte on.
pub(crate) fn connect(script: &Script) -> Record {
    block_on(async { Client::connect(script).play(script).await })
}

/// Plays the script from the end of a handshake on.
pub(crate) fn converse(script: &Script) -> Record {
    block_on(async {
        let mut client = Client::connect(script);
        client.upgrade().await;
        client.play(script).await
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

struct Client {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    connected: Instant,
    served: JoinHandle<Instant>,
    server: Server,
}

impl Client {
    fn connect(script: &Script) -> Self {
        let (pipes, listener) = Pipes::new();
        let (client, ended) = pipes.connect(script.pipe);
        let (read, write) = split(client);
        let interval = script.interval;
        let server = Server::start(vec![listener], Config::default(), move |_| {
            Ok(Notifications::every(interval))
        });
        Self {
            read,
            write,
            connected: Instant::now(),
            served: tokio::spawn(async move {
                let _ = ended.await;
                Instant::now()
            }),
            server,
        }
    }

    async fn upgrade(&mut self) {
        let mut answer = Vec::new();
        self.write.write_all(REQUEST).await.expect("to be read");
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.read.read_u8().await.expect("an answer"));
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            answer.escape_ascii()
        );
    }

    async fn play(self, script: &Script) -> Record {
        let Self {
            mut read,
            mut write,
            connected,
            mut served,
            server,
        } = self;
        let heard = RefCell::new(Vec::new());
        let listening = async {
            let mut piece = [0; 4096];
            while let Ok(size @ 1..) = read.read(&mut piece).await {
                heard
                    .borrow_mut()
                    .push((connected.elapsed(), piece[..size].to_vec()));
            }
            pending::<()>().await;
        };
        let talking = async {
            for (after, piece) in &script.pieces {
                pause(*after).await;
                // The server may be gone.
                let _ = write.write_all(piece).await;
            }
            pause(script.wait).await;
            if script.ending == Ending::Stop {
                // What came in the same instant need not have been read.
                pause(TICK).await;
                tokio::spawn(server.shutdown());
            }
            if script.ending == Ending::HalfClose {
                let _ = write.shutdown().await;
            }
            let last = connected.elapsed();
            match script.ending {
                Ending::Vanish => (last, None),
                _ => (last, Some(end(&mut served).await)),
            }
        };
        let (last, ended) = select! {
            biased;
            () = listening => unreachable!(),
            done = talking => done,
        };
        drop((read, write));
        let ended = match ended {
            Some(ended) => ended,
            None => end(&mut served).await,
        };
        Record {
            heard: heard.into_inner(),
            last,
            ended: ended - connected,
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn end(served: &mut JoinHandle<Instant>) -> Instant {
    timeout(Duration::from_secs(3600), served)
        .await
        .expect("the connection ends")
        .expect("no panic")
}
