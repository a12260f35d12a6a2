//! The public handles: blocking calls on a session whose loop runs on a thread of its own.
//!
//! This is the only file of the room that runs a host.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::bindings::{BindSpec, Local};
use crate::client::config::Config;
use crate::client::fetch::{AdminReply, AdminRequest, Fetch};
use crate::client::machine::{Client, Order, Spec};
use crate::client::options::{Handler, To};
use crate::client::serve::{Handlers, Request, Response};
use crate::client::shared::Shared;
use crate::client::{BindOptions, Error, HostHeader, SessionEvent, Target, TunnelOptions};
use crate::http::is_value;
use crate::limits::{CLIENT_HANDLERS, CLIENT_NAME_BYTES};
use crate::reactor::{self, Reactor};
use crate::wire::control::BindMode;

/// A session with a kit. Dropping it closes it.
pub struct TunnelSession {
    shared: Arc<Shared>,
    handle: reactor::Handle<Order>,
    handlers: Arc<Handlers>,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_reference: AtomicU64,
}

/// What the kit bound for us, as it was when this was made. Copies of it name the same binding,
/// also after a reconnect has given it another `bind_id`.
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
    /// Checks the options and begins to connect. Returns at once; [`TunnelSession::events`] tells
    /// what happens, [`TunnelSession::wait_online`] waits.
    pub fn start(options: TunnelOptions) -> Result<TunnelSession, Error> {
        let config = Config::new(&options)?;
        let handlers = Arc::new(Handlers::new());
        let tls =
            reactor::connector(config.ca_pem.clone()).map_err(|error| cannot_start(&error))?;
        let host = reactor::Options {
            signals: false,
            watch_network: true,
            // It would also end connections to local servers that only pause (a debugger, a full
            // disk), and a silent kit is noticed by its missing answers in the same time.
            user_timeout: None,
            handlers: (0..CLIENT_HANDLERS)
                .map(|slot| handlers.host(slot))
                .collect(),
            tls: Some(tls),
        };
        let mut client = Client::with_config(config, reactor::os_entropy(), reactor::now());
        let spare = reactor::process::spare_descriptors();
        if let Some(fewest) = spare.into_iter().chain(options.descriptors).min() {
            client = client.with_descriptors(fewest);
        }
        let mut reactor = Reactor::new(client, host).map_err(|error| cannot_start(&error))?;
        let handle = reactor.handle();
        let teller = Mutex::new(handle.clone());
        handlers.crew.on_refusal(move || {
            let handle = teller.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = handle.send(Order::TurnedAway);
        });
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let body = move || {
            // Also when the machine fails by its own fault, nobody may wait for ever.
            let at_end = EndGuard(&told);
            let outcome = reactor.run(|notice| told.tell(notice));
            if let Err(error) = outcome {
                told.end(Some(Error::Io(format!("the event loop failed: {error}"))));
            }
            drop(at_end);
        };
        let thread = std::thread::Builder::new()
            .name("tunnel".into())
            .spawn(body)
            .map_err(|error| cannot_start(&error))?;
        Ok(TunnelSession {
            shared,
            handle,
            handlers,
            thread: Mutex::new(Some(thread)),
            next_reference: AtomicU64::new(1),
        })
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
        self.shared.wait_online(timeout)
    }

    /// Binds, and returns when the kit has said yes or no. May be called before the session stands.
    pub fn bind(&self, options: BindOptions) -> Result<Binding, Error> {
        let reference = self.next_reference.fetch_add(1, Ordering::Relaxed);
        let spec = spec_of(options, |handler| {
            let slot = self.handlers.add(reference, handler);
            Ok(Local::Handler(slot.ok_or(Error::Options(format!(
                "A session serves at most {CLIENT_HANDLERS} handlers."
            )))?))
        })?;
        self.shared.await_bind(reference);
        let spec = Box::new(Spec(spec));
        // When the loop is gone the shared state says why.
        let _ = self.handle.send(Order::Bind { reference, spec });
        let outcome = self.shared.bound(reference);
        if outcome.is_err() {
            self.handlers.remove(reference);
        }
        outcome
    }

    /// Gives a binding up. Streams that it has may go on to their end.
    pub fn unbind(&self, binding: &Binding) -> Result<(), Error> {
        let reference = binding.reference;
        self.shared.await_unbind(reference);
        let _ = self.handle.send(Order::Unbind { reference });
        let outcome = self.shared.unbound(reference);
        self.handlers.remove(reference);
        outcome
    }

    /// What happens, from the start of the session on. All receivers share one queue, which keeps
    /// the last 1024 events when nobody takes them.
    pub fn events(&self) -> Events {
        Events {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The session's whole id, once it stands. It is a capability: whoever has it may resume the
    /// session.
    pub fn id(&self) -> Option<String> {
        self.shared.id().map(|id| id.as_str().to_owned())
    }

    /// Ends the session in order: unbinds, waits up to 5 s for streams to finish, says goodbye.
    /// Returns when that is done.
    pub fn close(self) -> Result<(), Error> {
        if !self.shared.has_ended() {
            let _ = self.handle.send(Order::Close { at_once: false });
        }
        let outcome = self.shared.wait_closed();
        self.join();
        outcome
    }

    /// As [`TunnelSession::close`], from a place that only borrows it, and without waiting; the
    /// second time it ends at once.
    pub fn begin_close(&self) {
        let _ = self.handle.send(Order::Close { at_once: false });
    }

    /// Waits until the session has ended, and says why it failed if it did.
    pub fn wait_closed(&self) -> Result<(), Error> {
        self.shared.wait_closed()
    }

    fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panic, if any, was told by the guard.
            let _ = thread.join();
        }
    }
}

