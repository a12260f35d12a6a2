//! libFuzzer's entry to `bodies/wire_message.rs`.
#![no_main]

#[path = "../bodies/wire_message.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
