//! `--token`.

use super::ANY_PORT;
use crate::{
    common::{HANDSHAKE, Program, connect, fetch, handshake_with, outcome, wspush},
    handshake::assert_refused,
};

/// As short as a token may be.
pub(super) const TOKEN: &str = "0.2-4_6789abcdEF";

const OTHER: &str = "fedcba9876543210";

fn authorized(credentials: &str) -> String {
    handshake_with(&format!("Authorization: {credentials}"))
}

fn with_target(handshake: &str, target: &str) -> String {
    handshake.replacen("GET /", &format!("GET {target}"), 1)
}

#[tokio::test]
async fn a_client_that_presents_the_token_in_a_field_or_in_the_query_is_let_in() {
    let program = Program::listening(&["--token", TOKEN]).await;
    let right = authorized(&format!("Bearer {TOKEN}"));
    let wrong = authorized(&format!("Bearer {OTHER}"));
    let targets = ["/?token=", "/push?a=b&token=", "http://localhost/?token="];
    let in_query = targets.map(|target| with_target(HANDSHAKE, &format!("{target}{TOKEN}")));
    for request in [
        right.replace("Bearer", "bearer"),
        right.replace("Bearer", "BEARER"),
        right.replace("Bearer ", "Bearer  "),
        with_target(HANDSHAKE, &format!("/?token={TOKEN}&a=b")),
        with_target(&wrong, &format!("/?token={TOKEN}")),
        with_target(&right, &format!("/?token={OTHER}")),
        authorized(&format!("Basic x\r\nAuthorization: Bearer {TOKEN}")),
        right,
    ]
    .into_iter()
    .chain(in_query)
    {
        let answer = fetch(program.address, &request).await;
        assert_eq!(answer.status, 101, "{request}: {answer:?}");
    }
}

/// What is no way to present the token.
const SCHEMES: [&str; 4] = ["Basic ", "Bearer", "Bearer:", "Bearerx "];
const TARGETS: [&str; 6] = [
    "/",
    "/?Token=",
    "/?atoken=",
    "/?token",
    "/?a=token=",
    "/token=",
];

fn unauthorized() -> Vec<String> {
    let present = |token| {
        let in_field = authorized(&format!("Bearer {token}"));
        [
            in_field,
            with_target(HANDSHAKE, &format!("/?token={token}")),
        ]
    };
    let (longer, upper_case) = (TOKEN.repeat(2), TOKEN.to_uppercase());
    let others = [OTHER, &TOKEN[..15], &TOKEN[1..], &longer, &upper_case, ""];
    let others = others.map(present).into_iter().flatten();
    let schemes = SCHEMES.map(|scheme| authorized(&format!("{scheme}{TOKEN}")));
    let targets = TARGETS.map(|target| with_target(HANDSHAKE, &format!("{target}{TOKEN}")));
    let nothing = [HANDSHAKE.into(), authorized(TOKEN), authorized("Bearer")];
    let wrong_ways = nothing.into_iter().chain(schemes).chain(targets);
    others.chain(wrong_ways).collect()
}

#[tokio::test]
async fn no_token_and_any_other_are_answered_with_401_and_www_authenticate() {
    let program = Program::listening(&["--token", TOKEN]).await;
    for request in unauthorized() {
        let answer = fetch(program.address, &request).await;
        assert_refused(&answer, 401, "Authorization: Bearer TOKEN");
        assert_eq!(answer.field("WWW-Authenticate"), Some("Bearer"));
        assert!(!format!("{answer:?}").contains(TOKEN), "{answer:?}");
    }
}

#[tokio::test]
async fn the_token_is_asked_for_after_all_other_rows() {
    let program = Program::listening(&["--token", TOKEN]).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.0\r\n\r\n", 204),
        (&HANDSHAKE.replace("GET", "PUT"), 405),
        (&HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"), 426),
        (&HANDSHAKE.replace("ZQ==", ""), 400),
        (&HANDSHAKE.replace("Host: localhost\r\n", ""), 400),
        (&handshake_with("Origin: http://evil.example"), 403),
    ] {
        assert_eq!(fetch(program.address, request).await.status, status);
    }
    let full = Program::listening(&["--token", TOKEN, "--max-connections", "1"]).await;
    let mut client = connect(full.address).await;
    let right = authorized(&format!("Bearer {TOKEN}"));
    assert_eq!(client.request(right).await.status, 101);
    assert_eq!(fetch(full.address, HANDSHAKE).await.status, 503);
}

