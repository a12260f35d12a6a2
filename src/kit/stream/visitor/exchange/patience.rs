//! How long an exchange is waited for: what runs while nothing moves, and whose silence it is.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{
    VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT, VISITOR_IDLE_TIMEOUT, VISITOR_STALLED_FOR,
};

use super::{Fin, HttpExchange, Owed, Response, Serving, State};

/// What is known of a connection and its stream when it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Where the visitor's FIN is.
    pub fin: Fin,
    /// Nothing waits for the visitor.
    pub flushed: bool,
    /// What the session knows of the stream.
    pub movement: Option<Movement>,
}

/// What the session knows of the exchange's stream.
#[derive(Debug, Clone, Copy)]
pub struct Movement {
    /// When anything of it moved last, at either end.
    pub last: Instant,
    /// Some of the request's body has reached the client, as far as it has told, and no further.
    pub held_by_client: bool,
}

/// What a look at the clock finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It is not looked at.
    Never,
    /// It is in time until then, at least.
    Until(Instant),
    /// It was served, and asks for nothing.
    Idle,
    /// A head does not come.
    SlowHead,
    /// A response does not leave, or nobody may be there for it.
    Stuck,
    /// There is no response in time.
    Unanswered {
        /// How it may be answered all the same.
        owed: Owed,
        /// Nobody may be there for it.
        gone: bool,
    },
}

impl Serving {
    /// Whether its visitor has asked for everything, sent FIN, and sees nothing of an answer. A
    /// browser that aborts does the same, and its upstream should not work on for nobody. Where the
    /// FIN lies behind bytes that nobody takes, it may also be a body that was cut off.
    pub(super) fn may_be_gone(&self, fin: Fin) -> bool {
        let sent_all = match fin {
            Fin::NotYet => false,
            Fin::Ahead => true,
            Fin::Read => self.upload_done,
        };
        sent_all && self.response == Response::Awaited
    }

    /// When it is given up if nothing moves until then. A clock runs only while nothing does, and
    /// what a slow upstream takes of a long body moves.
    fn due(&self, seen: &Seen, response_timeout: Duration) -> Option<Instant> {
        let awaited = self.response == Response::Awaited;
        let fin = seen.fin;
        if !awaited && !seen.flushed {
            return Some(self.waiting_since + VISITOR_STALLED_FOR);
        }
        let movement = seen.movement;
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
        let owes = self.open && !self.upload_done && !self.upload.is_complete();
        match self.response {
            _ if !owes || self.holds_back => None,
            Response::Awaited => Some(self.body_at + timeout),
            _ if flushed => Some(self.body_at.max(self.waiting_since) + timeout),
            _ => None,
        }
    }
}

impl HttpExchange {
    /// When the visitor's silence ends its request, if more of a body is wanted of it.
    pub fn body_due(&self, flushed: bool, timeout: Duration) -> Option<Instant> {
        match &self.state {
            State::Serving(it) => it.body_due(flushed, timeout),
            State::Waiting | State::Raw(_) => None,
        }
    }

    /// Nothing of the body can be read for want of credit: the silence is ours.
    pub fn body_held(&mut self, now: Instant) {
        if let State::Serving(it) = &mut self.state {
            it.body_at = now;
        }
    }

    /// Whether its time is over. It is looked at again after `often`, for the shortest of its
    /// deadlines may begin any time.
    pub fn look(
        &self,
        seen: &Seen,
        response_timeout: Duration,
        often: Duration,
        now: Instant,
    ) -> Look {
        let idle = self.answered > 0 && self.inbound.is_empty();
        let (due, often) = match &self.state {
            State::Raw(_) => return Look::Never,
            State::Waiting if idle => (self.since + VISITOR_IDLE_TIMEOUT, VISITOR_HEAD_TIMEOUT),
            State::Waiting => (self.since + VISITOR_HEAD_TIMEOUT, VISITOR_HEAD_TIMEOUT),
            State::Serving(it) => {
                let due = it.due(seen, response_timeout);
                (due.unwrap_or(now + often), often)
            }
        };
        if now < due {
            return Look::Until(due.min(now + often));
        }
        match &self.state {
            State::Serving(it) if it.response != Response::Awaited => Look::Stuck,
            State::Serving(it) => {
                let gone = it.may_be_gone(seen.fin);
                // Nor does who has left have its further requests served.
                let (asked, whole) = (it.asked, it.upload_done && !gone);
                let owed = Owed { asked, whole };
                Look::Unanswered { owed, gone }
            }
            _ if idle => Look::Idle,
            _ => Look::SlowHead,
        }
    }
}
