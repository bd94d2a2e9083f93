//! For whatever a client sends, split wherever it may be: what the server says is what a small model of the
//! contract has it say. `PROPTEST_CASES` sets how much is tried.

use std::time::Duration;

use crate::model::{
    client::HANDSHAKE,
    conversation::check,
    frame::{BINARY, CLOSE, CONTINUATION, Header, PING, PONG, TEXT},
    handshake::check_answer,
    script::{Ending, Script, connect, converse},
};
use proptest::{
    collection::{SizeRange, vec},
    prelude::*,
    sample::select,
    test_runner::RngSeed,
};
use wspush::Config;

fn config() -> ProptestConfig {
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
        let record = connect(&handshake(pieces, ending));
        prop_assert_eq!(check_answer(&record).status, status);
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
    fn a_head_that_never_ends_is_answered_after_ten_seconds_or_when_no_more_can_come(
        at in 1..HANDSHAKE.len(),
        gaps in vec((1..200_u64, 1..60_usize), 0..20),
        ending in select(vec![Ending::HalfClose, Ending::Silence]),
    ) {
        let cuts = gaps.into_iter().map(|(after, size)| (Duration::from_millis(7 * after), size)).collect();
        let script = handshake(cut(&HANDSHAKE.as_bytes()[..at], cuts), ending);
        let record = connect(&script);
        let late = Duration::from_secs(10);
        let (status, due) = if ending == Ending::HalfClose && record.last < late {
            (400, record.last)
        } else {
            (408, late)
        };
        prop_assert_eq!(check_answer(&record).status, status);
        prop_assert_eq!(record.heard[0].0, due);
    }
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

/// A request, and the status of its answer.
fn request() -> impl Strategy<Value = (Vec<u8>, u16)> {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let host = "Host: a.example\r\n";
    // In the order of the contract's rows: a part that is right, and one that is answered with the status.
    let rows = [
        part(
            &["", "X: y\r\n"],
            &["no colon\r\n", ": no name\r\n", "X: \0\r\n"],
            400,
        ),
        part(
            &["", &"X: y\r\n".repeat(100)],
            &[
                &"X: y\r\n".repeat(125),
                &format!("X: {}\r\n", "y".repeat(64 * 1024)),
            ],
            431,
        ),
        part(&["GET"], &["HEAD", "POST", "get"], 405),
        part(&[""], &["x", "\r\n"], 400),
        part(&["HTTP/1.1"], &["HTTP/1.0"], 426),
        part(
            &["Upgrade: websocket\r\n", "upgrade: h2c, WebSocket\r\n"],
            &["", "Upgrade: websockets\r\n"],
            426,
        ),
        part(
            &[
                "Connection: Upgrade\r\n",
                "connection: keep-alive,upgrade\r\n",
            ],
            &["", "Connection: close\r\n"],
            426,
        ),
        part(
            &["Sec-WebSocket-Version: 13\r\n"],
            &["", "Sec-WebSocket-Version: 8\r\n"],
            426,
        ),
        part(
            &[key],
            &[
                "",
                &key.repeat(2),
                "Sec-WebSocket-Key: c2hvcnQ=\r\n",
                "Sec-WebSocket-Key: x\r\n",
            ],
            400,
        ),
        part(&[host], &["", &host.repeat(2)], 400),
        part(
            &[
                "",
                "Origin: http://A.example\r\n",
                "Origin: https://a.example:443\r\n",
            ],
            &[
                "Origin: null\r\n",
                "Origin: http://b.example\r\n",
                "Origin: https://a.example:80\r\n",
            ],
            403,
        ),
    ];
    rows.to_vec().prop_map(|rows| {
        let status = rows.iter().find_map(|row| row.1).unwrap_or(101);
        let [bad, large, method, behind, http, fields @ ..] = &rows[..] else {
            unreachable!()
        };
        let fields: String = fields.iter().map(|row| &row.0[..]).collect();
        let request = format!(
            "{} /path?query {}\r\n{}{fields}{}\r\n{}",
            method.0, http.0, bad.0, large.0, behind.0
        );
        (request.into_bytes(), status)
    })
}

fn part(right: &[&str], wrong: &[&str], status: u16) -> BoxedStrategy<(String, Option<u16>)> {
    let one_of = |texts: &[&str]| select(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
    prop_oneof![
        12 => one_of(right).prop_map(|text| (text, None)),
        1 => one_of(wrong).prop_map(move |text| (text, Some(status))),
    ]
    .boxed()
}

fn ending() -> impl Strategy<Value = Ending> {
    select(vec![
        Ending::Vanish,
        Ending::HalfClose,
        Ending::Silence,
        Ending::Stop,
    ])
}

/// Any way to send the bytes, and to end.
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

/// Up to a dozen frames and messages, behind a `start` or not.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::option::of(frame(TEXT, true, b"start".into()));
    (start, vec(frames(), 0..12))
        .prop_map(|(start, frames)| [start.unwrap_or_default(), frames.concat()].concat())
}

/// A frame or a few.
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

/// A text in two fragments with a ping between them, the cut wherever it may be.
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

/// Any frame that can be, and some that may not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let rsv = prop_oneof![4 => Just(0), 1 => 0..8_u8];
    let mask = prop::option::weighted(0.8, any::<[u8; 4]>());
    let payload = prop_oneof![
        3 => bytes(0..10),
        1 => select(vec![124_usize, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536]).prop_map(|size| vec![b'x'; size]),
    ];
    // A length that is not the payload's swallows what follows, or waits for it.
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
