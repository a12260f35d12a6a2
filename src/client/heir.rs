//! A kit restarts while streams run: they finish here, and another machine, the heir, is at the
//! next kit at once with the session and all that is bound (PROTOCOL §6).
//!
//! Only hosts that said that they run several machines are asked to begin with one
//! ([`Client::with_heirs`]). The machine that has an heir takes no more orders but to close, says
//! nothing of the session any more, and stops without a word once its last stream has left.

use std::time::Duration;

use crate::client::bindings::Bindings;
use crate::client::config::Config;
use crate::client::context::Timer;
use crate::client::event::SessionEvent;
use crate::client::forwards::ForwardSpec;
use crate::client::machine::Client;
use crate::client::messages::{Notice, Order};
use crate::client::reach::retry::Stage;
use crate::client::reach::{Reach, Trace};
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::CLOSE_WITHIN;

/// What a machine needs to go on where another one stood.
#[derive(Debug, Clone)]
pub struct Heir {
    config: Config,
    trace: Trace,
    bindings: Bindings,
    forwards: Vec<(u64, ForwardSpec)>,
}

impl Heir {
    /// Certificates to trust besides the system's.
    pub(super) fn ca_pem(&self) -> Option<Vec<u8>> {
        self.config.ca_pem.clone()
    }
}

impl Client {
    /// Its host runs another machine beside this one, when [`Notice::Heir`] asks for it.
    pub fn with_heirs(mut self) -> Client {
        self.has_heirs = true;
        self
    }

    /// A machine that goes on with a session, and begins to connect with its first timeout.
    pub fn heir(heir: Heir, entropy: Entropy, now: Instant) -> Client {
        let reach = Reach::after(&heir.config, heir.trace, now);
        let mut client = Client::with_config(heir.config, entropy, now).with_heirs();
        client.reach = reach;
        client.bindings = heir.bindings;
        client.bindings.session_lost(&mut client.cx);
        client.forwards.take_on(&mut client.cx, heir.forwards);
        client
    }

    /// The kit restarts while streams run, which it gives so long to finish.
    pub(super) fn depart(&mut self, grace: Duration) {
        if !self.has_heirs {
            return;
        }
        let Some(trace) = self.reach.departs() else {
            return;
        };
        let heir = Heir {
            config: self.cx.config.clone(),
            trace,
            bindings: self.bindings.clone(),
            forwards: self.forwards.let_go(&mut self.cx),
        };
        let timers = &mut self.cx.effects.timers;
        timers.disarm(Timer::Rebind);
        timers.disarm(Timer::Claim);
        timers.arm(Timer::Goaway, self.cx.now + grace + CLOSE_WITHIN);
        self.cx.notify(SessionEvent::Lost {
            why: "the kit restarts".to_owned(),
            retry_in: Duration::ZERO,
        });
        self.cx.effects.notify(Notice::Heir(Box::new(heir)));
    }

    /// Its host could not begin with the heir: this machine goes to the next kit itself, when its
    /// streams have finished.
    pub(super) fn stay(&mut self, heir: Heir) {
        self.bindings = heir.bindings;
        self.forwards.take_on(&mut self.cx, heir.forwards);
        self.reach.stays_after_all(self.cx.now);
    }

    /// It has an heir, and is to close: its streams may finish in the time they would have anyway.
    pub(super) fn departs_sooner(&mut self, at_once: bool) {
        let timers = &mut self.cx.effects.timers;
        if at_once || timers.deadline(Timer::Close).is_some() {
            return self.say_goodbye();
        }
        timers.arm(Timer::Close, self.cx.now + CLOSE_WITHIN);
    }

    /// It has an heir, whose business this order is.
    pub(super) fn pass_on(&mut self, order: Order) {
        self.cx.effects.notify(Notice::Passed(order));
    }

    /// Whether another machine has the session now.
    pub(super) fn has_heir(&self) -> bool {
        self.reach.retry.stage == Stage::Departing
    }

    /// Only last words are on their way.
    pub(super) fn ended(&mut self) {
        let (local, mut around) = self.local();
        local.close_all(&mut around);
        self.reach.over(&mut self.cx);
    }

    /// Nothing follows, and its heir has all that is to be said.
    pub(super) fn departed(&mut self) {
        self.bindings = Bindings::default();
        self.cx.tell();
        self.ended();
    }
}
