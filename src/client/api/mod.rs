//! The public library: calls that block, on machines that run on threads of this process.
//!
//! What the room is for: giving a machine a host (`session`, `fetch`, and `fleet` for several of
//! one session), waiting for what it tells (`shared`), and one call for what most want (`tunnel`).
//! It is the only room of the client that runs a host. What it never does: decide anything;
//! whatever a call checks, the machine's own rooms check for it.
//!
//! Order of calls: [`TunnelSession::start`] or [`TunnelSession::connect`], then
//! [`TunnelSession::bind`], [`TunnelSession::unbind`], and [`TunnelSession::close`].
//!
//! Invariants: whoever waits is woken when the session ends, also by a fault of ours; a session
//! that is dropped is closed.

mod fetch;
mod fleet;
mod session;
mod shared;
mod tunnel;

pub use fetch::fetch;
pub use session::{Events, TunnelSession};
pub use tunnel::{Tunnel, expose, expose_tcp, forward, pull, serve};
