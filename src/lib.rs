//! hoody-tunnel: a self-hosted tunnel in both directions over one multiplexed WebSocket.

pub mod buffer;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod digits;
pub mod entropy;
pub mod http;
pub mod kit;
pub mod limits;
pub mod machine;
pub mod mux;
pub mod outflow;
pub mod reactor;
pub mod table;
pub mod timers;
pub mod units;
pub mod wire;
pub mod ws;

/// The README's code is compiled with the tests, so that it stays true.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
