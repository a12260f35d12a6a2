//! Lanes that fall silent or end, and streams that stand still (PROTOCOL §5, §6, §7).

use crate::kit::Reason;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::greeter::drain_lane;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::StreamOutcome;
use crate::limits::SWEEP_EVERY;
use crate::machine::{ConnKey, Ended};
use crate::mux::{Liveness, Swept};
use crate::wire::code::Code;
use crate::wire::control::GoAway;

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
            let conn = lane.conn();
            lane.push_close(1000, why);
            let bytes = drain_lane(&mut lane);
            conns.say_and_leave(conn, &bytes, cx);
        }
        self.send_shard_map(key);
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
        let indexes: Vec<usize> = mux.lanes().map(|(index, _)| index).collect();
        let mut again = now + quiet;
        let mut dead = Vec::new();
        for index in indexes {
            let ping = cx.entropy.octets::<8>();
            match mux.check_lane(index, now, quiet, patience, ping) {
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
        let Some(mux) = self.mux_mut(key) else {
            return;
        };
        let idle = mux.sweep_idle(now, cx.config.half_close_timeout);
        for conn in mux.who_looks_still(now) {
            cx.effects.probe(conn);
        }
        if mux.stream_count() > 0 {
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
