//! How a session ends, or waits for its client (PROTOCOL §1.4, §6).

use std::time::Duration;

use log::info;

use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::greeter::close_lane;
use crate::kit::keys::{BindingKey, SessionKey};
use crate::kit::metrics::{SessionEnd, StreamOutcome};
use crate::kit::repeats::Complaint;
use crate::kit::{Reason, Stopping};
use crate::machine::ConnKey;
use crate::mux::Violation;
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::{GoAway, SessionId};

use super::entry::Closing;
use super::{KitSession, Sessions};

/// How a stream is over before what it served was.
#[derive(Debug, Clone, Copy)]
pub(in crate::kit) struct End<'a> {
    pub(in crate::kit) outcome: StreamOutcome,
    pub(in crate::kit) code: Code,
    pub(in crate::kit) why: &'a str,
}

/// What goes with a session, or with a lane of it: others have to see to it.
#[derive(Debug)]
pub(in crate::kit) struct Fallout {
    /// Connections whose streams are over in both directions.
    pub(in crate::kit) lost: Vec<ConnKey>,
    /// How these are over.
    outcome: StreamOutcome,
    code: Code,
    pub(in crate::kit) why: String,
    /// The session is over: its ports are free.
    pub(in crate::kit) over: Option<Over>,
}

/// A session that is over.
#[derive(Debug)]
pub(in crate::kit) struct Over {
    pub(in crate::kit) key: SessionKey,
    /// What logs may show of its id.
    pub(in crate::kit) short_id: String,
    pub(in crate::kit) bindings: Vec<BindingKey>,
}

impl Fallout {
    /// Streams whose lane is gone.
    pub(super) fn lost(lost: Vec<ConnKey>, why: &str) -> Fallout {
        Fallout {
            lost,
            outcome: StreamOutcome::Lost,
            code: Code::Cancel,
            why: why.to_owned(),
            over: None,
        }
    }

    /// One stream that was given up.
    pub(super) fn given_up(conn: ConnKey, end: End<'_>) -> Fallout {
        Fallout {
            lost: vec![conn],
            outcome: end.outcome,
            code: end.code,
            why: end.why.to_owned(),
            over: None,
        }
    }

    /// How its streams are over.
    pub(in crate::kit) fn end(&self) -> End<'_> {
        End {
            outcome: self.outcome,
            code: self.code,
            why: &self.why,
        }
    }
}

impl Sessions {
    /// What others have to see to, because a session or a lane is gone.
    pub(in crate::kit) fn next_fallout(&mut self) -> Option<Fallout> {
        self.fallout.pop_front()
    }

    /// The primary lane is gone without a goodbye: the session waits for its client, if it has a
    /// port to keep (PROTOCOL §6).
    pub(super) fn park(&mut self, key: SessionKey, why: &str, conns: &mut Conns, cx: &mut Context) {
        let Some(session) = self.get(key) else {
            return;
        };
        let grace = cx.config.takeover_grace;
        if session.bindings.is_empty() || grace.is_zero() || session.closing != Closing::No {
            return self.end(key, SessionEnd::Lost, why, None, conns, cx);
        }
        if cx.stopping != Stopping::No {
            return self.end(key, SessionEnd::Shutdown, why, None, conns, cx);
        }
        let until = cx.now + grace;
        self.leave_lanes(key, CLOSE_GOING_AWAY, why, conns, cx);
        let session = self.all.resolve_mut(key);
        session.park(until);
        info!(
            "session {} parked for {grace:?}: {}",
            session.short_id(),
            said(why)
        );
        session.tickets.void_all();
        cx.metrics.session_parked();
        disarm_all(key, cx);
        cx.effects.timers.arm(Reason::Grace(key), until);
    }

    /// Closes a session's lanes; what its streams belonged to is to be broken. It is parked until
    /// the caller has it wait or go on.
    pub(super) fn leave_lanes(
        &mut self,
        key: SessionKey,
        close: u16,
        why: &str,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        conns.spill(self);
        let Some((lanes, lost)) = self.leave(key, cx.now) else {
            return;
        };
        self.fallout.push_back(Fallout::lost(lost, why));
        for mut lane in lanes {
            close_lane(&mut lane, close, why, conns, cx);
        }
    }

    /// Ends a session for good: its ports will be free, its visitors told.
    pub(in crate::kit) fn end(
        &mut self,
        key: SessionKey,
        how: SessionEnd,
        why: &str,
        close: Option<u16>,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        self.leave_lanes(key, close.unwrap_or(CLOSE_GOING_AWAY), why, conns, cx);
        let Some(session) = self.remove(key) else {
            return;
        };
        disarm_all(key, cx);
        cx.metrics.add_traffic(&session.traffic());
        session.log_end(why, cx.now);
        cx.metrics.session_ended(how);
        let over = Over {
            key,
            short_id: session.short_id().to_owned(),
            bindings: session.bindings,
        };
        self.fallout.push_back(Fallout {
            over: Some(over),
            ..Fallout::lost(Vec::new(), why)
        });
    }

