//! libFuzzer's entry to `bodies/wire_control.rs`.
#![no_main]

#[path = "../bodies/wire_control.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
