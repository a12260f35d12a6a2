//! libFuzzer's entry to `bodies/mux_session.rs`.
#![no_main]

#[path = "../bodies/mux_session.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
