//! A session with one binding, from one call.

use crate::client::api::session::TunnelSession;
use crate::client::bound::Binding;
use crate::client::error::Error;
use crate::client::forwards::Forwarding;
use crate::client::handler::{Request, Response};
use crate::client::options::{BindOptions, ForwardOptions, TunnelOptions};
use crate::client::target::Target;

/// A session with one binding, from one call. Dropping it closes both.
#[derive(Debug)]
pub struct Tunnel {
    /// The session.
    pub session: TunnelSession,
    /// Its binding, as it was when it was made.
    pub binding: Binding,
}

impl Tunnel {
    fn open(options: TunnelOptions, bind: BindOptions) -> Result<Tunnel, Error> {
        let session = TunnelSession::connect(options)?;
        let binding = session.bind(bind)?;
        Ok(Tunnel { session, binding })
    }

    /// Ends it in order, see [`TunnelSession::close`].
    ///
    /// # Errors
    ///
    /// Why the session had failed before, if it had.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let tunnel = client::expose(TunnelOptions::new("wss://kit.example"), 3000, 3000)?;
    /// tunnel.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(self) -> Result<(), Error> {
        self.session.close()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// Why it failed, if it did.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let tunnel = client::expose(TunnelOptions::new("wss://kit.example"), 3000, 3000)?;
    /// tunnel.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self) -> Result<(), Error> {
        self.session.wait_closed()
    }
}

/// Makes a local HTTP server reachable at the kit's port `container_port` (0: the kit picks one).
///
/// # Errors
///
/// Those of [`TunnelSession::connect`] and [`TunnelSession::bind`].
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// let tunnel = client::expose(TunnelOptions::new("wss://kit.example"), 3000, 8080)?;
/// println!("{:?}", tunnel.binding.public_url);
/// tunnel.wait()?;
/// # Ok(())
/// # }
/// ```
pub fn expose(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::expose(container_port).to(target))
}

/// Makes a local TCP service reachable at the kit's port `container_port` (0: the kit picks one),
/// whatever it speaks: SSH, gRPC, a database, TLS of its own.
///
/// # Errors
///
/// Those of [`TunnelSession::connect`] and [`TunnelSession::bind`]; a kit that knows no such ports,
/// or whose operator wants none, refuses it with [`Error::Bind`].
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// // The laptop's SSH server at port 2222 of the container.
/// client::expose_tcp(TunnelOptions::new("wss://kit.example"), 2222, 22)?.wait()?;
/// # Ok(())
/// # }
/// ```
pub fn expose_tcp(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::expose_tcp(container_port).to(target))
}

/// Makes a local TCP service reachable at the kit's loopback port `container_port` (0: the kit
/// picks one).
///
/// # Errors
///
/// Those of [`TunnelSession::connect`] and [`TunnelSession::bind`].
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// // The laptop's PostgreSQL on the container's loopback.
/// client::pull(TunnelOptions::new("wss://kit.example"), 5432, 5432)?.wait()?;
/// # Ok(())
/// # }
/// ```
pub fn pull(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::pull(container_port).to(target))
}

/// Makes a service of the container reachable at 127.0.0.1 and the port `local_port` (0: the system
/// picks one) of this machine, for as long as the session lives that is given with it.
///
/// # Errors
///
/// Those of [`TunnelSession::connect`] and [`TunnelSession::forward`].
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// // The container's PostgreSQL on this machine's loopback.
/// let options = TunnelOptions::new("wss://kit.example").token("secret");
/// let (session, database) = client::forward(options, 5432, 15432)?;
/// println!("psql -h 127.0.0.1 -p {}", database.local_addr.port());
/// session.wait_closed()?;
/// # Ok(())
/// # }
/// ```
pub fn forward(
    options: TunnelOptions,
    target: impl Into<Target>,
    local_port: u16,
) -> Result<(TunnelSession, Forwarding), Error> {
    let session = TunnelSession::connect(options)?;
    let port = ForwardOptions::to(target.into()).local_port(local_port);
    let forwarding = session.forward(port)?;
    Ok((session, forwarding))
}

/// Answers requests at the kit's port `container_port` (0: the kit picks one) with `handler`,
/// without any local port. The handler runs on several threads at once, up to 64; a visitor who
/// finds all of them busy gets `503` within a second. Only a handler that runs holds one, or reads
/// what it answers with: idle connections and slow readers do not.
///
/// A handler that panics gives its visitor a `500`, and one whose body panics while it is read a
/// broken connection; the tunnel lives on. That needs unwinding, Rust's default: under a profile of
/// yours with `panic = "abort"` a panic ends the program, as everywhere.
///
/// # Errors
///
/// Those of [`TunnelSession::connect`] and [`TunnelSession::bind`].
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// let hello = |request: Request| Response::text(200, request.target);
/// client::serve(TunnelOptions::new("wss://kit.example"), 3000, hello)?.wait()?;
/// # Ok(())
/// # }
/// ```
pub fn serve(
    options: TunnelOptions,
    container_port: u16,
    handler: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> Result<Tunnel, Error> {
    Tunnel::open(
        options,
        BindOptions::expose(container_port).handler(handler),
    )
}
