//! The contract's "The conversation".

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::common::{
    Client, FIN, GRACE, PING, PONG, RawClient, Server, Silent, TEXT, assert_elapsed, connect,
    frame, leap, pipe, pipe_from, pipe_with,
};
use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    net::{TcpSocket, TcpStream},
    select,
    sync::Notify,
    time::{Instant, advance, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use wspush::{CloseFrame, Config, Notification, Notifications, Source, listen};

const WRONG_WORD: &str = "You did not say the magic word!";

#[tokio::test(start_paused = true)]
async fn start_is_start_once_line_breaks_are_trimmed_from_both_its_ends() {
    for start in [
        "start",
        "start\n",
        "start\r\n",
        "\n\r\nstart",
        "\rstart\n\n",
    ] {
        let (client, _connection) = pipe(4096, 1.0);
        let mut client = client.into_client().await;
        client.send(start).await;
        client.expect_text("Notification 1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn any_other_text_before_that_is_answered_and_the_server_waits_on() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.into_client().await;
    for text in [
        "",
        "\n",
        "Start",
        "start ",
        "\tstart",
        "sta\nrt",
        "startstart",
        "h\u{e9}\u{1f980}",
    ] {
        client.send(text).await;
        client.expect_text(WRONG_WORD).await;
    }
    client.send("start").await;
    client.expect_text("Notification 1").await;
}

#[tokio::test(start_paused = true)]
async fn notification_1_comes_at_once() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.into_client().await;
    // Between two ticks of tokio's timers, which count milliseconds.
    advance(Duration::from_micros(300)).await;
    let start = Instant::now();
    client.send("start").await;
    client.expect_text("Notification 1").await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn notification_k_comes_k_minus_1_intervals_after_start_for_an_hour_without_drift() {
    for (interval, count) in [(2.0, 1800), (1.0 / 3.0, 10_800), (0.001, 5000), (3600.0, 2)] {
        let (client, _connection) = pipe(4096, interval);
        let mut client = client.into_client().await;
        sleep(Duration::from_secs_f64(1.7)).await;
        let start = Instant::now();
        client.send("start").await;
        for number in 1..=count {
            client.expect_text(&format!("Notification {number}")).await;
            assert_elapsed(start, f64::from(number - 1) * interval);
        }
    }
}

#[tokio::test]
async fn notifications_are_counted_for_each_connection_on_its_own() {
    let server = Server::start(0.005, Config::default()).await;
    let mut first = Client::connect(server.address).await;
    first.send("start").await;
    first.expect_notifications(1..=20).await;
    let mut second = Client::connect(server.address).await;
    second.send("start").await;
    second.expect_notifications(1..=20).await;
    first.expect_notifications(21..=40).await;
}

#[tokio::test(start_paused = true)]
async fn binary_at_any_time_is_answered_with_a_text_and_then_1003() {
    for started in [false, true] {
        let (client, _connection) = pipe(4096, 60.0);
        let mut client = client.into_client().await;
        if started {
            client.send("start").await;
            client.expect_text("Notification 1").await;
        }
        client.send(Message::binary("start")).await;
        client
            .expect_text("server doesn't support binary messages")
            .await;
        client.expect_close(1003, started).await;
    }
}

#[tokio::test(start_paused = true)]
async fn text_while_notifications_flow_is_read_and_ignored() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.into_client().await;
    let start = Instant::now();
    client.send("start").await;
    for number in 1..100 {
        client.expect_text(&format!("Notification {number}")).await;
        assert_elapsed(start, f64::from(number - 1));
        for text in ["start", "stop", ""] {
            client.send(text).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_at_any_time_is_answered_at_once_with_the_same_payload() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.into_client().await;
    for payload in [&b""[..], b"ping", &[0xFF; 125]] {
        client.send(Message::Ping(payload.to_vec().into())).await;
        assert_eq!(client.recv().await, Message::Pong(payload.to_vec().into()));
    }
    let start = Instant::now();
    client.send("start").await;
    client.expect_text("Notification 1").await;
    for number in 2..10 {
        client.send(Message::Ping("flow".into())).await;
        assert_eq!(client.recv().await, Message::Pong("flow".into()));
        assert_elapsed(start, f64::from(number - 2));
        client.expect_text(&format!("Notification {number}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_between_fragments_is_answered_and_the_fragments_are_put_together() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.upgraded().await;
    client.send_frame(TEXT & !FIN, "st").await;
    client.send_frame(PING, "between").await;
    assert_eq!(client.recv_frame().await, (PONG, b"between".to_vec()));
    client.send_frame(0, "").await;
    client.send_frame(0, "ar").await;
    client.send_frame(FIN, "t").await;
    assert_eq!(
        client.recv_frame().await,
        (TEXT, b"Notification 1".to_vec())
    );
}

#[tokio::test(start_paused = true)]
async fn utf_8_may_be_split_over_fragments() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.upgraded().await;
    client.send_frame(TEXT & !FIN, b"\xF0\x9F").await;
    client.send_frame(0, b"\xA6").await;
    client.send_frame(FIN, b"\x80").await;
    client.expect_text(WRONG_WORD).await;
}

#[tokio::test(start_paused = true)]
async fn notifications_that_no_longer_fit_are_skipped_not_queued() {
    // The pipe holds four frames of 16 bytes: the fifth waits.
    let (client, _connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    let start = Instant::now();
    client.send_text("start").await;
    sleep(Duration::from_millis(9500)).await;
    client.expect_notifications(1..=5).await;
    assert_elapsed(start, 9.5);
    for number in 6..100 {
        client.expect_text(&format!("Notification {number}")).await;
        assert_elapsed(start, f64::from(number + 4));
    }
}

#[tokio::test(start_paused = true)]
async fn notifications_that_come_due_while_a_pong_waits_are_skipped_too() {
    let (client, _connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    let start = Instant::now();
    client.send_text("start").await;
    client.expect_text("Notification 1").await;
    client.send_frame(PING, [0; 100]).await;
    sleep(Duration::from_millis(9500)).await;
    assert_eq!(client.recv_frame().await.0, PONG);
    for number in 2..10 {
        client.expect_text(&format!("Notification {number}")).await;
        assert_elapsed(start, f64::from(number + 8));
    }
}

/// Has nothing to push, and notes whether it was paused.
struct Pausing(Arc<AtomicBool>);

impl Source for Pausing {
    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        pending().await
    }

    fn pause(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_client_that_reads_is_never_paused_however_many_pings_it_sends() {
    let paused = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&paused);
    let (client, _connection) = pipe_from(100_000, move || Pausing(Arc::clone(&noted)));
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    client.write(frame(PING, "").repeat(1000)).await;
    for _ in 0..1000 {
        assert_eq!(client.recv_frame().await.0, PONG);
    }
    assert!(!paused.load(Ordering::Relaxed));
}

#[tokio::test]
async fn when_a_stalled_client_reads_on_numbers_are_consecutive_and_no_burst_follows() {
    let server = Server::start(0.001, Config::default()).await;
    let mut client = connect_with_small_buffer(server.address).await;
    let start = Instant::now();
    client.send_text("start").await;
    sleep(Duration::from_secs(4)).await;
    let end = Instant::now() + Duration::from_millis(500);
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        client.expect_text(&format!("Notification {number}")).await;
    }
    let missed = start.elapsed().as_millis().saturating_sub(number);
    assert!(missed > 500, "{number} came in {:?}", start.elapsed());
}

#[tokio::test]
async fn the_kernel_keeps_at_most_a_small_buffer_each_way_and_delays_nothing() {
    let listeners = listen("127.0.0.1:0").await.unwrap();
    let _client = connect(listeners[0].local_addr().unwrap()).await;
    let (stream, _) = listeners[0].accept().await.unwrap();
    assert!(stream.nodelay().unwrap());
    let socket = TcpSocket::from_std_stream(stream.into_std().unwrap());
    // Linux reports twice what was set, for its own bookkeeping.
    assert_eq!(socket.send_buffer_size().unwrap(), 2 * 16 * 1024);
    assert_eq!(socket.recv_buffer_size().unwrap(), 2 * 16 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_progress_ends_the_connection_60_s_after_its_last_byte() {
    // The pipe holds four frames of 16 bytes: the fifth waits from the fourth second on.
    let (client, mut connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    let start = Instant::now();
    client.send_text("start").await;
    connection.wait().await;
    assert_elapsed(start, 4.0 + 60.0 + GRACE);
    for progress in [0.0, 0.5, 5.0, 59.0] {
        let (client, mut connection) = pipe(64, 1.0);
        let mut client = client.upgraded().await;
        client.send_text("start").await;
        sleep(Duration::from_secs_f64(4.0 + progress)).await;
        client.stream.read_u8().await.unwrap();
        let last = Instant::now();
        connection.wait().await;
        assert_elapsed(last, 60.0 + GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_read_while_the_server_was_stopped_is_not_stalled() {
    let (client, mut connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    sleep(Duration::from_millis(4500)).await;
    leap(70.0).await;
    client.expect_notifications(1..=8).await;
    assert!(!connection.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_makes_progress_however_slowly_does_not_end_the_connection() {
    let (client, mut connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    // The fifth frame waits from the fourth second on.
    sleep(Duration::from_secs(4)).await;
    for _ in 0..15 {
        sleep(Duration::from_secs(59)).await;
        client.stream.read_u8().await.unwrap();
        assert!(!connection.is_over());
    }
}

/// Notifications every millisecond. Notes when the client reads again.
struct Slowed {
    notifications: Notifications,
    resumed: Arc<Notify>,
}

impl Source for Slowed {
    fn start(&mut self) {
        self.notifications.start();
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        self.notifications.next().await
    }

    fn resume(&mut self) {
        self.notifications.resume();
        self.resumed.notify_one();
    }
}

#[tokio::test]
async fn a_client_that_reads_500_bytes_a_second_is_slow_and_not_stalled() {
    let resumed = Arc::new(Notify::new());
    let noted = Arc::clone(&resumed);
    let server = Server::start_with(Config::default(), move |_, _| {
        Ok(Slowed {
            notifications: Notifications::every(Duration::from_millis(1)),
            resumed: Arc::clone(&noted),
        })
    })
    .await;
    let mut client = connect_with_small_buffer(server.address).await;
    client.send_text("start").await;
    let reading = async {
        loop {
            client.stream.read_exact(&mut [0; 50]).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    select! {
        () = resumed.notified() => {}
        () = reading => unreachable!(),
    }
}

/// A client for which the kernel buffers little.
async fn connect_with_small_buffer(server: SocketAddr) -> RawClient<TcpStream> {
    let mut client = connect(server).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    client.stream = socket.connect(server).await.unwrap();
    client.upgraded().await
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_sent_a_ping_after_20_s_and_is_dropped_after_20_s_more() {
    for said in [0, 5] {
        let (client, mut connection) = pipe(4096, 3600.0);
        let mut client = client.upgraded().await;
        sleep(Duration::from_secs(said)).await;
        let last = Instant::now();
        if said > 0 {
            client.send_text("start").await;
            client.expect_text("Notification 1").await;
        }
        assert_eq!(client.recv_frame().await.0, PING);
        assert_elapsed(last, 20.0);
        client.expect_end().await;
        connection.wait().await;
        assert_elapsed(last, 40.0 + GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn the_silence_before_a_ping_can_be_set() {
    for seconds in [1, 45, 86_400] {
        let config = Config {
            keepalive: Duration::from_secs(seconds),
            ..Config::default()
        };
        let (client, mut connection) = pipe_with(config, 4096, || Silent);
        let mut client = client.upgraded().await;
        let last = Instant::now();
        assert_eq!(client.recv_frame().await.0, PING);
        assert_elapsed(last, Duration::from_secs(seconds).as_secs_f64());
        client.expect_end().await;
        connection.wait().await;
        assert_elapsed(last, Duration::from_secs(2 * seconds).as_secs_f64() + GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_or_a_keepalive_of_any_length_overflows_nothing() {
    let config = Config {
        keepalive: Duration::MAX,
        ..Config::default()
    };
    let source = || Notifications::every(Duration::MAX);
    let (client, mut connection) = pipe_with(config, 20, source);
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    client.expect_text("Notification 1").await;
    // Stops reading, and reads on.
    client.send_frame(PING, "x".repeat(100)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.recv_frame().await.0, PONG);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let more = timeout(year, client.stream.read_u8()).await;
    assert!(more.is_err(), "neither a notification nor a ping is due");
    assert!(!connection.is_over());
}

/// Counts up each second, without a pause at the start.
fn counter() -> impl Stream<Item = Result<Notification, CloseFrame>> + Unpin {
    Box::pin(stream::unfold(1, |number| async move {
        if number > 1 {
            sleep(Duration::from_secs(1)).await;
        }
        let notification = Notification::new(&format!("Notification {number}"));
        Some((Ok(notification), number + 1))
    }))
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_notifications_is_a_source_from_start_on() {
    let (client, _connection) = pipe_from(4096, counter);
    let mut client = client.into_client().await;
    client.send("hm").await;
    client.expect_text(WRONG_WORD).await;
    sleep(Duration::from_secs(10)).await;
    let start = Instant::now();
    client.send("start").await;
    client.expect_notifications(1..=5).await;
    assert_elapsed(start, 4.0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_talks_but_is_sent_nothing_is_sent_a_ping_every_20_s() {
    for starts in [false, true] {
        let (client, _connection) = pipe_from(4096, || Silent);
        let mut client = client.into_client().await;
        if starts {
            client.send("start").await;
        }
        let start = Instant::now();
        for pings in 1..10 {
            recv_ping_while_talking(&mut client).await;
            assert_elapsed(start, f64::from(20 * pings));
        }
    }
}

/// Sends a pong every 7 s, until a ping comes.
async fn recv_ping_while_talking(client: &mut Client<DuplexStream>) {
    for _ in 0..10 {
        match timeout(Duration::from_secs(7), client.recv()).await {
            Ok(message) => return assert_eq!(message, Message::Ping("".into())),
            Err(_) => client.send(Message::Pong("unasked".into())).await,
        }
    }
    panic!("no ping came");
}

#[tokio::test(start_paused = true)]
async fn whatever_the_server_sends_postpones_the_ping_for_its_own_silence() {
    for asked in [
        Message::text("hm"),
        Message::text("start"),
        Message::Ping("".into()),
    ] {
        let (client, _connection) = pipe(4096, 3600.0);
        let mut client = client.into_client().await;
        sleep(Duration::from_secs(13)).await;
        let start = Instant::now();
        client.send(asked).await;
        assert!(!matches!(client.recv().await, Message::Ping(_)));
        recv_ping_while_talking(&mut client).await;
        assert_elapsed(start, 20.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_in_a_clients_socket_counts_before_it_is_taken_for_dead() {
    let (client, mut connection) = pipe(4096, 3600.0);
    let mut client = client.upgraded().await;
    for _ in 0..50 {
        assert_eq!(client.recv_frame().await.0, PING);
        sleep(Duration::from_millis(19_900)).await;
        leap(0.9).await;
        client.send_frame(PONG, "").await;
        while client.recv_frame().await.0 != PING {}
        client.send_frame(PONG, "").await;
        assert!(!connection.is_over());
    }
}

#[tokio::test(start_paused = true)]
async fn time_that_the_server_waits_for_a_client_to_read_is_no_silence() {
    let (client, mut connection) = pipe(20, 7.0);
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(client.recv_frame().await.0, PING);
    let pinged = Instant::now();
    // The pipe has no room for the fifth notification, which waits from 8 s after the ping, or 2 ms later.
    sleep(Duration::from_secs(16)).await;
    client.stream.read_to_end(&mut vec![]).await.unwrap();
    connection.wait().await;
    assert_elapsed(pinged, 27.998 + GRACE);
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_from_a_client_postpones_the_ping() {
    let (client, _connection) = pipe(4096, 15.0);
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    let mut last = Instant::now();
    for byte in frame(PONG, "unasked") {
        sleep(Duration::from_secs(19)).await;
        last = Instant::now();
        client.write([byte]).await;
    }
    while client.recv_frame().await.0 == TEXT {}
    assert_elapsed(last, 20.0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_says_start_may_stay_as_long_as_it_answers_pings() {
    let (client, _connection) = pipe(4096, 1.0);
    let mut client = client.into_client().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12 * 3600) {
        assert!(matches!(client.recv().await, Message::Ping(_)));
        // The client answers when it is asked for the next message.
        sleep(Duration::from_secs(19)).await;
    }
}
