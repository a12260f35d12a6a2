//! What a user asks of the machine, and what it tells the user.

use std::path::PathBuf;

use crate::client::bound::{BindSpec, Binding};
use crate::client::error::Error;
use crate::client::event::SessionEvent;
use crate::client::forwards::{ForwardSpec, Forwarding};
use crate::client::heir::Heir;
use crate::client::options::{BindOptions, ForwardOptions};
use crate::wire::control::SessionId;

/// What a user wants.
#[derive(Debug)]
pub enum Order {
    /// Bind. Answered by [`Notice::Bound`].
    Bind {
        /// The caller's name for it, never used twice.
        reference: u64,
        /// What.
        spec: Box<Spec>,
    },
    /// Give a binding up. Answered by [`Notice::Unbound`].
    Unbind {
        /// Its name.
        reference: u64,
    },
    /// Open a port here that leads to the container. Answered by [`Notice::Forwarding`].
    Forward {
        /// The caller's name for it, never used twice, nor by a bind.
        reference: u64,
        /// What.
        spec: Box<Port>,
    },
    /// Connect a Unix socket of this machine, which listens, with a service of the container, once.
    /// Answered by [`Notice::Connected`].
    Connect {
        /// The caller's name for it, never used twice, nor by a bind.
        reference: u64,
        /// The service; where to listen means nothing here.
        spec: Box<Port>,
        /// The socket.
        socket: PathBuf,
    },
    /// Close such a port; its callers go on. Answered by [`Notice::Unbound`].
    Unforward {
        /// Its name.
        reference: u64,
    },
    /// A visitor was turned away, because all threads of handlers were busy.
    TurnedAway,
    /// End the session; the second time, or with `at_once`, without waiting for streams.
    Close {
        /// Do not wait.
        at_once: bool,
    },
    /// The machine that was asked for with [`Notice::Heir`] could not begin.
    Stay(Box<Heir>),
}

/// What an [`Order::Bind`] carries; made from a `BindOptions`.
#[derive(Debug)]
pub struct Spec(pub(super) BindSpec);

impl Spec {
    /// For a host of one's own, which runs no handlers. Refuses options that cannot work.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says what cannot be bound so, and why.
    ///
    /// ```
    /// use hoody_tunnel::client::{BindOptions, Spec};
    ///
    /// assert!(Spec::new(BindOptions::expose(3000)).is_ok());
    /// ```
    pub fn new(options: BindOptions) -> Result<Spec, Error> {
        let none = "This host runs no handlers.".to_owned();
        BindSpec::new(options, |_| Err(Error::Options(none))).map(Spec)
    }
}

/// What an [`Order::Forward`] carries; made from a `ForwardOptions`.
#[derive(Debug)]
pub struct Port(pub(super) ForwardSpec);

impl Port {
    /// For a host of one's own. Refuses options that cannot work.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says what cannot be forwarded so, and why.
    ///
    /// ```
    /// use hoody_tunnel::client::{ForwardOptions, Port};
    ///
    /// assert!(Port::new(ForwardOptions::to("5432".parse()?)).is_ok());
    /// # Ok::<(), hoody_tunnel::client::Error>(())
    /// ```
    pub fn new(options: ForwardOptions) -> Result<Port, Error> {
        options.spec().map(Port)
    }
}

/// What a user is told.
#[derive(Debug)]
pub enum Notice {
    /// Things that happened, in their order.
    Events(Vec<SessionEvent>),
    /// The session has this id now; told before the event that says that it stands.
    Session(SessionId),
    /// A bind came to its end.
    Bound {
        /// Its name.
        reference: u64,
        /// What came of it.
        outcome: Result<Binding, Error>,
    },
    /// A port was opened and the kit forwards it, or not.
    Forwarding {
        /// Its name.
        reference: u64,
        /// What came of it.
        outcome: Result<Forwarding, Error>,
    },
    /// The kit forwards, and a connection was begun, or not.
    Connected {
        /// Its name.
        reference: u64,
        /// What came of it.
        outcome: Result<(), Error>,
    },
    /// An unbind came to its end.
    Unbound {
        /// Its name.
        reference: u64,
        /// What came of it.
        outcome: Result<(), Error>,
    },
    /// Another machine is to begin with this, see [`Client::heir`](super::Client::heir). From now
    /// on it gets the orders. Where it cannot begin: [`Order::Stay`].
    Heir(Box<Heir>),
    /// An order that came too late for this machine, and is its heir's.
    Passed(Order),
}
