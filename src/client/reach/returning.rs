//! Streams that wait for a kit that is lost, and coming back with them (PROTOCOL §9).

use crate::client::config::{Config, most_kept};
use crate::client::context::{Context, Timer};
use crate::client::keys::ExchangeKey;
use crate::client::reach::failure::Failure;
use crate::client::reach::lanes::Phase;
use crate::client::reach::{Reach, Then};
use crate::clock::Instant;
use crate::limits::{MAX_LANES, STREAMS_WAIT_FOR};
use crate::machine::{CloseHow, ConnKey};
use crate::mux::{Retention, Violation};
use crate::wire::code::Code;
use crate::wire::control::{Capabilities, HelloOk, JoinErr, JoinOk, MissingLane, Resume, Secret};

/// What this client speaks, and offers to every kit.
pub(super) fn offered(keeps: bool) -> Capabilities {
    Capabilities::MULTI_WS
        | Capabilities::GROW_WINDOWS
        | Capabilities::HEADER_CASE
        | Capabilities::TRAILERS
        | Capabilities::UDP
        | Capabilities::LONG_HEADS
        | Capabilities::TCP_EXPOSE
        | Capabilities::FORWARD
        | Capabilities::REPLAY.only_if(keeps)
}

/// What is kept of each lane, where the kit granted it.
pub(super) fn retention(config: &Config, ok: &HelloOk, lanes: u32) -> Option<Retention> {
    let most = most_kept(lanes);
    let agreed = Retention::agreed(config.keeps()?, most, ok.replay_buffer, lanes);
    agreed.filter(|_| ok.capabilities.have(Capabilities::REPLAY))
}

impl Reach {
    /// Whether streams wait for the kit after it was lost like this.
    pub(in crate::client) fn waits_after(&self, failure: &Failure) -> bool {
        let ends = matches!(failure, Failure::Violation(_)) || self.retry.is_taken(failure);
        self.session.keeps_streams().is_some() && self.goaway.is_none() && !ends
    }

    /// The primary lane is gone, and its streams wait for the next one.
    pub(in crate::client) fn waits(&mut self, cx: &mut Context) {
        if let Some(session) = self.session.attached_mut() {
            session.suspend(0, cx.now);
        }
        let at = cx.now + STREAMS_WAIT_FOR;
        cx.effects.timers.arm_if_unset(Timer::Waits, at);
    }

    /// The primary lane is not tried again.
    pub(in crate::client) fn reaches_no_more(&mut self, cx: &mut Context) {
        cx.effects.timers.disarm(Timer::Retry);
        cx.effects.timers.disarm(Timer::Lane(0));
        if let Some(conn) = self.lanes.conns[0].take() {
            cx.effects.close(conn, CloseHow::Clean);
            self.conns.remove(conn);
        }
    }

    /// The streams have waited for long enough. Their session may still come back without them.
    pub(in crate::client) fn waits_no_more(&mut self, cx: &mut Context) {
        self.let_go_of_lanes(cx, &[]);
        self.session.park();
    }

    /// What HELLO says of the session to come back to.
    pub(super) fn resume(&self) -> Option<Resume> {
        let session_id = self.retry.session.clone()?;
        let session = self.session.keeps_streams();
        let held = |index: usize| {
            let session = session?;
            session.lanes().get(index)?;
            let nonce = session.lanes().ticket(index)?.clone();
            let index = index as u32;
            Some(MissingLane { index, nonce })
        };
        Some(Resume {
            session_id,
            epoch: self.epoch,
            attempt: self.epoch.map(|_| self.hellos),
            received: session.map(|session| session.lanes().received(0)),
            lanes: (1..MAX_LANES).filter_map(held).collect(),
            only: None,
        })
    }

    /// What the kit has taken of the primary lane, where all streams go on from there.
    pub(super) fn goes_on_from(&self, ok: &HelloOk) -> Option<u64> {
        let received = ok.received.filter(|_| ok.resumed)?;
        let session = self.session.keeps_streams()?;
        let same = ok.epoch == self.epoch && !session.lanes().stands(0);
        (same && session.lanes().can_resume(0, received)).then_some(received)
    }

    /// Whether the kit has its streams go on, for the epoch is the same, and says of our frames
    /// what cannot be. Nothing of the session would fit any more.
    pub(super) fn contradicts(&self, ok: &HelloOk) -> bool {
        let keeps = self.session.keeps_streams().is_some();
        let goes_on = ok.resumed && ok.epoch.is_some() && ok.epoch == self.epoch;
        keeps && goes_on && self.goes_on_from(ok).is_none()
    }

