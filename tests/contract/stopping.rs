//! The contract's "Stopping".

use std::time::Duration;

use crate::common::{
    Client, HANDSHAKE, PING, Pipes, Program, connect, fetch, frame, upgraded, wspush,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::{Instant, timeout},
};
use wspush::{Config, Notifications, Server};

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
    let program = Program::listening(&[]).await;
    let mut holding = upgraded(program.address).await;
    program.signal("TERM").await;
    holding.expect_close(1001, "TERM").await;
    let refused = TcpStream::connect(program.address).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
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
    assert_eq!(fetch(program.address, "").await.status, 503);
    program.signal("TERM").await;
    // With or without a reset, which tells whether the server had read all.
    assert!(half_done.stream.read_u8().await.is_err());
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0));
    // Not only when all that is left is cut.
    assert!(log.contains("stopped cut=0"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_read_only_after_the_stop_is_dropped_too() {
    for _ in 0..20 {
        let (pipes, listener) = Pipes::new();
        let (mut client, _ended) = pipes.connect(4096);
        let new_source = |_: &wspush::Request<'_>| Ok(Notifications::every(Duration::from_secs(1)));
        let server = Server::start(vec![listener], Config::default(), new_source);
        yield_now().await;
        client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        server.shutdown().await;
        assert!(client.read_u8().await.is_err());
    }
}

#[tokio::test]
async fn a_client_too_stalled_even_to_be_told_is_cut_within_5_s() {
    let program = Program::listening(&[]).await;
    let mut stalled = upgraded(program.address).await;
    // Pongs that nobody reads, until the server can't read on itself.
    let pings = frame(PING, [b'x'; 125]).repeat(1000);
    let flood = async { while stalled.stream.write_all(&pings).await.is_ok() {} };
    assert!(timeout(Duration::from_secs(1), flood).await.is_err());
    let stop = Instant::now();
    program.signal("TERM").await;
    let end = timeout(Duration::from_secs(9), program.end()).await;
    let (status, _, log) = end.expect("it waits for longer");
    assert_eq!(status, Some(0));
    assert!(log.contains("stopped cut=1"), "{log}");
    assert!(stop.elapsed() >= Duration::from_secs(5), "it does not wait");
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once_with_exit_status_1() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("INT", "TERM")] {
        let program = Program::listening(&[]).await;
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
    let mut client = upgraded(program.address).await;
    program.signal("TERM").await;
    client.expect_close(1001, "TERM").await;
    drop(client);
    assert_eq!(program.end().await.0, Some(0));
    let again = Program::start(wspush(&["--listen", &address])).await;
    upgraded(again.address).await;
}

#[tokio::test]
async fn a_closed_terminal_does_not_stop_the_server() {
    let program = Program::listening(&[]).await;
    program.signal("HUP").await;
    upgraded(program.address).await;
    assert_eq!(program.stop().await.0, Some(0));
}
