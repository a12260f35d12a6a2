//! Raw TCP to the laptop's service (PROTOCOL §4): a caller on the container's loopback (PULL), or
//! one from the world (EXPOSE).
//!
//! A caller who comes while the laptop is away is closed, for a TCP service has no way to say
//! "later"; or waits unread, where the operator said so (`--hold-visitors`).

use crate::clock::Instant;
use crate::kit::Reason;
use crate::kit::conns::Fin;
use crate::kit::front::throttle::place;
use crate::kit::metrics::{HeldEnd, StreamRefusal};
use crate::kit::session::{End, Sessions};
use crate::limits::VISITOR_GONE_AFTER;
use crate::machine::{CloseHow, Conn, ConnKey, Ended, ListenerKey};
use crate::mux::{CannotOpen, Wanted};
use crate::table::Side;
use crate::wire::code::Code;
use crate::wire::control::BindMode;
use crate::wire::open::write_open_tcp;

use super::arrivals::may_serve_one_more;
use super::raw::Raw;
use super::waiting::{Held, Holding, may_wait, no_room_at};
use super::{Below, StreamName, TAKEN_OVER, served_at};

/// A connection to a port of raw TCP, and its stream.
#[derive(Debug)]
struct Caller {
    listener: ListenerKey,
    raw: Raw,
}

/// One who waits for a laptop.
#[derive(Debug)]
struct Waiting {
    listener: ListenerKey,
    held: Held,
}

/// All callers, by their connections.
#[derive(Debug, Default)]
pub(in crate::kit) struct Callers {
    all: Side<Conn, Caller>,
    waiting: Side<Conn, Waiting>,
    holding: Holding,
}

impl Callers {
    /// Opens the stream of a caller who has come, or lets it wait, or sends it away.
    pub(in crate::kit) fn arrived(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        below: &mut Below<'_>,
    ) -> bool {
        let Err(why) = self.open(conn, listener, below) else {
            return true;
        };
        if self.hold(conn, listener, why, None, below) {
            return true;
        }
        if let Some(entry) = below.conns.get(conn) {
            below.cx.stream_refused(entry.from.ip(), why);
        }
        below.conns.drop(conn, below.cx);
        false
    }

    /// Opens a stream of whoever owns the port now.
    fn open(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        below: &mut Below<'_>,
    ) -> Result<(), StreamRefusal> {
        let Below {
            cx,
            conns,
            sessions,
            ports,
        } = below;
        let binding = ports.bound_mut(listener).ok_or(StreamRefusal::Away)?;
        let (session, bind_id) = (binding.owner, binding.bind_id);
        let peer = conns.get(conn).ok_or(StreamRefusal::Away)?.from;
        let owner = sessions.get(session).filter(|owner| owner.is_open());
        let bind_ok = owner.ok_or(StreamRefusal::Away)?.bind_ok_of(bind_id);
        // Who calls on the container's loopback is one of its own programs, whichever it is.
        let holder = (binding.service.mode() == BindMode::Expose).then(|| place(peer.ip()));
        if holder.is_some_and(|holder| !may_serve_one_more(holder, conns, sessions)) {
            return Err(StreamRefusal::Share);
        }
        cx.text.clear();
        write_open_tcp(&mut cx.text, bind_id, binding.port(), peer);
        let mux = sessions.mux_mut(session).ok_or(CannotOpen::NoLane)?;
        let wanted = Wanted { holder, bind_ok };
        let stream = mux.open_for(wanted, conn, (&[], &cx.text), cx.now)?;
        binding.served += 1;
        let caller = Caller {
            listener,
            raw: Raw::new(StreamName { session, stream }, LIVED),
        };
        self.all.insert(conn, caller);
        cx.effects.reset_if_killed(conn);
        Ok(())
    }

