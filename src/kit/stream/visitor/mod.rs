//! EXPOSE: a visitor's connection, one HTTP exchange after the other (PROTOCOL §4, §11).
//!
//! `Visitors` carries out what [`exchange`] says of one: `request` what the visitor sends,
//! `response` what it gets. A connection belongs to its listener, not to a session: whoever owns
//! the port when a request's head is complete serves it, so a takeover or a resume costs nobody a
//! connection. Where it is away, they may wait for it in `holding`.

pub mod exchange;
mod holding;
mod request;
mod response;
mod yielding;

use log::debug;

use crate::clock::Instant;
use crate::http::{Asked, Refusal};
use crate::kit::conns::{Conns, Role};
use crate::kit::context::Context;
use crate::kit::heads::Waiting;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::{HeldEnd, StreamOutcome, StreamRefusal};
use crate::kit::session::{End, Sessions};
use crate::limits::{VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT};
use crate::machine::{CloseHow, Conn, ConnKey, Ended, ListenerKey};
use crate::table::Side;
use crate::text::said;
use crate::wire::code::Code;

use super::waiting::{Held, Holding};
use super::{Below, StreamName, TAKEN_OVER, served_at};
use exchange::{AtFin, Broken, HttpExchange, Look, Movement, Owed, Seen};
use yielding::Yielding;

/// A connection to an EXPOSE port.
#[derive(Debug)]
pub(in crate::kit) struct Visitor {
    listener: ListenerKey,
    http: HttpExchange,
    /// The stream of the exchange, or of the last one.
    last: Option<StreamName>,
    /// There was no descriptor for it but to say so.
    no_descriptors: bool,
    /// Its place among those who wait for a laptop.
    held: Option<Held>,
}

/// All visitors, by their connections.
#[derive(Debug, Default)]
pub(in crate::kit) struct Visitors {
    all: Side<Conn, Visitor>,
    /// Whose places others may have.
    yielding: Yielding,
    /// Who waits for a laptop.
    holding: Holding,
    /// Sessions that have no stream left to open.
    spent: Vec<SessionKey>,
    /// Every answer is the last on its connection.
    keeps_none: bool,
}

impl Visitor {
    fn stream(&self) -> Option<StreamName> {
        self.last.filter(|_| self.http.is_open())
    }

    /// Memory of what came and waits.
    fn waiting(&self) -> Waiting {
        match self.http.is_waiting() {
            true => Waiting::Head(self.http.capacity()),
            false => Waiting::Behind(self.http.capacity()),
        }
    }

    /// What the session knows of its stream.
    fn movement(&self, sessions: &Sessions, now: Instant) -> Option<Movement> {
        let name = self.stream()?;
        let mux = sessions.mux(name.session)?;
        // Nobody's clock runs while its lane is waited for (PROTOCOL §9), or brings none of the
        // signs of life that were promised: then it is about to be.
        let last = match mux.stands_still(name.stream) {
            true => now,
            false if sessions.is_promised_to_be_heard(name.session) => {
                let since = mux.clocks_run_since(name.stream, now);
                mux.streams().last_moved(name.stream)?.max(since)
            }
            false => mux.streams().last_moved(name.stream)?,
        };
        Some(Movement {
            last,
            held_by_client: mux.streams().is_held_by_peer(name.stream),
        })
    }

    /// Resets its stream, if it has one.
    fn abandon(
        &self,
        outcome: StreamOutcome,
        why: &str,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let Some(name) = self.stream() else {
            return;
        };
        cx.metrics.stream_ended(outcome);
        if let Some(mux) = name.mux(sessions) {
            mux.reset(name.stream, Code::Cancel, why);
        }
    }
}

impl Visitors {
    /// One who came to a port; `no_descriptors`: and is only told that there is no room for it.
    pub(in crate::kit) fn arrived(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        no_descriptors: bool,
        cx: &mut Context,
    ) {
        let visitor = Visitor {
            listener,
            http: HttpExchange::new(cx.config.visitor_heads, cx.now),
            last: None,
            no_descriptors,
            held: None,
        };
        self.all.insert(conn, visitor);
        cx.arm_conn(conn, cx.now + VISITOR_HEAD_TIMEOUT);
    }