/// Checks that the program ends with status 2 and this advice, and that it doesn't print the secret.
async fn assert_error(options: &[&str], variable: Option<&str>, secret: &str, advice: &str) {
    let mut command = wspush(options);
    command.envs(variable.map(|value| ("WSPUSH_TOKEN", value)));
    let (status, stdout, stderr) = outcome(command).await;
    assert_eq!((status, &*stdout), (Some(2), ""), "{stderr}");
    assert!(stderr.contains(advice), "no {advice} in {stderr}");
    assert!(secret.is_empty() || !stderr.contains(secret), "{stderr}");
}

#[tokio::test]
async fn a_bad_or_empty_token_is_an_error_with_status_2_and_advice_that_does_not_print_it() {
    let advice = "openssl rand -hex 16";
    for bad in [
        "",
        "short",
        "15-letters-long",
        "no+slash/or+plus",
        "a space 01234567",
        "caf\u{e9}-0123456789",
    ] {
        assert_error(&["--token", bad], None, bad, advice).await;
        assert_error(&[&format!("--token={bad}")], None, bad, advice).await;
        assert_error(&[], Some(bad), bad, advice).await;
        assert_error(&[], Some(bad), bad, "WSPUSH_TOKEN").await;
    }
    assert_error(&[], Some(" \n"), "", "WSPUSH_TOKEN").await;
}

#[tokio::test]
async fn no_other_error_and_no_help_prints_the_token() {
    let given = ["--token", TOKEN];
    for options in [
        ["--bad", ""],
        ["--interval", "0"],
        given,
        ["--tokens", TOKEN],
        ["--listen", "x"],
    ] {
        let both = [given, options].concat();
        assert_error(&both, None, TOKEN, "error: ").await;
    }
    assert_error(&["--bad"], Some(TOKEN), TOKEN, "--bad").await;
    assert_error(&["--interval", "0"], Some(TOKEN), TOKEN, "--interval").await;
    let mut help = wspush(&["--token", TOKEN, "--help"]);
    help.env("WSPUSH_TOKEN", TOKEN);
    let (status, help, stderr) = outcome(help).await;
    assert_eq!((status, &*stderr), (Some(0), ""));
    assert!(
        help.contains("WSPUSH_TOKEN") && !help.contains(TOKEN),
        "{help}"
    );
}

/// Handshakes with the token, good and bad ones, and a request for the page.
fn with_everywhere(token: &str) -> [String; 7] {
    let target = format!("/?token={token}");
    [
        authorized(&format!("Bearer {token}")),
        with_target(HANDSHAKE, &target),
        with_target(HANDSHAKE, &format!("{target}\u{9b}")),
        with_target(HANDSHAKE, &target[1..]),
        with_target(&HANDSHAKE.replace("ZQ==", ""), &target),
        with_target(&handshake_with("Origin: http://a"), &target),
        format!("GET {target} HTTP/1.1\r\n\r\n"),
    ]
}

#[tokio::test]
async fn no_token_is_in_a_log_line_or_an_answer_at_any_level() {
    let mut command = wspush(&ANY_PORT);
    command.env("RUST_LOG", "trace").env("WSPUSH_TOKEN", TOKEN);
    let program = Program::start(command).await;
    let mut answers = String::new();
    for request in [TOKEN, OTHER]
        .iter()
        .flat_map(|token| with_everywhere(token))
    {
        let answer = fetch(program.address, request).await;
        answers.push_str(&answer.head);
        answers.push_str(&answer.body);
    }
    let (_, stdout, log) = program.stop().await;
    assert!(log.contains("status=401"), "{log}");
    for secret in [TOKEN, OTHER] {
        for text in [&log, &answers, &stdout] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn the_log_says_at_the_start_whether_a_token_is_required() {
    for (option, variable, required) in [
        (None, None, false),
        (Some(TOKEN), None, true),
        (Some("-starts-like-an-option"), None, true),
        (None, Some(TOKEN), true),
    ] {
        let option = option.map(|token| ["--token", token]);
        let mut command = wspush(&[&ANY_PORT[..], option.as_slice().as_flattened()].concat());
        command.envs(variable.map(|token| ("WSPUSH_TOKEN", token)));
        let mut program = Program::start(command).await;
        let log = program.log_until("\n").await;
        let said = format!("token_required={required}\n");
        assert!(log.contains("listening ") && log.ends_with(&said), "{log}");
    }
}

#[tokio::test]
async fn the_token_on_the_command_line_wins_over_the_environment() {
    for variable in [OTHER, ""] {
        let mut command = wspush(&[&ANY_PORT[..], &["--token", TOKEN]].concat());
        command.env("WSPUSH_TOKEN", variable);
        let program = Program::start(command).await;
        for (token, status) in [(TOKEN, 101), (OTHER, 401)] {
            let request = authorized(&format!("Bearer {token}"));
            assert_eq!(fetch(program.address, request).await.status, status);
        }
    }
}
