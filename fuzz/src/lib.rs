//! What a fuzzer's input means, and what must hold for it. The model is that of the tests.

#[path = "../../tests/contract/model/mod.rs"]
mod model;

use model::{
    conversation::check,
    handshake::check_handshake,
    lines::{LINE_LIMIT, check_lines},
    script::{Script, connect, converse},
};

/// The bytes before the upgrade: whatever they are, the answer is one HTTP answer of the contract.
pub fn handshake(input: &[u8]) {
    let script = Script::decode(input, 256 * 1024);
    check_handshake(&script, &connect(&script));
}

/// The bytes after the upgrade: whatever they are, the server says what the contract has it say.
pub fn conversation(input: &[u8]) {
    // Narrow, so that every write has to wait for the client.
    let script = Script::decode(input, 32);
    check(&script, &converse(&script));
}

/// The bytes of an input: whatever they are, a client is sent the lines of the contract.
///
/// Its first byte is the length of the pieces that it is read in, or 0 for all at once; the second, from 192 on, how long a
/// row of letters comes before the rest: from 32 bytes under the limit of a line to 31 over it.
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