    /// A caller may wait for what it cannot have now. Whoever waited before, as `was` says, goes on
    /// with it, also where it is only room that is wanting.
    fn hold(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        why: StreamRefusal,
        was: Option<Held>,
        below: &mut Below<'_>,
    ) -> bool {
        if !may_wait(why, was.is_some(), listener, below) {
            return false;
        }
        let held = match was {
            Some(held) => {
                self.holding.stand(conn, listener, &held);
                Some(held)
            }
            None => self.holding.enter(conn, listener, below.conns, below.cx),
        };
        let Some(held) = held else {
            return false;
        };
        below.cx.arm_conn(conn, held.until);
        self.waiting.insert(conn, Waiting { listener, held });
        true
    }

    /// Takes its place from one who waits.
    fn released(&mut self, conn: ConnKey) -> Option<Waiting> {
        let waiting = self.waiting.remove(conn)?;
        self.holding.leave(waiting.listener, &waiting.held);
        Some(waiting)
    }

    /// Who has waited in vain is closed, and sees that it was not the end of an answer.
    fn refuse_held(
        &mut self,
        conn: ConnKey,
        end: HeldEnd,
        why: StreamRefusal,
        below: &mut Below<'_>,
    ) {
        if self.released(conn).is_none() {
            return;
        }
        let Below { cx, conns, .. } = below;
        cx.metrics.held(end);
        if let Some(entry) = conns.get(conn) {
            cx.stream_refused(entry.from.ip(), why);
        }
        conns.close(conn, CloseHow::Reset, cx);
    }

    /// It is looked whether one who waits has waited long enough.
    pub(in crate::kit) fn timeout(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Some(until) = self.waiting.get(conn).map(|it| it.held.until) else {
            return;
        };
        if below.cx.now < until {
            return below.cx.arm_conn(conn, until);
        }
        let fin = below.conns.get(conn).map(|entry| entry.fin());
        let end = match fin {
            Some(Fin::NotYet) | None => HeldEnd::Expired,
            Some(Fin::Ahead | Fin::Read) => HeldEnd::Gone,
        };
        self.refuse_held(conn, end, StreamRefusal::Away, below);
    }

    /// Serves those whose laptop is there again, oldest first, as far as there is room, and closes
    /// those who wait in vain. Gives whether anybody waits no longer.
    pub(super) fn serve_held(&mut self, below: &mut Below<'_>) -> bool {
        let before = self.holding.len();
        let (mut ready, in_vain) = self.holding.sort_out(below);
        for (conn, why) in in_vain {
            self.refuse_held(conn, HeldEnd::TurnedAway, why, below);
        }
        while let Some(conn) = self.holding.oldest(&ready) {
            self.serve_next(conn, &mut ready, below);
        }
        self.holding.len() < before
    }

    /// The one who has waited longest of those at `ready` ports. Where there is no room for it,
    /// there is none for those behind it either.
    fn serve_next(&mut self, conn: ConnKey, ready: &mut Vec<ListenerKey>, below: &mut Below<'_>) {
        let Some(Waiting { listener, held }) = self.released(conn) else {
            return;
        };
        match self.open(conn, listener, below) {
            Ok(()) => {
                below.cx.metrics.held(HeldEnd::Served);
                let ends = below.conns.get(conn).map(|entry| entry.fin());
                if ends == Some(Fin::Ahead) {
                    self.ends_ahead(conn, below);
                }
                below.cx.effects.wake(conn);
            }
            Err(why) if self.hold(conn, listener, why, Some(held), below) => {
                no_room_at(listener, ready, below);
            }
            Err(why) => {
                let Below { cx, conns, .. } = below;
                cx.metrics.held(HeldEnd::TurnedAway);
                if let Some(entry) = conns.get(conn) {
                    cx.stream_refused(entry.from.ip(), why);
                }
                conns.close(conn, CloseHow::Reset, cx);
            }
        }
    }

    /// How many wait.
    pub(super) fn held(&self) -> usize {
        self.holding.len()
    }

