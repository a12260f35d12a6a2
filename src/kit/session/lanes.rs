//! Lanes that fall silent or end, and streams that stand still (PROTOCOL §5, §6, §7).

use log::info;

use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::greeter::close_lane;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::StreamOutcome;
use crate::kit::{Reason, Stopping};
use crate::limits::SWEEP_EVERY;
use crate::machine::{ConnKey, Ended};
use crate::mux::{Liveness, Swept};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::GoAway;

use super::end::CLOSE_GOING_AWAY;
use super::{End, Fallout, Sessions};

impl Sessions {
    /// The world ended a lane's connection; its entry is dropped by the caller.
    pub(in crate::kit) fn lane_lost(
        &mut self,
        (key, index): (SessionKey, usize),
        how: &Ended,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let why = match how {
            Ended::Reset => "the connection was reset",
            Ended::Failed(failure) => failure.text.as_str(),
        };
        self.lane_ended(key, index, why, conns, cx);
    }

    /// A lane is over: the primary takes the session along, a secondary only its streams.
    pub(super) fn lane_ended(
        &mut self,
        key: SessionKey,
        index: usize,
        why: &str,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        if self.waits_for_lanes(key, cx) {
            return self.lane_waits((key, index), None, why, conns, cx);
        }
        if index == 0 {
            return self.park(key, why, conns, cx);
        }
        conns.spill(self);
        let Some(mux) = self.mux_mut(key) else {
            return;
        };
        let (lane, lost) = mux.detach(index);
        let told = "its connection to the client was lost";
        self.fallout.push_back(Fallout::lost(lost, told));
        if let Some(mut lane) = lane {
            close_lane(&mut lane, 1000, why, conns, cx);
        }
        if self.mux(key).is_some_and(|mux| mux.lanes().is_empty()) {
            // It was closing, without its primary.
            return self.park(key, why, conns, cx);
        }
        self.send_shard_map(key);
    }

    /// Whether a session's streams wait for a lane that is lost (PROTOCOL §9).
    fn waits_for_lanes(&self, key: SessionKey, cx: &Context) -> bool {
        let is_allowed = !cx.config.takeover_grace.is_zero() && cx.stopping == Stopping::No;
        let session = self.get(key).filter(|_| is_allowed);
        session.is_some_and(|it| it.keeps_streams() && it.is_worth_waiting_for())
    }

    /// A lane has lost its connection, and its streams wait for the next one.
    pub(super) fn lane_waits(
        &mut self,
        (key, index): (SessionKey, usize),
        goodbye: Option<&GoAway>,
        why: &str,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        conns.spill(self);
        let grace = cx.config.takeover_grace;
        // Without a primary lane it ends after the grace, whatever becomes of the others.
        let due = cx.effects.timers.deadline(Reason::Grace(key));
        let until = match index {
            0 => cx.now + grace,
            _ => due.unwrap_or(cx.now + grace),
        };
        if self.mux_mut(key).is_none() {
            return;
        }
        let session = self.all.resolve_mut(key);
        let was_parked = session.is_parked();
        let lane = session.lose_lane(index, cx.now, until);
        if session.is_parked() && !was_parked {
            let short_id = session.short_id();
            info!(
                "session {short_id} parked for {grace:?} with its streams: {}",
                said(why)
            );
            cx.metrics.session_parked();
            session.tickets.void_all();
            cx.effects.timers.disarm(Reason::Lanes(key));
            cx.effects.timers.disarm(Reason::Idle(key));
        }
        if index == 0 {
            cx.effects.timers.arm(Reason::Grace(key), until);
        }
        if let Some(mut lane) = lane {
            goodbye.into_iter().for_each(|goodbye| lane.say(goodbye));
            close_lane(&mut lane, CLOSE_GOING_AWAY, why, conns, cx);
        }
        self.send_shard_map(key);
    }

