//! The contract's "Stopping", and SIGHUP.

use std::{io::ErrorKind, os::unix::process::ExitStatusExt, time::Duration};

use crate::common::{
    Client, GRACE, HANDSHAKE, PING, PipeServer, Program, RawClient, assert_elapsed, connect, fetch,
    frame, full_at, leap, logged, start_log, under, upgraded, wspush,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
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
    // It does not close its side, so the server waits.
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
        "the program has ended"
    );
    drop(holding);
    assert_eq!(program.end().await.0, Some(0));
}

#[tokio::test]
async fn half_done_handshakes_are_dropped() {
    let program = Program::listening(&["--max-connections", "1"]).await;
    let mut half_done = connect(program.address).await;
    half_done.write("GET / HTTP/1.1\r\n").await;
    // It has been accepted once the next one is refused.
    assert_eq!(fetch(program.address, HANDSHAKE).await.status, 503);
    program.signal("TERM").await;
    // With or without a reset: the server may not have read all.
    assert!(half_done.stream.read_u8().await.is_err());
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0));
    // Dropped at once, not cut off at the end.
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
    let server = PipeServer::start(1.0, full_at(1));
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

/// Makes the client one that has stopped reading, with so many pongs under way that the server can't read on.
async fn stall(client: &mut RawClient<impl AsyncRead + AsyncWrite + Unpin>) {
    let pings = frame(PING, [b'x'; 125]).repeat(1000);
    let second = Duration::from_secs(1);
    while timeout(second, client.stream.write_all(&pings))
        .await
        .is_ok()
    {}
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_not_left_after_5_s_is_cut_off() {
    let server = PipeServer::start(1.0, Config::default());
    let mut stalled = server.connect(200).upgraded().await;
    let mut client = server.connect(200).into_client().await;
    stall(&mut stalled).await;
    let stop = Instant::now();
    let closed = async {
        client.expect_close(1001, "stop").await;
        assert_elapsed(stop, 0.0);
    };
    join!(server.shutdown(), closed);
    assert_elapsed(stop, 5.0 + GRACE);
    stalled.stream.read_to_end(&mut vec![]).await.unwrap();
}

#[tokio::test]
async fn with_a_client_that_is_cut_off_the_exit_status_is_0_too() {
    let program = Program::listening(&[]).await;
    let mut stalled = upgraded(program.address).await;
    stall(&mut stalled).await;
    program.signal("TERM").await;
    let (status, _, log) = program.end().await;
    assert_eq!(status, Some(0));
    assert!(log.contains("stopped cut_off=1"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_read_while_the_stopping_server_was_itself_stopped_is_not_cut_off() {
    start_log();
    let server = PipeServer::start(1.0, Config::default());
    let mut stalled = server.connect(200).upgraded().await;
    stall(&mut stalled).await;
    let stopping = tokio::spawn(server.shutdown());
    leap(60.0).await;
    let mut rest = Vec::new();
    stalled.stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"the server is stopping"), "{rest:?}");
    drop(stalled);
    stopping.await.unwrap();
    assert!(logged().contains("stopped cut_off=0"), "{}", logged());
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once_with_exit_status_1() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("INT", "TERM")] {
        let program = Program::listening(&[]).await;
        // It does not close its side, so the server waits.
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
