//! Who may connect: hosts, origins, and what the source of a program on top of the library decides.

use std::{net::SocketAddr, time::Duration};

use super::assert_refused;
use crate::common::{Answer, HANDSHAKE, Program, Server, connect, fetch, handshake_with};
use wspush::{
    Config, Notifications, Refusal,
    http::{Request, StatusCode},
    refuse,
};

/// A server that may be reached only by these names.
pub(super) async fn server_with_hosts(names: &[&str]) -> Server {
    let config = Config {
        allowed_hosts: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Config::default()
    };
    Server::start(2.0, config).await
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
async fn a_host_in_the_target_counts_instead_of_host() {
    let server = server_with_hosts(&["localhost"]).await;
    let target = |host| HANDSHAKE.replacen("GET /", &format!("GET http://{host}/"), 1);
    let evil = fetch(server.address, target("evil.example")).await;
    assert_refused(&evil, 421, "evil.example");
    let own = fetch(server.address, target("LOCALHOST:80")).await;
    assert_eq!(own.status, 101, "{own:?}");
}

/// Requests a handshake with each origin, as a page of it does.
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
    let own = [
        "http://localhost:8080",
        "https://LOCALHOST:8080",
        "http://localhost:8080/",
        "ws://localhost:8080",
    ];
    assert_origins(&[], "LocalHost:8080", 101, &own).await;
    let at_a_proxy = [
        "https://push.example",
        "https://push.example/",
        "https://push.example:443",
        "http://push.example:80",
        "http://push.example:80/",
    ];
    assert_origins(&[], "push.example", 101, &at_a_proxy).await;
    assert_origins(&[], "push.example:443", 101, &at_a_proxy[..3]).await;
    assert_origins(&[], "push.example:80", 101, &["http://push.example"]).await;
    assert_origins(&[], "[::1]:8080", 101, &["http://[::1]:8080"]).await;
}

#[tokio::test]
async fn the_host_in_the_target_decides_which_origin_is_the_servers_own() {
    let server = Server::start(2.0, Config::default()).await;
    let from = async |origin: &str| {
        let handshake = handshake_with(&format!("Origin: http://{origin}"));
        let request = handshake.replacen("GET /", "GET http://named.example/", 1);
        fetch(server.address, request).await
    };
    assert_refused(&from("localhost").await, 403, "--allow-origin");
    assert_eq!(from("named.example").await.status, 101);
}

