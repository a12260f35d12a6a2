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

pub mod error;
pub mod event;
pub mod fetch;
pub mod options;
pub mod serve;
pub mod session;
pub mod target;

pub use crate::wire::control::{BindErrCode, BindMode};
pub use error::Error;
pub use event::{RequestRecord, SessionEvent, StreamRecord};
pub use fetch::{AdminReply, AdminRequest, fetch};
pub use options::{BindOptions, Handler, HostHeader, Proxy, TunnelOptions};
pub use serve::{Request, RequestBody, Response};
pub use session::{Binding, Events, Tunnel, TunnelSession, expose, pull, serve};
pub use target::Target;
