//! Frames of a session's lanes: taken in, told on, looked after.

use log::debug;

use crate::clock::Instant;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::{SessionEnd, StreamOutcome};
use crate::kit::repeats::Complaint;
use crate::kit::session::KitSession;
use crate::kit::stream::End;
use crate::limits::SWEEP_EVERY;
use crate::machine::{ConnKey, Ended};
use crate::mux::{Incoming, Liveness, Span, Violation, Wake};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::{self, Bind, GoAway, ReissueRequest, Unbind};
use crate::wire::frame::FrameType;

use super::{Kit, Reason};

impl Kit {
    pub(super) fn lane_received(
        &mut self,
        key: SessionKey,
        index: usize,
        count: usize,
        now: Instant,
    ) {
        if count == 0 {
            return self.lane_ended(key, index, "the connection was closed", now);
        }
        if let Some(lane) = self.sessions.lane_mut(key, index) {
            lane.received(count, now);
        }
        self.pump(key, index, now);
    }

    /// Takes in all frames that are whole on a lane.
    pub(super) fn pump(&mut self, key: SessionKey, index: usize, now: Instant) {
        self.sessions.reckon(key);
        loop {
            let Some(mux) = self.sessions.mux_mut(key) else {
                return;
            };
            match mux.poll(index, now) {
                Ok(Some(incoming)) => self.incoming(key, index, incoming, now),
                Ok(None) => break,
                Err(violation) => return self.violated(key, &violation),
            }
        }
    }

    fn incoming(
        &mut self,
        key: SessionKey,
        index: usize,
        incoming: Incoming<ConnKey>,
        now: Instant,
    ) {
        match incoming {
            Incoming::Control { kind, payload } => {
                if let Err(violation) = self.control(key, index, kind, &payload, now) {
                    self.violated(key, &violation);
                }
            }
            Incoming::Opened { id, .. } => {
                if let Some(mux) = self.sessions.mux_mut(key) {
                    let reason = "this kit opens no connections for clients";
                    mux.refuse(index, id, Code::RefusedStream, reason);
                }
            }
            Incoming::Head { tag, payload, .. } => {
                let (streams, mut below) = self.streams();
                streams
                    .visitors
                    .head(tag, (key, index), &payload, &mut below);
            }
            Incoming::Data { tag, payload, .. } => {
                let (streams, mut below) = self.streams();
                streams.data(tag, (key, index), payload, &mut below);
            }
            Incoming::Eof { tag, .. } => {
                let (streams, mut below) = self.streams();
                streams.eof(tag, &mut below);
            }
            Incoming::Reset {
                tag,
                code,
                reason,
                violation,
            } => {
                let outcome = match code {
                    _ if violation => StreamOutcome::Violated,
                    Code::RefusedStream => StreamOutcome::Refused,
                    _ => StreamOutcome::ResetByClient,
                };
                if violation {
                    self.cx.metrics.violation(code);
                }
                let why = &*reason;
                self.stream_lost(tag, End { outcome, code, why });
            }
            Incoming::Closed { code } => {
                // Ended without parking: a close frame with code 1000 or none (PROTOCOL §6).
                match code {
                    None | Some(1000) if index == 0 => {
                        self.end_session(
                            key,
                            SessionEnd::Client,
                            "closed by the client",
                            Some(1000),
                        );
                    }
                    _ => self.lane_ended(key, index, "the client closed the connection", now),
                }
            }
        }
    }

    /// A stream is over in both directions; what it belonged to is broken or answered.
    pub(super) fn stream_lost(&mut self, conn: ConnKey, end: End<'_>) {
        let (streams, mut below) = self.streams();
        streams.lost(conn, end, &mut below);
    }

    fn control(
        &mut self,
        key: SessionKey,
        index: usize,
        kind: FrameType,
        span: &Span,
        now: Instant,
    ) -> Result<(), Violation> {
        let malformed = |error: control::ControlError| {
            Violation::session(Code::ProtocolError, error.to_string())
        };
        let Some(mux) = self.sessions.mux(key) else {
            return Ok(());
        };
        let payload = mux.payload(index, span);
        match kind {
            FrameType::Bind => {
                let bind: Bind = control::parse(payload).map_err(malformed)?;
                self.bind(key, bind);
            }
            FrameType::Unbind => {
                let unbind: Unbind = control::parse(payload).map_err(malformed)?;
                let (budget, sessions) = (&mut self.conns.budget, &mut self.sessions);
                let ports = &mut self.ports;
                ports.unbind(key, unbind.bind_id, budget, sessions, &mut self.cx);
            }
            FrameType::ReissueJoinTickets => {
                let request: ReissueRequest = control::parse(payload).map_err(malformed)?;
                self.reissue_tickets(key, &request, now);
            }
            FrameType::GoAway => {
                let goaway: GoAway = control::parse(payload).map_err(malformed)?;
                debug!(
                    "GOAWAY from the client: {:?} ({})",
                    goaway.code(),
                    said(&goaway.message)
                );
                let why = "the client said GOAWAY";
                self.end_session(key, SessionEnd::Client, why, Some(1000));
            }
            other => {
                let why = format!("{other} is not for a client to send here");
                return Err(Violation::session(Code::ProtocolError, why));
            }
        }
        Ok(())
    }

    fn bind(&mut self, key: SessionKey, mut bind: Bind) {
        let (conns, sessions) = (&mut self.conns, &mut self.sessions);
        let held = self
            .ports
            .bind(key, &mut bind, conns, sessions, &mut self.cx);
        let Some(listener) = held else {
            return;
        };
        let (streams, mut below) = self.streams();
        streams.visitors.taken_over(listener, &mut below);
        let (sessions, cx) = (&mut self.sessions, &mut self.cx);
        let Some(owner) = self.ports.take_over(listener, key, &bind, sessions, cx) else {
            return;
        };
        let empty = |session: &KitSession| session.is_parked() && session.bindings.is_empty();
        if self.sessions.get(owner).is_some_and(empty) {
            // It has nothing left to come back for.
            let why = "its last port was taken over";
            self.end_session(owner, SessionEnd::Lost, why, None);
        }
    }

