//! Whatever a client sends, and however it is split, the server answers as a small model of the contract does.
//! `PROPTEST_CASES` sets the number of cases.

use std::{fs, time::Duration};

use crate::model::{
    client::HANDSHAKE,
    conversation::check,
    frame::{BINARY, CLOSE, CONTINUATION, Frame, Header, PING, PONG, TEXT, read_frames},
    handshake::{check_answer, check_handshake},
    script::{Ending, GRACE, Script, connect, converse},
};
use proptest::{
    collection::{SizeRange, vec},
    prelude::*,
    sample::select,
    test_runner::RngSeed,
};
use wspush::Config;

pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(6455),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn each_frame_is_answered_as_the_contract_says_and_each_connection_ends(
        script in script(conversation()),
    ) {
        check(&script, &converse(&script));
    }

    #[test]
    fn bytes_that_are_hardly_frames_are_answered_as_the_contract_says(
        script in script(bytes(0..64)),
    ) {
        check(&script, &converse(&script));
    }

    #[test]
    fn a_request_gets_the_answer_of_the_first_row_that_fits(
        (request, status) in request(),
        cuts in vec((Just(Duration::ZERO), 1..300_usize), 0..8),
        ending in ending(),
    ) {
        let pieces = cut(&request, cuts);
        let script = Script { config: policy(), ..handshake(pieces, ending) };
        let answer = check_answer(&connect(&script));
        prop_assert_eq!(answer.status, status);
        let is_head = request.starts_with(b"HEAD ");
        let has_body = !matches!((status, is_head), (101 | 204 | 405, _) | (200, true));
        prop_assert_eq!(!answer.body.is_empty(), has_body);
        let sent = String::from_utf8_lossy(&request);
        let key = KEYS.iter().find(|(key, _)| sent.contains(key));
        let accept = key.filter(|_| status == 101).map(|(_, accept)| *accept);
        prop_assert_eq!(answer.field("Sec-WebSocket-Accept"), accept);
    }

    #[test]
    fn what_is_no_good_handshake_gets_an_http_answer_never_a_bare_close(
        request in prop_oneof![
            bytes(1..200),
            (request(), any::<prop::sample::Index>(), bytes(0..4)).prop_map(|((request, _), at, bytes)| {
                let at = at.index(request.len());
                [&request[..at], &bytes, &request[at + 1..]].concat()
            }),
            "(GET|PUT|[a-z]{1,5}) ?.{0,20} (HTTP/[0-2].[0-9])?\r?\n(Host: .{0,20}\r?\n)?(\r?\n)?".prop_map(Into::into),
        ],
        cuts in vec((gap(), 1..300_usize), 0..8),
        ending in select(vec![Ending::HalfClose, Ending::Silence]),
    ) {
        check_answer(&connect(&handshake(cut(&request, cuts), ending)));
    }

    #[test]
    fn a_head_that_never_ends_is_answered_after_10_s_or_at_the_end_of_file(
        at in 1..HANDSHAKE.len(),
        gaps in vec((1..200_u64, 1..60_usize), 0..20),
        ending in select(vec![Ending::HalfClose, Ending::Silence]),
    ) {
        let cuts = gaps.into_iter().map(|(after, size)| (Duration::from_millis(7 * after), size)).collect();
        let script = handshake(cut(&HANDSHAKE.as_bytes()[..at], cuts), ending);
        let record = connect(&script);
        let late = Duration::from_secs(10) + GRACE;
        let (status, due) = if ending == Ending::HalfClose && record.last < late {
            (400, record.last)
        } else {
            (408, late)
        };
        prop_assert_eq!(check_answer(&record).status, status);
        prop_assert_eq!(record.heard[0].0, due);
    }
}

/// The corpus of a fuzz target: names, the status or close code at the start of the name, and contents.
fn corpus(target: &str) -> impl Iterator<Item = (String, Option<u16>, Vec<u8>)> {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    fs::read_dir(folder).unwrap().map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let code = name.split('_').next().and_then(|code| code.parse().ok());
        (name, code, fs::read(file.path()).unwrap())
    })
}