impl Drop for TunnelSession {
    fn drop(&mut self) {
        let _ = self.handle.send(Order::Close { at_once: true });
        self.join();
    }
}

impl std::fmt::Debug for TunnelSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelSession({:?})", self.shared.id())
    }
}

/// Tells the end when the thread unwinds or returns.
struct EndGuard<'a>(&'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.end(Some(Error::Io(
            "the tunnel's thread failed; this is a bug".into(),
        )));
    }
}

fn cannot_start(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::Options(error.to_string()),
        _ => Error::Io(format!("cannot start: {error}")),
    }
}

/// Takes a session's events.
#[derive(Debug, Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// The next event; `None` when the session has ended and all were taken.
    pub fn recv(&self) -> Option<SessionEvent> {
        self.shared.next_event(None)
    }

    /// The next event if one comes within `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<SessionEvent> {
        self.shared.next_event(Some(timeout))
    }

    /// The next event if it is there already.
    pub fn try_recv(&self) -> Option<SessionEvent> {
        self.shared.next_event(Some(Duration::ZERO))
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

/// Makes a local TCP service reachable at the kit's loopback port `container_port` (0: the kit
/// picks one).
pub fn pull(
    options: TunnelOptions,
    container_port: u16,
    target: impl Into<Target>,
) -> Result<Tunnel, Error> {
    Tunnel::open(options, BindOptions::pull(container_port).to(target))
}

/// Answers requests at the kit's port `container_port` (0: the kit picks one) with `handler`,
/// without any local port. The handler runs on several threads at once, up to 64; a visitor who
/// finds all of them busy gets `503` within a second. Only a handler that runs holds one, or reads
/// what it answers with: idle connections and slow readers do not.
///
/// A handler that panics gives its visitor a `500`, and one whose body panics while it is read a
/// broken connection; the tunnel lives on. That needs unwinding, Rust's default: under a profile of
/// yours with `panic = "abort"` a panic ends the program, as everywhere.
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

/// Asks once and waits for the whole answer, at most for `timeout`. A refusal by the kit is a
/// reply; an error is when there was none.
pub fn fetch(
    options: &TunnelOptions,
    request: &AdminRequest,
    timeout: Duration,
) -> Result<AdminReply, Error> {
    let config = Config::new(options)?;
    let fail = |error: std::io::Error| Error::Io(format!("cannot ask: {error}"));
    let host = reactor::Options {
        tls: Some(reactor::connector(config.ca_pem.clone()).map_err(fail)?),
        ..reactor::Options::default()
    };
    let machine = Fetch::new(&config, request, reactor::now() + timeout)?;
    let mut reactor = Reactor::new(machine, host).map_err(fail)?;
    let mut outcome = None;
    reactor.run(|reply| outcome = Some(reply)).map_err(fail)?;
    outcome.unwrap_or_else(|| Err(Error::Io("the request ended without an answer".into())))
}

impl BindOptions {
    /// Whether these can work, as far as it can be told without a kit.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says what cannot be bound so, and why.
    pub fn check(&self) -> Result<(), Error> {
        let unused = |_| Ok(Local::Target(Target::Addr(([127, 0, 0, 1], 1).into())));
        spec_of(self.clone(), unused).map(|_| ())
    }
}

/// Checks what can be checked without the kit.
pub(super) fn spec_of(
    options: BindOptions,
    add_handler: impl FnOnce(Handler) -> Result<Local, Error>,
) -> Result<BindSpec, Error> {
    let wrong = |text: &str| Err(Error::Options(text.into()));
    let local = match (options.to, options.mode) {
        (Some(To::Handler(_)), BindMode::Pull) => {
            return wrong("A handler answers requests; a pull carries raw connections.");
        }
        (None, _) if options.container_port == 0 => {
            return wrong("Say which local server to use when the kit picks the port.");
        }
        (Some(To::Target(target)), _) if target.port() == 0 => {
            return wrong("The target's port must not be 0.");
        }
        (Some(To::Target(target)), _) => Local::Target(target),
        (None, _) => {
            let port = options.container_port;
            Local::Target(Target::Addr(([127, 0, 0, 1], port).into()))
        }
        (Some(To::Handler(handler)), _) => add_handler(handler)?,
    };
    let name = match &options.host_header {
        HostHeader::Name(name) => Some(name),
        _ => None,
    };
    for (what, text) in [
        ("label", options.label.as_ref()),
        ("host", options.host.as_ref()),
        ("host header", name),
    ] {
        if text.is_some_and(|text| text.len() > CLIENT_NAME_BYTES) {
            return wrong(&format!(
                "The {what} is longer than {CLIENT_NAME_BYTES} bytes."
            ));
        }
    }
    if options.takeover && options.mode == BindMode::Pull {
        return wrong("Only what is exposed can be taken over.");
    }
    if let HostHeader::Name(name) = &options.host_header
        && (name.is_empty() || !is_value(name.as_bytes()) || name.contains(char::is_whitespace))
    {
        return wrong("The host header must be a name, perhaps with a port.");
    }
    Ok(BindSpec {
        mode: options.mode,
        container_port: options.container_port,
        label: options.label,
        takeover: options.takeover,
        host: options.host,
        host_header: options.host_header,
        local,
    })
}