    /// The peer broke the protocol: GOAWAY, close, and no parking (PROTOCOL §1.4).
    fn violated(&mut self, key: SessionKey, violation: &Violation) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let who = session.short_id().to_string();
        let why = said(&violation.to_string());
        let complaint = Complaint {
            level: log::Level::Warn,
            what: "protocol violation:",
            reason: violation.code.name(),
        };
        self.cx
            .complain(complaint, &format!("session {who}: {why}"));
        self.cx.metrics.violation(violation.code);
        let close = violation.close_code();
        self.expel(
            key,
            SessionEnd::Violation,
            violation.code,
            close,
            &violation.why,
        );
    }

    /// The world ended a lane's connection; its entry is dropped by the caller.
    pub(super) fn lane_lost(&mut self, key: SessionKey, index: usize, how: &Ended, now: Instant) {
        let why = match how {
            Ended::Reset => "the connection was reset",
            Ended::Failed(failure) => failure.text.as_str(),
        };
        self.lane_ended(key, index, why, now);
    }

    /// A lane is over: the primary takes the session along, a secondary only its streams.
    pub(super) fn lane_ended(&mut self, key: SessionKey, index: usize, why: &str, now: Instant) {
        if index == 0 {
            return self.park(key, why, now);
        }
        self.conns.spill(&self.sessions);
        let Some(mux) = self.sessions.mux_mut(key) else {
            return;
        };
        let (lane, lost) = mux.detach(index);
        for conn in lost {
            let why = "its connection to the client was lost";
            self.stream_lost(conn, End::lost(why));
        }
        if let Some(mut lane) = lane {
            let conn = lane.conn();
            lane.push_close(1000, why);
            let bytes = crate::kit::front::greeter::drain_lane(&mut lane);
            self.conns.say_and_leave(conn, &bytes, &mut self.cx);
        }
        self.sessions.send_shard_map(key);
    }

    /// PING after silence, and the end of lanes that do not answer (PROTOCOL §6).
    pub(super) fn check_lanes(&mut self, key: SessionKey, now: Instant) {
        self.conns.spill(&self.sessions);
        let (quiet, patience) = (self.cx.config.ping_after, self.cx.config.pong_timeout);
        let Some(mux) = self.sessions.mux_mut(key) else {
            return;
        };
        if mux.has_run_dry(now) {
            return self.park(key, "credit was lost with a connection", now);
        }
        let indexes: Vec<usize> = mux.lanes().map(|(index, _)| index).collect();
        let mut again = now + quiet;
        let mut dead = Vec::new();
        for index in indexes {
            let ping = self.cx.entropy.octets::<8>();
            match mux.check_lane(index, now, quiet, patience, ping) {
                Some(Liveness::LookAgain(at)) => again = again.min(at),
                Some(Liveness::Dead) => dead.push(index),
                None => {}
            }
        }
        self.cx.effects.timers.arm(Reason::Lanes(key), again);
        for index in dead {
            self.cx.metrics.pong_timeout();
            if index == 0 {
                let goaway = GoAway::new(Code::IdleTimeout, "pong timeout");
                self.sessions.say(key, &goaway);
                return self.park(key, "pong timeout", now);
            }
            self.lane_ended(key, index, "pong timeout", now);
        }
    }

    pub(super) fn sweep(&mut self, key: SessionKey, now: Instant) {
        self.conns.spill(&self.sessions);
        let half_close = self.cx.config.half_close_timeout;
        let Some(mux) = self.sessions.mux_mut(key) else {
            return;
        };
        let idle = mux.sweep_idle(now, half_close);
        for conn in mux.who_looks_still(now) {
            self.cx.effects.probe(conn);
        }
        if mux.stream_count() > 0 {
            self.cx
                .effects
                .timers
                .arm(Reason::Sweep(key), now + SWEEP_EVERY);
        }
        for gone in idle {
            let (outcome, code, why) = (StreamOutcome::TimedOut, gone.code, gone.reason);
            self.stream_lost(gone.tag, End { outcome, code, why });
        }
        while !self.sessions.relieve_stalled(key) {
            let Some((holder, gone)) = self.sessions.cut_longest_stalled(key, now) else {
                break;
            };
            let (outcome, code, why) = (StreamOutcome::Stalled, gone.code, gone.reason);
            self.stream_lost(gone.tag, End { outcome, code, why });
            self.sessions.reckon(holder);
        }
    }

    /// Looks after sessions whose mux may have changed, and has those go on who may.
    pub(super) fn tell_wakes(&mut self) {
        let now = self.cx.now;
        while let Some((key, session)) = self.sessions.next_touched() {
            session.note_use(now);
            let streams = session.mux().map_or(0, |mux| mux.stream_count());
            self.sessions.reckon(key);
            if streams > 0 {
                self.cx
                    .effects
                    .timers
                    .arm_if_unset(Reason::Sweep(key), now + SWEEP_EVERY);
            }
            while let Some(wake) = self.sessions.poll_wake(key) {
                match wake {
                    Wake::Lane(conn) => self.cx.effects.wake(conn),
                    Wake::LaneLast(conn) => self.cx.effects.wake_last(conn),
                    Wake::Sender(conn) => {
                        let (streams, mut below) = self.streams();
                        streams.may_go_on(conn, &mut below);
                    }
                }
            }
        }
    }
}