#[test]
fn the_corpus_of_each_fuzz_target_is_answered_as_its_files_are_named() {
    let mut wrong = Vec::new();
    for (name, status, input) in corpus("handshake") {
        let script = Script::decode(&input, 256 * 1024);
        let answer = check_handshake(&script, &connect(&script));
        let got = answer.map(|answer| answer.status);
        wrong.extend(status.filter(|_| got != status).map(|_| (name, got)));
    }
    for (name, code, input) in corpus("conversation") {
        let script = Script::decode(&input, 32);
        let record = converse(&script);
        check(&script, &record);
        let frames = read_frames(&record.heard, false);
        let got = frames.last().and_then(Frame::close_code);
        wrong.extend(code.filter(|_| got != code).map(|_| (name, got)));
    }
    assert_eq!(wrong, []);
}

fn handshake(pieces: Vec<(Duration, Vec<u8>)>, ending: Ending) -> Script {
    Script {
        pipe: 256 * 1024,
        config: Config::default(),
        interval: Duration::from_secs(2),
        pieces,
        wait: Duration::from_millis(1),
        ending,
    }
}

/// Who may send the generated requests.
fn policy() -> Config {
    Config {
        allowed_origins: ["https://c.example", "file://"]
            .map(|origin| origin.parse().unwrap())
            .into(),
        allowed_hosts: vec!["a.example".parse().unwrap()],
        ..Config::default()
    }
}

/// A part of a request, and the status that it leads to if it is not part of a good handshake.
type Part = (String, Option<u16>);

/// A request, and the status of its answer.
fn request() -> impl Strategy<Value = (Vec<u8>, u16)> {
    let http = part(&["HTTP/1.1"], &[("HTTP/1.0", 426)]);
    let bounds = (malformed(), large(), content(), more());
    (method(), http, bounds, attempt(), host(), origin()).prop_map(
        |(method, http, (malformed, large, content, more), attempt, host, origin)| {
            let is_attempt = attempt.0.contains("WebSocket");
            let head = (is_attempt && method.0 == "HEAD").then_some(405);
            let page = (!is_attempt).then_some(200);
            // In the order of the contract's rows.
            let answered = [malformed.1, large.1, method.1, head, page, content.1];
            let upgraded = [more.1, http.1, attempt.1, host.1, origin.1];
            let status = answered.into_iter().chain(upgraded).flatten().next();
            let fields = [malformed, large, content, attempt, host, origin];
            let fields = fields.map(|field| field.0).concat();
            let line = format!("{} /path?query {}", method.0, http.0);
            let request = format!("{line}\r\n{fields}\r\n{}", more.0);
            (request.into_bytes(), status.unwrap_or(101))
        },
    )
}

/// The fields of a handshake, or those of a request that attempts none.
fn attempt() -> impl Strategy<Value = Part> {
    let plain = connection().prop_map(|part| [part].to_vec());
    let parts = (upgrade(), connection(), version(), key());
    let parts = parts.prop_map(|(upgrade, connection, version, key)| {
        [upgrade, connection, version, key].to_vec()
    });
    prop_oneof![1 => plain, 4 => parts].prop_map(|parts| {
        let status = parts.iter().find_map(|part| part.1);
        (parts.into_iter().map(|part| part.0).collect(), status)
    })
}

fn method() -> BoxedStrategy<Part> {
    let others = [("POST", 405), ("get", 405), ("OPTIONS", 204)];
    part(&["GET", "GET", "HEAD"], &others)
}

fn content() -> BoxedStrategy<Part> {
    let announced = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
    part(
        &["", "Content-Length: 0\r\n"],
        &announced.map(|field| (field, 400)),
    )
}

/// What comes after the head.
fn more() -> BoxedStrategy<Part> {
    part(&[""], &[("x", 400), ("\r\n", 400), ("hello", 400)])
}

fn malformed() -> BoxedStrategy<Part> {
    let wrong = ["no colon\r\n", ": no name\r\n", "X: \0\r\n"];
    part(&["", "X: y\r\n"], &wrong.map(|field| (field, 400)))
}

