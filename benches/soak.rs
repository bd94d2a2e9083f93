//! Keeps clients of all manners on the server for a time, then compares what it holds with what it held before.
//!
//! `cargo bench --bench soak -- --seconds 1200 --clients 5000`

#[allow(dead_code, reason = "shared with the property tests")]
#[path = "../tests/contract/model/frame.rs"]
mod frame;

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

const INTERVAL: Duration = Duration::from_secs(2);

/// How long the slowest answer may take, and the server to be rid of a wave of clients.
const PATIENCE: Duration = Duration::from_secs(30);

/// By how much the memory may grow over the soak: what the allocator keeps differs from wave to wave.
const SLACK: u64 = 8 * 1024;

fn main() -> ExitCode {
    let seconds = Duration::from_secs(argument("--seconds").unwrap_or(60));
    let clients = argument("--clients").unwrap_or(5000);
    rlimit::increase_nofile_limit(u64::MAX).expect("a higher descriptor limit");
    let server = Server::start().expect("a server");
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let soak = soak(&server, clients, seconds);
    match runtime.expect("a runtime").block_on(soak) {
        Ok(()) => ExitCode::SUCCESS,
        Err(violation) => {
            println!("violation: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn argument(name: &str) -> Option<u64> {
    let value = env::args().skip_while(|argument| argument != name).nth(1);
    value.map(|value| value.parse().expect("a number"))
}

/// The first wave warms the server up: what it has allocated for so many clients once, it may keep.
async fn soak(server: &Server, clients: u64, seconds: Duration) -> Result<(), String> {
    println!(
        "{:<24}{:>12}{:>14}{:>9}",
        "", "descriptors", "memory (KiB)", "threads"
    );
    // Once it has answered, all its threads are there.
    let socket = connect(server.address).await?;
    let mut start = server.usage();
    start.descriptors -= 1;
    leave(socket).await?;
    start.show("at the start");
    wave(server, clients, seconds.min(PATIENCE)).await?;
    let before = server.rest(start).await.show("after warm-up");
    let tally = wave(server, clients, seconds).await?;
    let after = server.rest(start).await.show("after the soak");
    println!(
        "\n{clients} clients, {} connections, {} notifications, none lost, early or doubled; late by {:?} at most",
        tally.connections, tally.notifications, tally.late
    );
    if (after.descriptors, after.threads) != (start.descriptors, start.threads) {
        return Err("descriptors or threads are not back where they were".into());
    }
    if after.memory > before.memory + SLACK {
        return Err(format!("the memory grew by more than {SLACK} KiB"));
    }
    Ok(())
}

/// Lets as many clients come and go until the time is over.
async fn wave(server: &Server, clients: u64, seconds: Duration) -> Result<Tally, String> {
    // The handshakes of so many take a while.
    let until = Instant::now() + seconds;
    let mut wave = JoinSet::new();
    for client in 0..clients {
        wave.spawn(live(server.address, client, until));
    }
    sleep_until(until - seconds / 10).await;
    server.usage().show("under load");
    let mut sum = Tally::default();
    while let Some(tally) = wave.join_next().await {
        sum.add(&tally.expect("no panic")?);
    }
    Ok(sum)
}

/// What clients have seen.
#[derive(Default)]
struct Tally {
    connections: u64,
    notifications: u64,
    late: Duration,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.notifications += other.notifications;
        self.late = self.late.max(other.late);
    }
}

/// One client, which connects again as often as its manners end its connection.
async fn live(server: SocketAddr, client: u64, until: Instant) -> Result<Tally, String> {
    let mut tally = Tally::default();
    sleep(Duration::from_millis(client % 1000)).await;
    while Instant::now() < until {
        let turn = client / 20 + tally.connections;
        let stay = Duration::from_secs(2 + turn % 7);
        let over = until.min(Instant::now() + stay);
        tally.connections += 1;
        let (manner, lived) = match client % 20 {
            0..10 => ("stays", listen(server, until, &mut tally).await),
            10 => ("comes again", listen(server, over, &mut tally).await),
            11 | 12 => ("says wrong words", say_wrong_words(server, over).await),
            13 | 14 => (
                "says start in fragments",
                start_in_fragments(server, over).await,
            ),
            15 | 16 => ("offends", offend(server, turn, over).await),
            17 => ("resets", reset(server, over).await),
            18 => (
                "says half a handshake",
                begin_handshake(server, turn, over).await,
            ),
            _ => ("does not read", stall(server, over).await),
        };
        lived.map_err(|error| format!("a client that {manner}: {error}"))?;
    }
    Ok(tally)
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(server: SocketAddr) -> Result<Socket, String> {
    let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
    upgrade(socket, server).await
}

async fn upgrade(socket: TcpSocket, server: SocketAddr) -> Result<Socket, String> {
    let upgrading = async {
        let stream = socket.connect(server).await?;
        let (socket, _) = client_async(format!("ws://{server}/"), stream).await?;
        Ok::<_, Error>(socket)
    };
    match timeout(PATIENCE, upgrading).await {
        Ok(upgraded) => upgraded.map_err(|error| format!("no handshake: {error}")),
        Err(_) => Err("no handshake in time".into()),
    }
}

async fn say(socket: &mut Socket, message: impl Into<Message>) -> Result<(), String> {
    socket
        .send(message.into())
        .await
        .map_err(|error| format!("can't write: {error}"))
}

/// The next message that is no ping.
async fn hear(socket: &mut Socket, until: Instant) -> Result<Message, String> {
    loop {
        match timeout_at(until, socket.next()).await {
            Ok(Some(Ok(Message::Ping(_)))) => {}
            Ok(Some(Ok(message))) => return Ok(message),
            ended => return Err(format!("heard {ended:?} instead of a message")),
        }
    }
}

async fn expect(socket: &mut Socket, due: Message) -> Result<(), String> {
    match hear(socket, Instant::now() + PATIENCE).await? {
        heard if heard == due => Ok(()),
        heard => Err(format!("heard {heard:?} instead of {due:?}")),
    }
}

async fn leave(mut socket: Socket) -> Result<(), String> {
    say(&mut socket, Message::Close(None)).await?;
    loop {
        match hear(&mut socket, Instant::now() + PATIENCE).await? {
            Message::Close(None) => return Ok(()),
            Message::Text(_) | Message::Pong(_) => {}
            heard => return Err(format!("heard {heard:?} instead of the end")),
        }
    }
}

/// Behaves well, and checks every notification.
async fn listen(server: SocketAddr, until: Instant, tally: &mut Tally) -> Result<(), String> {
    let mut socket = connect(server).await?;
    let mut due = Instant::now();
    say(&mut socket, "start").await?;
    for number in 1.. {
        let heard = hear(&mut socket, due + PATIENCE).await?;
        let now = Instant::now();
        if heard != Message::text(format!("Notification {number}")) || now < due {
            return Err(format!(
                "heard {heard:?} at {now:?}, and Notification {number} was due at {due:?}"
            ));
        }
        let late = now - due;
        tally.late = tally.late.max(late);
        tally.notifications += 1;
        due += INTERVAL;
        // A busy machine makes some late, but after one is left out, all the others are late by an interval.
        if due >= until && late < INTERVAL {
            break;
        }
        if due >= until + PATIENCE {
            return Err(format!("Notification {number} is still late by {late:?}"));
        }
    }
    leave(socket).await
}

async fn say_wrong_words(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    while Instant::now() < over {
        say(&mut socket, "please\u{1b}[31m\r\nstart").await?;
        expect(
            &mut socket,
            Message::text("You did not say the magic word!"),
        )
        .await?;
        sleep(Duration::from_millis(700)).await;
    }
    leave(socket).await
}

async fn start_in_fragments(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    let fragment = |text: &'static str, opcode, last| {
        Message::Frame(Frame::message(text, OpCode::Data(opcode), last))
    };
    say(&mut socket, fragment("st", Data::Text, false)).await?;
    while Instant::now() < over {
        say(&mut socket, Message::Ping("between".into())).await?;
        expect(&mut socket, Message::Pong("between".into())).await?;
        sleep(Duration::from_millis(300)).await;
    }
    say(&mut socket, fragment("art", Data::Continue, true)).await?;
    expect(&mut socket, Message::text("Notification 1")).await?;
    leave(socket).await
}

/// Breaks the rules, each time another one, and checks the close code.
async fn offend(server: SocketAddr, turn: u64, over: Instant) -> Result<(), String> {
    let offences: [(&[u8], u16); 6] = [
        (b"\x81\x05start", 1002),
        (b"\x89\xFE\x20\x00\0\0\0\0", 1009),
        (b"\x81\x82\0\0\0\0\xC3\x28", 1007),
        (b"\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0", 1009),
        (b"\x82\x80\0\0\0\0", 1003),
        (b"\x88\x82\0\0\0\0\x0B\xB8", 3000),
    ];
    let (bytes, code) = offences[usize::try_from(turn % 6).unwrap_or(0)];
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    let mut stream = socket.into_inner();
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut heard).await
    };
    let read = timeout(PATIENCE, talk).await;
    let frames = frame::read_frames(&[(Duration::ZERO, heard)], false);
    match frames.last().and_then(frame::Frame::close_code) {
        Some(heard) if heard == code => Ok(()),
        _ => Err(format!(
            "{} is closed with {frames:?} and {read:?}",
            bytes.escape_ascii()
        )),
    }
}