#[tokio::test]
async fn an_origin_neither_the_servers_own_nor_allowed_is_answered_with_403() {
    let foreign = [
        "null",
        "file://",
        "http://evil.example",
        "http://localhost:8081",
        "http://localhost",
        "http://localhost:8080//",
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
    let allow = ["https://app.example/", "http://b.example:81"];
    let let_in = [
        "https://app.example",
        "https://app.example/",
        "https://App.Example:443",
        "http://b.example:81",
        "http://b.example:81/",
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
    let every = ["http://evil.example", "null", "\u{e9}"];
    assert_origins(&["*"], "localhost", 101, &every).await;
}

#[tokio::test]
async fn a_request_without_an_origin_comes_from_no_browser_and_is_let_in() {
    let config = Config {
        allowed_origins: vec!["https://app.example".parse().unwrap()],
        ..Config::default()
    };
    let server = Server::start(2.0, config).await;
    assert!(!HANDSHAKE.contains("Origin"));
    assert_eq!(fetch(server.address, HANDSHAKE).await.status, 101);
}

#[tokio::test]
async fn null_and_origins_without_a_host_can_be_allowed_by_name() {
    for (allowed, others) in [
        ("null", ["file://", "qrc://"]),
        ("file://", ["null", "qrc://"]),
    ] {
        assert_origins(&[allowed], "localhost", 101, &[allowed]).await;
        assert_origins(&[allowed], "localhost", 403, &others).await;
    }
}

/// Starts the program with these options, and has it answer a handshake with these fields instead of `Host`.
async fn answer_of(options: &[&str], fields: &str) -> Answer {
    let program = Program::listening(options).await;
    fetch(
        program.address,
        HANDSHAKE.replace("Host: localhost", fields),
    )
    .await
}

/// Fields of handshakes that a server refuses, and the options that it advises.
#[rustfmt::skip]
const ADVISED: [(&str, &str); 10] = [
    ("Host: a\r\nOrigin: http://localhost:3000", "--allow-origin http://localhost:3000"),
    ("Host: a\r\nOrigin: HTTPS://App.Example:443/", "--allow-origin https://app.example"),
    ("Host: a\r\nOrigin: http://[::1]:81", "--allow-origin http://[::1]:81"),
    ("Host: a\r\nOrigin: null", "--allow-origin null"),
    ("Host: a\r\nOrigin: file://", "--allow-origin file://"),
    ("Host: a\r\nOrigin: null\r\nOrigin: http://a", "--allow-origin null"),
    ("Host: a\r\nOrigin: null\r\nOrigin: file://", "--allow-origin null --allow-origin file://"),
    ("Host: evil.example:81", "--allow-host evil.example"),
    ("Host: [::2]", "--allow-host [::2]"),
    ("Host: LocalHost.", "--allow-host LocalHost"),
];

#[tokio::test]
async fn the_options_that_a_refusal_advises_let_the_client_in() {
    for (fields, advised) in ADVISED {
        let options = ["--allow-host", "a"];
        let refusal = answer_of(&options, fields).await;
        let status = if fields.contains("Origin") { 403 } else { 421 };
        let advice = format!("Start wspush with {advised} to allow it.\n");
        assert_refused(&refusal, status, &advice);
        let options: Vec<_> = options.into_iter().chain(advised.split(' ')).collect();
        let answer = answer_of(&options, fields).await;
        assert_eq!(answer.status, 101, "{options:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_why_no_option_would_let_the_client_in() {
    let server = server_with_hosts(&["a"]).await;
    for origin in [
        "localhost:8080",
        "",
        "*",
        "http://a;b",
        "https://a/path",
        "https://*.a",
        "\u{e9}",
    ] {
        let request = handshake_with(&format!("Origin: {origin}"));
        let answer = fetch(server.address, request.replace("localhost\r\nC", "a\r\nC")).await;
        assert_refused(&answer, 403, "can't be allowed: expected scheme://host");
        assert!(!answer.body.contains("--allow-origin"), "{answer:?}");
    }
    for host in ["*", "*.a", "a;b", "a!", "a$HOME"] {
        let request = HANDSHAKE.replace("localhost", host);
        let answer = fetch(server.address, request).await;
        assert_refused(&answer, 421, "can't be allowed: expected a host name");
        assert!(!answer.body.contains("Start wspush with"), "{answer:?}");
    }
}

/// Lets in clients that send what it expects.
fn authorize(request: &Request<()>, peer: SocketAddr) -> Result<Notifications, Refusal> {
    assert!(peer.ip().is_loopback());
    let token: Vec<_> = request.headers().get_all("authorization").iter().collect();
    if token.is_empty() {
        return Err(refuse(StatusCode::UNAUTHORIZED, "Log in first."));
    }
    match (request.uri().path(), request.uri().query()) {
        ("/news", Some("topic=a%20b?c")) if token == ["Bearer x", "y"] => {
            Ok(Notifications::every(Duration::from_secs(1)))
        }
        ("/news", None) => Err(refuse(StatusCode::FORBIDDEN, "Name a topic.")),
        _ => {
            let mut refusal = refuse(StatusCode::UNAUTHORIZED, "Wrong realm.");
            let challenge = "Basic realm=\"x\"".parse().unwrap();
            refusal.headers_mut().insert("WWW-Authenticate", challenge);
            Err(refusal)
        }
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
    assert_refused(&unauthorized, 401, "Log in first.");
    assert_eq!(unauthorized.field("WWW-Authenticate"), Some("Bearer"));
    assert_refused(&get("/news", token).await, 403, "Name a topic.");
    let absolute = get("http://localhost?topic", token).await;
    assert_refused(&absolute, 401, "Wrong realm.");
    let challenge = absolute.field("WWW-Authenticate");
    assert_eq!(challenge, Some("Basic realm=\"x\""));
}

#[tokio::test]
async fn a_source_is_asked_only_once_all_rows_before_have_let_the_client_in() {
    let refuse_all = |_: &Request<()>, _| -> Result<Notifications, _> {
        Err(refuse(StatusCode::NOT_FOUND, "Nothing here."))
    };
    let server = Server::start_with(Config::default(), refuse_all).await;
    assert_refused(
        &fetch(server.address, HANDSHAKE).await,
        404,
        "Nothing here.",
    );
    let foreign = handshake_with("Origin: http://evil.example");
    assert_refused(&fetch(server.address, foreign).await, 403, "Origin");
    let page = fetch(server.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(page.status, 200);
    let mut client = connect(server.address).await;
    assert_refused(&client.request("nonsense\r\n\r\n").await, 400, "");
}
