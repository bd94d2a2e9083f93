//! The contract's "Starting".

use std::{
    collections::BTreeSet,
    io::pipe,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    process::Stdio,
    time::Duration,
};

use crate::common::{
    HANDSHAKE, Program, Server, connect, fetch, handshake_with, outcome, under, upgraded,
    with_descriptors, wspush,
};
use tokio::time::Instant;
use wspush::Config;

const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[tokio::test]
async fn without_arguments_it_listens_on_localhost_8080_and_pushes_every_two_seconds() {
    let (_, help, _) = outcome(wspush(&["--help"])).await;
    assert!(help.contains("[default: localhost:8080]"), "{help}");
    assert!(help.contains("[default: 2]"), "{help}");
}

#[tokio::test]
async fn it_listens_on_every_address_that_the_host_resolves_to_and_the_kernel_picks_the_ports() {
    let addresses = ("localhost", 0).to_socket_addrs().unwrap();
    let ours: BTreeSet<_> = addresses
        .filter(|address| TcpListener::bind(address).is_ok())
        .map(|address| address.ip())
        .collect();
    let program = Program::start(wspush(&["--listen", "localhost:0"])).await;
    upgraded(program.address).await;
    let (_, stdout, _) = program.stop().await;
    let listened: BTreeSet<_> = stdout
        .lines()
        .map(|url| url.strip_prefix("ws://").unwrap().trim_end_matches('/'))
        .map(|address| address.parse::<SocketAddr>().unwrap())
        .inspect(|address| assert_ne!(address.port(), 0))
        .map(|address| address.ip())
        .collect();
    assert_eq!(listened, ours);
}

#[tokio::test]
async fn when_the_machine_has_none_of_the_addresses_the_program_ends() {
    // An address for documentation only (RFC 5737).
    let (status, stdout, stderr) = outcome(wspush(&["--listen", "192.0.2.1:0"])).await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert!(stderr.contains("192.0.2.1:0"), "{stderr}");
}

#[tokio::test]
async fn the_interval_is_the_time_between_notifications() {
    for interval in ["0.001", "0.25", ".3", "5e-1"] {
        let program = Program::listening(&["--interval", interval]).await;
        let mut client = upgraded(program.address).await;
        let start = Instant::now();
        client.send_text("start").await;
        client.expect_notifications(1..=3).await;
        let least = Duration::from_secs_f64(2.0 * interval.parse::<f64>().unwrap());
        assert!(start.elapsed() >= least, "{interval}");
    }
    Program::listening(&["--interval", "86400"]).await;
}

#[tokio::test]
async fn by_default_there_are_as_many_connections_as_the_descriptor_limit_leaves() {
    let program = Program::start(under(&with_descriptors(128), &ANY_PORT)).await;
    let mut clients = Vec::new();
    let refusal = loop {
        let mut client = connect(program.address).await;
        match client.request(HANDSHAKE).await {
            upgraded if upgraded.status == 101 => clients.push(client),
            refusal => break refusal,
        }
    };
    assert_eq!(refusal.status, 503);
    assert!((8..128).contains(&clients.len()), "{}", clients.len());
}

#[tokio::test]
async fn the_soft_descriptor_limit_is_raised_to_the_hard_limit() {
    let program = Program::start(under("ulimit -Sn 64; exec \"$0\" \"$@\"", &ANY_PORT)).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(upgraded(program.address).await);
    }
}

#[tokio::test]
async fn help_and_version_go_to_standard_output_with_status_0() {
    let (status, help, stderr) = outcome(wspush(&["--help"])).await;
    assert_eq!((status, &*stderr), (Some(0), ""));
    for option in ["listen", "interval", "allow-origin", "max-connections"] {
        assert!(help.contains(&format!("--{option}")), "{help}");
        let variable = option.to_uppercase().replace('-', "_");
        assert!(help.contains(&format!("WSPUSH_{variable}")), "{help}");
    }
    let version = format!("wspush {}\n", env!("CARGO_PKG_VERSION"));
    let outcome = outcome(wspush(&["--version"])).await;
    assert_eq!(outcome, (Some(0), version, String::new()));
}

