//! libFuzzer's entry to `bodies/http_request.rs`.
#![no_main]

#[path = "../bodies/http_request.rs"]
mod body;
#[path = "../bodies/http_cuts.rs"]
mod http_cuts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
