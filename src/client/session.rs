//! The public handles: blocking calls on a session whose loop runs on a thread of its own.

use std::time::Duration;

use crate::client::serve::{Request, Response};
use crate::client::{BindOptions, Error, SessionEvent, Target, TunnelOptions};
use crate::wire::control::BindMode;

/// A session with a kit. Dropping it closes it.
#[derive(Debug)]
pub struct TunnelSession {}

/// What the kit bound for us, as it was when this was made. Copies of it name the same binding, also
/// after a reconnect has given it another `bind_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding {
    /// The kit's name for it.
    pub bind_id: u64,
    /// The port on the kit.
    pub container_port: u16,
    /// Where the world reaches it, when the kit knows.
    pub public_url: Option<String>,
    /// EXPOSE or PULL.
    pub mode: BindMode,
    /// The name for people that was given with it.
    pub label: Option<String>,
    /// Our own name for it, which stays.
    pub(super) reference: u64,
}

impl TunnelSession {
    /// Checks the options and begins to connect. Returns at once; [`TunnelSession::events`] tells what
    /// happens, [`TunnelSession::wait_online`] waits.
    pub fn start(options: TunnelOptions) -> Result<TunnelSession, Error> {
        options.check()?;
        Err(Error::Io("not built yet".into()))
    }

    /// Checks the options, connects, and returns when the session stands. A network that is not up
    /// yet is waited for, a refusal is not.
    pub fn connect(options: TunnelOptions) -> Result<TunnelSession, Error> {
        let session = TunnelSession::start(options)?;
        session.wait_online(None)?;
        Ok(session)
    }

    /// Waits until the session stands, at most for `timeout`.
    pub fn wait_online(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let _ = timeout;
        Ok(())
    }

    /// Binds, and returns when the kit has said yes or no. May be called before the session stands.
    pub fn bind(&self, options: BindOptions) -> Result<Binding, Error> {
        let _ = options;
        Err(Error::Io("not built yet".into()))
    }

    /// Gives a binding up. Streams that it has may go on to their end.
    pub fn unbind(&self, binding: &Binding) -> Result<(), Error> {
        let _ = binding;
        Ok(())
    }

    /// What happens, from the start of the session on. All receivers share one queue, which keeps the
    /// last 1024 events when nobody takes them.
    pub fn events(&self) -> Events {
        Events {}
    }

    /// The session's whole id, once it stands. It is a capability: whoever has it may resume the
    /// session.
    pub fn id(&self) -> Option<String> {
        None
    }

    /// Ends the session in order: unbinds, waits up to 5 s for streams to finish, says goodbye.
    /// Returns when that is done.
    pub fn close(self) -> Result<(), Error> {
        Ok(())
    }

    /// As [`TunnelSession::close`], from a place that only borrows it, and without waiting; the second
    /// time it ends at once.
    pub fn begin_close(&self) {}

    /// Waits until the session has ended, and says why it failed if it did.
    pub fn wait_closed(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes a session's events.
#[derive(Debug, Clone)]
pub struct Events {}

impl Events {
    /// The next event; `None` when the session has ended and all were taken.
    pub fn recv(&self) -> Option<SessionEvent> {
        None
    }

    /// The next event if one comes within `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<SessionEvent> {
        let _ = timeout;
        None
    }

    /// The next event if it is there already.
    pub fn try_recv(&self) -> Option<SessionEvent> {
        None
    }
}

impl Iterator for Events {
    type Item = SessionEvent;

    fn next(&mut self) -> Option<SessionEvent> {
        self.recv()
    }
}

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
    pub fn close(self) -> Result<(), Error> {
        self.session.close()
    }

    /// Waits until it has ended.
    pub fn wait(&self) -> Result<(), Error> {
        self.session.wait_closed()
    }
}

/// Makes a local HTTP server reachable at the kit's port `container_port` (0: the kit picks one).
pub fn expose(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::expose(container_port).to(target))
}

/// Makes a local TCP service reachable at the kit's loopback port `container_port` (0: the kit picks
/// one).
pub fn pull(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::pull(container_port).to(target))
}

/// Answers requests at the kit's port `container_port` (0: the kit picks one) with `handler`, without
/// any local port. The handler runs on several threads at once.
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
