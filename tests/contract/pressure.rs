//! The contract's "Under pressure".

use std::{
    collections::HashSet,
    fs, io,
    mem::{replace, take},
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, ThreadId},
    time::Duration,
};

use crate::common::{
    BINARY, CLOSE, Client, FIN, HANDSHAKE, PATIENCE, PING, PONG, Pipe, PipeListener, PipeServer,
    Program, Server, TEXT, assert_elapsed, close, connect, fetch, frame, handshake_with, under,
    upgraded, with_descriptors, wspush,
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    join,
    net::unix::pipe,
    task::yield_now,
    time::{Instant, advance, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use wspush::{CloseFrame, Config, Listener, Notification, Source, http::Request};

/// The processor time that the program has taken, threads that have ended included.
fn processor_time(program: &Program) -> Duration {
    let stat = format!("/proc/{}/stat", program.child.id().unwrap());
    let stat = fs::read_to_string(stat).unwrap();
    // The fields behind the name, which may hold spaces: utime and stime are the 14th and the 15th of proc_pid_stat(5).
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks
        .map(|ticks| Duration::from_millis(10) * ticks.parse().unwrap())
        .sum()
}

#[tokio::test]
async fn when_accept_fails_the_server_neither_ends_nor_spins_and_logs_once_and_goes_on() {
    let arguments = ["--listen", "127.0.0.1:0", "--max-connections", "1000"];
    let mut command = under(&with_descriptors(40), &arguments);
    command.env("RUST_LOG", "wspush=debug");
    let mut program = Program::start(command).await;
    let mut first = Client::connect(program.address).await;
    let mut more = Vec::new();
    for _ in 0..60 {
        more.push(connect(program.address).await);
    }
    program.log_until("can't accept").await;
    let before = processor_time(&program);
    // Not a wait for anything: the time in which it might spin.
    sleep(Duration::from_secs(1)).await;
    let spent = processor_time(&program).checked_sub(before).unwrap();
    assert!(spent < Duration::from_millis(100), "{spent:?} in a second");
    first.send("still here").await;
    let log = program.log_until("still here").await;
    assert!(!log.contains("can't accept"), "{log}");
    drop(more);
    Client::connect(program.address).await;
    drop(first);
    assert_eq!(program.stop().await.0, Some(0));
}

/// Fails before each connection.
struct FailingListener {
    listener: PipeListener,
    error: i32,
    has_failed: bool,
}

impl Listener for FailingListener {
    type Stream = Pipe;

    async fn accept(&mut self) -> io::Result<(Pipe, SocketAddr)> {
        if !replace(&mut self.has_failed, true) {
            return Err(io::Error::from_raw_os_error(self.error));
        }
        let accepted = self.listener.accept().await;
        self.has_failed = false;
        accepted
    }
}

/// Fails unless so many handshakes take so many seconds, when accept fails with this error before each.
async fn assert_accepted_after(error: i32, handshakes: u32, seconds: f64) {
    let listener = |listener| FailingListener {
        listener,
        error,
        has_failed: false,
    };
    let server = PipeServer::start_behind(listener, 1.0, Config::default());
    let start = Instant::now();
    for _ in 0..handshakes {
        server.connect(4096).into_client().await;
    }
    assert_elapsed(start, seconds);
}

#[tokio::test(start_paused = true)]
async fn when_accept_fails_for_one_connections_sake_the_next_one_is_accepted_at_once() {
    for error in [libc::ECONNABORTED, libc::ECONNRESET, libc::ECONNREFUSED] {
        assert_accepted_after(error, 30, 0.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn when_accept_fails_for_want_of_descriptors_or_memory_the_server_waits_a_moment() {
    for error in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert_accepted_after(error, 1, 0.1).await;
    }
}

#[tokio::test]
async fn when_the_server_was_stopped_for_a_while_what_lies_in_its_sockets_counts() {
    let program = Program::listening(&["--keepalive", "2"]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(upgraded(program.address).await);
    }
    for client in &mut clients {
        assert_eq!(client.recv_frame().await, (PING, vec![]));
    }
    program.signal("STOP").await;
    for client in &mut clients {
        client.send_frame(PONG, "").await;
        client.send_text("start").await;
    }
    // Not a wait for anything: the time in which the pongs fall due.
    sleep(Duration::from_secs(3)).await;
    program.signal("CONT").await;
    for client in &mut clients {
        client.expect_text("Notification 1").await;
    }
}

/// As if the server had been stopped: its timers fire before it looks at its sockets.
async fn stop_for(seconds: f64) {
    advance(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_server_was_stopped_a_head_that_came_meanwhile_is_not_late() {
    let server = PipeServer::start(1.0, Config::default());
    let mut client = server.connect(4096);
    client.write(&HANDSHAKE[..20]).await;
    sleep(Duration::from_secs(1)).await;
    stop_for(10.2).await;
    assert_eq!(client.request(&HANDSHAKE[20..]).await.status, 101);
}

#[tokio::test(start_paused = true)]
async fn when_the_server_was_stopped_a_head_that_came_meanwhile_is_still_refused_with_503() {
    let config = Config {
        max_connections: 1,
        ..Config::default()
    };
    let server = PipeServer::start(1.0, config);
    let _first = server.connect(4096).upgraded().await;
    let mut second = server.connect(4096);
    second.write(&HANDSHAKE[..20]).await;
    sleep(Duration::from_secs(1)).await;
    stop_for(2.2).await;
    assert_eq!(second.request(&HANDSHAKE[20..]).await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn when_the_server_was_stopped_a_client_that_reads_is_not_closed_as_stalled() {
    let server = PipeServer::start(0.001, Config::default());
    let mut client = server.connect(64).upgraded().await;
    client.send_text("start").await;
    sleep(Duration::from_secs(1)).await;
    for number in 1..5 {
        stop_for(61.0).await;
        client.expect_notifications([number]).await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Clients that break the rules in many ways.
async fn misbehave(address: SocketAddr) {
    let mut stalled = upgraded(address).await;
    stalled.send_text("start").await;
    for _ in 0..20 {
        for bad in [
            b"\x81\x05start".to_vec(),
            frame(CLOSE, "x"),
            frame(TEXT, "\u{fffd}".repeat(2000)),
            frame(PING, "x").repeat(100),
            frame(BINARY & !FIN, "x"),
        ] {
            let mut client = upgraded(address).await;
            client.send_text("start").await;
            client.write(bad).await;
            client.stream.set_zero_linger().unwrap();
        }
        let mut client = connect(address).await;
        assert_eq!(client.request("nonsense\r\n\r\n").await.status, 400);
    }
    stalled.expect_notifications(1..=20).await;
}

#[tokio::test]
async fn one_client_misbehaves_and_no_other_sees_it() {
    let server = Server::start(0.005, Config::default()).await;
    let mut good = Client::connect(server.address).await;
    let notifications = async {
        good.send("start").await;
        good.expect_notifications(1..=200).await;
    };
    join!(misbehave(server.address), notifications);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_without_a_pause_does_not_keep_its_thread_from_the_others() {
    let server = PipeServer::start(1.0, Config::default());
    let mut flooding = server.connect(1024 * 1024).upgraded().await;
    let mut other = server.connect(4096).upgraded().await;
    flooding.write(frame(PING, "").repeat(10_000)).await;
    other.send_frame(PING, "other").await;
    assert_eq!(other.recv_frame().await, (PONG, b"other".to_vec()));
    let mut pongs = vec![0; 20_000];
    let size = flooding.stream.read(&mut pongs).await.unwrap();
    assert!(size < 1000, "{size} bytes of pongs before the other's");
}

/// What stands in place of what in requests that try to write to the log.
const FORGED: [(&str, &str); 5] = [
    ("GET /", "GET /\u{9b}x"),
    ("GET /", "GET \u{2028}"),
    ("WebSocket-Version: 13", "WebSocket-Version: \u{9b}\t"),
    ("Host: localhost", "Host: \u{9b}x"),
    ("YSBz", "\u{9b}"),
];

#[tokio::test]
async fn no_client_can_write_a_line_of_the_log_at_any_level() {
    let mut command = wspush(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "trace");
    let program = Program::start(command).await;
    let forged = "\nforged \x1b[31m\u{9b}31m\u{2028}\r";
    let mut client = connect(program.address).await;
    let fields = ["X", "X-Forwarded-For", "Sec-WebSocket-Protocol"];
    let fields = fields.map(|name| format!("{name}: \u{9b}31m\u{2028}"));
    let request = handshake_with(&fields.join("\r\n"));
    assert_eq!(client.request(request).await.status, 101);
    client.send_text(forged).await;
    client.recv_text().await;
    client.send_frame(PING, forged).await;
    client.recv_frame().await;
    client.send_frame(CLOSE, close(4000, forged)).await;
    client.expect_close(4000, forged).await;
    drop(client);
    for (from, to) in FORGED {
        fetch(program.address, HANDSHAKE.replace(from, to)).await;
    }
    fetch(program.address, handshake_with("Origin: \u{9b}\u{2028}")).await;
    fetch(program.address, forged).await;
    let (_, _, log) = program.stop().await;
    for line in log.lines() {
        assert!(line.starts_with("20"), "{line:?}");
        assert!(
            !line.contains(|c: char| c.is_control() || c == '\u{2028}'),
            "{line:?}"
        );
    }
}

#[tokio::test]
async fn at_info_the_lines_for_a_connection_are_bounded_however_much_the_client_says() {
    let program = Program::listening(&[]).await;
    let mut client = Client::connect(program.address).await;
    let peer = client.local_addr().to_string();
    for _ in 0..300 {
        client.send("wrong").await;
        client.recv_text().await;
        client.send(Message::Ping("x".into())).await;
        assert_eq!(client.recv().await, Message::Pong("x".into()));
    }
    client.close(None).await;
    drop(client);
    let (_, _, log) = program.stop().await;
    let lines = log.lines().filter(|line| line.contains(&peer)).count();
    assert!((1..=4).contains(&lines), "{lines}: {log}");
}

#[tokio::test]
async fn the_log_says_how_each_connection_and_the_server_ended() {
    let program = Program::listening(&[]).await;
    let mut expected = Vec::new();
    for (cause, end) in [
        (frame(CLOSE, ""), "closed by the client"),
        (
            frame(CLOSE, close(4000, "")),
            "closed by the client with 4000",
        ),
        (
            frame(BINARY, "x"),
            "closed with 1003: server doesn't support binary messages",
        ),
        (frame(TEXT, [0xFF]), "closed with 1007: text must be UTF-8"),
        (vec![], "connection lost without a Close frame"),
    ] {
        let mut client = upgraded(program.address).await;
        let peer = client.stream.local_addr().unwrap();
        client.write(cause).await;
        client.stream.shutdown().await.unwrap();
        client.stream.read_to_end(&mut vec![]).await.unwrap();
        expected.push(format!(
            "disconnected peer={peer} reason=\"{end}\" notifications=0 "
        ));
    }
    let (_, _, log) = program.stop().await;
    expected.push("stopping connections=".into());
    expected.push("stopped cut_off=0".into());
    for line in expected {
        assert!(log.contains(&line), "no {line} in {log}");
    }
}

#[tokio::test]
async fn the_log_says_who_was_refused_and_why() {
    let program = Program::listening(&[]).await;
    let mut client = connect(program.address).await;
    let peer = client.stream.local_addr().unwrap();
    client.request(HANDSHAKE.replace("GET", "PUT")).await;
    drop(client);
    let line = format!(
        "refused peer={peer} status=405 reason=\"The method of a WebSocket handshake is GET.\""
    );
    let (_, _, log) = program.stop().await;
    assert!(log.contains(&line), "no {line} in {log}");
}

#[tokio::test]
async fn a_log_that_is_read_loses_no_line_though_many_come_at_once() {
    let mut command = wspush(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "wspush=debug");
    let mut program = Program::start(command).await;
    let mut client = upgraded(program.address).await;
    let words = "x".repeat(200);
    let says = async {
        client.write(frame(TEXT, &words).repeat(300)).await;
        for _ in 0..300 {
            client.recv_text().await;
        }
        client.send_text("last words").await;
    };
    let (log, ()) = join!(program.log_until("last words"), says);
    assert_eq!(log.matches(&words).count(), 300);
}

#[tokio::test]
async fn the_page_and_the_answer_to_options_leave_no_line_at_info() {
    let program = Program::listening(&[]).await;
    let mut peers = Vec::new();
    for (method, status) in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)] {
        let mut client = connect(program.address).await;
        peers.push(client.stream.local_addr().unwrap().to_string());
        let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.request(request).await.status, status);
    }
    let (_, _, log) = program.stop().await;
    assert!(!peers.iter().any(|peer| log.contains(peer)), "{log}");
}

#[tokio::test]
async fn log_lines_that_are_lost_are_counted_and_the_log_says_how_many() {
    const LINES: u64 = 20_000;
    let (log, unread) = pipe::pipe().unwrap();
    let mut command = wspush(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "wspush=debug");
    command.stderr(log.into_blocking_fd().unwrap());
    let program = Program::start(command).await;
    let mut client = upgraded(program.address).await;
    client.send_text("start").await;
    client.expect_text("Notification 1").await;
    for _ in 1..LINES {
        client.send_text("ignored").await;
    }
    client.send_frame(PING, "").await;
    while client.recv_frame().await.0 != PONG {}
    let mut lines = BufReader::new(unread).lines();
    let (mut received, mut lost) = (0, 0);
    while received + lost < LINES {
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("some lines are not counted").unwrap().unwrap();
        let number = line
            .split_once("written in time lines=")
            .map(|(_, number)| number);
        lost += number.map_or(0, |number| number.parse().unwrap());
        received += u64::from(line.contains("received text"));
    }
    assert!(lost > 0);
    assert_eq!(received + lost, LINES);
    drop(client);
    assert_eq!(program.stop().await.0, Some(0));
}

/// Reads lines up to the one that ends with this text.
async fn lines_until(log: &mut (impl AsyncBufRead + Unpin), end: &str) -> String {
    let mut lines = String::new();
    while !lines.trim_end().ends_with(end) {
        let read = timeout(PATIENCE, log.read_line(&mut lines)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "no {end:?} in {lines}");
    }
    lines
}

/// A FIFO of this name.
fn fifo(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    path
}

#[tokio::test]
async fn a_fifo_whose_reader_restarts_gets_each_line_of_the_log() {
    let path = fifo("log");
    let read = || BufReader::new(pipe::OpenOptions::new().open_receiver(&path).unwrap());
    let first_reader = read();
    let mut command = wspush(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "wspush=debug");
    command.stderr(fs::File::options().write(true).open(&path).unwrap());
    let program = Program::start(command).await;
    let mut client = upgraded(program.address).await;
    drop(first_reader);
    for number in 0..50 {
        client.send_text(&format!("word {number}.")).await;
        client.recv_text().await;
    }
    let lines = lines_until(&mut read(), "text=\"word 49.\"").await;
    for number in 0..50 {
        let text = format!("text=\"word {number}.\"");
        assert_eq!(lines.matches(&text).count(), 1, "{lines}");
    }
    assert!(lines.lines().all(|line| line.starts_with("20")), "{lines}");
    drop(client);
    assert_eq!(program.stop().await.0, Some(0));
}

#[tokio::test]
async fn a_health_check_is_not_logged_when_max_connections_is_reached_either() {
    let program = Program::listening(&["--max-connections", "1"]).await;
    let first = Client::connect(program.address).await;
    let mut check = connect(program.address).await;
    let peer = check.stream.local_addr().unwrap().to_string();
    check.stream.shutdown().await.unwrap();
    check.expect_end().await;
    drop((first, check));
    let (_, _, log) = program.stop().await;
    assert!(!log.contains(&peer), "{log}");
}

#[tokio::test]
async fn a_connection_that_closes_before_it_has_sent_a_byte_is_not_logged() {
    let program = Program::listening(&[]).await;
    let mut checks = Vec::new();
    for reset in [false, true, false, true] {
        let mut check = connect(program.address).await;
        checks.push(check.stream.local_addr().unwrap().to_string());
        if reset {
            check.stream.set_zero_linger().unwrap();
        } else {
            // Until the server has closed too.
            check.stream.shutdown().await.unwrap();
            check.expect_end().await;
        }
    }
    let spoken = upgraded(program.address).await;
    let peer = spoken.stream.local_addr().unwrap().to_string();
    drop(spoken);
    let (_, _, log) = program.stop().await;
    assert!(log.contains(&peer), "{log}");
    assert!(!checks.iter().any(|check| log.contains(check)), "{log}");
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_times_out_before_it_has_sent_a_byte_is_not_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _logged = tracing::subscriber::set_default(subscriber.finish());
    for (said, lines) in [("", 0), ("G", 1)] {
        let (mut client, mut end) = crate::common::pipe(4096, 1.0);
        client.write(said).await;
        end.wait().await;
        let log = String::from_utf8(take(&mut *log.0.lock().unwrap())).unwrap();
        assert_eq!(log.lines().count(), lines, "{log}");
    }
}

#[tokio::test]
async fn when_nobody_reads_the_log_the_server_serves_on() {
    let (unread, log) = io::pipe().unwrap();
    let mut command = wspush(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "wspush=debug").stderr(log);
    let program = Program::start(command).await;
    let mut client = upgraded(program.address).await;
    // More than the pipe and the program's own queue hold.
    let words = "x".repeat(4000);
    for _ in 0..500 {
        client.send_text(&words).await;
        client.recv_text().await;
    }
    client.send_text("start").await;
    client.expect_text("Notification 1").await;
    drop(client);
    upgraded(program.address).await;
    assert_eq!(program.stop().await.0, Some(0));
    drop(unread);
}

/// Some bytes, always the same for a seed (xorshift).
fn bytes(mut seed: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_with(move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_be_bytes()[0]
    })
}

#[tokio::test(start_paused = true)]
async fn at_any_input_at_all_the_connection_ends_without_a_panic() {
    for seed in 1..500 {
        let mut random = bytes(seed * 0x9E37_79B9);
        let mut mutated = HANDSHAKE.as_bytes().to_vec();
        let place = usize::from(random.next().unwrap()) % mutated.len();
        mutated[place] = random.next().unwrap();
        let noise: Vec<u8> = random.by_ref().take(300).collect();
        let frames: Vec<u8> = noise
            .chunks(20)
            .flat_map(|chunk| frame(FIN | chunk[0] & 0xF, &chunk[1..]))
            .collect();
        for (upgraded, input) in [
            (false, mutated),
            (false, noise.clone()),
            (true, noise),
            (true, frames),
        ] {
            let (mut client, mut connection) = crate::common::pipe(100_000, 1.0);
            if upgraded {
                client = client.upgraded().await;
            }
            client.write(input).await;
            drop(client);
            connection.wait().await;
        }
    }
}

/// Works without a pause, and notes in which threads.
struct Busy(Arc<Mutex<HashSet<ThreadId>>>);

impl Source for Busy {
    fn start(&mut self) {}

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        yield_now().await;
        self.0.lock().unwrap().insert(thread::current().id());
        Ok(Notification::new("work"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_cores_serve_any_kind_of_load() {
    let threads = Arc::new(Mutex::new(HashSet::new()));
    let noted = Arc::clone(&threads);
    let new_source = move |_: &Request<()>, _: SocketAddr| Ok(Busy(Arc::clone(&noted)));
    let server = Server::start_with(Config::default(), new_source).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(server.address).await;
        client.send("start").await;
        clients.push(client);
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    while threads.lock().unwrap().len() < cores.min(2) {
        for client in &mut clients {
            client.recv_text().await;
        }
    }
}
