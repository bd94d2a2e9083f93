//! The contract's "How a connection ends".

use std::{net::SocketAddr, time::Duration};

use crate::common::{
    BINARY, CLOSE, Client, End, FIN, GRACE, HANDSHAKE, PING, PONG, RawClient, Server, TEXT,
    assert_elapsed, close, connect, frame, full_at, leap, pipe, pipe_from, upgraded,
};
use futures_util::stream;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    join,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use wspush::{CloseFrame, Config, Notification, Notifications, Source, http::Request};

/// The first fragment of a text.
const FRAGMENT: u8 = TEXT & !FIN;

/// Sends each cause on a connection of its own, and expects a Close frame with the code.
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

/// A connection whose source has one notification and then this end, if there is one.
async fn started_with(end: Option<CloseFrame>) -> (RawClient<DuplexStream>, End) {
    let (client, connection) = pipe_from(4096, move || {
        let end = end.clone().map(Err);
        stream::iter([Ok(Notification::new("the last"))].into_iter().chain(end))
    });
    let mut client = client.upgraded().await;
    client.send_text("start").await;
    client.expect_text("the last").await;
    (client, connection)
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_of_notifications_closes_the_connection_with_1000() {
    let (mut client, _connection) = started_with(None).await;
    client.expect_close(1000, "the end of the stream").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_closes_with_its_own_code_and_reason() {
    for code in [1000, 1001, 1008, 1011, 1013, 3000, 4999] {
        let reason = format!("reason of {code}");
        let (mut client, _connection) = started_with(Some(CloseFrame {
            code: code.into(),
            reason: (&*reason).into(),
        }))
        .await;
        assert_eq!(client.recv_frame().await, (CLOSE, close(code, &reason)));
        client.expect_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_that_must_not_be_sent_becomes_1011_and_a_long_reason_is_cut_at_a_character() {
    let forbidden = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535];
    for (code, sent) in forbidden
        .map(|code| (code, 1011))
        .into_iter()
        .chain([(4000, 4000)])
    {
        for (reason, cut) in [
            ("x".repeat(123), "x".repeat(123)),
            ("x".repeat(124), "x".repeat(123)),
            ("\u{e9}".repeat(100), "\u{e9}".repeat(61)),
            ("\u{1f980}".repeat(1000), "\u{1f980}".repeat(30)),
        ] {
            let (mut client, _connection) = started_with(Some(CloseFrame {
                code: code.into(),
                reason: reason.into(),
            }))
            .await;
            assert_eq!(client.recv_frame().await, (CLOSE, close(sent, &cut)));
            client.expect_end().await;
        }
    }
}

/// Numbered notifications, but a bug at the path `/bug`.
struct Buggy {
    is_bug: bool,
    notifications: Notifications,
}

impl Source for Buggy {
    fn start(&mut self) {
        self.notifications.start();
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        assert!(!self.is_bug, "a bug");
        self.notifications.next().await
    }
}

#[tokio::test]
async fn a_source_that_panics_ends_its_own_connection_without_a_close_frame_and_no_other() {
    let new_source = |request: &Request<()>, _| {
        assert_ne!(request.uri().path(), "/bug-in-the-handshake");
        Ok(Buggy {
            is_bug: request.uri().path() == "/bug",
            notifications: Notifications::every(Duration::from_millis(5)),
        })
    };
    let server = Server::start_with(full_at(2), new_source).await;
    let mut other = Client::connect(server.address).await;
    other.send("start").await;
    for _ in 0..5 {
        let mut client = connect(server.address).await;
        client
            .write(HANDSHAKE.replacen('/', "/bug-in-the-handshake", 1))
            .await;
        client.expect_end().await;
        let mut client = connect(server.address).await;
        let answer = client.request(HANDSHAKE.replacen('/', "/bug", 1)).await;
        assert_eq!(answer.status, 101);
        client.send_text("start").await;
        client.expect_end().await;
    }
    other.expect_notifications(1..=20).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_client_vanishes_its_task_ends_at_once() {
    for sent in [vec![], b"GET /".to_vec(), HANDSHAKE.into()] {
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
async fn the_place_of_a_client_that_vanishes_is_free_for_the_next_one() {
    let server = Server::start(2.0, full_at(1)).await;
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

/// Tries until it succeeds: the server may not yet have noticed that the client before is gone.
async fn upgraded_at_last(server: SocketAddr) -> RawClient<TcpStream> {
    let trying = async {
        loop {
            let mut client = connect(server).await;
            if client.request(HANDSHAKE).await.status == 101 {
                return client;
            }
        }
    };
    let upgraded = timeout(Duration::from_secs(20), trying).await;
    upgraded.expect("no place is free")
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

/// A connection after the server's last word, a Close frame or a refusal.
async fn after_the_last_word(is_refusal: bool) -> (RawClient<DuplexStream>, End) {
    let (mut client, connection) = pipe(4096, 1.0);
    if is_refusal {
        assert_eq!(client.request("nonsense\r\n\r\n").await.status, 400);
    } else {
        client = client.upgraded().await;
        client.write(b"\x81\0").await;
        client.expect_close(1002, "unmasked").await;
    }
    (client, connection)
}

#[tokio::test(start_paused = true)]
async fn after_its_last_word_the_server_half_closes_and_waits_up_to_2_s_for_the_peer_to_close() {
    for is_refusal in [false, true] {
        let (_client, mut connection) = after_the_last_word(is_refusal).await;
        let start = Instant::now();
        connection.wait().await;
        assert_elapsed(start, 2.0 + GRACE);

        let (mut client, mut connection) = after_the_last_word(is_refusal).await;
        let start = Instant::now();
        sleep(Duration::from_millis(1900)).await;
        assert!(!connection.is_over());
        client.stream.shutdown().await.unwrap();
        connection.wait().await;
        assert_elapsed(start, 1.9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closed_while_the_server_was_stopped_is_still_waited_for() {
    for is_refusal in [false, true] {
        let (mut client, mut connection) = after_the_last_word(is_refusal).await;
        leap(3.0).await;
        assert!(!connection.is_over());
        client.stream.shutdown().await.unwrap();
        let closed = Instant::now();
        connection.wait().await;
        assert_elapsed(closed, 0.0);
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
        assert_elapsed(start, 2.0 + GRACE);
    };
    join!(flood, end);
}
