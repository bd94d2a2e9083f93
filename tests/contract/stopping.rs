//! The contract's "Stopping".

use std::{io::ErrorKind, os::unix::process::ExitStatusExt, time::Duration};

use crate::common::{
    Client, HANDSHAKE, PING, PipeServer, Program, assert_elapsed, connect, fetch, frame, under,
    upgraded, wspush,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::TcpStream,
    task::yield_now,
    time::{Instant, timeout},
};
use wspush::Config;

#[tokio::test]
async fn at_sigterm_or_sigint_every_client_gets_close_1001_and_the_exit_status_is_0() {
    for signal in ["TERM", "INT"] {
        let program = Program::listening(&[]).await;
        let mut waiting = Client::connect(program.address).await;
        let mut started = Client::connect(program.address).await;
        started.send("start").await;
        started.expect_text("Notification 1").await;
        program.signal(signal).await;
        waiting.expect_close(1001, signal).await;
        started.expect_close(1001, signal).await;
        drop((waiting, started));
        assert_eq!(program.end().await.0, Some(0), "{signal}");
    }
}

#[tokio::test]
async fn the_listeners_close_at_once() {
    let mut program = Program::listening(&[]).await;
    // It does not close its side, and so keeps the server waiting.
    let mut holding = upgraded(program.address).await;
    program.signal("TERM").await;
    holding.expect_close(1001, "TERM").await;
    let refused = loop {
        // Another thread may be about to close them.
        if let Err(error) = TcpStream::connect(program.address).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(
        program.child.try_wait().unwrap().is_none(),
        "only at the end"
    );
    drop(holding);
    assert_eq!(program.end().await.0, Some(0));
}

#[tokio::test]
async fn half_done_handshakes_are_dropped() {
    let program = Program::listening(&["--max-connections", "1"]).await;
    let mut half_done = connect(program.address).await;
    half_done.write("GET / HTTP/1.1\r\n").await;
    // It is known once the next one is refused for it.
    assert_eq!(fetch(program.address, HANDSHAKE).await.status, 503);
    program.signal("TERM").await;
    // With or without a reset, which depends on whether the server had read all.
    assert!(half_done.stream.read_u8().await.is_err());
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0));
    // Not only when all that is left is cut.
    assert!(log.contains("stopped cut_off=0"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_read_only_after_the_stop_is_dropped_too() {
    for _ in 0..20 {
        let server = PipeServer::start(1.0, Config::default());
        let mut client = server.connect(4096);
        yield_now().await;
        client.write(HANDSHAKE).await;
        server.shutdown().await;
        assert!(client.stream.read_u8().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_refused_is_dropped_too() {
    let config = Config {
        max_connections: 1,
        ..Config::default()
    };
    let server = PipeServer::start(1.0, config);
    let mut client = server.connect(4096).upgraded().await;
    let mut refused = server.connect(4096);
    refused.write("GET / HTTP/1.1\r\n").await;
    yield_now().await;
    let stop = Instant::now();
    let closed = async move { client.expect_close(1001, "stop").await };
    join!(server.shutdown(), closed);
    assert_elapsed(stop, 0.0);
    assert!(refused.stream.read_u8().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_has_not_ended_after_5_s_is_cut_and_the_others_are_not_waited_for_longer() {
    let server = PipeServer::start(1.0, Config::default());
    let mut stalled = server.connect(200).upgraded().await;
    let mut client = server.connect(200).into_client().await;
    // Pongs that nobody reads, until the server can't read on itself.
    let pings = frame(PING, [b'x'; 125]).repeat(10);
    let flood = timeout(Duration::from_secs(1), stalled.stream.write_all(&pings));
    assert!(flood.await.is_err());
    let stop = Instant::now();
    let closed = async {
        client.expect_close(1001, "stop").await;
        assert_elapsed(stop, 0.0);
    };
    join!(server.shutdown(), closed);
    assert_elapsed(stop, 5.0);
    stalled.stream.read_to_end(&mut vec![]).await.unwrap();
}

#[tokio::test]
async fn with_a_client_that_is_cut_the_exit_status_is_0_too() {
    let program = Program::listening(&[]).await;
    let mut stalled = upgraded(program.address).await;
    // Pongs that nobody reads, until the server can't read on itself.
    let pings = frame(PING, [b'x'; 125]).repeat(1000);
    let second = Duration::from_secs(1);
    while timeout(second, stalled.stream.write_all(&pings))
        .await
        .is_ok()
    {}
    program.signal("TERM").await;
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0));
    assert!(log.contains("stopped cut_off=1"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once_with_exit_status_1() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("INT", "TERM")] {
        let program = Program::listening(&[]).await;
        // It does not close its side, and so keeps the server waiting.
        let mut holding = upgraded(program.address).await;
        program.signal(first).await;
        holding.expect_close(1001, first).await;
        program.signal(second).await;
        assert_eq!(program.end().await.0, Some(1), "{first} {second}");
    }
}

#[tokio::test]
async fn the_same_address_can_be_listened_on_again_at_once() {
    let program = Program::listening(&[]).await;
    let address = program.address.to_string();
    let mut client = Client::connect(program.address).await;
    program.signal("TERM").await;
    client.expect_close(1001, "TERM").await;
    drop(client);
    assert_eq!(program.end().await.0, Some(0));
    let again = Program::start(wspush(&["--listen", &address])).await;
    Client::connect(again.address).await;
}

#[tokio::test]
async fn sighup_ends_the_program_by_its_default_action() {
    let mut program = Program::listening(&[]).await;
    program.signal("HUP").await;
    let status = program.child.wait().await.unwrap();
    assert_eq!(status.signal(), Some(1));
}

#[tokio::test]
async fn under_nohup_the_server_serves_on_after_sighup() {
    let command = under("exec nohup \"$0\" \"$@\"", &["--listen", "127.0.0.1:0"]);
    let program = Program::start(command).await;
    program.signal("HUP").await;
    Client::connect(program.address).await;
    assert_eq!(program.stop().await.0, Some(0));
}
