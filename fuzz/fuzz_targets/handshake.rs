#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wspush_fuzz::handshake(data);
});
