//! The contract's "Starting". `environment` has the variables, `token` what `--token` does.

mod environment;
mod token;

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    process::Stdio,
    time::Duration,
};

use crate::common::{
    Client, HANDSHAKE, PATIENCE, Program, Server, connect, fetch, outcome, under, upgraded,
    with_descriptors, wspush,
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        unix::pipe::{self, Receiver},
    },
    process::Command,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use wspush::Config;

const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

const OPTIONS: [&str; 9] = [
    "listen",
    "interval",
    "stdin",
    "history",
    "keepalive",
    "allow-origin",
    "allow-host",
    "token",
    "max-connections",
];

/// The environment variable of an option.
fn variable(option: &str) -> String {
    format!("WSPUSH_{}", option.to_uppercase().replace('-', "_"))
}

#[tokio::test]
async fn by_default_notifications_are_two_seconds_apart() {
    let program = Program::listening(&[]).await;
    let mut client = Client::connect(program.address).await;
    let start = Instant::now();
    client.send("start").await;
    client.expect_text("Notification 1").await;
    client.expect_text("Notification 2").await;
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn help_names_the_defaults() {
    let (_, help, _) = outcome(wspush(&["--help"])).await;
    for (option, default) in [
        ("--listen <HOST:PORT>", "localhost:8080"),
        ("--interval <SECONDS>", "2"),
        ("--history <N>", "0"),
        ("--keepalive <SECONDS>", "20"),
    ] {
        let (_, about) = help.split_once(option).unwrap();
        let (_, shown) = about.split_once("[default: ").unwrap();
        assert!(shown.starts_with(&format!("{default}]")), "{option}");
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

/// Starts the program with a pipe as its standard input, and a client that has said `start`.
async fn start_with_lines(mut command: Command) -> (Program, Client<TcpStream>) {
    command.stdin(Stdio::piped());
    let program = Program::start(command).await;
    let mut client = Client::connect(program.address).await;
    client.send("start").await;
    // The server reads messages in order: its pong says that the client has started.
    client.send(Message::Ping("".into())).await;
    assert_eq!(client.recv().await, Message::Pong("".into()));
    (program, client)
}

async fn write_lines(program: &mut Program, lines: &str) {
    let stdin = program.child.stdin.as_mut().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn stdin_pushes_the_lines_of_standard_input_instead_of_numbered_notifications() {
    for options in [&["--stdin"][..], &[]] {
        let mut command = wspush(&[&ANY_PORT[..], options].concat());
        // A default, which --stdin does not use.
        command.env("WSPUSH_INTERVAL", "0.001");
        if options.is_empty() {
            command.env("WSPUSH_STDIN", "true");
        }
        let (mut program, mut client) = start_with_lines(command).await;
        write_lines(&mut program, "a line\n").await;
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
    for stdin in ["false", "true"] {
        let mut command = wspush(&[&ANY_PORT[..], &["--interval", "0.01"]].concat());
        command.env("WSPUSH_STDIN", stdin);
        let program = Program::start(command).await;
        let mut client = Client::connect(program.address).await;
        client.send("start").await;
        client.expect_notifications(1..=2).await;
    }
}

#[tokio::test]
async fn history_brings_a_client_the_last_lines_at_its_start() {
    for (options, expected) in [(&[][..], &[][..]), (&["--history", "2"], &["2", "3"])] {
        let command = wspush(&[&ANY_PORT[..], &["--stdin"], options].concat());
        let (mut program, mut first) = start_with_lines(command).await;
        write_lines(&mut program, "1\n2\n3\n").await;
        for line in ["1", "2", "3"] {
            first.expect_text(line).await;
        }
        let mut second = Client::connect(program.address).await;
        second.send("start").await;
        for line in expected {
            second.expect_text(line).await;
        }
        second.send(Message::Ping("".into())).await;
        assert_eq!(second.recv().await, Message::Pong("".into()));
        write_lines(&mut program, "4\n").await;
        second.expect_text("4").await;
    }
}

#[tokio::test]
async fn history_without_stdin_on_the_command_line_is_an_error_with_status_2() {
    let with_stdin = |stdin: Option<&str>| {
        let mut command = under(&with_descriptors(5), &["--history", "5"]);
        command.envs(stdin.map(|stdin| ("WSPUSH_STDIN", stdin)));
        outcome(command)
    };
    for stdin in [None, Some("false"), Some("")] {
        let (status, stdout, stderr) = with_stdin(stdin).await;
        assert_eq!((status, &*stdout), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("--history needs --stdin"), "{stderr}");
    }
    // The options are good: what the program lacks is descriptors.
    assert_eq!(with_stdin(Some("true")).await.0, Some(1));
    let mut in_environment = under(&with_descriptors(5), &[]);
    in_environment.env("WSPUSH_HISTORY", "5");
    assert_eq!(outcome(in_environment).await.0, Some(1));
    for history in ["0", "1000"] {
        let options = ["--stdin", "--history", history];
        let bounds = under(&with_descriptors(5), &options);
        assert_eq!(outcome(bounds).await.0, Some(1), "{history}");
    }
}

/// Connects until the server is full. Returns how many clients it lets in.
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
async fn max_connections_above_what_the_descriptor_limit_leaves_logs_a_warning() {
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
        assert!(help.contains(&format!("[env: {}]", variable(option))));
    }
    let version = format!("wspush {}\n", env!("CARGO_PKG_VERSION"));
    let outcome = outcome(wspush(&["--version"])).await;
    assert_eq!(outcome, (Some(0), version, String::new()));
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

/// How many descriptors the program says it needs.
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
async fn with_too_few_descriptors_it_ends_with_status_1_and_one_line_that_says_how_many_it_needs() {
    for available in [5, 6, 7, 12, 19] {
        needed_descriptors(available).await;
    }
}

#[tokio::test]
async fn with_as_many_descriptors_as_it_says_it_needs_it_serves() {
    let mut needed = needed_descriptors(5).await;
    // The program inherits descriptors from the tests. They may be among the first ones, or above the limit.
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

/// A full pipe, and its other end, which nobody reads.
fn full_pipe() -> (Stdio, Receiver) {
    let (sender, receiver) = pipe::pipe().unwrap();
    while sender.try_write(&[b' '; 4096]).is_ok() {}
    (sender.into_blocking_fd().unwrap().into(), receiver)
}

#[tokio::test]
async fn with_standard_output_or_standard_error_full_and_never_read_the_server_runs_on() {
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
async fn a_port_in_use_is_status_1_and_one_line_with_the_address_the_reason_and_the_option() {
    let server = Server::start(2.0, Config::default()).await;
    let taken = server.address.to_string();
    let (status, stdout, stderr) = outcome(wspush(&["--listen", &taken])).await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&taken) && stderr.contains("in use") && stderr.contains("--listen"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_host_that_does_not_resolve_is_status_1_and_one_line_with_the_address_and_the_reason() {
    // A label this long is no name: the resolver asks nobody.
    let host = format!("{}:80", "x".repeat(64));
    let (status, stdout, stderr) = outcome(wspush(&["--listen", &host])).await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&host) && stderr.contains("lookup"),
        "{stderr}"
    );
}

/// For each option, bad values and a part of what the error says would be right.
#[rustfmt::skip]
const BAD_VALUES: [(&str, &[&str], &str); 9] = [
    ("listen", &["8080", "localhost", ":80", "::1:80", "[localhost]:0", "[127.0.0.1]:0", "[::1:0"], "localhost:8080"),
    ("listen", &["localhost:65536", "localhost:http", "localhost:+0", "localhost:-1", "localhost:"], "localhost:8080"),
    ("interval", &["0", "0.0009", "86401", "-1", "inf", "NaN", "1s", "1,5"], "from 0.001 to 86400"),
    ("history", &["-1", "1001", "many", "1.5"], "from 0 to 1000"),
    ("keepalive", &["0", "0.999", "86401", "-1", "inf", "NaN", "20s"], "from 1 to 86400"),
    ("allow-origin", &["app.example", "https://a/b", "https://a//", "https://", "https://*.a", "a.example,https://b"], "https://app.example"),
    ("allow-host", &["https://a.example", "a.example:80", "a/", "[::1]:80"], "push.example"),
    ("allow-host", &["*", "*.example", "a.example,*"], "without --allow-host any is allowed"),
    ("max-connections", &["0", "-1", "many", "4294967296"], "from 1 to"),
];

#[tokio::test]
async fn a_bad_option_is_an_error_that_says_what_would_be_right_with_status_2() {
    for (option, values, right) in BAD_VALUES {
        for value in values {
            let variable = variable(option);
            let mut in_environment = wspush(&[]);
            in_environment.env(&variable, value);
            let argument = format!("--{option}");
            let on_command_line = wspush(&[&format!("{argument}={value}")]);
            for (command, source) in [(on_command_line, argument), (in_environment, variable)] {
                let (status, stdout, stderr) = outcome(command).await;
                assert_eq!((status, &*stdout), (Some(2), ""), "{value}: {stderr}");
                for part in [right, &source] {
                    assert!(stderr.contains(part), "{value}: no {part} in {stderr}");
                }
            }
        }
    }
    let (status, _, stderr) = outcome(wspush(&["--intervall", "1"])).await;
    assert_eq!(status, Some(2));
    assert!(stderr.contains("'--interval'"), "{stderr}");
}
