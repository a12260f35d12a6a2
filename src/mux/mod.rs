//! One session seen from either end: lanes, streams, credit.
//!
//! The room multiplexes streams of bytes over one or more WebSockets and knows neither HTTP nor
//! bindings: JSON payloads pass through as spans. It never does I/O and never looks at a clock.
//!
//! Order of calls, for each connection that carries a lane:
//!
//! 1. [`Lane::read_space`] and [`Lane::received`] bring bytes; then [`Session::poll`] until it is
//!    silent. Before a session exists (HELLO, JOIN) the lane is polled by itself: [`Lane::poll`].
//! 2. Whatever was done, [`Session::poll_wake`] until silent tells whom the host should look at.
//! 3. [`Session::transmit`] and [`Session::transmitted`] take bytes away.
//!
//! Invariants: credit is never lost or made up (`credit.rs`), all frames of ours for a stream use
//! its lane (PROTOCOL §7), a message is never illegal (`outbox.rs`), every queue has a bound.
//!
//! One outgoing queue a lane is the one place where frames could be kept for replay (PROTOCOL §9).

pub mod credit;
pub mod flood;
mod grow;
pub mod ids;
pub mod incoming;
pub mod lane;
mod losses;
pub mod outbox;
mod relief;
mod room;
mod sending;
pub mod session;
mod share;
mod still;
pub mod stream;
pub mod sweep;
#[cfg(test)]
mod tests;
pub mod violation;

pub use incoming::Incoming;
pub use lane::{Lane, LaneItem, Liveness, Span};
pub use session::{CannotOpen, Session, Side, Terms, Traffic, Wake};
pub use stream::{StreamKey, StreamRecord};
pub use sweep::Swept;
pub use violation::{Scope, Violation};