    /// Tells the client what was taken, as it was not told for a while.
    pub(in crate::kit) fn acknowledge(&mut self, key: SessionKey, cx: &Context) {
        if let Some(mux) = self.mux_mut(key) {
            mux.lanes_mut().acknowledge_all(cx.now);
        }
    }

    /// A secondary lane has waited for long enough: its streams are over.
    fn give_up_overdue(&mut self, key: SessionKey, cx: &Context) {
        let Some(mux) = self.mux_mut(key) else {
            return;
        };
        let mut lost = Vec::new();
        for index in mux.lanes().overdue(cx.now, cx.config.takeover_grace) {
            lost.extend(mux.give_up(index).1);
        }
        let told = "its connection to the client did not come back";
        if !lost.is_empty() {
            self.fallout.push_back(Fallout::lost(lost, told));
        }
    }

    /// PING after silence, and the end of lanes that do not answer (PROTOCOL §6).
    pub(in crate::kit) fn check_lanes(
        &mut self,
        key: SessionKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        conns.spill(self);
        let now = cx.now;
        let Some(session) = self.get(key) else {
            return;
        };
        let (quiet, patience) = session.patience(&cx.config);
        let Some(mux) = self.mux_mut(key) else {
            return;
        };
        if mux.has_run_dry(now) {
            return self.park(key, "credit was lost with a connection", conns, cx);
        }
        let indexes: Vec<usize> = mux.lanes().iter().map(|(index, _)| index).collect();
        let mut again = now + quiet;
        let mut dead = Vec::new();
        for index in indexes {
            let ping = cx.entropy.octets::<8>();
            match mux.lanes_mut().check(index, now, quiet, patience, ping) {
                Some(Liveness::LookAgain(at)) => again = again.min(at),
                Some(Liveness::Dead) => dead.push(index),
                None => {}
            }
        }
        cx.effects.timers.arm(Reason::Lanes(key), again);
        for index in dead {
            cx.metrics.pong_timeout();
            if index == 0 {
                let goaway = GoAway::new(Code::IdleTimeout, PONG_TIMEOUT);
                if self.waits_for_lanes(key, cx) {
                    self.lane_waits((key, index), Some(&goaway), PONG_TIMEOUT, conns, cx);
                    continue;
                }
                self.say(key, &goaway);
                return self.park(key, PONG_TIMEOUT, conns, cx);
            }
            self.lane_ended(key, index, PONG_TIMEOUT, conns, cx);
        }
    }

    /// Gives up streams that are half-closed and idle, and where memory is short those that stand
    /// still for longest; asks after those that look as if they did.
    pub(in crate::kit) fn sweep(&mut self, key: SessionKey, conns: &mut Conns, cx: &mut Context) {
        conns.spill(self);
        let now = cx.now;
        self.give_up_overdue(key, cx);
        let Some(mux) = self.mux_mut(key) else {
            return;
        };
        let idle = mux.sweep_idle(now, cx.config.half_close_timeout);
        for conn in mux.streams_mut().who_looks_still(now) {
            cx.effects.probe(conn);
        }
        if !mux.streams().is_empty() {
            let at = now + SWEEP_EVERY;
            cx.effects.timers.arm(Reason::Sweep(key), at);
        }
        for gone in idle {
            self.gives_up(gone, StreamOutcome::TimedOut);
        }
        while !self.relieve_stalled(key) {
            let Some((holder, gone)) = self.cut_longest_stalled(key, now) else {
                break;
            };
            self.gives_up(gone, StreamOutcome::Stalled);
            self.reckon(holder);
        }
    }

    fn gives_up(&mut self, gone: Swept<ConnKey>, outcome: StreamOutcome) {
        let (code, why) = (gone.code, gone.reason);
        let end = End { outcome, code, why };
        self.fallout.push_back(Fallout::given_up(gone.tag, end));
    }
}

const PONG_TIMEOUT: &str = "pong timeout";
