//! The contract's "The opening handshake".

use std::{net::SocketAddr, time::Duration};

use crate::common::{
    Answer, Client, HANDSHAKE, PipeServer, Server, TEXT, assert_elapsed, connect, fetch, frame,
    handshake_with, pipe,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use wspush::{
    Config, Notifications, Refusal,
    http::{Request, StatusCode},
    refuse,
};

const TOO_LARGE: u16 = 431;

/// What every refusal has, whatever its status.
fn assert_refused(answer: &Answer, status: u16, word: &str) {
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
    assert_eq!(answer.body.is_empty(), status == 405, "{answer:?}");
    assert_eq!(answer.field("Content-Type").is_none(), status == 405);
    let said = format!("{}{}", answer.head, answer.body);
    let (said, word) = (said.to_lowercase(), word.to_lowercase());
    assert!(said.contains(&word), "{word:?} is not in {answer:?}");
}

/// A handshake whose head has this many bytes.
fn handshake_of(size: usize) -> String {
    let padding = "x".repeat(size - handshake_with("X: ").len());
    handshake_with(&format!("X: {padding}"))
}

/// A handshake with this many fields.
fn handshake_with_fields(count: usize) -> String {
    let more = count - (HANDSHAKE.lines().count() - 2);
    handshake_with(&vec!["X: x"; more].join("\r\n"))
}

#[tokio::test]
async fn the_accept_key_is_that_of_rfc_6455_and_nothing_else_is_negotiated() {
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
async fn any_path_and_any_query_and_any_spelling_of_a_good_handshake_are_accepted() {
    let server = Server::start(2.0, Config::default()).await;
    let accepted = async |from: &str, to: &str| {
        assert!(HANDSHAKE.contains(from), "{from}");
        let answer = fetch(server.address, HANDSHAKE.replace(from, to)).await;
        assert_eq!(answer.status, 101, "{to}: {answer:?}");
    };
    for target in [
        "/push/v1?a=b&c=%20",
        "//",
        "/?",
        "http://localhost/x?y=z",
        "ws://localhost",
    ] {
        accepted("GET /", &format!("GET {target}")).await;
    }
    for connection in [
        "keep-alive, Upgrade",
        "UPGRADE",
        "a,,upgrade ,b",
        "x\r\nConnection: upgrade",
    ] {
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
async fn the_librarys_client_completes_the_handshake_and_receives_notifications() {
    let server = Server::start(0.01, Config::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send("start").await;
    client.expect_notifications(1..=4).await;
    client.close(None).await;
}

fn full_at(max_connections: usize) -> Config {
    Config {
        max_connections,
        ..Config::default()
    }
}

#[tokio::test]
async fn when_max_connections_is_reached_the_answer_is_503_with_retry_after() {
    let server = Server::start(2.0, full_at(1)).await;
    let _first = Client::connect(server.address).await;
    for request in [
        HANDSHAKE,
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = fetch(server.address, request).await;
        assert_refused(&answer, 503, "Retry-After: ");
    }
}

#[tokio::test(start_paused = true)]
async fn the_503_comes_once_the_head_has_come_or_after_2_s() {
    let server = PipeServer::start(2.0, full_at(1));
    let _first = server.connect(4096).upgraded().await;
    let (head, last) = HANDSHAKE.split_at(HANDSHAKE.len() - 1);
    for (pause, last, due) in [(0.5, last, 0.5), (1.9, last, 1.9), (1.9, "", 2.0)] {
        let mut client = server.connect(4096);
        let connected = Instant::now();
        client.write(head).await;
        let early = timeout(Duration::from_secs_f64(pause), client.stream.read_u8());
        assert!(early.await.is_err(), "an answer before the request's end");
        assert_refused(&client.request(last).await, 503, "Retry-After: ");
        assert_elapsed(connected, due);
    }
}

#[tokio::test]
async fn when_max_connections_is_reached_a_connection_without_a_byte_gets_no_answer() {
    let server = Server::start(2.0, full_at(1)).await;
    let _first = Client::connect(server.address).await;
    let mut check = connect(server.address).await;
    check.stream.shutdown().await.unwrap();
    check.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_makes_room_even_while_others_are_being_refused() {
    let server = PipeServer::start(2.0, full_at(1));
    let first = server.connect(4096).upgraded().await;
    // As many as are refused at once, and too slow to be refused yet.
    let _refused: Vec<_> = (0..64).map(|_| server.connect(4096)).collect();
    let connected = Instant::now();
    let mut next = server.connect(4096);
    sleep(Duration::from_secs(1)).await;
    drop(first);
    assert_eq!(next.request(HANDSHAKE).await.status, 101);
    assert_elapsed(connected, 1.0);
}

#[tokio::test(start_paused = true)]
async fn connections_still_in_their_handshake_count_for_max_connections() {
    let server = PipeServer::start(2.0, full_at(2));
    let mut first = server.connect(4096);
    first.write("GET").await;
    let _second = server.connect(4096);
    assert_refused(&server.connect(4096).request(HANDSHAKE).await, 503, "2");
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
        assert_elapsed(connected, 10.0);
    }
}

#[tokio::test]
async fn what_is_not_http_at_all_or_a_malformed_head_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let tls_hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    let http_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let target = HANDSHAKE.replace("GET /", "GET nowhere");
    let name = HANDSHAKE.replace("Host:", "Ho st:");
    let value = HANDSHAKE.replace("localhost", "local\0host");
    let folded = HANDSHAKE.replace("Host:", " Host:");
    let version = HANDSHAKE.replace("HTTP/1.1", "HTTP/2");
    for request in [
        &tls_hello[..],
        http_2,
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
async fn a_head_that_ends_too_early_is_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    let mut client = connect(server.address).await;
    client.write("GET / HTTP/1.1\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_refused(&client.request("").await, 400, "");
}

#[tokio::test]
async fn a_head_over_64_kib_is_answered_with_431() {
    let server = Server::start(2.0, Config::default()).await;
    let largest = fetch(server.address, handshake_of(64 * 1024)).await;
    assert_eq!(largest.status, 101, "{largest:?}");
    for size in [64 * 1024 + 1, 1024 * 1024] {
        assert_refused(
            &fetch(server.address, handshake_of(size)).await,
            TOO_LARGE,
            "64 KiB",
        );
    }
    let endless = "x".repeat(200_000);
    let answer = fetch(server.address, format!("GET /{endless}")).await;
    assert_refused(&answer, TOO_LARGE, "64 KiB");
}

#[tokio::test]
async fn a_head_with_over_124_fields_is_answered_with_431() {
    let server = Server::start(2.0, Config::default()).await;
    let most = fetch(server.address, handshake_with_fields(124)).await;
    assert_eq!(most.status, 101, "{most:?}");
    let answer = fetch(server.address, handshake_with_fields(125)).await;
    assert_refused(&answer, TOO_LARGE, "124 fields");
}

#[tokio::test(start_paused = true)]
async fn a_head_may_come_in_pieces_of_any_size_byte_by_byte_too() {
    // The pipe holds one piece.
    for (piece, size) in [(1, 200), (1, 9000), (3, 1000), (127, 9000)] {
        let (mut client, _connection) = pipe(piece, 1.0);
        let whole = client.request(handshake_of(size)).await;
        assert_eq!(whole.status, 101, "{piece} {size}: {whole:?}");
    }
    let empty_lines = "\r\n".repeat(32 * 1024);
    let (mut client, _connection) = pipe(1, 1.0);
    let answer = client.request(empty_lines).await;
    assert_refused(&answer, TOO_LARGE, "64 KiB");
}

#[tokio::test]
async fn a_method_other_than_get_and_head_or_a_head_that_attempts_a_handshake_is_answered_with_405()
{
    let server = Server::start(2.0, Config::default()).await;
    let options = "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let connect = "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n";
    let post = "POST / HTTP/1.0\r\n\r\n";
    let methods = ["HEAD", "POST", "OPTIONS", "CONNECT", "get", "PURGE"];
    let handshakes = methods.map(|method| HANDSHAKE.replace("GET", method));
    let others = [options, connect, post].map(Into::into);
    for request in handshakes.into_iter().chain(others) {
        let answer = fetch(server.address, request).await;
        assert_refused(&answer, 405, "Allow: GET, HEAD\r\n");
    }
}

#[tokio::test]
async fn http_1_0_is_answered_with_426() {
    let server = Server::start(2.0, Config::default()).await;
    let request = HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0");
    let answer = fetch(server.address, request).await;
    assert_refused(&answer, 426, "HTTP/1.0");
    assert_eq!(answer.field("Upgrade"), Some("websocket"));
}

#[tokio::test]
async fn bytes_behind_the_head_that_came_before_the_answer_are_answered_with_400() {
    let server = Server::start(2.0, Config::default()).await;
    // Among them the sizes of a read buffer that the head alone would fill.
    for size in [200, 512, 1000, 1023, 1024, 1025, 2048, 4096, 8192, 16384] {
        let early = [handshake_of(size).as_bytes(), &frame(TEXT, "start")].concat();
        assert_refused(&fetch(server.address, early).await, 400, "behind");
    }
}

#[tokio::test]
async fn content_is_as_little_part_of_a_handshake_as_bytes_behind_it() {
    let server = Server::start(2.0, Config::default()).await;
    for field in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        assert_refused(
            &fetch(server.address, handshake_with(field)).await,
            400,
            "content",
        );
    }
    let mut client = connect(server.address).await;
    assert_eq!(
        client
            .request(handshake_with("Content-Length: 0"))
            .await
            .status,
        101
    );
}

#[tokio::test]
async fn a_target_that_names_a_host_counts_in_the_place_of_host() {
    let server = Server::start(2.0, Config::default()).await;
    let absolute = |origin: &str| {
        let handshake = handshake_with(&format!("Origin: http://{origin}"));
        handshake.replacen("GET /", "GET http://named.example/", 1)
    };
    assert_refused(
        &fetch(server.address, absolute("localhost")).await,
        403,
        "named.example",
    );
    let mut client = connect(server.address).await;
    assert_eq!(client.request(absolute("named.example")).await.status, 101);
}

#[tokio::test]
async fn a_handshake_without_upgrade_is_answered_with_426() {
    let server = Server::start(2.0, Config::default()).await;
    for (field, without, missing) in [
        ("Upgrade: websocket\r\n", "", "\"Upgrade: websocket\""),
        (
            "Upgrade: websocket\r\n",
            "Upgrade: h2c\r\n",
            "\"Upgrade: websocket\"",
        ),
        ("Connection: Upgrade\r\n", "", "\"Connection: Upgrade\""),
        (
            "Connection: Upgrade\r\n",
            "Connection: close, upgraded\r\n",
            "\"Connection: Upgrade\"",
        ),
    ] {
        let answer = fetch(server.address, HANDSHAKE.replace(field, without)).await;
        assert_refused(&answer, 426, missing);
        assert_eq!(answer.field("Upgrade"), Some("websocket"));
    }
}

/// A server that may be reached only under these names.
async fn server_with_hosts(names: &[&str]) -> Server {
    let config = Config {
        allowed_hosts: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Config::default()
    };
    Server::start(2.0, config).await
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
async fn what_is_no_attempt_at_a_handshake_is_answered_with_200_and_the_page() {
    let server = server_with_hosts(&["push.example"]).await;
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
async fn a_host_that_allow_host_does_not_list_is_answered_with_421() {
    let server = server_with_hosts(&["Push.Example", "::1", "127.0.0.1"]).await;
    let at = async |host: &str| {
        let request = HANDSHAKE.replace("Host: localhost", &format!("Host: {host}"));
        fetch(server.address, request).await
    };
    for listed in [
        "push.example",
        "PUSH.EXAMPLE:8080",
        "push.example.",
        "push.example:",
        "[::1]:80",
        "127.0.0.1:1",
    ] {
        let answer = at(listed).await;
        assert_eq!(answer.status, 101, "{listed}: {answer:?}");
    }
    for other in [
        "localhost",
        "evil.example:80",
        "a.push.example",
        "push.example.evil",
        "[::2]",
    ] {
        assert_refused(&at(other).await, 421, "--allow-host");
    }
}

#[tokio::test]
async fn a_target_with_another_host_is_answered_with_421_whatever_host_says() {
    let server = server_with_hosts(&["localhost"]).await;
    let target = |host| HANDSHAKE.replacen("GET /", &format!("GET http://{host}/"), 1);
    let evil = fetch(server.address, target("evil.example")).await;
    assert_refused(&evil, 421, "evil.example");
    let own = fetch(server.address, target("LOCALHOST:80")).await;
    assert_eq!(own.status, 101, "{own:?}");
}

#[tokio::test]
async fn a_version_absent_or_not_13_is_answered_with_426_and_13() {
    let server = Server::start(2.0, Config::default()).await;
    let field = "Sec-WebSocket-Version: 13\r\n";
    for version in [
        "",
        "8",
        "14",
        "013",
        "13, 8",
        "x",
        "13\r\nSec-WebSocket-Version: 8",
    ] {
        let line = format!("Sec-WebSocket-Version: {version}\r\n");
        let other = if version.is_empty() { "" } else { &line };
        let answer = fetch(server.address, HANDSHAKE.replace(field, other)).await;
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
async fn no_host_or_two_are_answered_with_400() {
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

/// Asks with each origin as a page of it would.
async fn assert_origins(allowed: &[&str], host: &str, status: u16, origins: &[&str]) {
    let config = Config {
        allowed_origins: allowed
            .iter()
            .map(|origin| origin.parse().unwrap())
            .collect(),
        ..Config::default()
    };
    let server = Server::start(2.0, config).await;
    for origin in origins {
        let request = handshake_with(&format!("Origin: {origin}"));
        let request = request.replace("Host: localhost", &format!("Host: {host}"));
        let answer = fetch(server.address, request).await;
        match status {
            101 => assert_eq!(answer.status, 101, "{origin}: {answer:?}"),
            _ => assert_refused(&answer, status, "rigin"),
        }
    }
}

#[tokio::test]
async fn an_origin_is_the_servers_own_when_its_host_and_port_equal_host() {
    let own = ["http://localhost:8080", "https://LOCALHOST:8080"];
    assert_origins(&[], "LocalHost:8080", 101, &own).await;
    let at_a_proxy = [
        "https://push.example",
        "https://push.example:443",
        "http://push.example:80",
    ];
    assert_origins(&[], "push.example", 101, &at_a_proxy).await;
    assert_origins(&[], "push.example:443", 101, &at_a_proxy[..2]).await;
    assert_origins(&[], "push.example:80", 101, &["http://push.example"]).await;
    assert_origins(&[], "[::1]:8080", 101, &["http://[::1]:8080"]).await;
}

#[tokio::test]
async fn an_origin_neither_the_servers_own_nor_allowed_is_answered_with_403() {
    let foreign = [
        "null",
        "http://evil.example",
        "http://localhost:8081",
        "http://localhost",
        "http://localhost:8080.evil.example",
        "http://localhost:8080@evil.example",
        "http://evil.example/localhost:8080",
        "http://localhost:8080\r\nOrigin: http://evil.example",
        "http://evil.example\r\nOrigin: http://localhost:8080",
        "",
        "\u{e9}",
    ];
    assert_origins(&[], "localhost:8080", 403, &foreign).await;
    assert_origins(&[], "push.example:80", 403, &["https://push.example"]).await;
}

#[tokio::test]
async fn allowed_origins_are_let_in_besides_the_servers_own() {
    let allow = ["https://app.example", "http://b.example:81"];
    let let_in = [
        "https://app.example",
        "https://App.Example:443",
        "http://b.example:81",
        "http://localhost",
    ];
    assert_origins(&allow, "localhost", 101, &let_in).await;
    let foreign = [
        "http://app.example",
        "https://app.example:444",
        "http://b.example",
        "null",
    ];
    assert_origins(&allow, "localhost", 403, &foreign).await;
    let without_host = ["file://"];
    assert_origins(&without_host, "localhost", 101, &["file://"]).await;
    assert_origins(&without_host, "localhost", 403, &["qrc://", "null"]).await;
    let every = ["http://evil.example", "null", "\u{e9}"];
    assert_origins(&["*"], "localhost", 101, &every).await;
}

/// Lets in whoever shows what this source wants of a request.
fn authorize(request: &Request<()>, peer: SocketAddr) -> Result<Notifications, Refusal> {
    assert!(peer.ip().is_loopback());
    let token: Vec<_> = request.headers().get_all("authorization").iter().collect();
    if token.is_empty() {
        let mut refusal = refuse(StatusCode::UNAUTHORIZED, "Log in first.");
        let challenge = "Bearer".parse().unwrap();
        refusal.headers_mut().insert("WWW-Authenticate", challenge);
        return Err(refusal);
    }
    match (request.uri().path(), request.uri().query()) {
        ("/news", Some("topic=a%20b?c")) if token == ["Bearer x", "y"] => {
            Ok(Notifications::every(Duration::from_secs(1)))
        }
        ("/news", None) => Err(refuse(StatusCode::FORBIDDEN, "Name a topic.")),
        _ => Err(refuse(
            StatusCode::NOT_FOUND,
            "There is nothing at this path.",
        )),
    }
}

#[tokio::test]
async fn a_source_sees_the_request_and_may_refuse_it() {
    let server = Server::start_with(Config::default(), authorize).await;
    let token = "Authorization: Bearer x\r\nAUTHORIZATION: y";
    let get = async |target: &str, token: &str| {
        let handshake = handshake_with(token).replacen("GET /", &format!("GET {target}"), 1);
        fetch(server.address, handshake).await
    };
    let accepted = get("/news?topic=a%20b?c", token).await;
    assert_eq!(accepted.status, 101, "{accepted:?}");
    let unauthorized = get("/news", "X: y").await;
    assert_refused(&unauthorized, 401, "WWW-Authenticate: Bearer\r\n");
    assert!(unauthorized.body.contains("Log in first."));
    assert_refused(&get("/news", token).await, 403, "Name a topic.");
    assert_refused(&get("/", token).await, 404, "nothing at this path");
    let absolute = get("http://localhost?topic", token).await;
    assert_refused(&absolute, 404, "nothing at this path");
}

/// A handshake of a browser, and a fault for each row: what stands in place of what, the status, and a word of the answer.
#[rustfmt::skip]
const FAULTS: [(&str, &str, u16, &str); 12] = [
    ("Connection:", "Connection :", 400, "not an HTTP/1.1 request"),
    ("Sec-WebSocket-Version", "{125 fields}Sec-WebSocket-Version", 431, "fields"),
    ("GET", "POST", 405, "Allow: GET, HEAD"),
    ("\r\n\r\n", "\r\n\r\nx", 400, "behind"),
    ("HTTP/1.1", "HTTP/1.0", 426, "HTTP/1.0"),
    ("Upgrade: websocket\r\n", "", 426, "no \"Upgrade: websocket\""),
    ("Version: 13", "Version: 12", 426, "Sec-WebSocket-Version: 13"),
    ("YSBzYW1wbGUgMTYgYnl0ZQ==", "short", 400, "Sec-WebSocket-Key"),
    ("Host: localhost\r\n", "", 400, "Host"),
    ("Host: localhost", "Host: evil.example", 421, "--allow-host"),
    ("http://localhost", "http://evil.example", 403, "http://evil.example"),
    ("Origin:", "Content-Length: 1\r\nOrigin:", 400, "content"),
];

#[tokio::test]
async fn where_several_rows_fit_the_first_one_counts() {
    let server = server_with_hosts(&["localhost"]).await;
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