fn large() -> BoxedStrategy<Part> {
    let many = "X: y\r\n".repeat(125);
    let long = format!("X: {}\r\n", "y".repeat(64 * 1024));
    part(
        &["", &"X: y\r\n".repeat(100)],
        &[(&many, 431), (&long, 431)],
    )
}

fn upgrade() -> BoxedStrategy<Part> {
    let right = ["Upgrade: WebSocket\r\n", "upgrade: h2c, WebSocket\r\n"];
    part(&right, &[("", 426), ("Upgrade: h2c\r\n", 426)])
}

fn connection() -> BoxedStrategy<Part> {
    let right = [
        "Connection: Upgrade\r\n",
        "connection: keep-alive,upgrade\r\n",
    ];
    part(&right, &[("", 426), ("Connection: close\r\n", 426)])
}

fn version() -> BoxedStrategy<Part> {
    let wrong = [("", 426), ("Sec-WebSocket-Version: 8\r\n", 426)];
    part(&["Sec-WebSocket-Version: 13\r\n"], &wrong)
}

fn key() -> BoxedStrategy<Part> {
    let field = |key: &str| format!("Sec-WebSocket-Key: {key}\r\n");
    let [right, stray] = KEYS.map(|(key, _)| field(key));
    let twice = right.repeat(2);
    let [short, none, unknown] = ["c2hvcnQ=", "x", "dGhlIHNhbXBsZSBub25j-Q=="].map(field);
    let wrong = ["", &twice, &short, &none, &unknown].map(|field| (field, 400));
    part(&[&right, &stray], &wrong)
}

/// Keys and their answers. The low bits of the second key's last character are not zero.
const KEYS: [(&str, &str); 2] = [
    ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM="),
];

fn host() -> BoxedStrategy<Part> {
    let host = "Host: a.example\r\n";
    let wrong = [
        ("", 400),
        (&host.repeat(2), 400),
        ("Host: b.example\r\n", 421),
    ];
    part(&[host, "host: A.Example:80\r\n"], &wrong)
}

fn origin() -> BoxedStrategy<Part> {
    let right = [
        "",
        "Origin: http://A.example\r\n",
        "Origin: http://a.example/\r\n",
        "Origin: https://c.example\r\n",
        "Origin: https://c.example:443/\r\n",
        "Origin: file://\r\n",
    ];
    let wrong = ["null", "http://b.example", "https://a.example:81"]
        .map(|origin| format!("Origin: {origin}\r\n"));
    part(&right, &wrong.each_ref().map(|field| (&field[..], 403)))
}

fn part(right: &[&str], wrong: &[(&str, u16)]) -> BoxedStrategy<Part> {
    let right: Vec<_> = right.iter().map(|text| (text.to_string(), None)).collect();
    let wrong: Vec<_> = wrong
        .iter()
        .map(|(text, status)| (text.to_string(), Some(*status)))
        .collect();
    prop_oneof![12 => select(right), 1 => select(wrong)].boxed()
}

fn ending() -> impl Strategy<Value = Ending> {
    select(vec![
        Ending::Vanish,
        Ending::HalfClose,
        Ending::Silence,
        Ending::Stop,
    ])
}

