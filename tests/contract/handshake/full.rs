//! A server without a free connection.

use std::time::Duration;

use super::assert_refused;
use crate::common::{
    Client, GRACE, HANDSHAKE, PipeServer, Program, Server, assert_elapsed, connect, fetch, full_at,
    leap, under, with_descriptors,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use wspush::Config;

#[tokio::test]
async fn when_max_connections_is_reached_the_answer_is_503_with_retry_after() {
    let server = Server::start(2.0, full_at(1)).await;
    let _first = Client::connect(server.address).await;
    for request in [
        HANDSHAKE,
        "GET / HTTP/1.1\r\n\r\n",
        "OPTIONS / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = fetch(server.address, request).await;
        assert_refused(&answer, 503, "Retry-After: ");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_still_in_their_handshake_count_for_max_connections() {
    let server = PipeServer::start(2.0, full_at(2));
    let mut first = server.connect(4096);
    first.write("GET").await;
    let _second = server.connect(4096);
    let answer = server.connect(4096).request(HANDSHAKE).await;
    assert_refused(&answer, 503, "All 2 connections");
}

#[tokio::test(start_paused = true)]
async fn the_503_comes_once_the_head_has_come() {
    let server = PipeServer::start(2.0, full_at(1));
    let _first = server.connect(4096).upgraded().await;
    let (head, last) = HANDSHAKE.split_at(HANDSHAKE.len() - 1);
    for pause in [0.5, 1.9] {
        let mut client = server.connect(4096);
        let connected = Instant::now();
        client.write(head).await;
        let early = timeout(Duration::from_secs_f64(pause), client.stream.read_u8());
        assert!(early.await.is_err(), "an answer before the request's end");
        assert_refused(&client.request(last).await, 503, "Retry-After: ");
        assert_elapsed(connected, pause);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_closes_without_an_answer_if_the_head_is_not_there_after_2_s() {
    let server = PipeServer::start(2.0, full_at(1));
    let _first = server.connect(4096).upgraded().await;
    for sent in ["", "GET / HTTP/1.1\r\n"] {
        let mut client = server.connect(4096);
        let connected = Instant::now();
        client.write(sent).await;
        client.expect_end().await;
        assert_elapsed(connected, 2.0 + GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_full_server_that_came_while_it_was_stopped_counts() {
    let server = PipeServer::start(2.0, full_at(1));
    let _first = server.connect(4096).upgraded().await;
    let mut client = server.connect(4096);
    sleep(Duration::from_secs(1)).await;
    leap(5.0).await;
    assert_refused(&client.request(HANDSHAKE).await, 503, "Retry-After: ");
}

#[tokio::test(start_paused = true)]
async fn a_full_server_that_was_stopped_answers_only_clients_that_have_asked() {
    for sent in ["", "GET / HTTP/1.1\r\n"] {
        let server = PipeServer::start(2.0, full_at(1));
        let _first = server.connect(4096).upgraded().await;
        let mut client = server.connect(4096);
        client.write(sent).await;
        sleep(Duration::from_secs(1)).await;
        leap(30.0).await;
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_connection_that_closes_before_it_has_asked_gets_no_503() {
    let server = Server::start(2.0, full_at(1)).await;
    let _first = Client::connect(server.address).await;
    let mut check = connect(server.address).await;
    check.stream.shutdown().await.unwrap();
    check.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_is_answered_at_once_though_500_others_are_silent() {
    let server = PipeServer::start(2.0, full_at(1));
    let _first = server.connect(4096).upgraded().await;
    let connected = Instant::now();
    let _silent: Vec<_> = (0..500).map(|_| server.connect(4096)).collect();
    let mut client = server.connect(4096);
    assert_refused(&client.request(HANDSHAKE).await, 503, "Retry-After: ");
    assert_elapsed(connected, 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_client_that_has_been_silent_longest_makes_room_and_gets_no_answer() {
    for places in [64, 2, 1] {
        let config = Config {
            max_refusals: places,
            ..full_at(1)
        };
        assert_eq!(Config::default().max_refusals, 64);
        let server = PipeServer::start(2.0, config);
        let _first = server.connect(4096).upgraded().await;
        let mut silent: Vec<_> = (0..places).map(|_| server.connect(4096)).collect();
        sleep(Duration::from_secs(1)).await;
        let newcomers = Instant::now();
        for longest in 0..3 {
            silent.push(server.connect(4096));
            silent[longest].expect_end().await;
        }
        for client in &mut silent[3..] {
            assert_refused(&client.request(HANDSHAKE).await, 503, "Retry-After: ");
        }
        assert_elapsed(newcomers, 0.0);
    }
}

#[tokio::test]
async fn where_descriptors_are_few_there_are_fewer_places() {
    let arguments = ["--listen", "127.0.0.1:0"];
    let program = Program::start(under(&with_descriptors(64), &arguments)).await;
    let mut connections = Vec::new();
    let answer = loop {
        let mut client = connect(program.address).await;
        let answer = client.request(HANDSHAKE).await;
        if answer.status != 101 {
            break answer;
        }
        connections.push(client);
    };
    assert_refused(&answer, 503, &format!("All {} ", connections.len()));
    for _ in 0..100 {
        connections.push(connect(program.address).await);
    }
    let answer = fetch(program.address, HANDSHAKE).await;
    assert_refused(&answer, 503, "Retry-After: ");
    drop(connections);
    let (_, _, log) = program.stop().await;
    assert!(!log.contains("can't accept"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_makes_room_even_while_others_are_being_refused() {
    let server = PipeServer::start(2.0, full_at(1));
    let first = server.connect(4096).upgraded().await;
    let mut refused: Vec<_> = (0..64).map(|_| server.connect(4096)).collect();
    for client in &mut refused {
        // They keep their places until they close.
        client.write("GET / HTTP/1.1\r\n\r\n").await;
    }
    let mut next = server.connect(4096);
    let connected = Instant::now();
    sleep(Duration::from_secs(1)).await;
    drop(first);
    yield_now().await;
    assert_eq!(next.request(HANDSHAKE).await.status, 101);
    assert_elapsed(connected, 1.0);
}
