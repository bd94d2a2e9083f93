//! The contract's "Starting".

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    process::Stdio,
    time::Duration,
};

use crate::common::{
    Client, HANDSHAKE, PATIENCE, Program, Server, connect, fetch, handshake_with, outcome, under,
    upgraded, with_descriptors, wspush,
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::{self, Receiver},
    process::Command,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use wspush::Config;

const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

const OPTIONS: [&str; 7] = [
    "listen",
    "interval",
    "stdin",
    "keepalive",
    "allow-origin",
    "allow-host",
    "max-connections",
];

/// The environment variable that stands in for the option.
fn variable(option: &str) -> String {
    format!("WSPUSH_{}", option.to_uppercase().replace('-', "_"))
}

async fn status(address: SocketAddr, request: &str) -> u16 {
    fetch(address, request).await.status
}

#[tokio::test]
async fn without_arguments_it_listens_on_localhost_8080_and_pushes_every_two_seconds() {
    let (_, help, _) = outcome(wspush(&["--help"])).await;
    for default in ["localhost:8080", "2", "20"] {
        assert!(help.contains(&format!("[default: {default}]")), "{help}");
    }
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
        let mut client = Client::connect(program.address).await;
        let start = Instant::now();
        client.send("start").await;
        client.expect_notifications(1..=3).await;
        let least = Duration::from_secs_f64(2.0 * interval.parse::<f64>().unwrap());
        assert!(start.elapsed() >= least, "{interval}");
    }
    Program::listening(&["--interval", "86400"]).await;
}

#[tokio::test]
async fn keepalive_is_the_silence_after_which_a_client_is_sent_a_ping() {
    let connected = Instant::now();
    let program = Program::listening(&["--keepalive", "1"]).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.recv().await, Message::Ping(Bytes::new()));
    assert!(connected.elapsed() >= Duration::from_secs(1));
    Program::listening(&["--keepalive", "86400"]).await;
}

#[tokio::test]
async fn stdin_pushes_the_lines_of_standard_input_in_place_of_the_counter() {
    for options in [&["--stdin"][..], &[]] {
        let mut command = wspush(&[&ANY_PORT[..], options].concat());
        command.stdin(Stdio::piped());
        // The interval is a default here, which --stdin makes no use of.
        command.env("WSPUSH_INTERVAL", "0.001");
        if options.is_empty() {
            command.env("WSPUSH_STDIN", "true");
        }
        let mut program = Program::start(command).await;
        let mut client = Client::connect(program.address).await;
        client.send("start").await;
        client.send(Message::Ping("it has started".into())).await;
        client.recv().await;
        let stdin = program.child.stdin.as_mut().unwrap();
        stdin.write_all(b"a line\n").await.unwrap();
        client.expect_text("a line").await;
        drop(client);
        assert_eq!(program.stop().await.0, Some(0));
    }
}

#[tokio::test]
async fn stdin_and_interval_on_the_same_command_line_are_an_error_with_status_2() {
    for options in [["--stdin", "--interval=1"], ["--interval=2", "--stdin"]] {
        let (status, stdout, stderr) = outcome(wspush(&options)).await;
        assert_eq!((status, &*stdout), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("can't be combined"), "{stderr}");
    }
    let mut command = wspush(&["--interval", "0.01"]);
    command
        .env("WSPUSH_STDIN", "false")
        .env("WSPUSH_LISTEN", "127.0.0.1:0");
    let program = Program::start(command).await;
    let mut client = Client::connect(program.address).await;
    client.send("start").await;
    client.expect_notifications(1..=2).await;
}

