//! The bytes after the upgrade: whatever they are, the server says what the contract has it say.
#![no_main]

mod input;
#[allow(dead_code, reason = "shared with the property tests")]
#[path = "../../tests/model/mod.rs"]
mod model;

use input::script;
use libfuzzer_sys::fuzz_target;
use model::{client::converse, conversation::check};

fuzz_target!(|data: &[u8]| {
    // Narrow, so that every write has to wait for the client.
    let script = script(data, 32);
    check(&script, &converse(&script));
});
