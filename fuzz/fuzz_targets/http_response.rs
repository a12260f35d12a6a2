//! libFuzzer's entry to `bodies/http_response.rs`.
#![no_main]

#[path = "../bodies/http_response.rs"]
mod body;
#[path = "../bodies/http_cuts.rs"]
mod http_cuts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
