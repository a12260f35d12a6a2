//! Raw TCP to the laptop's service (PROTOCOL §4): a caller on the container's loopback (PULL), or
//! one from the world (EXPOSE).
//!
//! A caller who comes while the laptop is away is closed, for a TCP service has no way to say
//! "later"; or waits unread, where the operator said so (`--hold-visitors`).

use log::debug;

use crate::clock::Instant;
use crate::kit::Reason;
use crate::kit::conns::Fin;
use crate::kit::front::throttle::place;
use crate::kit::metrics::{HeldEnd, StreamOutcome, StreamRefusal};
use crate::kit::session::{End, Sessions};
use crate::limits::{BULK_PAYLOAD, VISITOR_GONE_AFTER};
use crate::machine::{CloseHow, Conn, ConnKey, Ended, ListenerKey};
use crate::mux::{CannotOpen, Wanted};
use crate::pipe::{Flow, RawPipe};
use crate::table::Side;
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::BindMode;
use crate::wire::open::write_open_tcp;

use super::arrivals::may_serve_one_more;
use super::waiting::{Held, Holding, may_wait, no_room_at};
use super::{Below, StreamName, TAKEN_OVER, served_at};

/// A connection to a port of raw TCP, and its stream.
#[derive(Debug)]
struct Caller {
    listener: ListenerKey,
    name: StreamName,
    pipe: RawPipe,
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
            name: StreamName { session, stream },
            pipe: RawPipe::new(),
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
        Some(self.all.get(conn)?.name)
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
        let name = self.stream(conn);
        let mux = name.and_then(|name| Some((name.mux(sessions)?, name.stream)));
        mux.map_or(&mut [], |(mux, stream)| {
            mux.data_space(stream, BULK_PAYLOAD)
        })
    }

    pub(in crate::kit) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        let now = below.cx.now;
        let Some(Caller { name, pipe, .. }) = self.all.get_mut(conn) else {
            return;
        };
        let Some(mux) = name.mux(below.sessions) else {
            return;
        };
        if count > 0 {
            return mux.data_commit(name.stream, count, now);
        }
        if pipe.conn_ended() == Flow::Eof {
            mux.send_eof(name.stream, now);
        }
        if let Some(entry) = below.conns.get_mut(conn) {
            entry.read_closed = true;
        }
        if pipe.is_over() {
            below.conns.flows(conn, Flow::Over, LIVED, below.cx);
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
        if let Some(name) = self.stream(conn)
            && let Some(mux) = name.mux(below.sessions)
        {
            mux.streams_mut().local_finishes(name.stream);
        }
    }

    pub(super) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let (Some(entry), Some(it)) = (below.conns.get(conn), self.all.get_mut(conn)) else {
            return;
        };
        let flow = it.pipe.stream_ended(entry.out.is_empty());
        below.conns.flows(conn, flow, LIVED, below.cx);
    }

    /// Of what was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(in crate::kit) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        let Some(Caller { name, pipe, .. }) = self.all.get_mut(conn) else {
            return;
        };
        name.passed_on(passed, below.sessions, below.cx.now);
        if drained {
            let flow = pipe.drained();
            below.conns.flows(conn, flow, LIVED, below.cx);
        }
    }

    /// RESET, or the lane is gone: the caller sees a reset, unless all of the answer came.
    pub(super) fn broken(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        let End { outcome, code, why } = end;
        let Below { cx, conns, .. } = below;
        let ended = |it: &Caller| it.pipe.stream_has_ended();
        if outcome != StreamOutcome::Stalled && self.all.get(conn).is_some_and(ended) {
            conns.log_end(conn, LIVED, "finished", cx.now);
            cx.metrics.stream_ended(StreamOutcome::Finished);
            return conns.say_and_leave(conn, b"", cx);
        }
        debug!("caller broken: {} ({})", said(why), code.name());
        conns.log_end(conn, LIVED, why, cx.now);
        cx.metrics.stream_ended(outcome);
        if code == Code::RefusedStream
            && let Some(entry) = conns.get(conn)
        {
            cx.stream_refused(entry.from.ip(), StreamRefusal::Client);
        }
        match outcome {
            // What came of it takes memory.
            StreamOutcome::Stalled => conns.close(conn, CloseHow::Reset, cx),
            _ => conns.cut(conn, false, cx),
        }
    }

    /// The caller's connection is gone.
    pub(super) fn gone(&mut self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        if self.released(conn).is_some() {
            below.cx.metrics.held(HeldEnd::Gone);
        }
        let Some(name) = self.stream(conn) else {
            return;
        };
        debug!("caller gone: {how:?}");
        below
            .conns
            .log_end(conn, LIVED, "the caller is gone", below.cx.now);
        below.cx.metrics.stream_ended(StreamOutcome::ResetByPeer);
        if let Some(mux) = name.mux(below.sessions) {
            mux.reset(
                name.stream,
                Code::Cancel,
                "the caller's connection was reset",
            );
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
