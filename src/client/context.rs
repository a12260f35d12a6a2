//! What every part of the client uses and none of them is about: the moment, the configuration,
//! chance, what is wanted of the host, and what the user is told.

use crate::client::config::Config;
use crate::client::event::SessionEvent;
use crate::client::keys::ExchangeKey;
use crate::client::messages::Notice;
use crate::clock::Instant;
use crate::effects::Effects;
use crate::entropy::Entropy;
use crate::limits::{EVENTS_AT_ONCE, TELL_AFTER};
use crate::machine::ConnKey;
use crate::mux::Session;

/// The lanes and streams of a session; what hangs on a stream is an exchange.
pub(super) type Mux = Session<ExchangeKey>;

/// Why a deadline was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Try to reach the kit.
    Retry,
    /// Look after the connection of this lane: its step takes too long, or it is silent.
    Lane(u8),
    /// Tell what happened to streams.
    Tell,
    /// Look over the streams.
    Sweep,
    /// Look over idle local connections.
    Pool,
    /// Somebody has waited for a local connection for long enough, or one may be tried.
    Line,
    /// Tell who was turned away.
    Refusals,
    /// Bind again what was refused.
    Rebind,
    /// Try again to listen where another machine did.
    Relisten,
    /// Nobody has claimed what an earlier process left.
    Claim,
    /// Ask for missing lanes.
    Rejoin,
    /// The kit is to be told what was taken of its lanes.
    Acks,
    /// Streams have waited for the kit for long enough.
    Waits,
    /// Streams had their time to finish.
    Close,
    /// The kit said goodbye and should have closed.
    Goaway,
    /// The last frames should have left this connection.
    Leaving(ConnKey),
}

/// See the module.
pub(super) struct Context {
    /// The moment of what was told last.
    pub now: Instant,
    pub config: Config,
    pub entropy: Entropy,
    /// What the host is asked for, and when the client wants to be told again.
    pub effects: Effects<Notice, Timer>,
    /// What happened to streams and was not told yet.
    untold: Vec<SessionEvent>,
}

impl Context {
    /// At the beginning: nothing is asked for or told.
    pub(super) fn new(config: Config, entropy: Entropy, now: Instant) -> Context {
        Context {
            now,
            config,
            entropy,
            effects: Effects::new(),
            untold: Vec::new(),
        }
    }

    /// Tells what happened. Ends of streams are gathered for a moment: to wake somebody for each
    /// costs more than the stream did.
    pub(super) fn notify(&mut self, event: SessionEvent) {
        let may_wait = matches!(
            event,
            SessionEvent::Request(_) | SessionEvent::StreamClosed(_)
        );
        self.untold.push(event);
        if may_wait && self.untold.len() < EVENTS_AT_ONCE {
            self.effects
                .timers
                .arm_if_unset(Timer::Tell, self.now + TELL_AFTER);
        } else {
            self.tell();
        }
    }

    pub(super) fn tell(&mut self) {
        self.effects.timers.disarm(Timer::Tell);
        let events = std::mem::take(&mut self.untold);
        self.effects.notify(Notice::Events(events));
    }
}
