//! libFuzzer's entry to `bodies/machines.rs`.
#![no_main]

#[path = "../bodies/machines.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
