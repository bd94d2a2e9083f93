//! Clients, and three ways to reach a server: in this process over TCP, in this process over a pipe in memory (the clock may
//! be paused), and as a program.

use std::{
    cell::RefCell, convert::Infallible, fmt::Debug, future::pending, io, net::SocketAddr,
    process::Stdio, sync::Once, time::Duration,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, DuplexStream},
    net::TcpStream,
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::oneshot,
    task::yield_now,
    time::{Instant, advance, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use wspush::{
    CloseFrame, Config, Listener, Notification, Notifications, Refusal, Source, http::Request,
    listen,
};

use crate::model::frame as opcode;
pub(crate) use crate::model::{
    client::{Answer, HANDSHAKE, RawClient, patiently},
    frame::{FIN, frame},
    pipe::{Pipe, PipeListener, Pipes},
};

/// The first bytes of frames that are whole messages.
pub(crate) const TEXT: u8 = FIN | opcode::TEXT;
pub(crate) const BINARY: u8 = FIN | opcode::BINARY;
pub(crate) const CLOSE: u8 = FIN | opcode::CLOSE;
pub(crate) const PING: u8 = FIN | opcode::PING;
pub(crate) const PONG: u8 = FIN | opcode::PONG;

/// How long a test waits for what should take no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test waits on a paused clock.
const FOREVER: Duration = Duration::from_secs(10_000_000);

/// How much longer than its limit a peer has, in seconds: when the server was stopped, its timers fire before it has looked at
/// its sockets.
pub(crate) const GRACE: f64 = 0.05;

/// `HANDSHAKE` with one more field, or with several lines of them.
pub(crate) fn handshake_with(field: &str) -> String {
    HANDSHAKE.replace("\r\nHost:", &format!("\r\n{field}\r\nHost:"))
}

/// A Close frame's payload.
pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// Lets time pass on a paused clock as if the server had been stopped: its timers fire before it sees what a peer does next.
pub(crate) async fn leap(seconds: f64) {
    advance(Duration::from_secs_f64(seconds)).await;
    for _ in 0..5 {
        yield_now().await;
    }
}

/// Fails unless `seconds` have passed on a paused clock, whose timers count milliseconds.
pub(crate) fn assert_elapsed(since: Instant, seconds: f64) {
    let elapsed = since.elapsed();
    let due = Duration::from_secs_f64(seconds);
    assert!(
        (due..due + Duration::from_millis(3)).contains(&elapsed),
        "{elapsed:?} instead of {due:?}"
    );
}

/// The client of tokio-tungstenite, for what a well-behaved client does. While it is read from, it answers pings and Close
/// frames.
pub(crate) struct Client<S> {
    socket: WebSocketStream<S>,
    patience: Duration,
}

impl Client<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        connect(address).await.into_client().await
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.get_ref().local_addr().unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        patiently(self.patience, self.socket.send(message.into()))
            .await
            .unwrap();
    }

    /// The next message of any kind. Fails at the end of the connection.
    pub(crate) async fn recv(&mut self) -> Message {
        patiently(self.patience, self.socket.next())
            .await
            .expect("end of the connection instead of a message")
            .unwrap()
    }

    /// The next text. Answers pings before it.
    pub(crate) async fn recv_text(&mut self) -> String {
        loop {
            match self.recv().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("{other:?} instead of text"),
            }
        }
    }

    pub(crate) async fn expect_text(&mut self, text: &str) {
        assert_eq!(self.recv_text().await, text);
    }

    pub(crate) async fn expect_notifications(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.expect_text(&format!("Notification {number}")).await;
        }
    }

    /// Expects a Close frame with this code, answers it, and expects the end of the connection.
    pub(crate) async fn expect_close(&mut self, code: u16, cause: impl Debug) {
        let message = self.recv().await;
        let Message::Close(Some(frame)) = &message else {
            panic!("{cause:?}: {message:?}");
        };
        assert_eq!(u16::from(frame.code), code, "{cause:?}: {frame:?}");
        self.expect_end().await;
    }

    /// Closes, and expects the same code back and then the end of the connection.
    pub(crate) async fn close(&mut self, frame: Option<CloseFrame>) {
        let expected = frame.as_ref().map(|frame| frame.code);
        self.socket.close(frame).await.unwrap();
        let answer = loop {
            // Notifications may come before it.
            if let Message::Close(answer) = self.recv().await {
                break answer;
            }
        };
        assert_eq!(answer.map(|frame| frame.code), expected);
        self.expect_end().await;
    }

    /// Expects the end of the connection, without a reset.
    pub(crate) async fn expect_end(&mut self) {
        let end = patiently(self.patience, self.socket.next()).await;
        assert!(end.is_none(), "{end:?}");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    /// Performs the opening handshake of tokio-tungstenite.
    pub(crate) async fn into_client(self) -> Client<S> {
        let Self { stream, patience } = self;
        let upgrade = client_async("ws://localhost/", stream);
        let (socket, _) = patiently(patience, upgrade).await.unwrap();
        Client { socket, patience }
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send_frame(TEXT, text).await;
    }

    /// The next text, in one frame. Answers pings before it.
    pub(crate) async fn recv_text(&mut self) -> String {
        loop {
            match self.recv_frame().await {
                (TEXT, text) => return String::from_utf8(text).unwrap(),
                (PING, payload) => self.send_frame(PONG, payload).await,
                other => panic!("{other:?} instead of text"),
            }
        }
    }

    pub(crate) async fn expect_text(&mut self, text: &str) {
        assert_eq!(self.recv_text().await, text);
    }

    pub(crate) async fn expect_notifications(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.expect_text(&format!("Notification {number}")).await;
        }
    }

    /// Expects a Close frame with this code and nothing after it.
    pub(crate) async fn expect_close(&mut self, code: u16, cause: impl Debug) {
        let (first, payload) = self.recv_frame().await;
        let got = (first, payload.get(..2));
        assert_eq!(
            got,
            (CLOSE, Some(&code.to_be_bytes()[..])),
            "{cause:?}: {payload:?}"
        );
        self.expect_end().await;
    }

    /// Expects the end of the connection, without a reset.
    pub(crate) async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let read = patiently(self.patience, self.stream.read_to_end(&mut rest)).await;
        assert_eq!((read.unwrap(), rest), (0, vec![]));
    }
}

