//! The log lines of handshakes.

use std::time::Duration;

use crate::common::{
    HANDSHAKE, PipeServer, Silent, full_at, handshake_with, logged, pipe, pipe_with, start_log,
};
use tokio::time::sleep;
use wspush::Config;

/// Sends the request to a server that may be reached only as `localhost`. Returns what it logs.
async fn logged_for(request: impl AsRef<[u8]>) -> String {
    start_log();
    let config = Config {
        allowed_hosts: vec!["localhost".parse().unwrap()],
        ..Config::default()
    };
    let (mut client, _connection) = pipe_with(config, 4096, || Silent);
    client.request(request).await;
    logged()
}

#[tokio::test(start_paused = true)]
async fn the_connected_line_has_origin_forwarded_addresses_and_subprotocols_if_there_are_any() {
    let forwarded = "X-Forwarded-For: 192.0.2.7, \u{9b}\tx\r\nx-forwarded-for: \"::1";
    for (fields, logged) in [
        ("X: y", ""),
        ("Origin: http://localhost", " origin=\"http://localhost\""),
        ("X-Forwarded-For: ::1", " forwarded_for=\"::1\""),
        (
            forwarded,
            " forwarded_for=\"192.0.2.7, \\u{9b}\\tx, \\\"::1\"",
        ),
        (
            "Sec-WebSocket-Protocol: graphql-ws, mqtt",
            " subprotocols=\"graphql-ws, mqtt\"",
        ),
    ] {
        let log = logged_for(handshake_with(fields)).await;
        let line = format!("connected peer=127.0.0.1:1{logged}\n");
        assert!(log.ends_with(&line), "no {line} in {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_is_logged_up_to_100_characters() {
    let accepted = ["X-Forwarded-For", "Sec-WebSocket-Protocol"];
    for name in [&accepted[..], &["Origin"]].concat() {
        for (long, logged) in [("x", "x"), ("\u{9b}", "\\u{9b}")] {
            let field = format!("{name}: {}", long.repeat(101));
            let log = logged_for(handshake_with(&field)).await;
            let hundred = format!("=\"{}\"", logged.repeat(100));
            assert!(log.contains(&hundred), "{name}: {log}");
        }
    }
}

/// What to replace in a handshake, with what, and how the reason and the field of the log line start.
#[rustfmt::skip]
const REFUSED: [(&str, &str, &str, &str); 7] = [
    ("Host:", "Origin: http://a\r\nOrigin: \"\r\nHost:", "The Origin is not allowed. It", "origin=\"http://a, \\\"\""),
    ("localhost", "a.example", "The Host is not allowed. Start", "host=\"a.example\""),
    ("ZQ==", "Z", "The Sec-WebSocket-Key is not 16 bytes in base64.", "key=\"YSBzYW1wbGUgMTYgYnl0Z\""),
    ("Version: 13", "Version: 8", "The Sec-WebSocket-Version is not 13.", "version=\"8\""),
    ("Version: 13", "X: y", "The request has no Sec-WebSocket-Version.", ""),
    ("GET", "PUT", "The method of a WebSocket handshake is GET.", ""),
    ("Upgrade: w", "X: w", "The request has no Upgrade: websocket.", ""),
];

#[tokio::test(start_paused = true)]
async fn a_refusals_line_has_the_value_that_was_wrong_in_a_field_of_its_own() {
    for (from, to, starts, field) in REFUSED {
        let log = logged_for(HANDSHAKE.replace(from, to)).await;
        let line = log.split_once("refused peer=127.0.0.1:1 status=4");
        let (_, line) = line.unwrap().1.split_once(" reason=\"").unwrap();
        assert!(line.starts_with(starts), "{line}");
        let (reason, rest) = line.split_once('"').unwrap();
        assert!(!reason.contains('\\'), "a quote within the reason: {line}");
        assert_eq!(rest.trim(), field);
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_and_the_answer_to_options_leave_no_line_at_info() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(logged_for(request).await, "", "{method}");
    }
    assert_ne!(logged_for("PUT / HTTP/1.1\r\n\r\n").await, "");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_sends_a_byte_leaves_no_line_however_it_ends() {
    assert_eq!(logged_for("").await, "", "timed out");
    assert_ne!(logged_for("G").await, "", "timed out after a byte");
    start_log();
    let (client, mut connection) = pipe(4096, 1.0);
    drop(client);
    connection.wait().await;
    assert_eq!(logged(), "", "closed");
    let server = PipeServer::start(1.0, full_at(1));
    let mut first = server.connect(4096);
    let mut refused = server.connect(4096);
    refused.expect_end().await;
    assert_eq!(logged(), "", "not refused in time");
    drop(server.connect(4096));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(logged(), "", "closed while the server was full");
    server.shutdown().await;
    first.expect_end().await;
    let log = logged();
    assert!(!log.contains("peer="), "dropped at the stop: {log}");
}
