//! The laptop's side: the public library, and the machine behind it.
//!
//! What the room is for: reaching a kit and staying there (`reach`), keeping bindings (`bindings`)
//! and ports of this machine that lead to the container (`forwards`), carrying streams between the
//! kit and local programs (`local`). Each of these parts owns its state and is told what it needs
//! in a `context`; the `machine` only hands on, and `seam` is how its host sees it. Beside the
//! machine stand calls that block, for users (`api`), and handlers in this process (`handler`); all
//! else is pure logic. What it never does: listen where no user said so, connect to anything but
//! the kit, its proxy and the targets that the user named, or touch a socket.
//!
//! Order of calls: [`TunnelSession::start`] or [`TunnelSession::connect`], then
//! [`TunnelSession::bind`], [`TunnelSession::unbind`], and [`TunnelSession::close`]. Whatever is
//! lost in between comes back by itself; [`TunnelSession::events`] tells.
//!
//! Invariants (`check_invariants`): a stream has an exchange and no exchange outlives its session;
//! a local connection serves one exchange or is idle in the pool; after the end nothing is left. A
//! request is sent twice only when that cannot do something twice. What was cut never looks whole.
//!
//! PROTOCOL §2 to §7, and §10 for [`fetch()`].
//!
//! ```no_run
//! use hoody_tunnel::client::{self, Response, TunnelOptions};
//!
//! # fn main() -> Result<(), client::Error> {
//! let options = TunnelOptions::new("wss://kit.example").token("secret");
//! let tunnel = client::serve(options, 3000, |request| {
//!     Response::text(200, format!("You asked for {}.\n", request.path()))
//! })?;
//! println!("{:?}", tunnel.binding.public_url);
//! tunnel.wait()
//! # }
//! ```

mod admin;
mod api;
mod bindings;
mod bound;
mod checks;
mod config;
mod context;
pub mod error;
pub mod event;
mod forwards;
mod handler;
mod heir;
mod keys;
mod local;
pub mod machine;
mod messages;
pub mod options;
mod reach;
mod seam;
pub mod target;
#[cfg(test)]
mod tests;

pub use crate::wire::control::{BindErrCode, BindMode, BindingKind};
pub use admin::{AdminReply, AdminRequest};
pub use api::{Events, Tunnel, TunnelSession, expose, expose_tcp, fetch, forward, pull, serve};
pub use bound::Binding;
pub use error::Error;
pub use event::{RequestRecord, SessionEvent, Shortage, StreamRecord};
pub use forwards::Forwarding;
pub use handler::{Handler, Request, RequestBody, Response};
pub use heir::Heir;
pub use machine::Client;
pub use messages::{Notice, Order, Port, Spec};
pub use options::{BindOptions, ForwardOptions, HostHeader, Proxy, ProxyProtocol, TunnelOptions};
pub use target::Target;

/// What fuzz bodies run alone.
#[cfg(feature = "testing")]
pub use local::{http as exchange, naming};