    pub(in crate::kit) fn get(&self, conn: ConnKey) -> Option<&Visitor> {
        self.all.get(conn)
    }

    pub(in crate::kit) fn stream(&self, conn: ConnKey) -> Option<StreamName> {
        self.all.get(conn)?.stream()
    }

    /// A session that has no stream left to open, and has to go.
    pub(in crate::kit) fn next_spent(&mut self) -> Option<SessionKey> {
        self.spent.pop()
    }

    /// Whether a newcomer would get the place of somebody.
    pub(in crate::kit) fn someone_yields(
        &mut self,
        conns: &Conns,
        sessions: &Sessions,
        now: Instant,
    ) -> bool {
        self.yielding.someone(&self.all, conns, sessions, now)
    }

    /// A visitor that is to be closed for a newcomer, if one can go.
    pub(in crate::kit) fn who_yields(
        &mut self,
        conns: &Conns,
        sessions: &Sessions,
        now: Instant,
    ) -> Option<ConnKey> {
        self.yielding.who(&self.all, conns, sessions, now)
    }

    /// Closes a connection whose place was given to somebody else.
    pub(in crate::kit) fn yield_place(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        if let (Some(entry), Some(visitor)) = (conns.get(conn), self.all.get(conn))
            && entry.role == Role::Visitor
            && visitor.stalls(entry, sessions, cx.now)
        {
            let peer = entry.from.ip();
            let why = "nothing moved for long, and others wait for the place";
            visitor.abandon(StreamOutcome::Stalled, why, sessions, cx);
            cx.complain_refused(peer, "stalled", why);
            return conns.close(conn, CloseHow::Reset, cx);
        }
        // Its stream, if it has one, stands still no more than others'.
        conns.close(conn, CloseHow::Clean, cx);
    }

    /// Counts a request of the port that the visitor came to.
    fn count_request(&self, conn: ConnKey, status: u16, below: &mut Below<'_>) {
        let listener = self.all.get(conn).map(|visitor| visitor.listener);
        if let Some(binding) = listener.and_then(|it| below.ports.bound(it)) {
            below.cx.metrics.request(binding.port(), status);
        }
    }

    /// A word of the kit's own, in place of a response; the connection stays if the request was
    /// read whole and the visitor likes it to.
    fn answer(&mut self, conn: ConnKey, owed: Owed, refusal: &Refusal, below: &mut Below<'_>) {
        let keep_alive = owed.asked.keep_alive && owed.whole;
        let mut text = std::mem::take(&mut below.cx.text);
        text.clear();
        let asked = Asked {
            keep_alive,
            ..owed.asked
        };
        refusal.write(&mut text, asked, below.cx.date);
        self.count_request(conn, refusal.status, below);
        let Below { cx, conns, .. } = below;
        if !keep_alive {
            conns.say_and_leave(conn, &text, cx);
        } else if let Some(entry) = conns.get_mut(conn) {
            entry.out.push(&text);
            if let Some(visitor) = self.all.get_mut(conn) {
                visitor.http.answered(cx.now);
            }
            cx.effects.wake(conn);
        }
        cx.text = text;
    }

    /// A malformed request: said and closed, nothing forwarded.
    pub(in crate::kit) fn reject(
        &mut self,
        conn: ConnKey,
        refusal: &Refusal,
        below: &mut Below<'_>,
    ) {
        self.let_go(conn, HeldEnd::TurnedAway, below);
        debug!(
            "visitor refused with {}: {}",
            refusal.status,
            said(refusal.why())
        );
        let mut text = std::mem::take(&mut below.cx.text);
        text.clear();
        let visitor = self.all.get(conn);
        let head = visitor.is_some_and(|visitor| visitor.http.asks_head());
        refusal.write_and_close(&mut text, head, below.cx.date);
        self.count_request(conn, refusal.status, below);
        below.conns.say_and_leave(conn, &text, below.cx);
        below.cx.text = text;
    }

