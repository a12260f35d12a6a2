//! The laptop's side: the public library, and the machine behind it.
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

mod base64;
mod bindings;
mod config;
pub mod error;
pub mod event;
mod exchange;
mod farewell;
pub mod fetch;
mod frames;
mod lanes;
mod link;
pub mod machine;
pub mod options;
mod pool;
mod proxy;
mod request;
mod response;
pub mod serve;
pub mod session;
mod setback;
mod shared;
mod talk;
pub mod target;
#[cfg(test)]
mod tests;
mod upgrade;
mod url;
mod way;

pub use crate::wire::control::{BindErrCode, BindMode};
pub use error::Error;
pub use event::{RequestRecord, SessionEvent, StreamRecord};
pub use fetch::{AdminReply, AdminRequest, fetch};
pub use machine::{Client, Notice, Order};
pub use options::{BindOptions, Handler, HostHeader, Proxy, TunnelOptions};
pub use serve::{Request, RequestBody, Response};
pub use session::{Binding, Events, Tunnel, TunnelSession, expose, pull, serve};
pub use target::Target;
