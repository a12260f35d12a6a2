//! One session seen from either end: lanes, streams, credit.
//!
//! The room multiplexes streams of bytes over one or more WebSockets and knows neither HTTP nor
//! bindings: JSON payloads pass through as spans. It never does I/O and never looks at a clock.
//!
//! Order of calls, for each connection that carries a lane:
//!
//! 1. [`Channel::read_space`] and [`Channel::received`] bring bytes; then [`Session::poll`] until
//!    it is silent. Before a session exists (HELLO, JOIN) the connection is polled by itself:
//!    [`Transport::poll`].
//! 2. Whatever was done, [`Session::poll_wake`] until silent tells whom the host should look at.
//! 3. [`Session::transmit`] and [`Session::transmitted`] take bytes away.
//!
//! [`Session`] dispatches over four parts that own their state: `lanes` (the channels, and what
//! goes out on them), `streams` (each stream's state, ids, holders), `sending` and `receiving` (the
//! session's credit, and who waits for it). What needs one of them alone is asked of it:
//! [`Session::lanes`], [`Session::streams`].
//!
//! Invariants: credit is never lost or made up (`credit.rs`), all frames of ours for a stream use
//! its lane (PROTOCOL §7), a message is never illegal (`outbox.rs`), every queue has a bound.
//!
//! A lane has two halves: its *channel* lasts (`channel.rs`), its *transport* is the connection
//! that carries it for now. Where *replay* was granted (PROTOCOL §9) the channel's outgoing queue
//! keeps frames until they are acknowledged (`replay.rs`, `kept.rs`), [`Session::suspend`] takes a
//! lane's connection and leaves its streams waiting, and [`Session::resume`] has them go on.

mod ahead;
pub mod channel;
pub mod credit;
mod datagrams;
pub mod flood;
mod framing;
mod grow;
pub mod ids;
mod kept;
mod keys;
mod lanes;
mod losses;
mod messages;
mod outbox;
mod parts;
mod receiving;
mod relief;
mod replay;
mod room;
mod sending;
pub mod session;
mod share;
mod still;
pub mod stream;
mod streams;
mod terms;
#[cfg(test)]
mod tests;
pub mod transport;
pub mod violation;

pub use channel::Channel;
pub use keys::StreamKey;
pub use session::{Account, CannotOpen, Incoming, Session, Swept, Traffic, Wake, Wanted};
pub use terms::{Retention, Side, Terms};
pub use transport::{Item, Liveness, Span, Transport};
pub use violation::Violation;
