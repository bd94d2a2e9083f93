//! Clients of all kinds that receive the lines of standard input.
//!
//! Each receives a contiguous run of lines from its `start` on. The run ends with the input and Close 1000, with Close 1013
//! if the client was too far behind, or where the client itself leaves. Nothing else may happen.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ChildStdin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Result, Tally,
    socket::{PATIENCE, Socket, expect, say, upgrade},
};

/// How many lines the producer writes at once, in turn. The most are more than may wait for a client.
const BURSTS: [u64; 6] = [1, 20, 1, 200, 1, 5000];
const PAUSE: Duration = Duration::from_millis(300);

/// The pause before the last few lines.
const CALM: Duration = Duration::from_secs(3);

/// How many lines may wait for a client.
const BEHIND: u64 = 4096;

/// The longest line that is not cut.
const LONGEST: usize = 64 * 1024;

/// The input: line 1, line 2, and so on.
#[derive(Default)]
pub(crate) struct Input {
    /// How many lines the producer has written or begun to write.
    written: AtomicU64,
    ending: AtomicBool,
    ended: AtomicBool,
}

impl Input {
    /// Writes lines until [`end`](Self::end).
    pub(crate) fn start(self: Arc<Self>, mut input: ChildStdin) -> JoinHandle<io::Result<()>> {
        thread::spawn(move || {
            for burst in BURSTS.iter().cycle() {
                thread::sleep(PAUSE);
                if self.ending.load(SeqCst) {
                    break;
                }
                self.write(*burst, &mut input)?;
            }
            // The server ends too soon after its input to deliver everything that waits for slow clients by now.
            thread::sleep(CALM);
            self.write(BURSTS[1], &mut input)?;
            self.ended.store(true, SeqCst);
            Ok(())
        })
    }

    fn write(&self, burst: u64, input: &mut ChildStdin) -> io::Result<()> {
        let first = 1 + self.written.fetch_add(burst, SeqCst);
        let lines = (first..first + burst).map(|number| line(number) + "\n");
        // An empty line is not pushed.
        input.write_all((lines.collect::<String>() + "\r\n").as_bytes())
    }

    pub(crate) fn end(&self) {
        self.ending.store(true, SeqCst);
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(SeqCst)
    }
}

/// The line with this number, unlike any other. Most are short, some almost as long as allowed, and a few longer.
fn line(number: u64) -> String {
    let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let length = match random % 1000 {
        0 => 60_000 + random % 20_000,
        1..=5 => random % 60_000,
        _ => random % 200,
    };
    let letters = b"abcdefghijklmnopqrstuvwxyz";
    let letter = char::from(letters[usize::try_from(number % 26).unwrap_or(0)]);
    let length = usize::try_from(length).unwrap_or(0);
    format!("{number} {}", letter.to_string().repeat(length))
}

/// One client, which reconnects whenever its behaviour ends its connection.
pub(crate) async fn live(
    server: SocketAddr,
    client: u64,
    input: Arc<Input>,
    until: Instant,
) -> Result<Tally> {
    let mut tally = Tally::default();
    sleep(Duration::from_millis(client % 1000)).await;
    while Instant::now() < until {
        let turn = client / 10 + tally.connections;
        let over = until.min(Instant::now() + Duration::from_secs(2 + turn % 7));
        let mut reader = Reader::start(server, &input, client % 10 > 6).await?;
        let (behaviour, closed) = match client % 10 {
            0..5 => ("stays", reader.read(until, Duration::ZERO).await),
            5 => ("reconnects", reader.read(over, Duration::ZERO).await),
            6 => ("resets", reader.read(over, Duration::ZERO).await),
            7 => ("is slow", reader.read(over, Duration::from_millis(5)).await),
            _ => {
                sleep_until(over).await;
                ("stalls", reader.read(until, Duration::ZERO).await)
            }
        };
        let ended = match closed {
            Ok(None) if behaviour == "resets" => reader.reset(),
            Ok(None) => reader.leave().await,
            Ok(Some(code)) => reader.check_end(code),
            Err(error) => Err(error),
        };
        ended.map_err(|error| format!("a client that {behaviour}: {error}"))?;
        tally.add(&reader.tally);
    }
    Ok(tally)
}

