//! What a fuzzer's input means, and what must hold for it. The model is the one of the contract tests.

#[path = "../../tests/contract/model/mod.rs"]
mod model;

use model::{
    conversation::check,
    handshake::check_handshake,
    lines::{LINE_LIMIT, check_lines},
    script::{Script, connect, converse},
};

/// Bytes before the upgrade. Whatever they are, the answer is one HTTP answer of the contract.
pub fn handshake(input: &[u8]) {
    let script = Script::decode(input, 256 * 1024);
    check_handshake(&script, &connect(&script));
}

/// Bytes after the upgrade. Whatever they are, the server answers as the contract says.
pub fn conversation(input: &[u8]) {
    // The pipe is narrow, so that every write has to wait for the client.
    let script = Script::decode(input, 32);
    check(&script, &converse(&script));
}

/// Bytes of standard input. Whatever they are, a client receives the lines of the contract.
///
/// The first byte is the size of the pieces in which the rest is read, or 0 for all at once. If the second byte is 192 or
/// more, a row of letters comes first: from 32 bytes under the limit of a line to 31 over it.
pub fn lines(input: &[u8]) {
    let (&[size, length], bytes) = input.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let length = match usize::from(length).checked_sub(192) {
        Some(more) => LINE_LIMIT - 32 + more,
        None => 0,
    };
    let size = match size {
        0 => usize::MAX,
        size => usize::from(size),
    };
    let row = vec![b'x'; length];
    let pieces = [&row[..]].into_iter().chain(bytes.chunks(size));
    check_lines(pieces.map(<[u8]>::to_vec).collect());
}