    /// The kit goes, and may come back: all clients are told, who may dial again at once, and
    /// their streams may finish until the caller's deadline. Who is parked waits as before.
    pub(in crate::kit) fn drain(&mut self, grace: Duration) {
        for key in self.keys() {
            // Who was told that it is for good is told nothing else.
            let stays = |it: &&mut KitSession| !it.is_parked() && it.closing == Closing::No;
            if let Some(session) = self.get_mut(key).filter(stays) {
                session.closing = Closing::ForNow;
                let goaway = GoAway::new(Code::NoError, RESTARTING).for_now();
                self.say(key, &with_grace(goaway, grace));
            }
        }
    }

    /// GOAWAY with a code, then the end (PROTOCOL §1.4, §6).
    pub(in crate::kit) fn expel(
        &mut self,
        key: SessionKey,
        how: SessionEnd,
        goaway: GoAway,
        close: u16,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        self.say(key, &goaway);
        self.end(key, how, &goaway.message, Some(close), conns, cx);
    }

    /// The peer broke the protocol: GOAWAY, close, and no parking (PROTOCOL §1.4).
    pub(super) fn violated(
        &mut self,
        key: SessionKey,
        violation: &Violation,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let Some(session) = self.get(key) else {
            return;
        };
        let why = said(&violation.to_string());
        let complaint = Complaint {
            level: log::Level::Warn,
            what: "protocol violation:",
            reason: violation.code.name(),
        };
        cx.complain(complaint, &format!("session {}: {why}", session.short_id()));
        cx.metrics.violation(violation.code);
        let goaway = GoAway::new(violation.code, violation.why.clone());
        let close = violation.close_code();
        self.expel(key, SessionEnd::Violation, goaway, close, conns, cx);
    }

    /// The operator ends a session: GOAWAY at once, and the streams get `grace`. Asked again, the
    /// shorter grace counts.
    pub(in crate::kit) fn kill(
        &mut self,
        key: SessionKey,
        grace: Duration,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let Some(session) = self.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut session.closing, Closing::ForGood);
        if before != Closing::ForGood {
            let goaway = GoAway::new(Code::Cancel, KILLED).for_good();
            self.say(key, &with_grace(goaway, grace));
        }
        let session = self.all.resolve(key);
        // Its client may not be there to hear it.
        self.killed.note(SessionId::new(session.id()));
        let streams = session.mux().map_or(0, |mux| mux.streams().len());
        // What waits for its client would not finish anyway.
        if grace.is_zero() || streams == 0 || session.is_parked() {
            return self.end(key, SessionEnd::Killed, KILLED, Some(1000), conns, cx);
        }
        let timers = &mut cx.effects.timers;
        let due = timers.deadline(Reason::Grace(key));
        let until = cx.now + grace;
        timers.arm(Reason::Grace(key), due.map_or(until, |due| due.min(until)));
    }

    /// The grace of a session that waits for its client or its primary lane, or of one that is
    /// closing, is over.
    pub(in crate::kit) fn grace_over(
        &mut self,
        key: SessionKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let Some(session) = self.get(key) else {
            return;
        };
        let (how, why, close) = match session.closing {
            Closing::No => (SessionEnd::GraceOver, "nobody came back in time", None),
            _ => (SessionEnd::Killed, KILLED, Some(1000)),
        };
        self.end(key, how, why, close, conns, cx);
    }

    /// A session without streams and bindings goes in the end.
    pub(in crate::kit) fn check_idle(
        &mut self,
        key: SessionKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let Some(session) = self.get_mut(key) else {
            return;
        };
        session.note_use(cx.now);
        let mut due = session.busy_at + cx.config.idle_timeout;
        if session.may_forward() && !session.is_parked() {
            // It may want a connection at any time; that its client is there is seen to elsewhere.
            due = cx.now + cx.config.idle_timeout;
        }
        if cx.now < due {
            cx.effects.timers.arm(Reason::Idle(key), due);
            return;
        }
        let goaway = GoAway::new(Code::IdleTimeout, "session idle timeout");
        self.expel(key, SessionEnd::Idle, goaway, 1000, conns, cx);
    }
}

fn with_grace(goaway: GoAway, grace: Duration) -> GoAway {
    GoAway {
        grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
        ..goaway
    }
}

fn disarm_all(key: SessionKey, cx: &mut Context) {
    for reason in [
        Reason::Lanes(key),
        Reason::Acks(key),
        Reason::Sweep(key),
        Reason::Idle(key),
        Reason::Grace(key),
    ] {
        cx.effects.timers.disarm(reason);
    }
}

/// What clients are told on a drain (PROTOCOL §6).
pub(in crate::kit) const RESTARTING: &str = "restarting";

/// What clients are told whom the operator has sent away.
pub(super) const KILLED: &str = "closed by the operator";

/// RFC 6455 §7.4.1: an endpoint is going away.
pub(super) const CLOSE_GOING_AWAY: u16 = 1001;