    /// Closes what the kit did not keep of the other lanes. Nothing of them is lent by now.
    pub(super) fn let_go_of_lanes(&mut self, cx: &mut Context, kept: &[u32]) {
        for index in 1..MAX_LANES {
            if kept.contains(&(index as u32)) {
                continue;
            }
            if let Some(conn) = self.lanes.conns[index].take() {
                cx.effects.close(conn, CloseHow::Clean);
                self.conns.remove(conn);
                cx.effects.timers.disarm(Timer::Lane(index as u8));
            }
            if let Some(session) = self.session.attached_mut()
                && session.lanes().keeps_streams()
            {
                session.suspend(index, cx.now);
            }
        }
    }

    /// The kit's answer to JOIN: what it has taken of the lane where that goes on or begins; the
    /// streams that are over where it begins anew.
    pub(super) fn goes_on_with(
        &mut self,
        index: usize,
        ok: &JoinOk,
    ) -> Result<(Option<u64>, Vec<ExchangeKey>), Failure> {
        let Some(session) = self.session.attached_mut() else {
            return Ok((None, Vec::new()));
        };
        let fails = |why: &'static str| {
            Err(Failure::Violation(Violation::session(
                Code::ProtocolError,
                why,
            )))
        };
        let begins = |received| session.lanes().is_unused(index) && received == 0;
        match ok.received.filter(|_| session.lanes().keeps_streams()) {
            Some(received) if begins(received) => Ok((None, Vec::new())),
            Some(received) if session.lanes().can_resume(index, received) => {
                Ok((Some(received), Vec::new()))
            }
            Some(_) => fails("JOIN_OK tells of frames that this connection cannot have carried"),
            None => {
                let lost = match session.lanes().keeps_streams() {
                    true => session.give_up(index).1,
                    false => Vec::new(),
                };
                let settled = session.settle(index, ok.data_received, ok.credit_received);
                match settled {
                    Ok(()) => Ok((None, lost)),
                    Err(_) => {
                        fails("JOIN_OK tells of DATA that this connection cannot have carried")
                    }
                }
            }
        }
    }

    /// Gives up lanes that did not come back for long. Gives their streams.
    pub(in crate::client) fn give_up_overdue(&mut self, now: Instant) -> Vec<ExchangeKey> {
        let Some(session) = self.session.attached_mut() else {
            return Vec::new();
        };
        let overdue = session.lanes().overdue(now, STREAMS_WAIT_FOR);
        overdue
            .into_iter()
            .flat_map(|index| session.give_up(index).1)
            .collect()
    }

    /// A ticket came for a lane that has a connection: what it says with JOIN, if it has not said
    /// it yet, or what is said by the next one.
    pub(super) fn takes_later_ticket(&mut self, conn: ConnKey, index: usize, nonce: Secret) {
        match self.conns.get(conn).map(|lane| &lane.phase) {
            Some(Phase::Route(_) | Phase::Upgrading(_)) => {
                if let Some(session) = self.session.attached_mut() {
                    session.lanes_mut().set_ticket(index, nonce);
                }
            }
            Some(Phase::Greeting(_)) => self.lanes.rejoin.keep(index, nonce),
            _ => {}
        }
    }

    /// A kit refused a JOIN. Where it is not the session's, its ticket is good for another way;
    /// else a later one, if it came, voided it.
    pub(super) fn join_refused(
        &mut self,
        cx: &mut Context,
        conn: ConnKey,
        index: usize,
        err: JoinErr,
    ) -> Then {
        let way = self.conns.get(conn).map(|lane| lane.way);
        let misled = way.is_some_and(|way| self.ways.refused_by(way, err.instance, cx.now));
        let mut again = self.lanes.rejoin.refused(index);
        if misled && again.is_none() {
            let session = self.session.attached();
            again = session
                .and_then(|session| session.lanes().ticket(index))
                .cloned();
        }
        let then = self.lane_failed(cx, index, Failure::Unjoined);
        match again {
            Some(nonce) => {
                self.join_lane(cx, index, nonce);
                Then::Nothing
            }
            None => then,
        }
    }

    /// JOIN_OK came: the session has one more lane.
    pub(super) fn joined(
        &mut self,
        cx: &mut Context,
        conn: ConnKey,
        index: usize,
        ok: &JoinOk,
    ) -> Then {
        let (received, lost) = match self.goes_on_with(index, ok) {
            Ok(goes_on) => goes_on,
            Err(failure) => return self.lane_failed(cx, 0, failure),
        };
        let lane = self.go_live(cx, conn);
        if let (Some(session), Some(lane)) = (self.session.attached_mut(), lane) {
            match received {
                Some(received) => session.resume(index, lane, received, cx.now),
                None => session.attach(index, lane),
            }
        }
        self.lanes.rejoin.joined(index, cx.now);
        if let (Some(lane), Some(kit)) = (self.conns.get(conn), &ok.instance) {
            self.ways.session_is_at(lane.way, Some(kit), cx.now);
        }
        self.tell_lanes(cx);
        Then::Anew(index, lost)
    }
}
