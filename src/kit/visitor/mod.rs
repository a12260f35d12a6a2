//! EXPOSE: a visitor's connection, one HTTP exchange after the other (PROTOCOL §4, §11).
//!
//! `request` carries what the visitor sends, `response` what it gets. A connection belongs to its
//! listener, not to a session: whoever owns the port when a request's head is complete serves it,
//! so a takeover or a resume costs nobody a connection.
//!
//! Invariants: the next head is parsed only when the response before it has left whole; bytes of a
//! body are never parsed as a head; until the client's 101 nothing is raw.

mod idle;
mod request;
mod response;

pub(super) use idle::Yielding;

use std::time::Duration;

use log::debug;

use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::http::write::Reply;
use crate::http::{Asked, BodyDecoder, HeadScanner, ResponseBody};
use crate::kit::conns::{After, Fin, Role};
use crate::kit::metrics::{StreamOutcome, StreamRefusal};
use crate::kit::session::StreamName;
use crate::limits::{
    VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT, VISITOR_IDLE_TIMEOUT, VISITOR_STALLED_FOR,
};
use crate::machine::{CloseHow, Conn, ConnKey, Ended, ListenerKey};
use crate::table::Side;
use crate::text::said;
use crate::wire::code::Code;

use super::Kit;

const TOO_LATE: &str = "the upstream did not answer in time\n";

/// All visitors, by their connections.
pub(super) type Visitors = Side<Conn, Visitor>;

/// A connection to an EXPOSE port.
#[derive(Debug)]
pub(super) struct Visitor {
    listener: ListenerKey,
    /// What came and was not used yet: part of a head, or what was sent ahead.
    inbound: Buffer,
    scanner: HeadScanner,
    state: State,
    /// There was no descriptor for it but to say so.
    no_descriptors: bool,
    /// When its current head, or the wait for one, began.
    since: Instant,
    /// Requests that were answered.
    answered: u32,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Waiting,
    /// A request is being served.
    Exchange(Exchange),
    /// After a 101: bytes both ways.
    Raw(StreamName),
}

#[derive(Debug)]
struct Exchange {
    /// None once the stream is over and the rest is only to be sent.
    stream: Option<StreamName>,
    asked: Asked,
    upload: BodyDecoder,
    /// EOF was sent after the request's body.
    upload_done: bool,
    /// Decoded data at the head of `inbound` that found no credit, and framing behind it.
    owed: usize,
    owed_framing: usize,
    response: Response,
    /// When the request was complete enough to be passed on.
    begun: Instant,
    /// Since when only the upstream is waited for, as far as can be seen here; while a response
    /// waits to leave, since when the visitor has taken nothing of it.
    waiting_since: Instant,
    /// When more of the request's body came last, or could be read again after a want of credit.
    body_at: Instant,
    /// The visitor holds its body back until the upstream says `100`.
    holds_back: bool,
    keep_alive: bool,
    status: u16,
}

/// What the session knows of the exchange's stream.
#[derive(Debug, Clone, Copy)]
struct Movement {
    /// When anything of it moved last, at either end.
    last: Instant,
    /// Some of the request's body has reached the client, as far as it has told, and no further.
    held_by_client: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    /// The final head has not come.
    Awaited,
    /// The head was sent; for a body of known length this is what is left of it.
    Body(ResponseBody),
    /// Everything was queued.
    Done,
}

impl Visitor {
    /// One who came to a port; `no_descriptors`: and is only told that there is no room for it.
    pub(super) fn new(listener: ListenerKey, no_descriptors: bool, now: Instant) -> Visitor {
        Visitor {
            listener,
            inbound: Buffer::new(),
            scanner: HeadScanner::new(),
            state: State::Waiting,
            no_descriptors,
            since: now,
            answered: 0,
        }
    }

    pub(super) fn listener(&self) -> ListenerKey {
        self.listener
    }

    pub(super) fn stream(&self) -> Option<StreamName> {
        match &self.state {
            State::Waiting => None,
            State::Exchange(exchange) => exchange.stream,
            State::Raw(name) => Some(*name),
        }
    }
}

