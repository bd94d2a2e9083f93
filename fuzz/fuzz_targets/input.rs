//! What a fuzzer's input means.

use std::time::Duration;

use crate::model::client::{Ending, Script, TICK};

/// Its first byte is how: the low seven bits are the length of the pieces that the rest is sent in, a tenth of a second
/// apart, or 0 for at once; the high bit tells whether a half-close follows.
pub(crate) fn script(input: &[u8], pipe: usize) -> Script {
    let (how, bytes) = input.split_first().unwrap_or((&0, &[]));
    let (after, size) = match how & 0x7F {
        0 => (Duration::ZERO, usize::MAX),
        size => (Duration::from_millis(100), usize::from(size)),
    };
    Script {
        pipe,
        interval: Duration::from_secs(15),
        pieces: bytes
            .chunks(size)
            .map(|piece| (after, piece.to_vec()))
            .collect(),
        wait: TICK,
        ending: if how & 0x80 == 0 {
            Ending::Silence
        } else {
            Ending::HalfClose
        },
    }
}
