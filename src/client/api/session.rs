//! A session whose loop runs on a thread of its own: blocking calls, and its events.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::client::api::fleet::Fleet;
use crate::client::api::shared::Shared;
use crate::client::bound::{Answerer, BindSpec, Binding};
use crate::client::config::Config;
use crate::client::error::Error;
use crate::client::event::SessionEvent;
use crate::client::forwards::Forwarding;
use crate::client::machine::Client;
use crate::client::messages::{Order, Port, Spec};
use crate::client::options::{BindOptions, ForwardOptions, TunnelOptions};
use crate::client::target::Target;
use crate::limits::CLIENT_HANDLERS;
use crate::reactor;

/// A session with a kit. Dropping it closes it.
pub struct TunnelSession {
    fleet: Arc<Fleet>,
    next_reference: AtomicU64,
}

impl TunnelSession {
    /// Checks the options and begins to connect. Returns at once; [`TunnelSession::events`] tells
    /// what happens, [`TunnelSession::wait_online`] waits.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] where the options cannot work, [`Error::Io`] where the system has no
    /// thread or
    /// descriptor for it.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// for event in session.events() {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(options: TunnelOptions) -> Result<TunnelSession, Error> {
        let config = Config::new(&options)?;
        let fleet = Fleet::new(options.descriptors);
        fleet.launch(config.ca_pem.clone(), |now| {
            Client::with_config(config, reactor::os_entropy(), now).with_heirs()
        })?;
        Ok(TunnelSession {
            fleet,
            next_reference: AtomicU64::new(1),
        })
    }

    /// Checks the options, connects, and returns when the session stands. A network that is not up
    /// yet is waited for, a refusal is not.
    ///
    /// # Errors
    ///
    /// Those of [`TunnelSession::start`]; and what the kit, or a proxy before it, answered:
    /// [`Error::Auth`], [`Error::SessionLimit`], [`Error::Refused`], [`Error::Version`],
    /// [`Error::Tls`],
    /// [`Error::Proxy`]; or [`Error::Lost`] after [`TunnelOptions::retry_for`].
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let options = TunnelOptions::new("wss://kit.example").token("secret");
    /// let session = TunnelSession::connect(options)?;
    /// println!("{:?}", session.id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(options: TunnelOptions) -> Result<TunnelSession, Error> {
        let session = TunnelSession::start(options)?;
        session.wait_online(None)?;
        Ok(session)
    }

    /// Waits until the session stands, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when it does not stand by then; why the session ended, when it has.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// session.wait_online(Some(std::time::Duration::from_secs(10)))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_online(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.fleet.shared.wait_online(timeout)
    }

    /// Binds, and returns when the kit has said yes or no. May be called before the session stands.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] where the options cannot work, [`Error::Bind`] with the kit's code where
    /// it says
    /// no, and why the session ended, when it has.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let web = session.bind(BindOptions::expose(3000))?;
    /// let database = session.bind(BindOptions::pull(5432).label("postgres"))?;
    /// println!("{:?}, port {}", web.public_url, database.container_port);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(&self, options: BindOptions) -> Result<Binding, Error> {
        let reference = self.next_reference.fetch_add(1, Ordering::Relaxed);
        let spec = BindSpec::new(options, |handler| {
            let slot = self.fleet.handlers.add(reference, handler);
            Ok(Answerer::Handler(slot.ok_or(Error::Options(format!(
                "A session serves at most {CLIENT_HANDLERS} handlers."
            )))?))
        })?;
        self.fleet.shared.await_bind(reference);
        let spec = Box::new(Spec(spec));
        // When the loop is gone the shared state says why.
        self.fleet.send(Order::Bind { reference, spec });
        let outcome = self.fleet.shared.bound(reference);
        if outcome.is_err() {
            self.fleet.handlers.remove(reference);
        }
        outcome
    }

    /// Gives a binding up. Streams that it has may go on to their end.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when there is no such binding any more.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let web = session.bind(BindOptions::expose(3000))?;
    /// session.unbind(&web)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unbind(&self, binding: &Binding) -> Result<(), Error> {
        let reference = binding.reference;
        self.fleet.shared.await_unbind(reference);
        self.fleet.send(Order::Unbind { reference });
        let outcome = self.fleet.shared.unbound(reference);
        self.fleet.handlers.remove(reference);
        outcome
    }

    /// Opens a port of this machine that leads to a service of the container, and returns when it
    /// listens and the kit has said that it forwards. May be called before the session stands.
    ///
    /// Callers that come while the kit is away for a moment wait; later ones are turned away until
    /// it is back. What the kit cannot or may not reach breaks the caller's connection, and
    /// [`SessionEvent::StreamClosed`](crate::client::SessionEvent::StreamClosed) says why.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] where the options cannot work, [`Error::Io`] where the port cannot be
    /// had, [`Error::NotGranted`] where the kit forwards nothing, and why the session ended, when
    /// it has.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let database = session.forward(ForwardOptions::to("db:5432".parse()?))?;
    /// println!("psql -h 127.0.0.1 -p {}", database.local_addr.port());
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward(&self, options: ForwardOptions) -> Result<Forwarding, Error> {
        let reference = self.next_reference.fetch_add(1, Ordering::Relaxed);
        let spec = Box::new(Port::new(options)?);
        self.fleet.shared.await_forward(reference);
        self.fleet.send(Order::Forward { reference, spec });
        self.fleet.shared.forwarding(reference)
    }

    /// Connects a Unix socket of this machine, which must listen, with a service of the container,
    /// once; returns when the kit has said that it forwards and the connection was begun. How it
    /// went on is told by
    /// [`SessionEvent::StreamClosed`](crate::client::SessionEvent::StreamClosed).
    ///
    /// # Errors
    ///
    /// [`Error::Options`] where the target cannot be forwarded, [`Error::NotGranted`] where the kit
    /// forwards nothing, and why the session ended, when it has.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let listener = std::os::unix::net::UnixListener::bind("/run/me/ssh.sock");
    /// session.connect_socket("22".parse()?, "/run/me/ssh.sock")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect_socket(&self, target: Target, socket: impl Into<PathBuf>) -> Result<(), Error> {
        let reference = self.next_reference.fetch_add(1, Ordering::Relaxed);
        let spec = Box::new(Port::new(ForwardOptions::to(target))?);
        let socket = socket.into();
        self.fleet.shared.await_connect(reference);
        self.fleet.send(Order::Connect {
            reference,
            spec,
            socket,
        });
        self.fleet.shared.connected(reference)
    }

    /// Closes a forwarded port. Callers that it has may go on to their end.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when there is no such port any more.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let redis = session.forward(ForwardOptions::to(Target::from(6379)))?;
    /// session.unforward(&redis)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unforward(&self, forwarding: &Forwarding) -> Result<(), Error> {
        let reference = forwarding.reference;
        self.fleet.shared.await_unbind(reference);
        self.fleet.send(Order::Unforward { reference });
        self.fleet.shared.unbound(reference)
    }

    /// What happens, from the start of the session on. All receivers share one queue, which keeps
    /// the last 1024 events when nobody takes them.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// let events = session.events();
    /// std::thread::spawn(move || events.for_each(|event| println!("{event:?}")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        Events {
            shared: Arc::clone(&self.fleet.shared),
        }
    }

    /// The session's whole id, once it stands. It is a capability: whoever has it may resume the
    /// session.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// if let Some(id) = session.id() {
    ///     // Another process may go on where this one ends.
    ///     let later = TunnelOptions::new("wss://kit.example").resume_session_id(id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn id(&self) -> Option<String> {
        self.fleet.shared.id().map(|id| id.as_str().to_owned())
    }

    /// Ends the session in order: unbinds, waits up to 5 s for streams to finish, says goodbye.
    /// Returns when that is done.
    ///
    /// # Errors
    ///
    /// Why the session had failed before, if it had.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// session.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(self) -> Result<(), Error> {
        if !self.fleet.shared.has_ended() {
            self.fleet.close(false);
        }
        let outcome = self.fleet.shared.wait_closed();
        self.fleet.join();
        outcome
    }

    /// As [`TunnelSession::close`], from a place that only borrows it, and without waiting; the
    /// second time it ends at once.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// session.begin_close();
    /// session.wait_closed()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_close(&self) {
        self.fleet.close(false);
    }

    /// Waits until the session has ended, and says why it failed if it did.
    ///
    /// # Errors
    ///
    /// Why it failed. A session that was closed in order has not failed.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// session.bind(BindOptions::expose(3000))?;
    /// session.wait_closed()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_closed(&self) -> Result<(), Error> {
        self.fleet.shared.wait_closed()
    }
}

impl Drop for TunnelSession {
    fn drop(&mut self) {
        self.fleet.close(true);
        self.fleet.join();
    }
}

impl std::fmt::Debug for TunnelSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelSession({:?})", self.fleet.shared.id())
    }
}

/// Takes a session's events.
#[derive(Debug, Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// The next event; `None` when the session has ended and all were taken.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// let events = session.events();
    /// while let Some(event) = events.recv() {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn recv(&self) -> Option<SessionEvent> {
        self.shared.next_event(None)
    }

    /// The next event if one comes within `timeout`.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// let events = session.events();
    /// let event = events.recv_timeout(std::time::Duration::from_secs(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Option<SessionEvent> {
        self.shared.next_event(Some(timeout))
    }

    /// The next event if it is there already.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::start(TunnelOptions::new("wss://kit.example"))?;
    /// let events = session.events();
    /// while let Some(event) = events.try_recv() {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
