//! The contract's "Lines of standard input".

use std::{
    io::{self, ErrorKind, Read},
    iter::repeat_n,
    net::SocketAddr,
    process::Stdio,
    thread,
    time::Duration,
};

use crate::{
    common::{
        CLOSE, Client, PING, PONG, Pipes, Program, RawClient, TEXT, assert_elapsed,
        close as close_frame, connect, outcome, pipe_client, under, wspush,
    },
    model::lines::{LINE_LIMIT, Producer, check_lines, input, lines, without_time},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    process::ChildStdin,
    runtime,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, advance, sleep},
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use wspush::{CloseCode, CloseFrame, Config, InputEnd, Lines};

/// How many lines wait for a client that takes less.
const LIMIT: u32 = 4096;

/// Holds whatever a test pushes.
const WIDE: usize = 16 * 1024 * 1024;

/// Holds a few lines.
const NARROW: usize = 64;

/// A server that pushes the lines of an input, reached through pipes on a paused clock.
struct Fixture {
    pipes: Pipes,
    producer: Producer,
    end: JoinHandle<InputEnd>,
    server: wspush::Server,
}

impl Fixture {
    fn start() -> Self {
        Self::with_history(0)
    }

    fn with_history(history: u16) -> Self {
        let (producer, input) = input();
        let (pipes, server, end) = serve(input, history);
        Self {
            pipes,
            producer,
            end,
            server,
        }
    }

    fn connect(&self, size: usize) -> RawClient<DuplexStream> {
        pipe_client(self.pipes.connect(size).0)
    }

    /// A client that has said `start`.
    async fn client(&self, size: usize) -> Client<DuplexStream> {
        let mut client = self.connect(size).into_client().await;
        start(&mut client).await;
        client
    }

    /// A client that says `start`, and may be sent lines at once.
    async fn joining_client(&self, size: usize) -> Client<DuplexStream> {
        let mut client = self.connect(size).into_client().await;
        client.send("start").await;
        // Time passes once the server has nothing more to do.
        sleep(Duration::from_millis(1)).await;
        client
    }

    /// The same, but it reads only what it asks for.
    async fn raw_client(&self, size: usize) -> RawClient<DuplexStream> {
        raw_start(self.connect(size)).await
    }

    /// Writes what the server must take at once.
    async fn write(&mut self, piece: impl Into<Vec<u8>>) {
        without_time(self.producer.write(piece)).await;
    }

    /// The same with lines of these numbers.
    async fn write_lines(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.write(format!("{number}\n")).await;
        }
    }

    /// Writes lines in pieces of so many bytes, and has time pass while the server makes the producer wait.
    async fn write_pieces(&mut self, numbers: impl IntoIterator<Item = u32>, size: usize) {
        for piece in numbered(numbers).as_bytes().chunks(size) {
            self.producer.write(piece).await;
        }
    }

    /// Ends the input, and waits until all is read.
    async fn end(self) -> (InputEnd, wspush::Server) {
        drop(self.producer);
        let _pace = pace();
        (self.end.await.unwrap(), self.server)
    }
}

/// From now on, time on a paused clock passes quickly, but does not leap while the input is read.
fn pace() -> AbortOnDropHandle {
    AbortOnDropHandle(tokio::spawn(async {
        loop {
            let tick = || thread::sleep(Duration::from_millis(1));
            spawn_blocking(tick).await.unwrap();
            sleep(Duration::from_millis(25)).await;
        }
    }))
}

/// Ends its task when dropped.
struct AbortOnDropHandle(JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve(
    input: impl Read + Send + 'static,
    history: u16,
) -> (Pipes, wspush::Server, JoinHandle<InputEnd>) {
    let (lines, end) = Lines::read(input, history.into()).unwrap();
    let (pipes, listener) = Pipes::new();
    let new_source =
        move |_: &wspush::http::Request<()>, _: std::net::SocketAddr| Ok(lines.source());
    let server = wspush::Server::start(vec![listener], Config::default(), new_source);
    (pipes, server, end)
}

/// Says `start`, and waits until that has arrived: nothing else is an answer to what came behind it.
async fn start(client: &mut Client<impl AsyncRead + AsyncWrite + Unpin>) {
    client.send("start").await;
    client.send(Message::Ping("".into())).await;
    assert_eq!(client.recv().await, Message::Pong("".into()));
}

async fn raw_start<S>(client: RawClient<S>) -> RawClient<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    client.send_frame(PING, "").await;
    assert_eq!(client.recv_frame().await.0, PONG);
    client
}