    /// Another session takes a port over: the streams of those who came to it are reset.
    pub(super) fn taken_over(&mut self, listener: ListenerKey, below: &mut Below<'_>) {
        let here = |conn| self.all.get(conn).is_some_and(|it| it.listener == listener);
        for conn in served_at(listener, here, below) {
            let end = TAKEN_OVER;
            if let Some(name) = self.stream(conn)
                && let Some(mux) = name.mux(below.sessions)
            {
                mux.reset(name.stream, end.code, end.why);
            }
            self.broken(conn, end, below);
        }
    }

    /// Their port carries something else from now on: nobody waits at it any more.
    pub(super) fn turned_away(&mut self, listener: ListenerKey, below: &mut Below<'_>) {
        for conn in self.holding.at(listener) {
            self.refuse_held(conn, HeldEnd::TurnedAway, StreamRefusal::Away, below);
        }
    }

    /// Whether whoever waits has a place, and nobody else has, and none waits for ever.
    pub(in crate::kit) fn check_held<'a>(
        &self,
        conns: impl Iterator<Item = &'a ConnKey>,
        due: impl Fn(Reason) -> Option<Instant>,
    ) {
        let mut held = 0;
        for conn in conns {
            let Some(waiting) = self.waiting.get(*conn) else {
                continue;
            };
            held += 1;
            self.holding
                .check(*conn, waiting.listener, &waiting.held, &due);
        }
        assert_eq!(held, self.holding.len(), "a ghost among those who wait");
    }

    pub(in crate::kit) fn stream(&self, conn: ConnKey) -> Option<StreamName> {
        Some(self.all.get(conn)?.raw.name)
    }

    pub(in crate::kit) fn knows(&self, conn: ConnKey) -> bool {
        self.all.get(conn).is_some() || self.waiting.get(conn).is_some()
    }

    /// Where its next bytes go: straight into the lane.
    pub(in crate::kit) fn space<'s>(
        &self,
        conn: ConnKey,
        sessions: &'s mut Sessions,
    ) -> &'s mut [u8] {
        let caller = self.all.get(conn);
        caller.map_or(&mut [], |caller| caller.raw.space(sessions))
    }

    pub(in crate::kit) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        if let Some(caller) = self.all.get_mut(conn) {
            caller.raw.received(conn, count, below);
        }
    }

    /// Its FIN lies behind bytes that find no credit: the stream counts as half-closed. One who
    /// waits may have hung up, and waits no longer than a quick answer would take.
    pub(in crate::kit) fn ends_ahead(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if let Some(waiting) = self.waiting.get_mut(conn) {
            let held = &mut waiting.held;
            held.until = held.until.min(below.cx.now + VISITOR_GONE_AFTER);
            return below.cx.arm_conn(conn, held.until);
        }
        if let Some(caller) = self.all.get(conn) {
            caller.raw.ends_ahead(below.sessions);
        }
    }

    pub(super) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if let Some(caller) = self.all.get_mut(conn) {
            caller.raw.stream_ended(conn, below);
        }
    }

    /// Of what was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(in crate::kit) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        if let Some(caller) = self.all.get_mut(conn) {
            caller.raw.transmitted(conn, passed, drained, below);
        }
    }

    /// RESET, or the lane is gone: the caller sees a reset, unless all of the answer came.
    pub(super) fn broken(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        let from = below.conns.get(conn).map(|entry| entry.from.ip());
        let cut = self
            .all
            .get(conn)
            .is_some_and(|caller| caller.raw.broken(conn, end, below));
        if cut
            && end.code == Code::RefusedStream
            && let Some(from) = from
        {
            below.cx.stream_refused(from, StreamRefusal::Client);
        }
    }

    /// The caller's connection is gone.
    pub(super) fn gone(&mut self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        if self.released(conn).is_some() {
            below.cx.metrics.held(HeldEnd::Gone);
        }
        if let Some(caller) = self.all.get(conn) {
            caller.raw.gone(conn, how, below);
        }
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        self.all.remove(conn);
        self.released(conn);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len() + self.holding.len()
    }

    pub(super) fn shrink(&mut self) {
        self.all.shrink();
        self.waiting.shrink();
    }
}

const LIVED: &str = "caller's stream";

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