impl Exchange {
    /// Whether its visitor has asked for everything, sent FIN, and sees nothing of an answer. A
    /// browser that aborts does the same, and its upstream should not work on for nobody. Where the
    /// FIN lies behind bytes that nobody takes, it may also be a body that was cut off.
    fn may_be_gone(&self, fin: Fin) -> bool {
        let sent_all = match fin {
            Fin::NotYet => false,
            Fin::Ahead => true,
            Fin::Read => self.upload_done,
        };
        sent_all && self.response == Response::Awaited
    }

    /// When it is given up if nothing moves until then. A clock runs only while nothing does, and
    /// what a slow upstream takes of a long body moves.
    fn due(
        &self,
        fin: Fin,
        flushed: bool,
        movement: Option<Movement>,
        response_timeout: Duration,
    ) -> Option<Instant> {
        let awaited = self.response == Response::Awaited;
        if !awaited && !flushed {
            return Some(self.waiting_since + VISITOR_STALLED_FOR);
        }
        let moved = movement.map_or(self.waiting_since, |it| it.last.max(self.waiting_since));
        // Who sent FIN behind a body waits until it was taken, in however large steps.
        let all_left = self.upload_done || fin != Fin::Ahead;
        let waits = all_left && movement.is_some_and(|it| it.held_by_client);
        let patience = match awaited {
            true if waits || !self.may_be_gone(fin) => response_timeout,
            true => VISITOR_GONE_AFTER.min(response_timeout),
            false if fin == Fin::NotYet => return None,
            // It may be half-closed and reading, or gone: a response that stands still tells
            // nothing in time, for its kernel acknowledges what it no longer wants.
            false if waits => response_timeout.max(VISITOR_GONE_AFTER),
            false => VISITOR_GONE_AFTER,
        };
        Some(moved + patience)
    }

    /// When the visitor's silence ends its request, while it owes more of a body. A body stands
    /// still only when nothing else moves either: an answer that has begun may be what it waits
    /// for.
    fn body_due(&self, flushed: bool, timeout: Duration) -> Option<Instant> {
        let owes = self.stream.is_some() && !self.upload_done && !self.upload.is_complete();
        match self.response {
            _ if !owes || self.holds_back => None,
            Response::Awaited => Some(self.body_at + timeout),
            _ if flushed => Some(self.body_at.max(self.waiting_since) + timeout),
            _ => None,
        }
    }
}

impl Kit {
    fn visitor(&mut self, conn: ConnKey) -> Option<&mut Visitor> {
        let is_one = self.conns.role(conn) == Some(Role::Visitor);
        self.visitors.get_mut(conn).filter(|_| is_one)
    }

    /// Counts a request of the port that the visitor came to.
    fn count_request(&mut self, conn: ConnKey, status: u16) {
        let Some(listener) = self.visitor(conn).map(|visitor| visitor.listener) else {
            return;
        };
        if let Some((_, port)) = self
            .listeners
            .get(listener)
            .and_then(|entry| entry.port_name())
        {
            self.cx.metrics.request(port, status);
        }
    }

    /// What the session knows of the visitor's stream.
    fn movement(&self, conn: ConnKey) -> Option<Movement> {
        let name = self.visitors.get(conn)?.stream()?;
        let mux = self.sessions.mux(name.session)?;
        Some(Movement {
            last: mux.last_moved(name.stream)?,
            held_by_client: mux.is_held_by_peer(name.stream),
        })
    }

    /// A reply of the kit's own, in place of a response; the connection stays if the request was
    /// read whole and the visitor likes it to.
    fn answer(&mut self, conn: ConnKey, asked: Asked, read_whole: bool, reply: &Reply<'_>) {
        let now = self.cx.now;
        let stays = asked.keep_alive && read_whole;
        self.cx.text.clear();
        reply.write(
            &mut self.cx.text,
            Asked {
                keep_alive: stays,
                ..asked
            },
        );
        self.count_request(conn, reply.status);
        let text = std::mem::take(&mut self.cx.text);
        if !stays {
            self.conns.say_and_leave(conn, &text, &mut self.cx);
        } else if let Some(entry) = self.conns.get_mut(conn) {
            entry.out.push(&text);
            if let Some(visitor) = self.visitors.get_mut(conn) {
                visitor.state = State::Waiting;
                visitor.since = now;
                visitor.answered += 1;
            }
            self.cx.effects.wake(conn);
        }
        self.cx.text = text;
    }

