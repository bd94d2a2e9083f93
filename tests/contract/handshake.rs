//! The contract's "The opening handshake": which request is upgraded, and what the others get. `access` has the rules on
//! hosts and origins, `full` those of a server without a free connection, `log` what the log says.

mod access;
mod full;
mod log;

use std::{io, net::SocketAddr, time::Duration};

use crate::common::{
    Answer, Client, GRACE, HANDSHAKE, Pipe, PipeListener, PipeServer, Server, TEXT, assert_elapsed,
    connect, fetch, frame, handshake_with, leap, pipe,
};
use tokio::{
    io::{AsyncWriteExt, BufStream},
    time::{Instant, sleep},
};
use wspush::{Config, Listener};

const TOO_LARGE: u16 = 431;

/// Checks the status, what every refusal has, and that it contains the word.
pub(crate) fn assert_refused(answer: &Answer, status: u16, word: &str) {
    assert_eq!(answer.status, status, "{word}: {answer:?}");
    assert!(answer.head.starts_with("HTTP/1.1 "), "{answer:?}");
    let date = answer.field("Date").unwrap();
    assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
    let connection = match status {
        426 => "Upgrade, close",
        _ => "close",
    };
    assert_eq!(answer.field("Connection"), Some(connection));
    assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
    let length = answer.body.len().to_string();
    assert_eq!(answer.field("Content-Length"), Some(&*length));
    let is_sentence = answer.body.ends_with(".\n");
    assert_eq!(is_sentence, status != 405, "{answer:?}");
    assert_eq!(answer.body.is_empty(), status == 405, "{answer:?}");
    assert_eq!(answer.field("Content-Type").is_none(), status == 405);
    let said = format!("{}{}", answer.head, answer.body);
    let (said, word) = (said.to_lowercase(), word.to_lowercase());
    assert!(said.contains(&word), "no {word:?} in {answer:?}");
}

/// A handshake whose head has `size` bytes.
fn handshake_of(size: usize) -> String {
    let padding = "x".repeat(size - handshake_with("X: ").len());
    handshake_with(&format!("X: {padding}"))
}

/// A handshake with `count` fields.
fn handshake_with_fields(count: usize) -> String {
    let more = count - (HANDSHAKE.lines().count() - 2);
    handshake_with(&vec!["X: x"; more].join("\r\n"))
}

#[tokio::test]
async fn the_101_is_spelt_as_the_tutorial_prints_it_and_nothing_is_negotiated() {
    let server = Server::start(2.0, Config::default()).await;
    let offer =
        "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat, mqtt";
    let answer = fetch(server.address, handshake_with(offer)).await;
    assert_eq!(
        answer.head,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: zkTGI6zVrOIDXiC4vnn1Rf37YFw=\r\n\r\n"
    );
}

#[tokio::test]
async fn any_path_any_query_and_any_spelling_of_a_good_handshake_are_accepted() {
    let server = Server::start(2.0, Config::default()).await;
    let accepted = async |from: &str, to: &str| {
        assert!(HANDSHAKE.contains(from), "{from}");
        let answer = fetch(server.address, HANDSHAKE.replace(from, to)).await;
        assert_eq!(answer.status, 101, "{to}: {answer:?}");
    };
    #[rustfmt::skip]
    let targets = ["/push/v1?a=b&c=%20", "//", "/?", "http://localhost/x?y=z", "ws://localhost"];
    for target in targets {
        accepted("GET /", &format!("GET {target}")).await;
    }
    #[rustfmt::skip]
    let connections = ["keep-alive, Upgrade", "UPGRADE", "a,,upgrade ,b", "x\r\nConnection: upgrade"];
    for connection in connections {
        accepted("Connection: Upgrade", &format!("Connection: {connection}")).await;
    }
    for upgrade in ["WebSocket", "h2c, websocket", "h2c\r\nupgrade: WEBSOCKET"] {
        accepted("Upgrade: websocket", &format!("uPGRADE: {upgrade}")).await;
    }
    accepted("Sec-WebSocket-Version: 13", "sec-websocket-version:13 ").await;
    accepted("Sec-WebSocket-Key", "SEC-WEBSOCKET-KEY").await;
    for host in ["localhost:80", "[::1]:8080", "192.0.2.1"] {
        accepted("Host: localhost", &format!("host: {host}")).await;
    }
}

