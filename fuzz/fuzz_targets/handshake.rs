//! The bytes before the upgrade: whatever they are, the answer is one HTTP answer of the contract.
#![no_main]

mod input;
#[allow(dead_code, reason = "shared with the property tests")]
#[path = "../../tests/model/mod.rs"]
mod model;

use input::script;
use libfuzzer_sys::fuzz_target;
use model::{
    client::{Ending, connect},
    handshake::check_answer,
};

fuzz_target!(|data: &[u8]| {
    let script = script(data, 256 * 1024);
    let record = connect(&script);
    if script.pieces.is_empty() && script.ending == Ending::HalfClose {
        assert!(record.heard.is_empty());
    } else {
        check_answer(&record);
    }
});