    /// A malformed request: said and closed, nothing forwarded.
    pub(super) fn reject(&mut self, conn: ConnKey, status: u16, why: &str) {
        debug!("visitor refused with {status}: {}", said(why));
        let mut text = std::mem::take(&mut self.cx.text);
        text.clear();
        let allow = [("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")];
        let fields: &[(&str, &str)] = if status == 405 { &allow } else { &[] };
        Reply::text(status, why)
            .with(fields)
            .write_and_close(&mut text, false);
        self.count_request(conn, status);
        self.conns.say_and_leave(conn, &text, &mut self.cx);
        self.cx.text = text;
    }

    /// The stream of a visitor is over before its exchange was.
    pub(super) fn visitor_broken(
        &mut self,
        conn: ConnKey,
        outcome: StreamOutcome,
        code: Code,
        reason: &str,
    ) {
        debug!(
            "visitor's stream broken: {} ({})",
            said(reason),
            code.name()
        );
        self.cx.metrics.stream_ended(outcome);
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        match &mut visitor.state {
            State::Waiting => {}
            State::Exchange(exchange) if exchange.response == Response::Awaited => {
                exchange.stream = None;
                let (asked, whole) = (exchange.asked, exchange.upload_done);
                if code == Code::RefusedStream {
                    // It has no place for one more, which passes (PROTOCOL §11).
                    return self.busy(conn, asked, whole, StreamRefusal::Client);
                }
                let reply = match outcome {
                    // Half-closed and idle; it waited for its answer.
                    StreamOutcome::TimedOut => Reply::text(504, TOO_LATE),
                    _ => Reply::text(502, "the tunnel's client did not answer\n"),
                };
                self.answer(conn, asked, whole, &reply);
            }
            // All of it came, and the visitor may have it; but not where it is cut to save memory.
            State::Exchange(exchange)
                if exchange.response == Response::Done && outcome != StreamOutcome::Stalled =>
            {
                exchange.stream = None;
            }
            // A cut body must never look whole (PROTOCOL §4).
            State::Exchange(_) | State::Raw(_) => {
                self.conns
                    .log_end(conn, "visitor's stream", reason, self.cx.now);
                self.conns.close(conn, CloseHow::Reset, &mut self.cx);
            }
        }
    }

    /// Another session owns the port now.
    pub(super) fn visitor_taken_over(&mut self, conn: ConnKey) {
        let (code, why) = (Kit::TAKEN_OVER, "the port was taken over");
        self.break_stream(conn, StreamOutcome::TakenOver, code, why);
    }

    /// Resets a visitor's stream before its exchange is over.
    fn break_stream(&mut self, conn: ConnKey, outcome: StreamOutcome, code: Code, why: &str) {
        if let Some(name) = self.visitor(conn).and_then(|visitor| visitor.stream())
            && let Some(mux) = self.sessions.mux_mut(name.session)
        {
            mux.reset(name.stream, code, why);
        }
        self.visitor_broken(conn, outcome, code, why);
    }

    /// The visitor's connection is gone; its entry is dropped by the caller.
    pub(super) fn visitor_gone(&mut self, conn: ConnKey, how: &Ended) {
        debug!("visitor gone: {how:?}");
        self.abandon_stream(conn, StreamOutcome::ResetByPeer, "the visitor is gone");
    }

    /// Resets the visitor's stream, if it has one.
    pub(super) fn abandon_stream(&mut self, conn: ConnKey, outcome: StreamOutcome, why: &str) {
        let Some(name) = self.visitor(conn).and_then(|visitor| visitor.stream()) else {
            return;
        };
        self.cx.metrics.stream_ended(outcome);
        if let Some(mux) = self.sessions.mux_mut(name.session) {
            mux.reset(name.stream, Code::Cancel, why);
        }
    }

