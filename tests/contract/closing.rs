//! The contract's "How a connection ends".

use std::{net::SocketAddr, time::Duration};

use crate::common::{
    BINARY, CLOSE, Client, FIN, PING, PONG, RawClient, Server, TEXT, assert_elapsed, close,
    connect, frame, pipe, pipe_from, upgraded,
};
use tokio::{
    io::AsyncWriteExt,
    join,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use wspush::{CloseCode, CloseFrame, Config, Notification, Source};

/// The first fragment of a text.
const FRAGMENT: u8 = TEXT & !FIN;

/// Sends each cause to a connection of its own, and expects a Close frame with the code.
async fn assert_closed(code: u16, causes: &[Vec<u8>]) {
    let server = Server::start(2.0, Config::default()).await;
    for cause in causes {
        let mut client = upgraded(server.address).await;
        client.write(cause).await;
        client
            .expect_close(code, &cause[..cause.len().min(20)])
            .await;
    }
}

#[tokio::test]
async fn the_clients_own_close_code_comes_back_then_the_server_closes() {
    let server = Server::start(2.0, Config::default()).await;
    let longest = "r".repeat(121) + "\u{e9}";
    let codes = [1000, 1001, 1002, 1003, 1007, 1011, 3000, 3999, 4000, 4999];
    for (code, reason) in codes
        .map(|code| (code, ""))
        .into_iter()
        .chain([(4000, &longest[..])])
    {
        let mut client = Client::connect(server.address).await;
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        client.close(Some(frame)).await;
    }
}

#[tokio::test]
async fn a_close_without_a_code_is_answered_without_one() {
    let server = Server::start(2.0, Config::default()).await;
    let mut client = Client::connect(server.address).await;
    client.close(None).await;
}

#[tokio::test]
async fn an_unmasked_frame_is_closed_with_1002() {
    let unmasked = [
        &b"\x81\x05start"[..],
        b"\x81\0",
        b"\x82\0",
        b"\x88\0",
        b"\x89\0",
        b"\x8A\x01x",
    ];
    assert_closed(1002, &unmasked.map(<[u8]>::to_vec)).await;
}

#[tokio::test]
async fn reserved_bits_and_opcodes_are_closed_with_1002() {
    let bits = [0x10, 0x20, 0x40].map(|bit| [TEXT | bit, PING | bit, CLOSE | bit]);
    let opcodes = (0x3..=0x7).chain(0xB..=0xF).map(|opcode| FIN | opcode);
    let frames: Vec<_> = bits
        .into_iter()
        .flatten()
        .chain(opcodes)
        .map(|first| frame(first, "start"))
        .collect();
    assert_closed(1002, &frames).await;
}

#[tokio::test]
async fn fragmented_or_oversized_control_frames_are_closed_with_1002() {
    let control = [CLOSE, PING, PONG];
    let fragmented = control.map(|first| frame(first & !FIN, close(1000, "")));
    assert_closed(1002, &fragmented).await;
    for size in [126, 200, 4000] {
        let oversized = control.map(|first| frame(first, close(1000, &"x".repeat(size - 2))));
        assert_closed(1002, &oversized).await;
    }
}

#[tokio::test]
async fn a_bad_continuation_is_closed_with_1002() {
    let nothing_to_continue = [frame(FIN, "x"), frame(0, "x")];
    let another_message_within =
        [TEXT, BINARY, FRAGMENT].map(|first| [frame(FRAGMENT, "st"), frame(first, "art")].concat());
    assert_closed(1002, &nothing_to_continue).await;
    assert_closed(1002, &another_message_within).await;
}

#[tokio::test]
async fn an_invalid_close_code_or_payload_is_closed_with_1002() {
    let codes = [
        0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535,
    ];
    assert_closed(1002, &codes.map(|code| frame(CLOSE, close(code, "")))).await;
    assert_closed(1002, &[frame(CLOSE, [3])]).await;
}

#[tokio::test]
async fn text_or_a_close_reason_that_is_not_utf_8_is_closed_with_1007() {
    for bytes in [
        &b"\xFF"[..],
        b"start\xC3",
        b"\xC0\xAF",
        b"\xED\xA0\x80",
        b"\xF4\x90\x80\x80",
    ] {
        let fragments = [frame(FRAGMENT, bytes), frame(FIN, "")].concat();
        let reason = frame(CLOSE, [&[0x03, 0xE8], bytes].concat());
        assert_closed(1007, &[frame(TEXT, bytes), fragments, reason]).await;
    }
}

#[tokio::test]
async fn a_frame_or_a_message_over_4_kib_is_closed_with_1009() {
    let half = "x".repeat(2048);
    let whole = half.repeat(2);
    let halves = [frame(FRAGMENT, &half), frame(0, &half)].concat();
    let more = [halves.clone(), frame(FIN, "x")].concat();
    assert_closed(
        1009,
        &[
            frame(TEXT, whole.clone() + "x"),
            frame(BINARY, whole.clone() + "x"),
            more,
        ],
    )
    .await;
    let server = Server::start(2.0, Config::default()).await;
    let mut client = upgraded(server.address).await;
    for largest in [frame(TEXT, whole), [halves, frame(FIN, "")].concat()] {
        client.write(largest).await;
        client.expect_text("You did not say the magic word!").await;
    }
}

#[tokio::test]
async fn a_header_that_claims_more_than_there_is_memory_is_closed_with_1009_at_once() {
    let claims = [1_u64 << 63, u64::MAX, 1 << 40, 4097];
    let headers = claims.map(|size| [&[TEXT, 0xFF], &size.to_be_bytes()[..], b"mask"].concat());
    assert_closed(1009, &headers).await;
}

#[tokio::test]
async fn binary_is_closed_with_1003_also_in_fragments() {
    let server = Server::start(2.0, Config::default()).await;
    let mut client = upgraded(server.address).await;
    client.send_frame(BINARY & !FIN, "x").await;
    client.send_frame(FIN, "\u{e9}").await;
    client
        .expect_text("server doesn't support binary messages")
        .await;
    client.expect_close(1003, "binary").await;
}

/// Has nothing to push.
struct Exhausted;

impl Source for Exhausted {
    fn start(&mut self) {}

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        Err(CloseFrame {
            code: CloseCode::Normal,
            reason: "no more".into(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn when_there_is_nothing_more_to_push_the_connection_is_closed_with_1000() {
    let (client, _connection) = pipe_from(4096, || Exhausted);
    let mut client = client.into_client().await;
    client.send("start").await;
    client.expect_close(1000, "nothing to push").await;
}

#[tokio::test(start_paused = true)]
async fn when_the_client_vanishes_the_connections_task_ends_at_once() {
    for sent in [vec![], b"GET /".to_vec(), crate::common::HANDSHAKE.into()] {
        for started in [false, true] {
            let (mut client, mut connection) = pipe(4096, 1.0);
            let start = Instant::now();
            client.write(&sent).await;
            if started {
                client.send_text("start").await;
            }
            drop(client);
            connection.wait().await;
            assert_elapsed(start, 0.0);
        }
    }
}

#[tokio::test]
async fn the_slot_of_a_client_that_vanishes_is_free_for_the_next_one() {
    let server = Server::start(
        2.0,
        Config {
            max_connections: 1,
            ..Config::default()
        },
    )
    .await;
    for vanish in ["reset", "end of file", "reset in the handshake"] {
        let client = match vanish {
            "reset in the handshake" => connect(server.address).await,
            _ => upgraded_at_last(server.address).await,
        };
        if vanish != "end of file" {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
    }
    upgraded_at_last(server.address).await;
}

/// Tries again and again, for the one before may not have been noticed yet.
async fn upgraded_at_last(server: SocketAddr) -> RawClient<TcpStream> {
    let trying = async {
        loop {
            let mut client = connect(server).await;
            if client.request(crate::common::HANDSHAKE).await.status == 101 {
                return client;
            }
        }
    };
    let upgraded = timeout(Duration::from_secs(20), trying).await;
    upgraded.expect("no slot comes free")
}

#[tokio::test]
async fn what_the_server_said_last_is_not_lost_though_the_client_keeps_sending() {
    let server = Server::start(2.0, Config::default()).await;
    let flood = vec![b'x'; 1024 * 1024];
    let mut client = upgraded(server.address).await;
    client.write(b"\x81\x05start").await;
    client.write(&flood).await;
    client.expect_close(1002, "unmasked").await;
    client.write(&flood).await;

    let mut refused = connect(server.address).await;
    refused.write("nonsense\r\n\r\n").await;
    refused.write(&flood).await;
    assert_eq!(refused.request(&flood).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn after_its_last_word_the_server_half_closes_and_waits_2_s_for_the_peer_to_close() {
    for last in ["close", "refusal"] {
        for closes in [false, true] {
            let (mut client, mut connection) = pipe(4096, 1.0);
            let start = Instant::now();
            if last == "close" {
                client = client.upgraded().await;
                client.write(b"\x81\0").await;
                client.expect_close(1002, last).await;
            } else {
                assert_eq!(client.request("nonsense\r\n\r\n").await.status, 400);
            }
            if closes {
                client.stream.shutdown().await.unwrap();
            }
            connection.wait().await;
            assert_elapsed(start, if closes { 0.0 } else { 2.0 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_sending_is_listened_to_for_2_s_and_no_longer() {
    let (client, mut connection) = pipe(64, 1.0);
    let mut client = client.upgraded().await;
    let start = Instant::now();
    client.write(b"\x81\0").await;
    client.expect_close(1002, "unmasked").await;
    let flood = async {
        while client.stream.write_all(b"and on").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let end = async {
        connection.wait().await;
        assert_elapsed(start, 2.0);
    };
    join!(flood, end);
}
