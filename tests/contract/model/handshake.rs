//! The answer to a request (the contract's section "The opening handshake").

use super::{
    client::Answer,
    frame::read_frames,
    script::{Ending, Record, Script},
};

/// Checks and returns the answer to the script. A client that leaves without a byte gets none.
pub(crate) fn check_handshake(script: &Script, record: &Record) -> Option<Answer> {
    if script.pieces.is_empty() && script.ending == Ending::HalfClose {
        assert!(record.heard.is_empty());
        return None;
    }
    Some(check_answer(record))
}

/// Checks that the server sent one HTTP answer of the contract, and returns it.
pub(crate) fn check_answer(record: &Record) -> Answer {
    let bytes: Vec<u8> = record
        .heard
        .iter()
        .flat_map(|(_, piece)| piece)
        .copied()
        .collect();
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no whole head: {}", bytes.escape_ascii())) + 4;
    let (head, rest) = bytes.split_at(end);
    if head.starts_with(b"HTTP/1.1 101 ") {
        // Frames may follow: the server reads what comes after the head as frames.
        read_frames(&[(record.last, rest.to_vec())], false);
        let answer = Answer::new(head.to_vec(), String::new());
        check_switching(&answer);
        return answer;
    }
    let answer = Answer::new(head.to_vec(), String::from_utf8(rest.to_vec()).unwrap());
    check_fields(&answer);
    check_content(&answer);
    answer
}

/// Letter for letter as the tutorial prints it, and nothing else.
fn check_switching(answer: &Answer) {
    let accept = answer.field("Sec-WebSocket-Accept").expect("a key");
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    assert_eq!(answer.head, head);
}

fn check_fields(answer: &Answer) {
    assert!(answer.field("Date").is_some(), "{answer:?}");
    let sniffing = answer.field("X-Content-Type-Options");
    assert_eq!(sniffing, Some("nosniff"), "{answer:?}");
    let (connection, upgrade, allow, cache) = match answer.status {
        200 => ("close", None, None, Some("no-store")),
        426 => ("Upgrade, close", Some("websocket"), None, None),
        204 | 405 => ("close", None, Some("GET, HEAD, OPTIONS"), None),
        400 | 403 | 408 | 421 | 431 => ("close", None, None, None),
        _ => panic!("a status that is not in the contract: {answer:?}"),
    };
    let expected = [Some(connection), upgrade, allow, cache];
    let fields = ["Connection", "Upgrade", "Allow", "Cache-Control"];
    assert_eq!(
        fields.map(|name| answer.field(name)),
        expected,
        "{answer:?}"
    );
    let policy = answer.field("Content-Security-Policy");
    assert_eq!(policy.is_some(), answer.status == 200, "{answer:?}");
}

fn check_content(answer: &Answer) {
    let (kind, length) = (answer.field("Content-Type"), answer.field("Content-Length"));
    let length: Option<usize> = length.map(|length| length.parse().unwrap());
    let starts_with = |start| kind.is_some_and(|kind| kind.starts_with(start));
    match answer.status {
        200 => assert!(starts_with("text/html"), "{answer:?}"),
        204 => assert_eq!((kind, length), (None, None), "{answer:?}"),
        405 => assert_eq!((kind, length), (None, Some(0)), "{answer:?}"),
        _ => assert!(starts_with("text/plain") && length > Some(0), "{answer:?}"),
    }
    // A HEAD gets the length of the page without the page.
    let is_head = answer.status == 200 && answer.body.is_empty() && length > Some(0);
    let is_whole = answer.body.len() == length.unwrap_or_default();
    assert!(is_head || is_whole, "{answer:?}");
}