async fn reset(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    socket
        .get_ref()
        .set_zero_linger()
        .map_err(|error| error.to_string())
}

/// Says half a handshake, and leaves before the server answers or after.
async fn begin_handshake(server: SocketAddr, turn: u64, over: Instant) -> Result<(), String> {
    let talk = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.exam").await?;
        let mut answer = String::new();
        if turn.is_multiple_of(2) {
            sleep_until(over).await;
        } else {
            stream.read_to_string(&mut answer).await?;
        }
        Ok::<_, io::Error>(answer)
    };
    match timeout(PATIENCE, talk).await {
        Ok(Ok(answer)) if answer.is_empty() || answer.starts_with("HTTP/1.1 408 ") => Ok(()),
        answer => Err(format!("half a handshake is answered with {answer:?}")),
    }
}

/// Pings without reading the pongs, until the server has had enough.
async fn stall(server: SocketAddr, over: Instant) -> Result<(), String> {
    let small = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(4096)?;
        socket.set_recv_buffer_size(4096)?;
        Ok(socket)
    };
    let socket = small().map_err(|error: io::Error| error.to_string())?;
    let mut socket = upgrade(socket, server).await?;
    let pings = async {
        while say(&mut socket, Message::Ping(vec![0; 125].into()))
            .await
            .is_ok()
        {}
    };
    // Ten seconds, or more for as long as TCP's retries still squeeze something into the small buffer.
    timeout(4 * PATIENCE, pings)
        .await
        .map_err(|_| "it is kept")?;
    sleep_until(over).await;
    Ok(())
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> io::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wspush"))
            .args(["--listen", "127.0.0.1:0", "--interval"])
            .arg(INTERVAL.as_secs().to_string())
            .env("RUST_LOG", "off")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let address = line
            .trim()
            .trim_start_matches("ws://")
            .trim_end_matches('/');
        Ok(Self {
            address: address.parse().expect("an address"),
            child,
        })
    }

    fn usage(&self) -> Usage {
        let process = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{process}/status")).expect("a running server");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number
                .and_then(|number| number.parse().ok())
                .expect("a number")
        };
        Usage {
            descriptors: fs::read_dir(format!("{process}/fd"))
                .expect("a running server")
                .count(),
            memory: number("VmRSS:"),
            threads: number("Threads:"),
        }
    }

    /// What it uses once it has as many descriptors as at the start, or after a while all the same.
    async fn rest(&self, start: Usage) -> Usage {
        let patience = Instant::now() + PATIENCE;
        while self.usage().descriptors != start.descriptors && Instant::now() < patience {
            sleep(Duration::from_millis(100)).await;
        }
        self.usage()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
struct Usage {
    descriptors: usize,
    memory: u64,
    threads: u64,
}

impl Usage {
    fn show(self, when: &str) -> Self {
        println!(
            "{when:<24}{:>12}{:>14}{:>9}",
            self.descriptors, self.memory, self.threads
        );
        self
    }
}