async fn expect_lines(
    client: &mut Client<impl AsyncRead + AsyncWrite + Unpin>,
    lines: impl IntoIterator<Item = u32>,
) {
    for line in lines {
        client.expect_text(&line.to_string()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_is_one_text_message_to_every_client_that_had_said_start() {
    let mut fixture = Fixture::start();
    let mut clients = [fixture.client(WIDE).await, fixture.client(WIDE).await];
    fixture.write("one\ntwo\r\n thr").await;
    fixture.write("ee \r\r\n\u{1f980}\nlast\r").await;
    fixture.end().await;
    for client in &mut clients {
        for line in ["one", "two", " three \r", "\u{1f980}", "last\r"] {
            assert_eq!(client.recv().await, Message::text(line));
        }
        client.expect_close(1000, "the end").await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_at_start_nor_of_what_was_read_before() {
    let mut fixture = Fixture::start();
    let mut early = fixture.client(WIDE).await;
    let mut waiting = fixture.connect(WIDE).into_client().await;
    waiting.send("the wrong word").await;
    waiting.expect_text("You did not say the magic word!").await;
    fixture.write_lines(0..10).await;
    let mut late = fixture.client(WIDE).await;
    start(&mut waiting).await;
    fixture.write_lines(10..20).await;
    expect_lines(&mut early, 0..20).await;
    expect_lines(&mut late, 10..20).await;
    expect_lines(&mut waiting, 10..20).await;
}

#[tokio::test(start_paused = true)]
async fn who_says_start_while_lines_are_queued_is_sent_none_that_were_read_before() {
    for history in [0, 10, 1000] {
        let mut fixture = Fixture::with_history(history);
        let _stalled = fixture.raw_client(NARROW).await;
        // The last ones wait with the producer, for the client that has stalled.
        let read = LIMIT + 60;
        fixture.write_lines(0..read).await;
        let mut late = fixture.joining_client(WIDE).await;
        fixture.write_lines(read..read + 10).await;
        let first = read - u32::from(history);
        expect_lines(&mut late, first..read + 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_is_no_notification() {
    let mut fixture = Fixture::start();
    let mut client = fixture.client(WIDE).await;
    fixture.write("\n\r\n\na\n\n").await;
    let (end, _server) = fixture.end().await;
    client.expect_text("a").await;
    client.expect_close(1000, "the end").await;
    assert_eq!(end.lines, 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_utf_8_is_replaced_a_whole_line_at_a_time() {
    let mut fixture = Fixture::start();
    let mut client = fixture.client(WIDE).await;
    for piece in [&b"a\xFFb\n\xC3"[..], b"\xA9\n\xF0\x9F", b"\n\xA6\x80\n"] {
        fixture.write(piece).await;
    }
    for line in ["a\u{FFFD}b", "\u{e9}", "\u{FFFD}", "\u{FFFD}\u{FFFD}"] {
        client.expect_text(line).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_over_64_kib_is_cut_at_its_last_whole_character_and_the_stream_goes_on() {
    let mut fixture = Fixture::start();
    let mut client = fixture.client(WIDE).await;
    let letters = |count| "x".repeat(count);
    for (line, sent) in [
        (letters(LINE_LIMIT), letters(LINE_LIMIT)),
        (letters(LINE_LIMIT) + "\r", letters(LINE_LIMIT)),
        (letters(LINE_LIMIT + 1), letters(LINE_LIMIT)),
        (letters(LINE_LIMIT - 1) + "\u{e9}", letters(LINE_LIMIT - 1)),
        (
            letters(LINE_LIMIT - 3) + "\u{1f980}",
            letters(LINE_LIMIT - 3),
        ),
        (
            letters(LINE_LIMIT - 2) + "\u{e9}x",
            letters(LINE_LIMIT - 2) + "\u{e9}",
        ),
        (letters(20 * LINE_LIMIT), letters(LINE_LIMIT)),
    ] {
        fixture.write(line + "\nnext\n").await;
        assert!(client.recv_text().await == sent);
        client.expect_text("next").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_what_it_is_sent_gets_every_line_however_many_come_at_once() {
    let mut fixture = Fixture::start();
    let mut clients = Vec::new();
    for size in [NARROW, 4096, WIDE] {
        let mut client = fixture.client(size).await;
        clients.push(tokio::spawn(async move {
            expect_lines(&mut client, 0..30_000).await;
        }));
    }
    let _pace = pace();
    fixture.write_pieces(0..30_000, usize::MAX).await;
    for client in clients {
        client.await.unwrap();
    }
}

fn numbered(numbers: impl IntoIterator<Item = u32>) -> String {
    let lines = numbers.into_iter().map(|number| number.to_string() + "\n");
    lines.collect()
}

/// Reads on: the client gets the lines from `first` on without a gap, and then is closed. Returns how many.
async fn assert_run_and_1013(
    client: &mut RawClient<DuplexStream>,
    first: u32,
    written: u32,
) -> u32 {
    let mut next = first;
    let close = loop {
        match client.recv_frame().await {
            (TEXT, line) => {
                assert_eq!(str::from_utf8(&line).unwrap().parse(), Ok(next));
                next += 1;
            }
            (PING, payload) => client.send_frame(PONG, payload).await,
            close => break close,
        }
    };
    assert_eq!(
        close,
        (CLOSE, close_frame(1013, "too far behind, lines were lost"))
    );
    assert!(next + LIMIT < written, "{next} of {written}");
    client.expect_end().await;
    next - first
}

#[tokio::test(start_paused = true)]
async fn one_that_falls_more_than_4096_lines_behind_is_closed_with_1013_and_loses_none_before() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut stalled = fixture.raw_client(NARROW).await;
    let pace = pace();
    fixture.write_pieces(0..10_000, usize::MAX).await;
    drop(pace);
    expect_lines(&mut healthy, 0..10_000).await;
    assert_run_and_1013(&mut stalled, 0, 10_000).await;
    fixture.write_lines(10_000..10_010).await;
    expect_lines(&mut healthy, 10_000..10_010).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_with_1013_has_a_minute_to_answer_and_then_2_s_to_close() {
    for (answers, seconds) in [(true, 2.05), (false, 62.1)] {
        let mut fixture = Fixture::start();
        let (stream, ended) = fixture.pipes.connect(NARROW);
        let mut stalled = raw_start(pipe_client(stream)).await;
        let pace = pace();
        fixture.write_pieces(0..10_000, usize::MAX).await;
        drop(pace);
        assert_run_and_1013(&mut stalled, 0, 10_000).await;
        let told = Instant::now();
        if answers {
            stalled.send_frame(PONG, "").await;
            stalled.send_frame(CLOSE, 1013_u16.to_be_bytes()).await;
        }
        ended.await.unwrap_err();
        assert_elapsed(told, seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_gets_every_line_of_a_burst_though_another_has_stalled() {
    for size in [NARROW, 4096, WIDE] {
        let mut fixture = Fixture::start();
        let mut stalled = fixture.raw_client(NARROW).await;
        let mut healthy = fixture.client(size).await;
        let taking = tokio::spawn(async move {
            expect_lines(&mut healthy, 0..50_000).await;
        });
        let pace = pace();
        fixture.write_pieces(0..50_000, usize::MAX).await;
        drop(pace);
        taking.await.unwrap();
        assert_run_and_1013(&mut stalled, 0, 50_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn three_that_read_get_every_line_of_a_burst_though_twelve_do_not_read() {
    let mut fixture = Fixture::start();
    let mut stalled = Vec::new();
    for _ in 0..12 {
        stalled.push(fixture.raw_client(NARROW).await);
    }
    let mut taking = Vec::new();
    for size in [NARROW, 4096, WIDE] {
        let mut client = fixture.client(size).await;
        taking.push(tokio::spawn(async move {
            expect_lines(&mut client, 0..40_000).await;
        }));
    }
    let pace = pace();
    fixture.write_pieces(0..40_000, usize::MAX).await;
    drop(pace);
    for client in taking {
        client.await.unwrap();
    }
    for client in &mut stalled {
        assert_run_and_1013(client, 0, 40_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_pauses_once_for_half_a_second_in_a_burst_loses_nothing() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut pausing = fixture.client(NARROW).await;
    let taking = tokio::spawn(async move {
        expect_lines(&mut pausing, 0..5000).await;
        sleep(Duration::from_millis(500)).await;
        expect_lines(&mut pausing, 5000..30_000).await;
    });
    let pace = pace();
    fixture.write_pieces(0..30_000, usize::MAX).await;
    drop(pace);
    expect_lines(&mut healthy, 0..30_000).await;
    taking.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_is_not_closed_with_1013_because_the_server_was_stopped() {
    let mut fixture = Fixture::start();
    let mut client = fixture.client(NARROW).await;
    let mut next = 0;
    fixture.write_lines(0..LIMIT + 75).await;
    for stop in [1300, 900, 1300, 61_000] {
        // Timers fire first. Only then the server learns what the client has read.
        advance(Duration::from_millis(stop)).await;
        expect_lines(&mut client, next..next + 10).await;
        next += 10;
        // The server waits again.
        sleep(Duration::from_millis(10)).await;
    }
    expect_lines(&mut client, next..LIMIT + 75).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_up_to_4096_lines_behind_gets_them_all_and_holds_nobody_up() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut stalled = fixture.client(NARROW).await;
    let start = Instant::now();
    for number in 0..LIMIT {
        fixture.write_lines([number]).await;
        expect_lines(&mut healthy, [number]).await;
    }
    assert_elapsed(start, 0.0);
    expect_lines(&mut stalled, 0..LIMIT).await;
}

#[tokio::test(start_paused = true)]
async fn up_to_16_mib_wait_for_one_where_4096_lines_are_more() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut stalled = fixture.raw_client(NARROW).await;
    let line = |number: u32| format!("{number:065500}");
    // 16 MiB, and the one that is queued besides.
    for number in 0..257 {
        fixture.write(line(number) + "\n").await;
        healthy.expect_text(&line(number)).await;
    }
    let start = Instant::now();
    fixture.write(line(257) + "\n").await;
    healthy.expect_text(&line(257)).await;
    assert_elapsed(start, 1.05);
    assert_eq!(stalled.recv_text().await, line(0));
    stalled.expect_close(1013, "the limit").await;
}

#[tokio::test(start_paused = true)]
async fn for_one_that_does_not_read_no_more_than_64_lines_or_16_kib_are_queued_besides() {
    for (length, queued) in [(4, 64), (1000, 17)] {
        let mut fixture = Fixture::start();
        let mut client = fixture.raw_client(NARROW).await;
        let text = |number: u32| format!("{number:0length$}");
        let lines: Vec<_> = (0..2000).map(|number| text(number) + "\n").collect();
        fixture.write(lines.concat()).await;
        // Once it reads on, all the others could be queued.
        for number in 0..100 {
            client.expect_text(&text(number)).await;
        }
        let written = 2000 + LIMIT;
        let pace = pace();
        for number in 2000..written {
            fixture.producer.write(text(number) + "\n").await;
        }
        drop(pace);
        let taken = assert_run_and_1013(&mut client, 100, written).await;
        let in_pipe = NARROW / (length + 2);
        assert!(taken as usize <= in_pipe + queued, "{taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_producer_waits_for_one_at_the_limit_only_as_long_as_it_is_there() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut at_limit = fixture.raw_client(NARROW).await;
    fixture.write_lines(0..1096).await;
    let _less_far_behind = fixture.raw_client(NARROW).await;
    let written = LIMIT + 50;
    let start = Instant::now();
    fixture.write_lines(1096..written).await;
    sleep(Duration::from_millis(250)).await;
    for number in 0..50_u32 {
        at_limit.expect_text(&number.to_string()).await;
    }
    expect_lines(&mut healthy, 0..written).await;
    assert_elapsed(start, 0.25);
}

#[tokio::test(start_paused = true)]
async fn those_who_take_nothing_cost_1_s_and_then_a_tenth_of_the_time_however_many_come() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut first = 0;
    for (pause, wait) in [(0, 1.05), (0, 0.105), (0, 0.0), (5, 0.51), (20, 1.05)] {
        sleep(Duration::from_secs(pause)).await;
        let mut stalled = fixture.raw_client(NARROW).await;
        let written = first + LIMIT + 50;
        let start = Instant::now();
        fixture.write_lines(first..written).await;
        expect_lines(&mut healthy, first..written).await;
        assert!(start.elapsed().as_secs_f64() < wait + 0.003);
        assert_run_and_1013(&mut stalled, first, written).await;
        first = written;
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_take_nothing_and_leave_cost_no_more() {
    let mut fixture = Fixture::start();
    let mut healthy = fixture.client(WIDE).await;
    let mut first = 0;
    for wait in [0.9, 0.24, 0.0, 0.0] {
        let stalled = fixture.raw_client(NARROW).await;
        let written = first + LIMIT + 50;
        let start = Instant::now();
        fixture.write_lines(first..written).await;
        let leaves = async {
            sleep(Duration::from_millis(900)).await;
            drop(stalled);
        };
        let leaving = tokio::spawn(leaves);
        expect_lines(&mut healthy, first..written).await;
        assert!(start.elapsed().as_secs_f64() < wait + 0.003);
        leaving.abort();
        first = written;
    }
}

/// Spends in vain what the server waits. Returns two clients that have got so many lines, of which the second has read on
/// after a pause.
async fn wait_in_vain(fixture: &mut Fixture) -> ([Client<DuplexStream>; 2], u32) {
    let mut clients = [fixture.client(WIDE).await, fixture.client(NARROW).await];
    let _stalled = fixture.raw_client(NARROW).await;
    let written = LIMIT + 50;
    fixture.write_lines(0..written).await;
    for client in clients.iter_mut().rev() {
        expect_lines(client, 0..written).await;
    }
    (clients, written)
}

#[tokio::test(start_paused = true)]
async fn once_waiting_was_in_vain_one_that_has_read_on_after_a_pause_is_waited_for_for_0_2_s() {
    for (pause, is_closed) in [(190, false), (300, true)] {
        let mut fixture = Fixture::start();
        let ([mut healthy, mut client], first) = wait_in_vain(&mut fixture).await;
        let written = first + LIMIT + 50;
        let start = Instant::now();
        fixture.write_lines(first..written).await;
        let pause = Duration::from_millis(pause);
        let taking = tokio::spawn(async move {
            sleep(pause).await;
            let mut lines = first..written;
            while let Message::Text(_) = client.recv().await
                && lines.next() != Some(written - 1)
            {}
            lines.is_empty()
        });
        expect_lines(&mut healthy, first..written).await;
        assert_elapsed(start, pause.as_secs_f64().min(0.25));
        assert_eq!(taking.await.unwrap(), !is_closed);
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_history_start_brings_the_last_lines_and_then_all_that_follow() {
    let mut fixture = Fixture::with_history(10);
    let mut written = 0;
    let mut clients = Vec::new();
    for (count, first) in [(0, 0), (7, 0), (3, 0), (1, 1), (489, 490), (8500, 8990)] {
        fixture.write_lines(written..written + count).await;
        written += count;
        clients.push((first, fixture.joining_client(WIDE).await));
    }
    fixture.write_lines(written..written + 100).await;
    for (first, client) in &mut clients {
        expect_lines(client, *first..written + 100).await;
    }
    let (_, mut server) = fixture.end().await;
    tokio::spawn(async move { server.drain().await });
    for (_, client) in &mut clients {
        client.expect_close(1000, "the end").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_history_is_kept_whether_anybody_is_there_or_not() {
    let mut fixture = Fixture::with_history(10);
    fixture.write_lines(0..20).await;
    let mut first = fixture.joining_client(WIDE).await;
    expect_lines(&mut first, 10..20).await;
    fixture.write_lines(20..25).await;
    expect_lines(&mut first, 20..25).await;
    let mut second = fixture.joining_client(WIDE).await;
    expect_lines(&mut second, 15..25).await;
    drop((first, second));
    fixture.write_lines(25..40).await;
    let mut third = fixture.joining_client(WIDE).await;
    expect_lines(&mut third, 30..40).await;
}

#[tokio::test(start_paused = true)]
async fn the_history_is_what_fits_into_8_mib_though_more_is_kept_for_another() {
    for stalls in [false, true] {
        let mut fixture = Fixture::with_history(1000);
        let client = fixture.raw_client(NARROW).await;
        let _stalled = stalls.then_some(client);
        for number in 0..250 {
            fixture.write(format!("{number:065500}\n")).await;
        }
        let mut client = fixture.joining_client(WIDE).await;
        for number in 250 - 128..250 {
            client.expect_text(&format!("{number:065500}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_join_and_do_not_read_they_hold_up_nobody_more() {
    let mut fixture = Fixture::with_history(1000);
    let mut healthy = fixture.client(WIDE).await;
    fixture.write_lines(0..1000).await;
    expect_lines(&mut healthy, 0..1000).await;
    let mut joined = Vec::new();
    for _ in 0..300 {
        joined.push(fixture.joining_client(NARROW).await);
    }
    let written = 1000 + LIMIT;
    let start = Instant::now();
    for number in 1000..written {
        fixture.write_lines([number]).await;
        expect_lines(&mut healthy, [number]).await;
    }
    assert_elapsed(start, 1.05);
}

#[tokio::test(start_paused = true)]
async fn with_nobody_there_lines_are_read_and_thrown_away() {
    let mut fixture = Fixture::start();
    let mut waiting = fixture.connect(WIDE).into_client().await;
    let leaving = fixture.raw_client(NARROW).await;
    let start = Instant::now();
    fixture.write_lines(0..1000).await;
    drop(leaving);
    fixture.write("x\n".repeat(100_000)).await;
    assert_elapsed(start, 0.0);
    waiting.send("hm").await;
    waiting.expect_text("You did not say the magic word!").await;
}

#[tokio::test(start_paused = true)]
async fn at_the_end_who_said_start_gets_every_line_and_1000_and_the_others_1001() {
    let mut fixture = Fixture::start();
    let mut slow = fixture.client(NARROW).await;
    let mut waiting = fixture.connect(WIDE).into_client().await;
    fixture.write_lines(0..1000).await;
    let (end, mut server) = fixture.end().await;
    assert_eq!((end.lines, end.error.is_none()), (1000, true));
    let finished = tokio::spawn(async move { server.drain().await });
    waiting.expect_close(1001, "the input has ended").await;
    expect_lines(&mut slow, 0..1000).await;
    slow.expect_close(1000, "the input has ended").await;
    finished.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_listeners_close_and_the_server_waits_at_most_5_s() {
    let mut fixture = Fixture::start();
    let pipes = fixture.pipes.0.clone();
    let _stalled = fixture.raw_client(NARROW).await;
    fixture.write_lines(0..1000).await;
    let (_, mut server) = fixture.end().await;
    assert!(!pipes.is_closed());
    let start = Instant::now();
    let finished = tokio::spawn(async move { server.drain().await });
    pipes.closed().await;
    assert_elapsed(start, 0.0);
    finished.await.unwrap();
    assert_elapsed(start, 5.05);
}

/// Fails at first as any read may, and at last for good.
struct Failing(Vec<Result<&'static [u8], ErrorKind>>);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.remove(0)?;
        buf[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

#[tokio::test]
async fn a_read_that_is_interrupted_or_would_block_is_tried_again_and_any_other_error_ends_the_input()
 {
    let input = Failing(vec![
        Err(ErrorKind::Interrupted),
        Ok(b"one\ntw"),
        Err(ErrorKind::WouldBlock),
        Ok(b"o\nthr"),
        Err(ErrorKind::Other),
    ]);
    let (_lines, end) = Lines::read(input, 0).unwrap();
    let end = end.await.unwrap();
    assert_eq!(end.lines, 2);
    assert_eq!(end.error.unwrap().kind(), ErrorKind::Other);
}

/// The program with `--stdin` and a pipe to write its input to.
async fn program(arguments: &[&str]) -> (Program, ChildStdin) {
    let arguments = [&["--listen", "127.0.0.1:0", "--stdin"], arguments].concat();
    let mut command = wspush(&arguments);
    command.stdin(Stdio::piped());
    let mut program = Program::start(command).await;
    let input = program.child.stdin.take().unwrap();
    (program, input)
}

async fn started(server: SocketAddr) -> Client<TcpStream> {
    let mut client = Client::connect(server).await;
    start(&mut client).await;
    client
}

#[tokio::test]
async fn at_the_end_the_exit_status_is_0() {
    let (mut program, mut input) = program(&[]).await;
    let address = program.address;
    let mut client = started(address).await;
    let stalled = stalled(address).await;
    input.write_all(&b"line\n".repeat(3000)).await.unwrap();
    drop(input);
    program.log_until("stopping").await;
    for _ in 0..3000 {
        client.expect_text("line").await;
    }
    client.expect_close(1000, "the end").await;
    drop(stalled);
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0), "{log}");
}

#[tokio::test]
async fn an_input_that_ends_before_its_first_line_or_can_not_be_read_is_exit_status_1() {
    for (shell, reason) in [
        (
            "exec \"$0\" \"$@\" </dev/null",
            "ended before the first line",
        ),
        ("exec \"$0\" \"$@\" <&-", "ended before the first line"),
        ("false | \"$0\" \"$@\"", "ended before the first line"),
        ("exec \"$0\" \"$@\" </", "can't be read"),
    ] {
        let arguments = ["--listen", "127.0.0.1:0", "--stdin"];
        let (status, _, log) = outcome(under(shell, &arguments)).await;
        assert_eq!(status, Some(1), "{shell}: {log}");
        let last = log.lines().last().unwrap();
        assert!(
            last.starts_with("wspush: ") && last.contains(reason),
            "{shell}: {log}"
        );
    }
}

#[tokio::test]
async fn a_signal_stops_it_at_once_whatever_the_producer_does() {
    for (signal, writes) in [
        ("TERM", false),
        ("TERM", true),
        ("INT", false),
        ("INT", true),
    ] {
        let (program, mut input) = program(&[]).await;
        let mut client = started(program.address).await;
        let stalled = stalled(program.address).await;
        let producer = tokio::spawn(async move {
            while writes && input.write_all(&b"line\n".repeat(1000)).await.is_ok() {}
            input
        });
        if writes {
            client.expect_text("line").await;
        }
        program.signal(signal).await;
        while client.recv().await != Message::Close(Some(stopping())) {}
        drop(stalled);
        let (status, _, log) = program.end().await;
        assert_eq!(status, Some(0), "{log}");
        drop(producer.await.unwrap());
    }
}

fn stopping() -> CloseFrame {
    CloseFrame {
        code: CloseCode::Away,
        reason: "the server is stopping".into(),
    }
}

/// A client that has said `start` and reads nothing.
async fn stalled(server: SocketAddr) -> RawClient<TcpStream> {
    raw_start(connect(server).await).await
}

#[tokio::test]
async fn the_log_says_how_many_lines_were_read_and_never_what_they_hold() {
    let (program, mut input) = program(&[]).await;
    let too_long = "s".repeat(LINE_LIMIT + 1);
    let bad = [b"secret\xFF\n", too_long.as_bytes(), b"\nsecret\n\n"].concat();
    input.write_all(&bad.repeat(50)).await.unwrap();
    drop(input);
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("reading lines"), "{log}");
    assert!(!log.contains("secret") && !log.contains("sss"), "{log}");
    // The first of either kind.
    for warning in ["WARN a line over 64 KiB", "WARN a line was not UTF-8"] {
        assert_eq!(log.matches(warning).count(), 1, "{log}");
    }
    assert_eq!(log.matches("WARN").count(), 2, "{log}");
    let end = "input ended lines=200 truncated=50 not_utf8=50";
    assert!(log.contains(end), "{log}");
}

/// The most memory that the program has had, in KiB.
fn peak_memory(program: &Program) -> u32 {
    let status = format!("/proc/{}/status", program.child.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}

#[tokio::test]
async fn memory_stays_bounded_however_long_a_line_is_and_however_many_come() {
    let (program, mut input) = program(&[]).await;
    let mut client = started(program.address).await;
    let chunk = vec![b'x'; 1024 * 1024];
    for _ in 0..100 {
        input.write_all(&chunk).await.unwrap();
    }
    input.write_all(b"\nnext\n").await.unwrap();
    assert_eq!(client.recv_text().await.len(), LINE_LIMIT);
    client.expect_text("next").await;
    let peak = peak_memory(&program);
    assert!(peak < 50 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn memory_stays_bounded_though_long_lines_wait_for_one_that_does_not_read() {
    let (program, mut input) = program(&["--history", "1000"]).await;
    let _stalled = stalled(program.address).await;
    let line = "x".repeat(LINE_LIMIT - 1) + "\n";
    for _ in 0..1000 {
        input.write_all(line.as_bytes()).await.unwrap();
    }
    let peak = peak_memory(&program);
    assert!(peak < 50 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn the_log_says_once_that_the_history_did_not_fit() {
    let (program, mut input) = program(&["--history", "1000"]).await;
    let line = "x".repeat(LINE_LIMIT - 1) + "\n";
    input.write_all(line.repeat(300).as_bytes()).await.unwrap();
    drop(input);
    let (_, _, log) = program.end().await;
    let warning = "WARN the history is shorter: it would be over 8 MiB";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}

/// What a client of the property does.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Takes whatever comes.
    Fast,
    /// Takes a line at a time, and pauses after each.
    Slow,
    /// Takes nothing before the end of the input.
    Stalled,
    /// Takes so many lines and is gone.
    Leaving(u32),
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Join(Manner),
    /// So many lines, in pieces of so many bytes.
    Write(u32, usize),
    Pause(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let manner = prop_oneof![
        Just(Manner::Fast),
        Just(Manner::Slow),
        Just(Manner::Stalled),
        (0..50_u32).prop_map(Manner::Leaving),
    ];
    let size = prop_oneof![1..50_usize, Just(1000), Just(100_000)];
    prop_oneof![
        4 => manner.prop_map(Step::Join),
        4 => (1..50_u32, size.clone()).prop_map(|(count, size)| Step::Write(count, size)),
        1 => (1000..6000_u32, Just(100_000)).prop_map(|(count, size)| Step::Write(count, size)),
        2 => (0..1000_u64).prop_map(|millis| Step::Pause(Duration::from_millis(millis))),
    ]
}

/// What a client has received: how many lines, from `first` on, and then which close code.
#[derive(Debug)]
struct Received {
    manner: Manner,
    first: u32,
    count: u32,
    code: Option<u16>,
}

impl Received {
    /// Takes what comes.
    async fn take(
        manner: Manner,
        first: u32,
        mut client: Client<DuplexStream>,
        ended: CancellationToken,
    ) -> Self {
        if let Manner::Stalled = manner {
            ended.cancelled().await;
        }
        let mut received = Self {
            manner,
            first,
            count: 0,
            code: None,
        };
        while received.code.is_none() && !received.leaves() {
            match client.recv().await {
                Message::Text(line) => {
                    assert_eq!(line.as_str(), (first + received.count).to_string());
                    received.count += 1;
                }
                Message::Close(frame) => received.code = frame.map(|frame| frame.code.into()),
                _ => {}
            }
            if let Manner::Slow = manner {
                sleep(Duration::from_millis(10)).await;
            }
        }
        received
    }

    fn leaves(&self) -> bool {
        matches!(self.manner, Manner::Leaving(most) if self.count >= most)
    }

    fn check(&self, written: u32) {
        let missing = written - self.first - self.count;
        match (self.code, self.manner) {
            (None, Manner::Leaving(_)) => {}
            (Some(1000), _) => assert_eq!(missing, 0, "{self:?}"),
            (Some(1013), Manner::Slow | Manner::Stalled) => assert!(missing > LIMIT, "{self:?}"),
            _ => panic!("{self:?}"),
        }
    }
}

async fn play(steps: Vec<Step>, history: u16) {
    let (mut fixture, pace) = (Fixture::with_history(history), pace());
    let (mut written, mut clients) = (0_u32, Vec::new());
    let ended = CancellationToken::new();
    for step in steps {
        match step {
            Step::Join(manner) => {
                let first = written.saturating_sub(history.into());
                let client = fixture.joining_client(NARROW).await;
                let take = Received::take(manner, first, client, ended.clone());
                clients.push(tokio::spawn(take));
            }
            Step::Write(count, size) => {
                fixture.write_pieces(written..written + count, size).await;
                written += count;
            }
            Step::Pause(pause) => sleep(pause).await,
        }
    }
    let _server = fixture.end().await;
    drop(pace);
    ended.cancel();
    for client in clients {
        client.await.unwrap().check(written);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        ..crate::properties::config()
    })]

    #[test]
    fn each_client_gets_a_run_of_the_lines_from_its_start_on_that_ends_with_all_or_with_1013(
        steps in prop::collection::vec(step(), 1..20),
        history in prop_oneof![Just(0), 1..1000_u16],
    ) {
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(play(steps, history));
    }

    #[test]
    fn any_bytes_in_any_pieces_are_the_lines_of_the_model(
        pieces in prop::collection::vec(piece(), 0..20),
    ) {
        check_lines(pieces);
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let row = |size| repeat_n(b'x', size).collect();
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        4 => "[a\u{e9}\u{1f980}\r\n]{0,10}".prop_map(Into::into),
        1 => (LINE_LIMIT - 10..LINE_LIMIT + 3).prop_map(row),
    ]
}

#[test]
fn the_model_knows_lines() {
    assert_eq!(
        lines(b"a\r\n\n\r\nb\r\r\n\xFFc\r"),
        ["a", "b\r", "\u{FFFD}c\r"]
    );
}
