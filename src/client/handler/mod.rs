//! Handlers that live in this process, in place of a local server.
//!
//! What the room is for: speaking HTTP/1.1 for them (`conversation`) over connections that end
//! here ([`Inside`](crate::machine::Inside)), and the threads on which they may block (`crew`). It
//! stands beside the machine, which knows a handler only as somebody to connect to. What it never
//! does: hold a thread for an idle connection or a slow reader, or block the loop.
//!
//! Order of calls: the host makes a conversation through [`Handlers::host`] for each connection;
//! that asks the crew to run the handler, and to read what it answers with.

mod conversation;
mod crew;
mod messages;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::CLIENT_HANDLERS;

pub(super) use conversation::HandlerConn;
pub(super) use crew::Crew;
pub use messages::{Handler, Request, RequestBody, Response};

/// The handlers of a session, by the slot that the host knows and the binding that they serve.
pub(super) struct Handlers {
    slots: Mutex<BTreeMap<u32, (u64, Handler)>>,
    pub crew: Arc<Crew>,
}

impl Handlers {
    pub(super) fn new() -> Handlers {
        Handlers {
            slots: Mutex::default(),
            crew: Crew::new(),
        }
    }

    /// What the host connects to for slot `number`: whatever handler is in it then.
    pub(super) fn host(self: &Arc<Handlers>, number: u32) -> crate::machine::Handler {
        let handlers = Arc::downgrade(self);
        Arc::new(move |stir| {
            let crew = handlers.upgrade().map(|handlers| {
                let slots = handlers.lock();
                let found = slots.get(&number).map(|(_, handler)| Arc::clone(handler));
                (found, Arc::clone(&handlers.crew))
            });
            let (handler, crew) = crew.unwrap_or_else(|| (None, Crew::new()));
            Box::new(HandlerConn::new(handler, &crew, stir))
        })
    }

    /// Puts a handler for a binding into a free slot.
    pub(super) fn add(&self, reference: u64, handler: Handler) -> Option<u32> {
        let mut slots = self.lock();
        let free = (0..CLIENT_HANDLERS).find(|number| !slots.contains_key(number))?;
        slots.insert(free, (reference, handler));
        Some(free)
    }

    /// The binding is gone.
    pub(super) fn remove(&self, reference: u64) {
        self.lock().retain(|_, (of, _)| *of != reference);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, (u64, Handler)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        self.crew.dismiss();
    }
}
