//! The environment variables.

use super::{ANY_PORT, OPTIONS, token::TOKEN, variable};
use crate::common::{
    Client, HANDSHAKE, Program, connect, fetch, handshake_with, outcome, under, with_descriptors,
    wspush,
};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::{Bytes, Message};

#[tokio::test]
async fn each_option_is_also_an_environment_variable() {
    let mut command = wspush(&[]);
    command
        .env("WSPUSH_LISTEN", "127.0.0.1:0")
        .env("WSPUSH_INTERVAL", "0.01")
        .env("WSPUSH_KEEPALIVE", "1")
        .env("WSPUSH_MAX_CONNECTIONS", "1")
        // No options.
        .env("WSPUSH_VERSION", "1.2.3")
        .env("WSPUSH_HELP", "true");
    let program = Program::start(command).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.recv().await, Message::Ping(Bytes::new()));
    client.send("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(fetch(program.address, HANDSHAKE).await.status, 503);
}

#[tokio::test]
async fn the_command_line_wins_over_the_environment() {
    let options = [
        "--interval",
        "0.01",
        "--keepalive",
        "1",
        "--max-connections",
        "1",
    ];
    let mut command = wspush(&[&ANY_PORT[..], &options].concat());
    command
        .env("WSPUSH_LISTEN", "192.0.2.1:1")
        .env("WSPUSH_INTERVAL", "86400")
        .env("WSPUSH_KEEPALIVE", "86400")
        .env("WSPUSH_MAX_CONNECTIONS", "2");
    let program = Program::start(command).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.recv().await, Message::Ping(Bytes::new()));
    client.send("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(fetch(program.address, HANDSHAKE).await.status, 503);
}

/// Checks that the program lets in these hosts and origins, but not c.example.
async fn assert_lets_in(command: Command, hosts: &[&str], origins: &[&str]) {
    let program = Program::start(command).await;
    let from = async |host: &str, origin: &str| {
        let request = handshake_with(&format!("Origin: {origin}"));
        let request = request.replace("Host: localhost", &format!("Host: {host}"));
        fetch(program.address, request).await.status
    };
    for host in hosts {
        for origin in origins {
            assert_eq!(from(host, origin).await, 101, "{host} {origin}");
        }
        assert_eq!(from(host, "https://c.example").await, 403, "{host}");
    }
    assert_eq!(from("c.example", origins[0]).await, 421);
}

#[tokio::test]
async fn allow_host_and_allow_origin_may_be_repeated_and_win_over_the_environment() {
    let mut options = ANY_PORT.to_vec();
    options.extend(["--allow-host", "a.example", "--allow-host", "b.example"]);
    options.extend([
        "--allow-origin",
        "file://",
        "--allow-origin",
        "https://x.example",
    ]);
    let mut command = wspush(&options);
    command
        .env("WSPUSH_ALLOW_HOST", "c.example")
        .env("WSPUSH_ALLOW_ORIGIN", "https://c.example");
    let origins = ["file://", "https://x.example"];
    assert_lets_in(command, &["a.example", "b.example:80"], &origins).await;
}

#[tokio::test]
async fn hosts_and_origins_have_commas_between_them_and_one_at_the_end_does_no_harm() {
    for end in ["", ",", ", ", ",\n"] {
        let mut command = wspush(&ANY_PORT);
        command
            .env("WSPUSH_ALLOW_HOST", format!("a.example,b.example{end}"))
            .env(
                "WSPUSH_ALLOW_ORIGIN",
                format!("file://, https://x.example{end}"),
            );
        let origins = ["file://", "https://x.example"];
        assert_lets_in(command, &["a.example", "b.example"], &origins).await;
    }
}

#[tokio::test]
async fn white_space_around_a_value_does_no_harm() {
    let mut command = wspush(&[]);
    for (option, value) in [
        ("listen", "127.0.0.1:0"),
        ("interval", "0.01"),
        ("stdin", "false"),
        ("history", "5"),
        ("keepalive", "20"),
        ("allow-origin", "https://app.example"),
        ("allow-host", "push.example"),
        ("token", TOKEN),
        ("max-connections", "1"),
    ] {
        assert!(OPTIONS.contains(&option));
        command.env(variable(option), format!(" {value}\r\n"));
    }
    let program = Program::start(command).await;
    let fields = format!("Origin: https://app.example\r\nAuthorization: Bearer {TOKEN}");
    let request = handshake_with(&fields).replace("localhost", "push.example");
    let mut client = connect(program.address).await;
    assert_eq!(client.request(&request).await.status, 101);
    client.send_text("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(fetch(program.address, request).await.status, 503);
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset_but_an_empty_value_on_the_command_line_is_an_error() {
    let with_empty = |empty: &str, options: &[&str]| {
        // If the options are good, what the program lacks is descriptors.
        let mut command = under(&with_descriptors(5), options);
        for option in OPTIONS.iter().filter(|option| **option != "token") {
            command.env(variable(option), empty);
        }
        outcome(command)
    };
    for empty in ["", " \n"] {
        let (status, _, stderr) = with_empty(empty, &[]).await;
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains("descriptors"), "{stderr}");
    }
    for option in OPTIONS.iter().filter(|option| **option != "stdin") {
        let (status, ..) = with_empty("", &[&format!("--{option}"), ""]).await;
        assert_eq!(status, Some(2), "{option}");
    }
}
