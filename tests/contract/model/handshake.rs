//! What a request is answered with (the contract's section "The opening handshake").

use super::{client::Record, frame::read_frames};

/// Checks that what was heard is one HTTP answer of the contract, and takes its status.
pub(crate) fn check_answer(record: &Record) -> u16 {
    let bytes: Vec<u8> = record
        .heard
        .iter()
        .flat_map(|(_, piece)| piece)
        .copied()
        .collect();
    let shown = bytes.escape_ascii();
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no whole head: {shown}")) + 4;
    let head = str::from_utf8(&bytes[..end]).expect("a head of ASCII");
    let (line, fields) = head.trim_end().split_once("\r\n").expect("fields");
    let fields: Vec<_> = fields
        .split("\r\n")
        .map(|field| field.split_once(": ").expect("a field"))
        .collect();
    let field = |name: &str| {
        let mut values = fields
            .iter()
            .filter(|field| field.0.eq_ignore_ascii_case(name));
        let value = values.next().map(|field| field.1);
        assert!(
            values.next().is_none(),
            "{name} stands there twice: {shown}"
        );
        value
    };
    let status = line.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
    let status: u16 = status[..3].parse().expect("a status");
    if status == 101 {
        assert_eq!(field("Upgrade"), Some("websocket"));
        assert_eq!(field("Connection"), Some("Upgrade"));
        assert!(field("Sec-WebSocket-Accept").is_some());
        assert_eq!(field("Sec-WebSocket-Extensions"), None);
        assert_eq!(field("Sec-WebSocket-Protocol"), None);
        // What the client sent behind its head may be taken for frames.
        read_frames(&[(record.last, bytes[end..].to_vec())], false);
        return status;
    }
    assert!(field("Date").is_some(), "{shown}");
    assert_eq!(field("X-Content-Type-Options"), Some("nosniff"), "{shown}");
    let length = field("Content-Length").and_then(|length| length.parse().ok());
    if status == 200 {
        // A HEAD gets the length without the page.
        assert!(
            length == Some(bytes.len() - end) || bytes.len() == end,
            "{shown}"
        );
        assert_eq!(field("Cache-Control"), Some("no-store"), "{shown}");
        return status;
    }
    assert_eq!(length, Some(bytes.len() - end), "{shown}");
    let has_body = field("Content-Type").is_some() && str::from_utf8(&bytes[end..]).is_ok();
    assert_eq!(has_body, status != 405, "{shown}");
    assert_eq!(length == Some(0), status == 405, "{shown}");
    let (connection, upgrade, allow) = match status {
        426 => ("Upgrade, close", Some("websocket"), None),
        405 => ("close", None, Some("GET, HEAD")),
        400 | 403 | 408 | 421 | 431 => ("close", None, None),
        _ => panic!("a status that is not in the contract: {shown}"),
    };
    assert_eq!(field("Connection"), Some(connection), "{shown}");
    assert_eq!(field("Upgrade"), upgrade, "{shown}");
    assert_eq!(field("Allow"), allow, "{shown}");
    status
}