/// A client that stays until the input ends, which must be before `until`.
pub(crate) async fn stay(server: SocketAddr, input: Arc<Input>, until: Instant) -> Result<Tally> {
    let mut reader = Reader::start(server, &input, false).await?;
    match reader.read(until, Duration::ZERO).await? {
        Some(code) => reader.check_end(code)?,
        None => return Err("the input has ended, but the connection has not".into()),
    }
    Ok(reader.tally)
}

/// A client that checks the lines it receives.
struct Reader {
    socket: Socket,
    input: Arc<Input>,
    /// The last line received. Before the first one: the last line that the server may have read before `start`, once that
    /// is known.
    last: u64,
    tally: Tally,
}

impl Reader {
    async fn start(server: SocketAddr, input: &Arc<Input>, small: bool) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if small {
            // A small buffer, so that the client soon falls behind when it does not read. With 4 KiB, less than loopback's
            // largest segment, the kernel lets 2 KiB pass every few seconds even if the client reads.
            socket.set_recv_buffer_size(32 * 1024)?;
        }
        let mut reader = Self {
            socket: upgrade(socket, server).await?,
            input: input.clone(),
            last: 0,
            tally: Tally {
                connections: 1,
                ..Tally::default()
            },
        };
        say(&mut reader.socket, "please").await?;
        let answer = Message::text("You did not say the magic word!");
        expect(&mut reader.socket, answer).await?;
        say(&mut reader.socket, "start").await?;
        say(&mut reader.socket, Message::Ping("started".into())).await?;
        Ok(reader)
    }

    /// Reads until `over`, pausing after each line. Returns the close code if the server has closed by then.
    async fn read(&mut self, over: Instant, pause: Duration) -> Result<Option<u16>> {
        // The condition ends the loop even if there is always something to read.
        while Instant::now() < over {
            match timeout_at(over, self.socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => self.take(&text)?,
                // Only lines written before this pong may be missing.
                Ok(Some(Ok(Message::Pong(_)))) if self.last == 0 => {
                    self.last = self.input.written();
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(Message::Close(close)))) => {
                    return Ok(Some(close.map_or(1005, |close| close.code.into())));
                }
                Ok(ended) => return Err(format!("{ended:?} after line {}", self.last).into()),
                Err(_) => break,
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        Ok(None)
    }

    fn take(&mut self, text: &str) -> Result<()> {
        let number = text
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| format!("{text:?} is not a line of the input"))?;
        let first = self.tally.notifications == 0;
        let due = if first && (self.last == 0 || number <= self.last) {
            number
        } else {
            self.last + 1
        };
        let mut line = line(due);
        line.truncate(LONGEST);
        if text != line {
            return Err(format!("line {number} after line {}", self.last).into());
        }
        self.last = number;
        self.tally.notifications += 1;
        Ok(())
    }

    async fn leave(&mut self) -> Result<()> {
        let _ = say(&mut self.socket, Message::Close(None)).await;
        match self.read(Instant::now() + PATIENCE, Duration::ZERO).await {
            Ok(Some(1005)) => Ok(()),
            Ok(Some(code)) => self.check_end(code),
            Ok(None) => Err("the server does not answer its Close".into()),
            // The server may have closed it some seconds ago, and then answers its Close with a reset.
            Err(error) => self.check_end(1013).map_err(|_| error),
        }
    }

    fn reset(&self) -> Result<()> {
        Ok(self.socket.get_ref().set_zero_linger()?)
    }

    /// Fails if the server may not close the connection now with this code.
    fn check_end(&mut self, code: u16) -> Result<()> {
        let missing = self.input.written() - self.last;
        match code {
            1000 if self.input.ended.load(SeqCst) && missing == 0 => Ok(()),
            1013 if missing >= BEHIND => {
                self.tally.behind += 1;
                Ok(())
            }
            _ => Err(format!("closed with {code} while {missing} lines were missing").into()),
        }
    }
}