#[tokio::test]
async fn the_client_of_a_library_completes_the_handshake_and_receives_notifications() {
    let server = Server::start(0.01, Config::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send("start").await;
    client.expect_notifications(1..=4).await;
    client.close(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_may_come_in_pieces_of_any_size_even_byte_by_byte() {
    // The pipe holds one piece.
    for (piece, size) in [(1, 200), (1, 9000), (3, 1000), (127, 9000)] {
        let (mut client, _connection) = pipe(piece, 1.0);
        let answer = client.request(handshake_of(size)).await;
        assert_eq!(answer.status, 101, "{piece} {size}: {answer:?}");
    }
    let (mut client, _connection) = pipe(1, 1.0);
    let most_fields = client.request(handshake_with_fields(124)).await;
    assert_eq!(most_fields.status, 101, "{most_fields:?}");
    let (mut client, _connection) = pipe(1, 1.0);
    let answer = client.request("\r\n".repeat(1000)).await;
    assert_refused(&answer, TOO_LARGE, "too many lines");
}

/// Its streams keep what is written until it is flushed, as TLS does.
struct BufferingListener(PipeListener);

impl Listener for BufferingListener {
    type Stream = BufStream<Pipe>;

    async fn accept(&mut self) -> io::Result<(Self::Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((BufStream::new(stream), peer))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_buffers_is_flushed_after_each_answer_and_each_message() {
    let server = PipeServer::start_behind(BufferingListener, 1.0, Config::default());
    let answer = server.connect(4096).request("nonsense\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    let connected = Instant::now();
    let mut client = server.connect(4096).into_client().await;
    client.send("hello").await;
    client.expect_text("You did not say the magic word!").await;
    client.send("start").await;
    client.expect_notifications(1..=3).await;
    client.close(None).await;
    assert_elapsed(connected, 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_head_not_complete_within_10_s_of_the_connection_is_answered_with_408() {
    for dribble in ["", "G", "GET / HTTP/1.1\r\n"] {
        let (mut client, _connection) = pipe(4096, 1.0);
        let connected = Instant::now();
        for byte in dribble.chars() {
            client.write(byte.to_string()).await;
            sleep(Duration::from_millis(500)).await;
        }
        assert_refused(&client.request("").await, 408, "10 s");
        assert_elapsed(connected, 10.0 + GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_came_while_the_server_was_stopped_counts() {
    for (stops, status) in [
        (&[11.0][..], 101),
        (&[11.0, 0.2], 101),
        (&[11.0, 0.06], 408),
    ] {
        let (mut client, _connection) = pipe(4096, 1.0);
        client.write(&HANDSHAKE[..40]).await;
        sleep(Duration::from_secs(1)).await;
        for seconds in stops {
            leap(*seconds).await;
        }
        assert_eq!(client.request(&HANDSHAKE[40..]).await.status, status);
    }
}

#[tokio::test]
async fn what_is_not_http_and_a_malformed_head_are_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let http_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let target = HANDSHAKE.replace("GET /", "GET nowhere");
    let name = HANDSHAKE.replace("Host:", "Ho st:");
    let value = HANDSHAKE.replace("localhost", "local\0host");
    let folded = HANDSHAKE.replace("Host:", " Host:");
    let version = HANDSHAKE.replace("HTTP/1.1", "HTTP/2");
    for request in [
        &http_2[..],
        b"\0\0\0\0",
        b"\xff\xfe start\n",
        b"start\n\n",
        b"SSH-2.0-OpenSSH_10.0\r\n",
        target.as_bytes(),
        name.as_bytes(),
        value.as_bytes(),
        folded.as_bytes(),
        version.as_bytes(),
    ] {
        assert_refused(&fetch(server.address, request).await, 400, "");
    }
}

#[tokio::test]
async fn the_400_for_a_tls_connection_says_where_tls_belongs() {
    let server = Server::start(2.0, Config::default()).await;
    let hello = [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        &[0xAB; 500],
    ]
    .concat();
    for size in [1, 5, hello.len()] {
        let answer = fetch(server.address, &hello[..size]).await;
        assert_refused(&answer, 400, "looks like TLS");
        assert_refused(&answer, 400, "proxy that ends TLS");
    }
}

#[tokio::test]
async fn a_head_that_ends_too_early_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let mut client = connect(server.address).await;
    client.write("GET / HTTP/1.1\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_refused(&client.request("").await, 400, "ended before");
}

#[tokio::test]
async fn a_head_over_64_kib_is_answered_with_431() {
    let server = Server::start(2.0, Config::default()).await;
    let largest = fetch(server.address, handshake_of(64 * 1024)).await;
    assert_eq!(largest.status, 101, "{largest:?}");
    let endless = format!("GET /{}", "x".repeat(200_000));
    for head in [
        handshake_of(64 * 1024 + 1),
        handshake_of(1024 * 1024),
        endless,
    ] {
        let answer = fetch(server.address, head).await;
        assert_refused(&answer, TOO_LARGE, "64 KiB");
    }
}

#[tokio::test]
async fn a_head_with_over_124_fields_is_answered_with_431() {
    let server = Server::start(2.0, Config::default()).await;
    let most = fetch(server.address, handshake_with_fields(124)).await;
    assert_eq!(most.status, 101, "{most:?}");
    let answer = fetch(server.address, handshake_with_fields(125)).await;
    assert_refused(&answer, TOO_LARGE, "124 fields");
}

#[tokio::test]
async fn options_is_answered_with_204_and_the_methods_but_no_content_length() {
    let server = Server::start(2.0, Config::default()).await;
    for request in [
        "OPTIONS / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "OPTIONS /a?b HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        &HANDSHAKE.replace("GET", "OPTIONS"),
    ] {
        let answer = fetch(server.address, request).await;
        assert_eq!((answer.status, &*answer.body), (204, ""), "{answer:?}");
        for (name, value) in [
            ("Allow", Some("GET, HEAD, OPTIONS")),
            ("Connection", Some("close")),
            ("X-Content-Type-Options", Some("nosniff")),
            ("Content-Length", None),
            ("Content-Type", None),
        ] {
            assert_eq!(answer.field(name), value, "{name}: {answer:?}");
        }
        assert!(answer.field("Date").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn another_method_and_a_head_that_attempts_a_handshake_are_answered_with_405() {
    let server = Server::start(2.0, Config::default()).await;
    let methods = ["HEAD", "POST", "CONNECT", "get", "PURGE"];
    let handshakes = methods.map(|method| HANDSHAKE.replace("GET", method));
    let others = [
        "HEAD / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n",
        "HEAD / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    ];
    for request in handshakes.into_iter().chain(others.map(Into::into)) {
        let answer = fetch(server.address, request).await;
        assert_refused(&answer, 405, "Allow: GET, HEAD, OPTIONS\r\n");
    }
}

fn assert_page(answer: &Answer, length: usize) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let length = length.to_string();
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", &length),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        assert_eq!(answer.field(name), Some(value));
    }
    let policy = answer.field("Content-Security-Policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
}

#[tokio::test]
async fn a_request_that_attempts_no_handshake_is_answered_with_200_and_the_page() {
    let server = access::server_with_hosts(&["push.example"]).await;
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk";
    for fields in [
        "Host: push.example",
        "Host: a\r\nHost: b",
        "X: y",
        "Origin: http://evil.example",
        h2c,
    ] {
        for http in ["HTTP/1.1", "HTTP/1.0"] {
            let get = format!("GET /a?b {http}\r\n{fields}\r\n\r\n");
            let page = fetch(server.address, &get).await;
            assert_page(&page, page.body.len());
            assert!(page.body.contains("<title>wspush</title>"), "{page:?}");
            let head = fetch(server.address, get.replacen("GET", "HEAD", 1)).await;
            assert_page(&head, page.body.len());
            assert_eq!(head.body, "");
        }
    }
}

#[tokio::test]
async fn the_page_is_sent_whatever_content_or_bytes_come_with_the_request() {
    let server = Server::start(2.0, Config::default()).await;
    let large = "x".repeat(1024 * 1024);
    for rest in [
        "HTTP/1.0\r\n\r\n\n",
        "HTTP/1.1\r\n\r\n\r\n",
        "HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        "HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1\r\n\r\nGET /favicon.ico HTTP/1.1\r\n\r\n",
        &format!("HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n{large}"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = fetch(server.address, format!("{method} / {rest}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let length = answer.body.len().to_string();
            let is_whole = answer.field("Content-Length") == Some(&length);
            assert_eq!(is_whole, method == "GET", "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_handshake_with_data_after_its_head_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    // Among them the sizes of a read buffer that the head alone would fill.
    for size in [200, 512, 1000, 1023, 1024, 1025, 2048, 4096, 8192, 16384] {
        let early = [handshake_of(size).as_bytes(), &frame(TEXT, "start")].concat();
        let answer = fetch(server.address, early).await;
        assert_refused(&answer, 400, "Data came after the request head");
    }
}

#[tokio::test]
async fn a_handshake_that_announces_content_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    for field in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        let answer = fetch(server.address, handshake_with(field)).await;
        assert_refused(&answer, 400, "Data came after the request head");
    }
    let none = handshake_with("Content-Length: 0");
    assert_eq!(fetch(server.address, none).await.status, 101);
}

#[tokio::test]
async fn a_handshake_over_http_1_0_is_answered_with_426() {
    let server = Server::start(2.0, Config::default()).await;
    let request = HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0");
    let answer = fetch(server.address, request).await;
    assert_refused(&answer, 426, "HTTP/1.0");
    assert_eq!(answer.field("Upgrade"), Some("websocket"));
}

#[tokio::test]
async fn a_handshake_without_upgrade_is_answered_with_426() {
    let server = Server::start(2.0, Config::default()).await;
    let (upgrade, connection) = ("Upgrade: websocket", "Connection: Upgrade");
    for (field, replacement) in [
        (upgrade, "X: y"),
        (upgrade, "Upgrade: h2c"),
        (connection, "X: y"),
        (connection, "Connection: close, upgraded"),
    ] {
        let answer = fetch(server.address, HANDSHAKE.replace(field, replacement)).await;
        assert_refused(&answer, 426, &format!("no {field}"));
        assert_eq!(answer.field("Upgrade"), Some("websocket"));
    }
}

#[tokio::test]
async fn a_version_absent_or_not_13_is_answered_with_426_and_13() {
    let server = Server::start(2.0, Config::default()).await;
    let field = "Sec-WebSocket-Version: 13\r\n";
    let twice = "13\r\nSec-WebSocket-Version: 8";
    for version in ["", "8", "14", "013", "13, 8", "x", twice] {
        let line = format!("Sec-WebSocket-Version: {version}\r\n");
        let replacement = if version.is_empty() { "" } else { &line };
        let answer = fetch(server.address, HANDSHAKE.replace(field, replacement)).await;
        assert_refused(&answer, 426, "13");
        assert_eq!(answer.field("Upgrade"), Some("websocket"));
        assert_eq!(answer.field("Sec-WebSocket-Version"), Some("13"));
    }
}

#[tokio::test]
async fn a_key_absent_twice_or_not_16_bytes_in_base64_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let field = "Sec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==\r\n";
    let fifteen = "Sec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0\r\n";
    let seventeen = "Sec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZXM=\r\n";
    let unpadded = field.replace("==", "");
    let no_base64 = field.replace("YSBz", "Y!Bz");
    let twice = field.repeat(2);
    let empty = "Sec-WebSocket-Key:\r\n";
    let stray_bits = HANDSHAKE.replace("ZQ==", "ZR==");
    assert_eq!(fetch(server.address, stray_bits).await.status, 101);
    for key in ["", fifteen, seventeen, &unpadded, &no_base64, &twice, empty] {
        let answer = fetch(server.address, HANDSHAKE.replace(field, key)).await;
        assert_refused(&answer, 400, "Sec-WebSocket-Key");
    }
}

#[tokio::test]
async fn no_host_two_hosts_and_what_is_no_host_are_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let one = "Host: localhost\r\n";
    let two = "Host: localhost\r\nHost: localhost\r\n";
    for host in [
        "",
        two,
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: u@a\r\n",
        "Host: a:x\r\n",
        "Host: a:65536\r\n",
        "Host: :80\r\n",
        "Host: [::1]80\r\n",
    ] {
        let answer = fetch(server.address, HANDSHAKE.replace(one, host)).await;
        assert_refused(&answer, 400, "Host");
    }
}

#[tokio::test]
async fn a_target_that_is_neither_a_path_nor_a_url_with_a_host_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    for target in ["nowhere", "*", "?a=b", "http:///"] {
        let request = HANDSHAKE.replacen("GET /", &format!("GET {target}"), 1);
        assert_refused(&fetch(server.address, request).await, 400, "");
    }
}

/// For each row, what to replace in a browser's handshake, with what, the status, and a word of the answer.
#[rustfmt::skip]
const FAULTS: [(&str, &str, u16, &str); 12] = [
    ("Connection:", "Connection :", 400, "not an HTTP/1.1 request"),
    ("Sec-WebSocket-Version", "{125 fields}Sec-WebSocket-Version", 431, "fields"),
    ("GET", "POST", 405, "Allow: GET, HEAD, OPTIONS"),
    ("\r\n\r\n", "\r\n\r\nx", 400, "Data came after"),
    ("Origin:", "Content-Length: 1\r\nOrigin:", 400, "Data came after"),
    ("HTTP/1.1", "HTTP/1.0", 426, "HTTP/1.0"),
    ("Upgrade: websocket\r\n", "", 426, "no Upgrade: websocket"),
    ("Version: 13", "Version: 12", 426, "is not 13"),
    ("YSBzYW1wbGUgMTYgYnl0ZQ==", "short", 400, "Sec-WebSocket-Key"),
    ("Host: localhost\r\n", "", 400, "no Host"),
    ("Host: localhost", "Host: evil.example", 421, "--allow-host"),
    ("http://localhost", "http://evil.example", 403, "--allow-origin"),
];

#[tokio::test]
async fn where_several_rows_fit_the_first_one_counts() {
    let server = access::server_with_hosts(&["localhost"]).await;
    let good = handshake_with("Origin: http://localhost");
    for (row, (from, to, status, word)) in FAULTS.into_iter().enumerate() {
        assert!(good.contains(from));
        let one = good.replace(from, to);
        let later = FAULTS[row + 1..].iter();
        let all = later.clone().fold(one.clone(), |request, (from, to, ..)| {
            request.replace(from, to)
        });
        let pairs = later.map(|(from, to, ..)| one.replace(from, to));
        for request in pairs.chain([one.clone(), all]) {
            let request = request.replace("{125 fields}", &"X: x\r\n".repeat(125));
            assert_refused(&fetch(server.address, request).await, status, word);
        }
    }
}
