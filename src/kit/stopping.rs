//! How the kit ends: it drains, hands over to a successor, stops (PROTOCOL §6).

use log::{info, warn};

use crate::clock::Instant;
use crate::kit::conns::ConnEntry;
use crate::kit::handover::Handover;
use crate::kit::metrics::SessionEnd;
use crate::kit::session::RESTARTING;
use crate::limits::{HANDED_WAITS, LAST_WORDS, YIELDS_FOR};
use crate::machine::{Command, ConnKey};

use super::{Kit, KitNotice, Reason};

/// How far the end of the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    No,
    /// A successor has the ports; who is here already is served once more.
    Yielding,
    /// Streams may finish; nothing new is opened.
    Draining {
        since: Instant,
    },
    /// Everything is over; last words leave.
    Parting,
    Done,
}

impl Stopping {
    /// Whether nobody gets a stream any more.
    pub(super) fn opens_nothing(self) -> bool {
        !matches!(self, Stopping::No | Stopping::Yielding)
    }

    pub(super) fn is_draining(self) -> bool {
        matches!(self, Stopping::Draining { .. })
    }
}

impl Kit {
    /// The first shutdown drains, the second ends.
    pub(super) fn shut_down(&mut self) {
        if self.cx.stopping.opens_nothing() {
            return self.stop_now();
        }
        self.ports.drain(&mut self.conns.budget, &mut self.cx);
        self.drain();
        self.go_on_stopping();
    }

    fn drain(&mut self) {
        let (grace, now) = (self.cx.config.drain, self.cx.now);
        self.cx.stopping = Stopping::Draining { since: now };
        self.cx.effects.timers.arm(Reason::Shutdown, now + grace);
        let streams = self.sessions.stream_count();
        info!("draining for at most {grace:?}: streams open: {streams}; newcomers get 503");
        self.sessions.drain(grace);
        // Who waits for a laptop is told while there is time.
        let (streams, mut below) = self.streams();
        streams.serve_held(&mut below);
    }

    /// Goes on with the end, where nothing is left to wait for.
    pub(super) fn go_on_stopping(&mut self) {
        let silent = |(_, entry): (_, &ConnEntry)| entry.out.is_empty();
        let served = |(_, entry): (_, &ConnEntry)| !entry.role.is_served() || entry.out.is_empty();
        match self.cx.stopping {
            Stopping::Draining { .. } => {
                let idle = self.sessions.stream_count() == 0 && self.sessions.are_flushed();
                if idle && self.conns.iter().all(served) {
                    self.stop_now();
                }
            }
            Stopping::Parting if self.conns.iter().all(silent) => self.part(),
            _ => {}
        }
    }

    /// Ends all sessions; laptops and visitors get a moment to hear of it.
    pub(super) fn stop_now(&mut self) {
        match self.cx.stopping {
            Stopping::Done => return,
            Stopping::Parting => return self.part(),
            Stopping::Draining { since } => {
                let (cut, took) = (self.sessions.stream_count(), self.cx.now.since(since));
                info!("drained in {took:?}; streams cut: {cut}");
            }
            Stopping::No | Stopping::Yielding => {}
        }
        self.cx.stopping = Stopping::Parting;
        let at = self.cx.now + LAST_WORDS;
        self.cx.effects.timers.arm(Reason::Shutdown, at);
        let (sessions, conns, cx) = (&mut self.sessions, &mut self.conns, &mut self.cx);
        for session in sessions.keys() {
            let (how, why) = (SessionEnd::Shutdown, RESTARTING);
            sessions.end(session, how, why, Some(1001), conns, cx);
        }
        self.settle_sessions();
        self.ports.close_all(&mut self.conns.budget, &mut self.cx);
        self.go_on_stopping();
    }

    /// The very end.
    fn part(&mut self) {
        self.cx.stopping = Stopping::Done;
        let all: Vec<ConnKey> = self.conns.iter().map(|(key, _)| key).collect();
        for conn in all {
            self.conns.dismiss(conn, &mut self.cx);
        }
        for reason in [
            Reason::Shutdown,
            Reason::Accept,
            Reason::Room,
            Reason::Handed,
            // Closing them freed memory, which goes back with the process.
            Reason::Freed,
        ] {
            self.cx.effects.timers.disarm(reason);
        }
        self.cx.tell_all_sums();
        self.cx.effects.ask(Command::Stop);
    }

    /// A successor is wanted: it is told what it has to know.
    pub(super) fn hand_over(&mut self) {
        if self.cx.stopping != Stopping::No {
            return;
        }
        let sessions = self.sessions.iter();
        let sessions =
            sessions.filter_map(|(_, session)| session.handed(self.ports.handed(session)));
        let handed = Handover {
            listen: self.cx.config.listen,
            sessions: sessions.collect(),
            killed: self.sessions.killed().cloned().collect(),
            bans: self.conns.admission.bans.handed(self.cx.now),
        };
        self.cx.effects.notify(KitNotice::HandOver(handed));
    }

    /// A successor listens on all ports. Visitors who are here already are told with their answer
    /// to come on another connection, which leads there; then this kit drains.
    pub(super) fn succeeded(&mut self) {
        if self.cx.stopping != Stopping::No {
            return;
        }
        self.cx.stopping = Stopping::Yielding;
        self.ports.give_away(&mut self.conns.budget, &mut self.cx);
        self.streams.visitors.keep_none(&self.conns);
        let at = self.cx.now + YIELDS_FOR;
        self.cx.effects.timers.arm(Reason::Handed, at);
    }

    /// What was waited for after a handover is over: in the successor for laptops, in the kit
    /// before for visitors.
    pub(super) fn handed_over(&mut self) {
        if self.cx.stopping != Stopping::Yielding {
            return self.ports.wait_no_longer(&mut self.cx);
        }
        let (streams, mut below) = self.streams();
        streams.visitors.close_idle(&mut below);
        self.drain();
        self.go_on_stopping();
    }

    /// Takes over what another kit has told. Visitors wait in the backlog until the laptops that
    /// they came for are back, for a while.
    pub(super) fn inherit(&mut self, handed: Handover) {
        let count = handed.sessions.len();
        let bans = &mut self.conns.admission.bans;
        bans.inherit(&handed.bans, self.cx.now);
        for id in handed.killed {
            self.sessions.inherit_killed(id);
        }
        for one in handed.sessions {
            let (conns, cx) = (&mut self.conns, &mut self.cx);
            let Some(key) = self.sessions.inherit(&one, cx) else {
                warn!("there is no room for a session of the kit before");
                continue;
            };
            let sessions = &mut self.sessions;
            for binding in &one.bindings {
                self.ports.inherit(key, binding, conns, sessions, cx);
            }
        }
        let at = self.cx.now + HANDED_WAITS;
        self.cx.effects.timers.arm(Reason::Handed, at);
        info!("sessions of the kit before that may come back: {count}");
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