#[tokio::test]
async fn each_option_is_also_an_environment_variable() {
    let mut command = wspush(&[]);
    command
        .env("WSPUSH_LISTEN", "127.0.0.1:0")
        .env("WSPUSH_INTERVAL", "0.01")
        .env("WSPUSH_ALLOW_ORIGIN", "https://a.example,https://b.example")
        .env("WSPUSH_MAX_CONNECTIONS", "1");
    let program = Program::start(command).await;
    let mut client = connect(program.address).await;
    let request = handshake_with("Origin: https://b.example");
    assert_eq!(client.request(request).await.status, 101);
    client.send_text("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(fetch(program.address, HANDSHAKE).await.status, 503);
}

#[tokio::test]
async fn the_command_line_wins_over_the_environment() {
    let options = [
        "--interval",
        "0.01",
        "--allow-origin",
        "https://a.example",
        "--max-connections",
        "2",
    ];
    let mut command = wspush(&[&ANY_PORT[..], &options].concat());
    command
        .env("WSPUSH_LISTEN", "192.0.2.1:1")
        .env("WSPUSH_INTERVAL", "86400")
        .env("WSPUSH_ALLOW_ORIGIN", "https://b.example")
        .env("WSPUSH_MAX_CONNECTIONS", "1");
    let program = Program::start(command).await;
    let mut client = upgraded(program.address).await;
    client.send_text("start").await;
    client.expect_notifications(1..=3).await;
    let request = handshake_with("Origin: https://b.example");
    assert_eq!(fetch(program.address, request).await.status, 403);
}

#[tokio::test]
async fn standard_output_has_one_url_for_each_address_and_nothing_else_ever() {
    let mut command = wspush(&ANY_PORT);
    command.env("RUST_LOG", "trace");
    let program = Program::start(command).await;
    let url = format!("ws://{}/\n", program.address);
    let mut client = upgraded(program.address).await;
    client.send_text("start").await;
    client.expect_text("Notification 1").await;
    drop(client);
    fetch(program.address, "nonsense\r\n\r\n").await;
    let (status, stdout, stderr) = program.stop().await;
    assert_eq!((status, stdout), (Some(0), url));
    assert!(
        stderr.contains("TRACE") || stderr.contains("DEBUG"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_program_that_can_not_accept_connections_prints_no_url() {
    // With one descriptor more each time, until it has enough to start.
    for descriptors in 0..64 {
        let command = under(&with_descriptors(descriptors), &ANY_PORT);
        if let Ok(program) = Program::try_start(command).await {
            assert_eq!(program.stop().await.0, Some(0));
            return;
        }
    }
    panic!("it never started");
}

#[tokio::test]
async fn rust_log_sets_the_log_on_standard_error_and_its_default_is_info() {
    for (filter, shown, hidden) in [
        ("", " INFO ", "DEBUG"),
        ("info", " INFO ", "DEBUG"),
        ("wspush=debug", "DEBUG", "TRACE"),
        ("off", "", "INFO"),
        ("no=such=filter", " INFO ", "DEBUG"),
    ] {
        let mut command = wspush(&ANY_PORT);
        command.env("RUST_LOG", filter);
        let program = Program::start(command).await;
        let mut client = upgraded(program.address).await;
        client.send_text("wrong").await;
        client.recv_text().await;
        drop(client);
        let (_, _, log) = program.stop().await;
        assert!(
            log.contains(shown) && !log.contains(hidden),
            "{filter}: {log}"
        );
    }
}

#[tokio::test]
async fn with_standard_output_or_standard_error_closed_or_broken_the_server_runs_on() {
    let mut broken_stdout = wspush(&ANY_PORT);
    broken_stdout.stdout(pipe().unwrap().1);
    let mut broken_stderr = wspush(&ANY_PORT);
    broken_stderr.stderr(pipe().unwrap().1);
    let mut closed_stdout = under("exec \"$0\" \"$@\" >&-", &ANY_PORT);
    closed_stdout.stdout(Stdio::null());
    let mut closed_stderr = under("exec \"$0\" \"$@\" 2>&-", &ANY_PORT);
    closed_stderr.stderr(Stdio::null());
    for command in [broken_stdout, broken_stderr, closed_stdout, closed_stderr] {
        let program = Program::start(command).await;
        for _ in 0..3 {
            let mut client = upgraded(program.address).await;
            client.send_text("start").await;
            client.expect_text("Notification 1").await;
        }
        assert_eq!(program.stop().await.0, Some(0));
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_line_with_the_address_and_the_reason_and_status_1() {
    let server = Server::start(2.0, Config::default()).await;
    let taken = server.address.to_string();
    let (status, stdout, stderr) = outcome(wspush(&["--listen", &taken])).await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&taken) && stderr.contains("in use"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_host_that_does_not_resolve_is_one_line_with_the_address_and_the_reason_and_status_1() {
    // Longer than a label of a name may be, so that nobody is asked.
    let host = format!("{}:80", "x".repeat(64));
    let (status, stdout, stderr) = outcome(wspush(&["--listen", &host])).await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&host) && stderr.contains("lookup"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_bad_option_is_told_with_what_would_be_right_and_status_2() {
    for (option, bad, right) in [
        (
            "listen",
            &[
                "",
                "8080",
                "localhost",
                ":80",
                "::1:80",
                "localhost:65536",
                "localhost:http",
            ][..],
            "localhost:8080",
        ),
        (
            "interval",
            &["", "0", "0.0009", "86401", "-1", "inf", "NaN", "1s", "1,5"],
            "0.001 to 86400",
        ),
        (
            "allow-origin",
            &["app.example", "https://a/", "https://"],
            "https://app.example",
        ),
        (
            "max-connections",
            &["0", "-1", "many", "4294967296"],
            "max-connections",
        ),
    ] {
        for bad in bad {
            let (status, stdout, stderr) = outcome(wspush(&[&format!("--{option}"), bad])).await;
            assert_eq!(
                (status, &*stdout),
                (Some(2), ""),
                "{option} {bad}: {stderr}"
            );
            assert!(stderr.contains(right), "{option} {bad}: {stderr}");
            let mut command = wspush(&[]);
            command.env(
                format!("WSPUSH_{}", option.to_uppercase().replace('-', "_")),
                bad,
            );
            assert_eq!(outcome(command).await.0, Some(2), "{option} {bad}");
        }
    }
    let (status, _, stderr) = outcome(wspush(&["--intervall", "1"])).await;
    assert_eq!(status, Some(2));
    assert!(stderr.contains("'--interval'"), "{stderr}");
}
