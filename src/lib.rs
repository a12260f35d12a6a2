//! hoody-tunnel: a self-hosted tunnel in both directions over one multiplexed WebSocket.
//!
//! # The plan of the house
//!
//! Rooms from the ground up. Each knows those above it in this table and none below; a test
//! (`tests/tidy.rs`) holds the doors.
//!
//! | room | what a line in it is about |
//! | --- | --- |
//! | [`limits`] | every bound of the protocol and of the process |
//! | [`clock`] [`entropy`] | instants and random numbers, handed in |
//! | `table` [`timers`] | keys with generations, deadlines with reasons |
//! | `buffer` | a queue of bytes in one piece |
//! | `digits` [`units`] | numbers, addresses, durations and sizes as text |
//! | [`text`] | words from outside, cut and made harmless before anybody reads them |
//! | [`secrets`] | files with tokens and certificates, and what is unwise about them |
//! | `shares` | who holds how much of what there is little of |
//! | [`machine`] | **the seam**: what a host tells a machine and asks of it |
//! | `lawful` | the laws of the seam, asserted (feature `testing`) |
//! | [`wire`] | byte offsets and JSON keys of frames (PROTOCOL §1 to §9) |
//! | [`http`] | HTTP/1.1 without sockets |
//! | `ws` | WebSocket without sockets (RFC 6455) |
//! | `outflow` | bytes on their way to a connection, copied only when they must wait |
//! | `pipe` | a raw stream's two ends: EOF to FIN and FIN to EOF |
//! | `mux` | one session from either end: lanes, streams, credit |
//! | [`kit`] | the daemon: front, sessions, bindings, visitors, callers, descriptors |
//! | `client` | the laptop: reach, bindings, local side, public library (feature `client`) |
//! | [`reactor`] | the only room with sockets, clocks and signals: the turn |
//!
//! # The one rule
//!
//! `kit` and `client` are *machines*: they do no I/O, read no clock, draw no random number by
//! themselves, and meet only on the wire. A *host* carries bytes for them: the reactor in the
//! programs, the simulator and the fuzz bodies in the tests.
//!
//! # Which room is a line's?
//!
//! It names a byte offset: `wire`. It compares two numbers of credit: `mux`. It decides who owns a
//! port: `kit`. It mentions `WouldBlock`: `reactor`. It prints: `src/bin`. Two answers: split the
//! line.
//!
//! # Glossary
//!
//! A *conn* is a TCP connection. A *lane* is a conn that carries a session's WebSocket; its
//! *channel* is what lasts when the conn is lost, its *transport* the conn. A *session* outlives
//! its lanes. A *stream* is one exchange on one lane. A *binding* ties a port to
//! a session. A *visitor* comes to an EXPOSE port, a *caller* to a PULL port; an *upstream* answers
//! on the laptop. *Credit* is bytes that may be sent. A *permit* is a descriptor that may be
//! opened. *Violation*: the peer broke the protocol. *Refusal*: we said no. *Ended*: the world did
//! it.

// Nothing is public that nobody outside can reach. (Without `testing` inside rooms have only inner
// doors, and what they have for tests would be found.)
#![cfg_attr(feature = "testing", warn(unreachable_pub))]

// Rooms with two doors are inside ones: only tests, benches and fuzz bodies see them from outside,
// so that the compiler finds what the programs do not use. (In a kit alone, what only the client
// uses is no find.)
#[cfg(all(feature = "client", not(feature = "testing")))]
mod buffer;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod buffer;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod digits;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod digits;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod effects;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod effects;
pub mod entropy;
pub mod http;
pub mod kit;
#[cfg(any(test, feature = "testing"))]
pub mod lawful;
pub mod limits;
pub mod machine;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod mux;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod mux;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod outflow;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod outflow;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod pipe;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod pipe;
pub mod reactor;
pub mod secrets;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod shares;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod shares;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod table;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod table;
pub mod text;
pub mod timers;
pub mod units;
pub mod wire;
#[cfg(all(feature = "client", not(feature = "testing")))]
mod ws;
#[cfg(any(not(feature = "client"), feature = "testing"))]
pub mod ws;

/// The README's code is compiled with the tests, so that it stays true.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