pub(crate) async fn connect(address: SocketAddr) -> RawClient<TcpStream> {
    RawClient {
        stream: TcpStream::connect(address).await.unwrap(),
        patience: PATIENCE,
    }
}

pub(crate) async fn upgraded(address: SocketAddr) -> RawClient<TcpStream> {
    connect(address).await.upgraded().await
}

pub(crate) async fn fetch(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    connect(address).await.request(request).await
}

/// A source that has nothing to push.
pub(crate) struct Silent;

impl Source for Silent {
    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        pending().await
    }
}

/// A connection over a pipe that holds `size` bytes each way, and the end of the connection.
pub(crate) fn pipe(size: usize, interval: f64) -> (RawClient<DuplexStream>, End) {
    let interval = Duration::from_secs_f64(interval);
    pipe_from(size, move || Notifications::every(interval))
}

/// Like [`pipe`], with another source.
pub(crate) fn pipe_from<F, N>(size: usize, source: F) -> (RawClient<DuplexStream>, End)
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source,
{
    pipe_with(Config::default(), size, source)
}

/// Like [`pipe_from`], with another configuration.
pub(crate) fn pipe_with<F, N>(
    config: Config,
    size: usize,
    source: F,
) -> (RawClient<DuplexStream>, End)
where
    F: Fn() -> N + Send + Sync + 'static,
    N: Source,
{
    let (pipes, listener) = Pipes::new();
    let (stream, ended) = pipes.connect(size);
    let server = wspush::Server::start(vec![listener], config, move |_, _| Ok(source()));
    let end = End {
        ended,
        _server: server,
    };
    (pipe_client(stream), end)
}

/// A client on a paused clock.
pub(crate) fn pipe_client(stream: DuplexStream) -> RawClient<DuplexStream> {
    let patience = FOREVER;
    RawClient { stream, patience }
}

/// The end of a connection over a pipe.
pub(crate) struct End {
    ended: oneshot::Receiver<Infallible>,
    _server: wspush::Server,
}

impl End {
    pub(crate) async fn wait(&mut self) {
        let _ = (&mut self.ended).await;
    }

    pub(crate) fn is_over(&mut self) -> bool {
        (&mut self.ended).now_or_never().is_some()
    }
}

/// A server that is reached over pipes in memory. It stops when dropped.
pub(crate) struct PipeServer {
    pipes: Pipes,
    server: wspush::Server,
}

impl PipeServer {
    pub(crate) fn start(interval: f64, config: Config) -> Self {
        Self::start_behind(|listener| listener, interval, config)
    }

    /// Like [`start`](Self::start), with a listener around that of the pipes.
    pub(crate) fn start_behind<L: Listener>(
        listener: impl FnOnce(PipeListener) -> L,
        interval: f64,
        config: Config,
    ) -> Self {
        let interval = Duration::from_secs_f64(interval);
        let (pipes, pipe_listener) = Pipes::new();
        let listeners = vec![listener(pipe_listener)];
        let new_source = move |_: &Request<()>, _: SocketAddr| Ok(Notifications::every(interval));
        let server = wspush::Server::start(listeners, config, new_source);
        Self { pipes, server }
    }