/// Sends the bytes in any way, and ends in any way.
fn script(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Script> {
    let cuts = vec((gap(), 1..300_usize), 0..8);
    let interval = select(vec![333_333, 2_000_000, 15_000_000]).prop_map(Duration::from_micros);
    let pipe = select(vec![5, 30, 64 * 1024]);
    (bytes, cuts, gap(), ending(), interval, pipe).prop_map(
        |(bytes, cuts, wait, ending, interval, pipe)| Script {
            pipe,
            config: Config::default(),
            interval,
            pieces: cut(&bytes, cuts),
            wait,
            ending,
        },
    )
}

fn cut(mut bytes: &[u8], cuts: Vec<(Duration, usize)>) -> Vec<(Duration, Vec<u8>)> {
    let mut pieces = Vec::new();
    for (after, size) in cuts.into_iter().chain([(Duration::ZERO, usize::MAX)]) {
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        if !piece.is_empty() {
            pieces.push((after, piece.to_vec()));
        }
        bytes = rest;
    }
    pieces
}

/// Time that passes, often none.
fn gap() -> impl Strategy<Value = Duration> {
    prop_oneof![
        12 => Just(0),
        6 => select(vec![1, 300, 1990, 2010, 10_000]),
        1 => select(vec![19_990, 20_010, 39_990, 40_010, 40_100]),
    ]
    .prop_map(Duration::from_millis)
}

/// Up to a dozen frames and messages, with or without a `start` before them.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::option::of(frame(TEXT, true, b"start".into()));
    (start, vec(frames(), 0..12))
        .prop_map(|(start, frames)| [start.unwrap_or_default(), frames.concat()].concat())
}

/// One frame, or several that belong together.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let control = |opcode| bytes(0..126).prop_flat_map(move |payload| frame(opcode, true, payload));
    prop_oneof![
        6 => word().prop_flat_map(|word| frame(TEXT, true, word)),
        4 => (word(), 0..6_usize).prop_flat_map(|(word, at)| fragments(word, at)),
        4 => control(PING),
        1 => control(PONG),
        1 => close(),
        1 => bytes(0..10).prop_flat_map(|payload| frame(BINARY, true, payload)),
        2 => any_frame(),
    ]
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => select(vec!["start", "\r\nstart\n", "\n\n", "", "Start", " start", "start\r \n", "st\rart"])
            .prop_map(Into::into),
        2 => any::<String>().prop_map(Into::into),
        1 => (4090..4100_usize).prop_map(|size| vec![b'x'; size]),
        1 => bytes(0..10),
    ]
}

/// A text in two fragments, split anywhere, with or without a ping between them.
fn fragments(mut word: Vec<u8>, at: usize) -> impl Strategy<Value = Vec<u8>> {
    let rest = word.split_off(at.min(word.len()));
    (
        frame(TEXT, false, word),
        prop::option::of(frame(PING, true, b"between".into())),
        frame(CONTINUATION, true, rest),
    )
        .prop_map(|(first, ping, last)| [first, ping.unwrap_or_default(), last].concat())
}

fn close() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        any::<u16>(),
        select(vec![
            999, 1000, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000
        ]),
    ];
    let reason = prop_oneof![3 => Just(b"bye".to_vec()), 1 => bytes(0..5)];
    let payload = prop_oneof![
        5 => (code, reason).prop_map(|(code, reason)| [&code.to_be_bytes()[..], &reason].concat()),
        1 => bytes(0..2),
    ];
    payload.prop_flat_map(|payload| frame(CLOSE, true, payload))
}

fn frame(opcode: u8, fin: bool, payload: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    any::<[u8; 4]>().prop_map(move |key| {
        let length = payload.len() as u64;
        let header = Header {
            fin,
            rsv: 0,
            opcode,
            mask: Some(key),
            length,
        };
        header.frame(&payload)
    })
}

/// Any frame, valid or not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let rsv = prop_oneof![4 => Just(0), 1 => 0..8_u8];
    let mask = prop::option::weighted(0.8, any::<[u8; 4]>());
    let payload = prop_oneof![
        3 => bytes(0..10),
        1 => select(vec![124_usize, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536]).prop_map(|size| vec![b'x'; size]),
    ];
    // With a wrong length, the payload includes what follows, or waits for it.
    let length = prop::option::weighted(0.1, prop_oneof![0..200_u64, 4000..5000_u64, any::<u64>()]);
    (any::<bool>(), rsv, 0..16_u8, mask, payload, length).prop_map(
        |(fin, rsv, opcode, mask, payload, length)| {
            let length = length.unwrap_or(payload.len() as u64);
            let header = Header {
                fin,
                rsv,
                opcode,
                mask,
                length,
            };
            header.frame(&payload)
        },
    )
}

fn bytes(size: impl Into<SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), size)
}