    /// There is no stream for the visitor, who may come again.
    fn busy(&mut self, conn: ConnKey, owed: Owed, why: StreamRefusal, below: &mut Below<'_>) {
        if let Some(entry) = below.conns.get(conn) {
            below.cx.stream_refused(entry.from.ip(), why);
        }
        let refusal = Refusal::text(503, why.sentence()).with(match why {
            StreamRefusal::Away => &[("retry-after", "5")],
            _ => &[("retry-after", "1")],
        });
        self.answer(conn, owed, &refusal, below);
    }

    /// The stream of a visitor is over before its exchange was.
    pub(super) fn broken(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        let End { outcome, code, why } = end;
        debug!("visitor's stream broken: {} ({})", said(why), code.name());
        below.cx.metrics.stream_ended(outcome);
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        // What came of it takes memory.
        let at_once = outcome == StreamOutcome::Stalled;
        match visitor.http.stream_broken(at_once) {
            Broken::Fine => {}
            // It has no place for one more, which passes (PROTOCOL §11).
            Broken::Unanswered(owed) if code == Code::RefusedStream => {
                self.busy(conn, owed, StreamRefusal::Client, below);
            }
            Broken::Unanswered(owed) => {
                let refusal = match outcome {
                    // Half-closed and idle; it waited for its answer.
                    StreamOutcome::TimedOut => Refusal::text(504, TOO_LATE),
                    _ => Refusal::text(502, "the tunnel's client did not answer"),
                };
                self.answer(conn, owed, &refusal, below);
            }
            Broken::Drains => {
                let Below { cx, conns, .. } = below;
                conns.log_end(conn, "visitor's stream", "finished", cx.now);
                conns.say_and_leave(conn, b"", cx);
            }
            Broken::Cut { shown } => {
                let Below { cx, conns, .. } = below;
                conns.log_end(conn, "visitor's stream", why, cx.now);
                match at_once {
                    true => conns.close(conn, CloseHow::Reset, cx),
                    false => conns.cut(conn, shown, cx),
                }
            }
        }
    }

    /// Resets a visitor's stream before its exchange is over.
    fn break_stream(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        if let Some(name) = self.stream(conn)
            && let Some(mux) = name.mux(below.sessions)
        {
            mux.reset(name.stream, end.code, end.why);
        }
        self.broken(conn, end, below);
    }

    /// Another session takes a port over: the streams of those who came to it are reset; they see
    /// 502, or a broken connection.
    pub(in crate::kit) fn taken_over(&mut self, listener: ListenerKey, below: &mut Below<'_>) {
        let here = |conn| self.all.get(conn).is_some_and(|it| it.listener == listener);
        for conn in served_at(listener, here, below) {
            let end = TAKEN_OVER;
            self.break_stream(conn, end, below);
        }
    }

    /// Their port carries something else from now on: they are closed behind what is said to them.
    pub(in crate::kit) fn turned_away(&mut self, listener: ListenerKey, below: &mut Below<'_>) {
        let here = |conn: &ConnKey| {
            self.all
                .get(*conn)
                .is_some_and(|it| it.listener == listener)
        };
        let all = below.conns.iter().map(|(conn, _)| conn);
        let all: Vec<ConnKey> = all.filter(here).collect();
        for conn in all {
            self.let_go(conn, HeldEnd::TurnedAway, below);
            below.conns.say_and_leave(conn, b"", below.cx);
        }
    }

    /// The visitor's connection is gone; its entry is dropped by the caller.
    pub(super) fn gone(&mut self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        debug!("visitor gone: {how:?}");
        self.abandon(
            conn,
            StreamOutcome::ResetByPeer,
            "the visitor is gone",
            below,
        );
        self.let_go(conn, HeldEnd::Gone, below);
    }

    fn abandon(&self, conn: ConnKey, outcome: StreamOutcome, why: &str, below: &mut Below<'_>) {
        if let Some(visitor) = self.all.get(conn) {
            visitor.abandon(outcome, why, below.sessions, below.cx);
        }
    }

    /// Gives an exchange up, without a word.
    fn cut(&self, conn: ConnKey, outcome: StreamOutcome, why: &str, below: &mut Below<'_>) {
        self.abandon(conn, outcome, why, below);
        below.conns.close(conn, CloseHow::Reset, below.cx);
    }