    /// Connects over a pipe that holds `size` bytes each way.
    pub(crate) fn connect(&self, size: usize) -> RawClient<DuplexStream> {
        RawClient {
            stream: self.pipes.connect(size).0,
            patience: FOREVER,
        }
    }

    pub(crate) async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

/// The configuration of a server that serves so many connections at once.
pub(crate) fn full_at(max_connections: usize) -> Config {
    Config {
        max_connections,
        ..Config::default()
    }
}

/// A server in this process. It stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _server: wspush::Server,
}

impl Server {
    pub(crate) async fn start(interval: f64, config: Config) -> Self {
        let interval = Duration::from_secs_f64(interval);
        Self::start_with(config, move |_, _| Ok(Notifications::every(interval))).await
    }

    pub(crate) async fn start_with<F, N>(config: Config, new_source: F) -> Self
    where
        F: Fn(&Request<()>, SocketAddr) -> Result<N, Refusal> + Send + Sync + 'static,
        N: Source,
    {
        let listeners = listen("127.0.0.1:0").await.unwrap();
        let address = listeners[0].local_addr().unwrap();
        let server = wspush::Server::start(listeners, config, new_source);
        Self {
            address,
            _server: server,
        }
    }
}

pub(crate) fn wspush(arguments: &[&str]) -> Command {
    under("exec \"$0\" \"$@\"", arguments)
}

/// The program, started by this line of shell.
pub(crate) fn under(shell: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", shell, env!("CARGO_BIN_EXE_wspush")])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A line of shell for [`under`] that limits the descriptors.
pub(crate) fn with_descriptors(count: usize) -> String {
    format!("ulimit -n {count}; exec \"$0\" \"$@\"")
}

/// The exit status, standard output and standard error of a program that ends by itself.
pub(crate) async fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.expect("it does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    (output.status.code(), stdout, stderr)
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what a server in this thread logs at `info`. A test has a runtime of one thread.
pub(crate) fn start_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_writer(|| LogWriter);
        log.with_ansi(false).with_target(false).init();
    });
    LOG.take();
}

/// What was logged since [`start_log`].
pub(crate) fn logged() -> String {
    LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap())
}

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The running program. It is killed when dropped.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    said: String,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<BufReader<ChildStderr>>,
}

/// Empty if nothing can be read.
async fn first_line(stream: Option<&mut BufReader<impl AsyncRead + Unpin>>) -> String {
    let mut line = String::new();
    if let Some(stream) = stream {
        let read = timeout(PATIENCE, stream.read_line(&mut line)).await;
        read.unwrap().unwrap();
    }
    line
}

impl Program {
    pub(crate) async fn start(command: Command) -> Self {
        let program = Self::try_start(command).await;
        program.unwrap_or_else(|said| panic!("{said:?}"))
    }

    /// Waits until it listens. Its address is in standard output, or in the log if standard output is closed. The error is
    /// what it printed instead.
    pub(crate) async fn try_start(mut command: Command) -> Result<Self, String> {
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut stdout = child.stdout.take().map(BufReader::new);
        let mut stderr = child.stderr.take().map(BufReader::new);
        let mut said = first_line(stdout.as_mut()).await;
        let is_url = !said.is_empty();
        if !is_url {
            said = first_line(stderr.as_mut()).await;
        }
        let mut words = said.split([' ', '=', '/', '\n']);
        let Some(address) = words.find_map(|word| word.parse().ok()) else {
            return Err(said);
        };
        Ok(Self {
            child,
            address,
            said: if is_url { said } else { String::new() },
            stdout,
            stderr,
        })
    }

    pub(crate) async fn listening(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        Self::start(wspush(&arguments)).await
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", "kill -$0 $1", name, &pid]);
        assert!(kill.status().await.unwrap().success());
    }

    /// Reads the log up to the line with this text.
    pub(crate) async fn log_until(&mut self, text: &str) -> String {
        let log = self.stderr.as_mut().unwrap();
        let mut lines = String::new();
        while !lines.contains(text) {
            let read = timeout(PATIENCE, log.read_line(&mut lines)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "no {text:?} in {lines}");
        }
        lines
    }

    /// Waits for its end. Returns the exit status, all of standard output, and the rest of standard error.
    pub(crate) async fn end(mut self) -> (Option<i32>, String, String) {
        let mut log = String::new();
        let rest = async {
            if let Some(stdout) = &mut self.stdout {
                stdout.read_to_string(&mut self.said).await.unwrap();
            }
            if let Some(stderr) = &mut self.stderr {
                stderr.read_to_string(&mut log).await.unwrap();
            }
            self.child.wait().await.unwrap().code()
        };
        let status = timeout(PATIENCE, rest).await.expect("it does not end");
        (status, self.said, log)
    }

    pub(crate) async fn stop(self) -> (Option<i32>, String, String) {
        self.signal("TERM").await;
        self.end().await
    }
}
