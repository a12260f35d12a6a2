//! The machines of one session, each on a thread of its own: the one that is to reach the kit, and
//! those before it whose streams still run in a kit that restarts.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::client::api::shared::Shared;
use crate::client::error::Error;
use crate::client::handler::Handlers;
use crate::client::heir::Heir;
use crate::client::machine::Client;
use crate::client::messages::{Notice, Order};
use crate::clock::Instant;
use crate::limits::CLIENT_HANDLERS;
use crate::reactor::{self, Handle, Reactor};

/// See the module.
pub(super) struct Fleet {
    pub shared: Arc<Shared>,
    pub handlers: Arc<Handlers>,
    /// How many descriptors the user leaves to it.
    descriptors: Option<usize>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// The last one is the machine that gets the orders.
    machines: Vec<Runner>,
    /// It is to close: no machine begins any more.
    closing: bool,
}

/// A machine and its thread.
struct Runner {
    handle: Handle<Order>,
    thread: JoinHandle<()>,
}

impl Fleet {
    /// Without any machine.
    pub(super) fn new(descriptors: Option<usize>) -> Arc<Fleet> {
        let fleet = Arc::new(Fleet {
            shared: Arc::default(),
            handlers: Arc::new(Handlers::new()),
            descriptors,
            running: Mutex::default(),
        });
        let teller = Arc::downgrade(&fleet);
        fleet.handlers.crew.on_refusal(move || {
            if let Some(fleet) = teller.upgrade() {
                fleet.send(Order::TurnedAway);
            }
        });
        fleet
    }

    /// Runs a machine, which gets the orders from now on.
    pub(super) fn launch(
        self: &Arc<Fleet>,
        ca_pem: Option<Vec<u8>>,
        machine: impl FnOnce(Instant) -> Client,
    ) -> Result<(), Error> {
        let tls = reactor::connector(ca_pem).map_err(|error| cannot_start(&error))?;
        let host = reactor::Options {
            signals: false,
            watch_network: true,
            // It would also end connections to local servers that only pause (a debugger, a full
            // disk), and a silent kit is noticed by its missing answers in the same time.
            user_timeout: None,
            handlers: (0..CLIENT_HANDLERS)
                .map(|slot| self.handlers.host(slot))
                .collect(),
            tls: Some(tls),
            ..reactor::Options::default()
        };
        let mut client = machine(reactor::now());
        let spare = reactor::process::spare_descriptors();
        if let Some(fewest) = spare.into_iter().chain(self.descriptors).min() {
            client = client.with_descriptors(fewest);
        }
        let reactor = Reactor::new(client, host).map_err(|error| cannot_start(&error))?;
        let handle = reactor.handle();
        let mut running = self.running();
        if running.closing {
            return Err(Error::Closed("the session is being closed".into()));
        }
        let fleet = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("tunnel".into())
            .spawn(move || fleet.run(reactor))
            .map_err(|error| cannot_start(&error))?;
        running.machines.retain(|it| !it.thread.is_finished());
        running.machines.push(Runner { handle, thread });
        Ok(())
    }

    fn run(self: Arc<Fleet>, mut reactor: Reactor<Client>) {
        let has_heir = Cell::new(false);
        // Also when the machine fails by its own fault, nobody may wait for ever.
        let at_end = EndGuard(&self.shared, &has_heir);
        let ours = reactor.handle();
        let outcome = reactor.run(|notice| match notice {
            Notice::Heir(heir) => match self.succeed(&heir) {
                Ok(()) => has_heir.set(true),
                Err(_) => {
                    let _ = ours.send(Order::Stay(heir));
                }
            },
            Notice::Passed(order) => self.send(order),
            notice => self.shared.tell(notice),
        });
        if let Err(error) = outcome
            && !has_heir.get()
        {
            let why = format!("the event loop failed: {error}");
            self.shared.end(Some(Error::Io(why)));
        }
        drop(at_end);
    }

    fn succeed(self: &Arc<Fleet>, heir: &Heir) -> Result<(), Error> {
        let next = heir.clone();
        self.launch(heir.ca_pem(), |now| {
            Client::heir(next, reactor::os_entropy(), now)
        })
    }

    /// Tells the machine that reaches the kit. When its loop is gone the shared state says why.
    pub(super) fn send(&self, order: Order) {
        if let Some(machine) = self.running().machines.last() {
            let _ = machine.handle.send(order);
        }
    }

    /// Has all machines close.
    pub(super) fn close(&self, at_once: bool) {
        let mut running = self.running();
        running.closing = true;
        for machine in &running.machines {
            let _ = machine.handle.send(Order::Close { at_once });
        }
    }

    /// Waits until all machines have stopped, which they were told to.
    pub(super) fn join(&self) {
        let machines = std::mem::take(&mut self.running().machines);
        for machine in machines {
            // Its panic, if any, was told by the guard.
            let _ = machine.thread.join();
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the end when the thread unwinds or returns, unless an heir will.
struct EndGuard<'a>(&'a Shared, &'a Cell<bool>);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        if !self.1.get() {
            self.0.end(Some(Error::Io(
                "the tunnel's thread failed; this is a bug".into(),
            )));
        }
    }
}

fn cannot_start(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::Options(error.to_string()),
        _ => Error::Io(format!("cannot start: {error}")),
    }
}