    /// It is looked whether the visitor's time is over.
    pub(in crate::kit) fn timeout(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if self.held_timeout(conn, below) {
            return;
        }
        let now = below.cx.now;
        let body_due = self.body_due(conn, below);
        if body_due.is_some_and(|due| now >= due) {
            return self.body_stopped(conn, below);
        }
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (Some(entry), Some(visitor)) = (conns.get(conn), self.all.get(conn)) else {
            return;
        };
        let seen = Seen {
            fin: entry.fin(),
            flushed: entry.out.is_empty(),
            movement: visitor.movement(sessions, now),
        };
        let (patience, often) = (cx.config.response_timeout, cx.config.visitor_look());
        match visitor.http.look(&seen, patience, often, now) {
            Look::Never => {}
            Look::Until(at) => cx.arm_conn(conn, body_due.map_or(at, |due| due.min(at))),
            Look::Idle => conns.close(conn, CloseHow::Clean, cx),
            Look::SlowHead => {
                let refusal = Refusal::text(408, "the head of the request took too long");
                self.reject(conn, &refusal, below);
            }
            Look::Stuck if seen.flushed => {
                self.cut(
                    conn,
                    StreamOutcome::ResetByPeer,
                    "the visitor is gone",
                    below,
                );
            }
            Look::Stuck => {
                self.cut(
                    conn,
                    StreamOutcome::Stalled,
                    "the visitor takes nothing",
                    below,
                );
            }
            Look::Unanswered { owed, gone } => {
                let (outcome, why) = match gone {
                    true => (StreamOutcome::ResetByPeer, "the visitor is gone"),
                    false => (StreamOutcome::TimedOut, "no response in time"),
                };
                self.abandon(conn, outcome, why, below);
                self.answer(conn, owed, &Refusal::text(504, TOO_LATE), below);
                if below.conns.role(conn) == Some(Role::Visitor) {
                    below.cx.arm_conn(conn, now + VISITOR_HEAD_TIMEOUT);
                }
            }
        }
    }

    /// Its FIN lies behind bytes that are not read: more requests, or a body without credit.
    pub(in crate::kit) fn ends_ahead(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if self.held_ends(conn, below) {
            return;
        }
        let now = below.cx.now;
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        match visitor.http.visitor_ends_ahead(now) {
            AtFin::GoOn | AtFin::Upload => {}
            AtFin::Watch => below.cx.arm_conn(conn, now + VISITOR_GONE_AFTER),
            AtFin::Raw { .. } => {
                if let Some(name) = visitor.stream()
                    && let Some(mux) = name.mux(below.sessions)
                {
                    mux.streams_mut().local_finishes(name.stream);
                }
            }
        }
    }

    /// From now on no connection is kept for another request.
    pub(in crate::kit) fn keep_none(&mut self, conns: &Conns) {
        self.keeps_none = true;
        for (conn, _) in conns.iter() {
            if let Some(visitor) = self.all.get_mut(conn) {
                visitor.http.answer_is_last();
            }
        }
    }

    /// Closes the connections of those that were served and ask for nothing.
    pub(in crate::kit) fn close_idle(&mut self, below: &mut Below<'_>) {
        let is_idle = |conn: &ConnKey| {
            let waits = self.all.get(*conn).and_then(|it| it.http.waits_since());
            waits.is_some_and(|(_, served, _)| served)
        };
        let all = below.conns.iter().map(|(conn, _)| conn);
        let idle: Vec<ConnKey> = all.filter(is_idle).collect();
        for conn in idle {
            below.conns.close(conn, CloseHow::Clean, below.cx);
        }
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        if let Some(visitor) = self.all.remove(conn)
            && let Some(held) = visitor.held
        {
            self.holding.leave(visitor.listener, &held);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn shrink(&mut self) {
        self.all.shrink();
    }
}

/// What an upgraded connection is called in the log.
const LIVED: &str = "upgraded stream";
const TOO_LATE: &str = "the upstream did not answer in time";

#[cfg(test)]
mod tests;

#[cfg(test)]
mod body_tests;

#[cfg(test)]
mod gone_tests;