    pub(super) fn visitor_timeout(&mut self, conn: ConnKey, now: Instant) {
        let response_timeout = self.cx.config.response_timeout;
        let body_due = self.body_due(conn, now);
        if body_due.is_some_and(|due| now >= due) {
            return self.body_stopped(conn);
        }
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        let (fin, flushed) = (entry.fin(), entry.out.is_empty());
        let movement = self.movement(conn);
        let mut look = self.cx.config.visitor_look();
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        if matches!(visitor.state, State::Waiting) {
            look = VISITOR_HEAD_TIMEOUT;
        }
        let due = match &visitor.state {
            State::Raw(_) => return,
            State::Waiting if visitor.answered == 0 || !visitor.inbound.is_empty() => {
                visitor.since + VISITOR_HEAD_TIMEOUT
            }
            State::Waiting => visitor.since + VISITOR_IDLE_TIMEOUT,
            State::Exchange(exchange) => exchange
                .due(fin, flushed, movement, response_timeout)
                .unwrap_or(now + look),
        };
        if now < due {
            // Looked at often enough for the shortest of its deadlines, which may begin any time.
            let soon = now + look;
            return self
                .cx
                .arm_conn(conn, due.min(body_due.unwrap_or(soon)).min(soon));
        }
        match &visitor.state {
            State::Waiting if visitor.answered > 0 && visitor.inbound.is_empty() => {
                self.conns.close(conn, CloseHow::Clean, &mut self.cx);
            }
            State::Waiting => self.reject(conn, 408, "the head of the request took too long\n"),
            State::Exchange(exchange) if exchange.response != Response::Awaited => {
                let (outcome, why) = match flushed {
                    true => (StreamOutcome::ResetByPeer, "the visitor is gone"),
                    false => (StreamOutcome::Stalled, "the visitor takes nothing"),
                };
                self.abandon_stream(conn, outcome, why);
                self.conns.close(conn, CloseHow::Reset, &mut self.cx);
            }
            State::Exchange(exchange) => {
                let gone = exchange.may_be_gone(fin);
                // Nor does who has left have its further requests served.
                let (asked, whole) = (exchange.asked, exchange.upload_done && !gone);
                let (outcome, why) = match gone {
                    true => (StreamOutcome::ResetByPeer, "the visitor is gone"),
                    false => (StreamOutcome::TimedOut, "no response in time"),
                };
                self.abandon_stream(conn, outcome, why);
                let reply = Reply::text(504, TOO_LATE);
                self.answer(conn, asked, whole, &reply);
                if self.visitor(conn).is_some() {
                    self.cx.arm_conn(conn, now + VISITOR_HEAD_TIMEOUT);
                }
            }
            State::Raw(_) => {}
        }
    }

    /// Its FIN lies behind bytes that are not read: more requests, or a body without credit. Now
    /// time runs as it does behind a FIN that was read.
    pub(in crate::kit) fn visitor_finishes(&mut self, conn: ConnKey, now: Instant) {
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        match &mut visitor.state {
            State::Waiting => {}
            State::Exchange(exchange) => {
                if exchange.response == Response::Awaited {
                    exchange.waiting_since = now;
                }
                self.cx.arm_conn(conn, now + VISITOR_GONE_AFTER);
            }
            State::Raw(name) => {
                let name = *name;
                if let Some(mux) = self.sessions.mux_mut(name.session) {
                    mux.local_finishes(name.stream);
                }
            }
        }
    }

    /// Whether a newcomer would get the place of somebody.
    pub(super) fn someone_yields(&mut self) -> bool {
        self.yielding
            .someone(&self.visitors, &self.conns, &self.sessions, self.cx.now)
    }

    /// Closes a connection whose place was given to somebody else.
    pub(super) fn yield_place(&mut self, conn: ConnKey) {
        let (Some(entry), Some(visitor)) = (self.conns.get(conn), self.visitors.get(conn)) else {
            // One that only lingers.
            return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        };
        let peer = entry.from.ip();
        let is_one = entry.role == Role::Visitor;
        if !is_one || !visitor.stalls(entry, &self.sessions, self.cx.now) {
            return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        }
        let why = "nothing moved for long, and others wait for the place";
        self.abandon_stream(conn, StreamOutcome::Stalled, why);
        self.cx.complain_refused(peer, "stalled", why);
        self.conns.close(conn, CloseHow::Reset, &mut self.cx);
    }

    /// Both directions of an upgraded connection are closed and everything has left.
    fn close_raw_if_over(&mut self, conn: ConnKey) {
        let (Some(entry), Some(visitor)) = (self.conns.get(conn), self.visitors.get(conn)) else {
            return;
        };
        let raw = matches!(visitor.state, State::Raw(_));
        if raw && entry.read_closed && entry.after == After::Finished && entry.out.is_empty() {
            self.conns
                .log_end(conn, "upgraded stream", "finished", self.cx.now);
            self.cx.metrics.stream_ended(StreamOutcome::Finished);
            self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
mod body_tests;

#[cfg(test)]
mod gone_tests;
