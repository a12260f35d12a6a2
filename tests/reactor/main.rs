//! The real host under toy machines, against the system's own sockets.

mod basics;
mod child;
mod cost;
mod datagrams;
mod ends;
mod limits;
mod probes;
mod relay;
// Without TLS some of its orders are never given.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
mod remote;
#[path = "../shared/mod.rs"]
#[allow(dead_code)]
mod shared;
#[cfg(feature = "client")]
mod tls;
mod world;