/// Connects until the server is full: how many it lets in.
async fn fill(address: SocketAddr) -> usize {
    let mut clients = Vec::new();
    loop {
        let mut client = connect(address).await;
        match client.request(HANDSHAKE).await.status {
            101 => clients.push(client),
            503 => return clients.len(),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn by_default_there_are_as_many_connections_as_the_descriptor_limit_leaves() {
    let program = Program::start(under(&with_descriptors(128), &ANY_PORT)).await;
    let count = fill(program.address).await;
    assert!((64..128).contains(&count), "{count}");
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
async fn max_connections_above_what_the_descriptor_limit_leaves_is_warned_of() {
    for (count, warns) in [("4294967295", true), ("1000", true), ("30", false)] {
        let options = [&ANY_PORT[..], &["--max-connections", count]].concat();
        let program = Program::start(under(&with_descriptors(128), &options)).await;
        Client::connect(program.address).await;
        let (_, _, log) = program.stop().await;
        let warning = log.lines().find(|line| line.contains(" WARN "));
        assert_eq!(warning.is_some(), warns, "{log}");
        assert!(warning.is_none_or(|line| line.contains(count)), "{log}");
    }
}

#[tokio::test]
async fn help_and_version_go_to_standard_output_with_status_0() {
    let (status, help, stderr) = outcome(wspush(&["--help"])).await;
    assert_eq!((status, &*stderr), (Some(0), ""));
    for option in OPTIONS {
        assert!(help.contains(&format!("--{option}")), "{help}");
        assert!(help.contains(&variable(option)), "{help}");
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
        .env("WSPUSH_KEEPALIVE", "1")
        .env("WSPUSH_MAX_CONNECTIONS", "1");
    let program = Program::start(command).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.recv().await, Message::Ping(Bytes::new()));
    client.send("start").await;
    client.expect_notifications(1..=3).await;
    assert_eq!(status(program.address, HANDSHAKE).await, 503);
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
    assert_eq!(status(program.address, HANDSHAKE).await, 503);
}

/// Fails unless the program lets in these hosts and origins, and not c.example.
async fn assert_lets_in(command: Command, hosts: &[&str], origins: &[&str]) {
    let program = Program::start(command).await;
    let from = async |host: &str, origin: &str| {
        let request = handshake_with(&format!("Origin: {origin}"));
        let request = request.replace("Host: localhost", &format!("Host: {host}"));
        status(program.address, &request).await
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
async fn in_the_environment_hosts_and_origins_have_commas_between_and_one_at_the_end_does_no_harm()
{
    for end in ["", ",", ", "] {
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
async fn an_empty_variable_counts_as_unset() {
    let with_empty = |options: &[&str]| {
        let mut command = under(&with_descriptors(5), options);
        for option in OPTIONS {
            command.env(variable(option), "");
        }
        command
    };
    // What it lacks is found after the options are read, and before it listens on a port that may be taken.
    let (status, _, stderr) = outcome(with_empty(&[])).await;
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("descriptors"), "{stderr}");
    for option in OPTIONS.iter().filter(|option| **option != "stdin") {
        let empty = outcome(with_empty(&[&format!("--{option}"), ""])).await;
        assert_eq!(empty.0, Some(2), "{option}");
    }
}

#[tokio::test]
async fn standard_output_has_one_url_for_each_address_and_nothing_else_ever() {
    let mut command = wspush(&ANY_PORT);
    command.env("RUST_LOG", "trace");
    let program = Program::start(command).await;
    let url = format!("ws://{}/\n", program.address);
    let mut client = Client::connect(program.address).await;
    client.send("start").await;
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

/// How many descriptors the program says that it takes.
async fn needed_descriptors(available: usize) -> usize {
    let (status, stdout, stderr) = outcome(under(&with_descriptors(available), &ANY_PORT)).await;
    assert_eq!((status, &*stdout), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let (number, _) = stderr.split_once(" file descriptors").unwrap();
    let needed = number.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(needed > available, "{stderr}");
    needed
}

#[tokio::test]
async fn with_too_few_descriptors_it_ends_with_status_1_and_one_line_that_has_the_number() {
    for available in [5, 6, 7, 12, 19] {
        needed_descriptors(available).await;
    }
}

#[tokio::test]
async fn with_as_many_descriptors_as_it_says_that_it_takes_it_serves() {
    let mut needed = needed_descriptors(5).await;
    // Descriptors that the tests were started with, and it with them, may be among the first or above the limit.
    let program = loop {
        let command = under(&with_descriptors(needed), &ANY_PORT);
        match Program::try_start(command).await {
            Ok(program) => break program,
            Err(_) => needed = needed_descriptors(needed).await,
        }
    };
    let mut client = Client::connect(program.address).await;
    client.send("start").await;
    client.expect_text("Notification 1").await;
    drop(client);
    assert!(fill(program.address).await > 0);
    assert_eq!(program.stop().await.0, Some(0));
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
        let mut client = Client::connect(program.address).await;
        client.send("wrong").await;
        client.recv_text().await;
        drop(client);
        let (_, _, log) = program.stop().await;
        assert!(
            log.contains(shown) && !log.contains(hidden),
            "{filter}: {log}"
        );
    }
}

/// A pipe whose other end is closed.
fn broken_pipe() -> Stdio {
    io::pipe().unwrap().1.into()
}

#[tokio::test]
async fn with_standard_output_or_standard_error_closed_or_broken_the_server_runs_on() {
    let mut broken_stdout = wspush(&ANY_PORT);
    broken_stdout.stdout(broken_pipe());
    let mut broken_stderr = wspush(&ANY_PORT);
    broken_stderr.stderr(broken_pipe());
    let mut closed_stdout = under("exec \"$0\" \"$@\" >&-", &ANY_PORT);
    closed_stdout.stdout(Stdio::null());
    let mut closed_stderr = under("exec \"$0\" \"$@\" 2>&-", &ANY_PORT);
    closed_stderr.stderr(Stdio::null());
    for command in [broken_stdout, broken_stderr, closed_stdout, closed_stderr] {
        let program = Program::start(command).await;
        for _ in 0..3 {
            let mut client = Client::connect(program.address).await;
            client.send("start").await;
            client.expect_text("Notification 1").await;
        }
        assert_eq!(program.stop().await.0, Some(0));
    }
}

/// A pipe that is full, and its end that nobody reads.
fn full_pipe() -> (Stdio, Receiver) {
    let (sender, receiver) = pipe::pipe().unwrap();
    while sender.try_write(&[b' '; 4096]).is_ok() {}
    (sender.into_blocking_fd().unwrap().into(), receiver)
}

#[tokio::test]
async fn with_standard_output_or_standard_error_full_and_read_by_nobody_the_server_runs_on() {
    for end in ["TERM", "INT"] {
        let (full, _unread) = full_pipe();
        let mut full_stdout = wspush(&ANY_PORT);
        full_stdout.stdout(full);
        let (full, _unread) = full_pipe();
        let mut full_stderr = wspush(&ANY_PORT);
        full_stderr.stderr(full).env("RUST_LOG", "wspush=debug");
        for command in [full_stdout, full_stderr] {
            let program = Program::start(command).await;
            let mut client = Client::connect(program.address).await;
            client.send("start").await;
            client.expect_text("Notification 1").await;
            program.signal(end).await;
            client.expect_close(1001, end).await;
            drop(client);
            assert_eq!(program.end().await.0, Some(0), "{end}");
        }
    }
}

#[tokio::test]
async fn an_error_that_nobody_reads_is_still_an_exit_status() {
    let server = Server::start(2.0, Config::default()).await;
    let taken = server.address.to_string();
    for (options, status) in [
        (["--listen", &taken], 1),
        (["--interval", "0"], 2),
        (["--help", "--version"], 0),
    ] {
        let (full_stdout, _unread) = full_pipe();
        let (full_stderr, _unread) = full_pipe();
        for (stdout, stderr) in [(full_stdout, full_stderr), (broken_pipe(), broken_pipe())] {
            let mut command = wspush(&options);
            let child = command.stdout(stdout).stderr(stderr).spawn();
            let ended = timeout(PATIENCE, child.unwrap().wait_with_output()).await;
            let output = ended.expect("it runs on").unwrap();
            assert_eq!(output.status.code(), Some(status), "{options:?}");
        }
        let closed = under("exec \"$0\" \"$@\" >&- 2>&-", &options);
        assert_eq!(outcome(closed).await.0, Some(status), "{options:?}");
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

/// For each option values that are none, and a part of what the error says would be right.
#[rustfmt::skip]
const BAD_VALUES: [(&str, &[&str], &str); 7] = [
    ("listen", &["8080", "localhost", ":80", "::1:80", "[localhost]:0", "[127.0.0.1]:0", "[::1:0"], "localhost:8080"),
    ("listen", &["localhost:65536", "localhost:http", "localhost:+0", "localhost:-1", "localhost:"], "localhost:8080"),
    ("interval", &["0", "0.0009", "86401", "-1", "inf", "NaN", "1s", "1,5"], "0.001 to 86400"),
    ("keepalive", &["0", "0.999", "86401", "-1", "inf", "NaN", "20s"], "1 to 86400"),
    ("allow-origin", &["app.example", "https://a/", "https://", "https://*.example", "a.example,https://b"], "https://app.example"),
    ("allow-host", &["https://a.example", "a.example:80", "a/", "[::1]:80"], "push.example"),
    ("max-connections", &["0", "-1", "many", "4294967296"], "--max-connections <N>"),
];

#[tokio::test]
async fn a_bad_option_is_an_error_that_says_what_would_be_right_with_status_2() {
    for (option, values, right) in BAD_VALUES {
        for value in values {
            let in_environment = {
                let mut command = wspush(&[]);
                command.env(variable(option), value);
                command
            };
            let on_command_line = wspush(&[&format!("--{option}={value}")]);
            for command in [on_command_line, in_environment] {
                let (status, stdout, stderr) = outcome(command).await;
                assert_eq!((status, &*stdout), (Some(2), ""), "{value}: {stderr}");
                assert!(stderr.contains(right), "{value}: {stderr}");
            }
        }
    }
    let (status, _, stderr) = outcome(wspush(&["--intervall", "1"])).await;
    assert_eq!(status, Some(2));
    assert!(stderr.contains("'--interval'"), "{stderr}");
}
