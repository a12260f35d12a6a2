//! libFuzzer's entry to `bodies/visitor_exchange.rs`.
#![no_main]

#[path = "../bodies/visitor_exchange.rs"]
mod body;
#[path = "../bodies/http_cuts.rs"]
mod http_cuts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
