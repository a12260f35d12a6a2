//! libFuzzer's entry to `bodies/ws_stream.rs`.
#![no_main]

#[path = "../bodies/ws_stream.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
