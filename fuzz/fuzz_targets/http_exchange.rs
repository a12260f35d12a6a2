//! libFuzzer's entry to `bodies/http_exchange.rs`.
#![no_main]

#[path = "../bodies/http_exchange.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
