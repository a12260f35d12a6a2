//! Reaching the kit and staying there: the connections to it, and the session that they carry.
//!
//! What the room is for: the way to the kit through proxy and TLS (`route`, `proxy`, `url`), the
//! WebSocket (`upgrade`), HELLO and JOIN and what watches a lane (`lanes`), when to try again or to
//! go another way (`retry`, `rejoin`, `failover`, `failure`), and the last words. What it never
//! does: look into a stream, or decide what is bound. What concerns others it gives back as a
//! [`Then`].
//!
//! Order of calls: [`Reach::reach`] when its time has come; then what the host says of connections
//! to the kit, each followed by what [`Then`] says. Loans of lanes' buffers are taken back before
//! [`Reach::detach`], [`Reach::part`], [`Reach::look_after_lane`] and before a live lane reads.
//!
//! Invariants ([`Reach::check_invariants`]): every connection that is not saying goodbye is in its
//! lane's place; their names are below [`LANE_CONNS`].
//!
//! PROTOCOL §2, §3, §6 and §7.

mod base64;
mod doubt;
mod failover;
pub(in crate::client) mod failure;
mod kept;
mod lanes;
pub(in crate::client) mod proxy;
mod rejoin;
pub(in crate::client) mod retry;
mod returning;
pub(in crate::client) mod route;
pub(in crate::client) mod upgrade;
pub(in crate::client) mod url;
mod ways;

use std::time::Duration;

use crate::client::Error;
use crate::client::config::Config;
use crate::client::context::{Context, Timer};
use crate::client::event::SessionEvent;
use crate::client::forwards::Gate;
use crate::client::keys::{ExchangeKey, LANE_CONNS};
use crate::client::messages::Notice;
use crate::clock::Instant;
use crate::limits::{
    CLIENT_BEYOND_WINDOWS, CLIENT_STREAMS, CLOSE_WITHIN, GOODBYE_WITHIN, HEADS_IN_PARTS,
    LANE_QUEUE_OPENS, MAX_HEAD_PARTS, MAX_LANES, MAX_NONCE, MAX_SESSION_WINDOW, MAX_STREAM_WINDOW,
    POOL_IDLE_FOR,
};
use crate::machine::{CloseHow, Conn, ConnKey};
use crate::mux::{Side, Terms, Transport};
use crate::table::Table;
use crate::timers::Timers;
use crate::wire::code::Code;
use crate::wire::control::{
    Capabilities, GoAway, HelloOk, JoinTicket, MissingLane, ReissueRequest, Secret, SessionId,
};

use doubt::Doubt;
use failover::Failover;
use failure::Failure;
pub(super) use kept::Kept;
pub(super) use lanes::malformed;
use lanes::{LaneConn, Lanes, Phase};
use retry::{After, Retry, Stage};
use returning::retention;
use ways::Ways;

/// See the module.
pub(super) struct Reach {
    pub(super) retry: Retry,
    pub(super) session: Kept,
    pub(super) conns: Table<Conn, LaneConn>,
    pub(super) lanes: Lanes,
    ways: Ways,
    failover: Failover,
    doubt: Doubt,
    /// Why the session will end, when the kit said so before it closes.
    goaway: Option<Failure>,
    /// The user knows that nothing carries the session.
    told_lost: bool,
    /// The epoch of the session's counts, where its streams are kept (PROTOCOL §9).
    epoch: Option<u64>,
    /// HELLOs so far.
    hellos: u64,
    /// Room for bytes that come after our goodbye.
    scratch: [u8; 64],
}

/// What another machine needs to come back to the session.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    session: SessionId,
    epoch: Option<u64>,
    hellos: u64,
}

/// What follows for others from something that was told.
#[must_use]
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// Frames may have come on this lane of the session.
    Frames(usize),
    /// The session stands, and its streams go on.
    GoesOn(Box<HelloOk>),
    /// The session stands, with none of the streams of before.
    Stands(Box<HelloOk>),
    /// The kit restarts, and gives the streams so long to finish.
    Departs(Duration),
    /// This lane begins anew, without these streams of before. Frames may have come on it.
    Anew(usize, Vec<ExchangeKey>),
    /// A secondary lane is gone; see [`Reach::detach`].
    LaneLost(usize),
    /// The primary lane is gone, and the session with it.
    Lost(Failure),
    /// The system had no descriptor; then this.
    Short(Box<Then>),
}

impl Reach {
    /// Nothing was tried yet.
    pub(super) fn new(config: &Config, now: Instant) -> Reach {
        Reach {
            retry: Retry::new(config.retry_for, config.resume.clone(), now),
            session: Kept::NotYet,
            conns: Table::new(LANE_CONNS),
            lanes: Lanes::default(),
            ways: Ways::new(config.endpoints.len()),
            failover: Failover::default(),
            doubt: Doubt::default(),
            goaway: None,
            told_lost: false,
            epoch: None,
            hellos: 0,
            scratch: [0; 64],
        }
    }

    /// A machine before this one had the session, a moment ago.
    pub(super) fn after(config: &Config, trace: Trace, now: Instant) -> Reach {
        let mut reach = Reach::new(config, now);
        reach.retry.session = Some(trace.session);
        reach.retry.ever_online = true;
        reach.epoch = trace.epoch;
        reach.hellos = trace.hellos;
        reach
    }

    /// From now on another machine reaches the kit, and streams finish here. Gives what that one
    /// has to know.
    pub(super) fn departs(&mut self) -> Option<Trace> {
        let Stage::Online(_) = self.retry.stage else {
            return None;
        };
        let session = self.retry.session.clone()?;
        self.retry.stage = Stage::Departing;
        Some(Trace {
            session,
            epoch: self.epoch,
            hellos: self.hellos,
        })
    }

    /// No other machine could begin.
    pub(super) fn stays_after_all(&mut self, now: Instant) {
        if self.retry.stage == Stage::Departing {
            self.retry.stage = Stage::Online(now);
        }
    }

    /// Whether nothing waits to leave for the kit.
    pub(super) fn is_flushed(&self) -> bool {
        let session = self.session.attached();
        session.is_none_or(|session| session.lanes().are_flushed())
    }

    /// Whether the kit has all of what streams that are over here have said, as far as is known.
    pub(super) fn all_has_arrived(&self) -> bool {
        self.is_flushed() && self.others_have_arrived()
    }

    /// Whether a goodbye overtakes nothing that was said on another connection.
    pub(super) fn others_have_arrived(&self) -> bool {
        let session = self.session.attached();
        session.is_none_or(|session| session.lanes().others_have_arrived())
    }

    /// Tries to reach the kit.
    pub(super) fn reach(&mut self, cx: &mut Context) {
        if self.retry.stage != Stage::Waiting {
            return;
        }
        let attempt = self.retry.reach();
        if !self.has_lanes() {
            cx.notify(SessionEvent::Connecting { attempt });
        }
        let way = self.ways.next(cx.now);
        self.dial_lane(cx, 0, way, None);
    }

    /// Whether the session stands and is to stay.
    pub(super) fn stays(&self) -> bool {
        matches!(self.retry.stage, Stage::Online(_))
    }

    /// HELLO_OK came: the session stands. Says whether its streams go on.
    fn established(&mut self, cx: &mut Context, lane: Transport, ok: &HelloOk) -> bool {
        let granted = ok.connections_granted.unwrap_or(1);
        let granted = granted.clamp(1, cx.config.connections.min(MAX_LANES as u32));
        let streams = ok
            .max_streams
            .map_or(CLIENT_STREAMS, |streams| streams as usize);
        // The kit keeps to it, but of some streams it knows the end before we do: while a local
        // server takes the last bytes slowly, or where the end comes on a lane that is slower than
        // that of the next stream's beginning.
        let streams = streams.saturating_mul(2);
        let terms = Terms {
            side: Side::Client,
            // What it says binds it, too: no kit makes us keep more than this.
            stream_window: ok.stream_window.min(MAX_STREAM_WINDOW),
            session_window: ok.session_window.min(MAX_SESSION_WINDOW),
            max_streams: streams.clamp(1, CLIENT_STREAMS),
            grow_windows: ok.capabilities.have(Capabilities::GROW_WINDOWS),
            header_case: ok.capabilities.have(Capabilities::HEADER_CASE),
            udp: ok.capabilities.have(Capabilities::UDP),
            trailers: ok.capabilities.have(Capabilities::TRAILERS),
            forward: ok.capabilities.have(Capabilities::FORWARD),
            head_parts: match ok.capabilities.have(Capabilities::LONG_HEADS) {
                true => HEADS_IN_PARTS * MAX_HEAD_PARTS,
                false => 0,
            },
            queue_opens: LANE_QUEUE_OPENS,
            replay: retention(&cx.config, ok, granted),
        };
        let way = self.conns.get(lane.conn()).map(|it| it.way);
        let goes_on = self.goes_on_from(ok);
        self.let_go_of_lanes(cx, if goes_on.is_some() { &ok.lanes } else { &[] });
        match (goes_on, self.session.attached_mut()) {
            (Some(received), Some(session)) => session.resume(0, lane, received, cx.now),
            _ => {
                self.failover.begin();
                self.epoch = ok.epoch.filter(|_| terms.replay.is_some());
                self.lanes.granted = granted;
                let session = self.session.stands(terms, cx.now);
                session.attach(0, lane);
                session.set_budget(CLIENT_BEYOND_WINDOWS);
            }
        }
        cx.effects.timers.disarm(Timer::Waits);
        self.ways.new_round();
        if let Some(way) = way {
            self.ways.session_is_at(way, ok.instance.as_deref(), cx.now);
        }
        let came_back = self.retry.online(ok.session_id.clone(), ok.resumed, cx.now);
        let id = ok.session_id.to_string();
        cx.effects.notify(Notice::Session(ok.session_id.clone()));
        let was_lost = std::mem::take(&mut self.told_lost);
        match came_back {
            // The others carried on meanwhile.
            true if goes_on.is_some() && !was_lost => self.tell_lanes(cx),
            true => cx.notify(SessionEvent::Resumed { session: id }),
            false => cx.notify(SessionEvent::Online {
                session: id,
                connections: self.lanes.granted,
            }),
        }
        goes_on.is_some()
    }

    /// Has the other lanes of a session that stands join it.
    pub(super) fn complete(&mut self, cx: &mut Context, tickets: Vec<JoinTicket>) {
        self.lanes.rejoin.begin(cx.now);
        self.join_with(cx, tickets);
        self.plan_rejoin(cx);
    }

    /// The kit ends the session. Streams go on until it closes, if there are any.
    pub(super) fn kit_goes_away(&mut self, cx: &mut Context, goaway: GoAway, busy: bool) -> Then {
        let is_kind = goaway.code() == Code::NoError || goaway.is_final == Some(true);
        let grace = Duration::from_millis(goaway.grace_ms.into());
        let failure = Failure::from(goaway);
        if !is_kind || !busy {
            // Whatever lane it came on, it is about the session.
            self.goaway = (!failure.is_about_silence()).then(|| failure.clone());
            return self.lane_failed(cx, 0, failure);
        }
        let patience = grace.clamp(CLOSE_WITHIN, POOL_IDLE_FOR * 5) + CLOSE_WITHIN / 5;
        let restarts = failure.is_restart();
        self.goaway = Some(failure);
        cx.effects.timers.arm(Timer::Goaway, cx.now + patience);
        match restarts {
            true => Then::Departs(grace),
            false => Then::Nothing,
        }
    }

    /// It should have closed by now.
    pub(super) fn goaway_overdue(&mut self, cx: &mut Context) -> Then {
        match self.goaway {
            Some(_) => self.lane_failed(cx, 0, Failure::HungUp),
            None => Then::Nothing,
        }
    }

    /// Takes the lane from the session. Gives the streams that are lost with it, and whether it
    /// stood; then comes [`Reach::lane_lost`].
    pub(super) fn detach(&mut self, index: usize, now: Instant) -> (bool, Vec<ExchangeKey>) {
        match self.session.attached_mut() {
            Some(session) if session.lanes().keeps_streams() => {
                (session.suspend(index, now).is_some(), Vec::new())
            }
            Some(session) => {
                let (lane, lost) = session.detach(index);
                (lane.is_some(), lost)
            }
            None => (false, Vec::new()),
        }
    }

    /// Tells of a lane that is gone, and plans for the next.
    pub(super) fn lane_lost(&mut self, cx: &mut Context, index: usize, stood: bool) {
        let Some(session) = self.session.attached() else {
            return;
        };
        let awaited = session.lanes().is_awaited(index, cx.now);
        if stood {
            self.tell_lanes(cx);
        }
        if !self.has_lanes() && !self.told_lost {
            // The primary was lost before, and now nothing carries the session.
            self.tell_lost(cx, "all connections to the kit were lost".to_owned());
        }
        self.lanes.rejoin.gone(index, awaited, cx.now);
        self.plan_rejoin(cx);
    }

    /// Forgets all lanes and parks the session; its streams are gone.
    pub(super) fn drop_session(&mut self, cx: &mut Context) {
        for index in 0..MAX_LANES {
            if let Some(conn) = self.lanes.conns[index].take() {
                cx.effects.close(conn, CloseHow::Clean);
                self.conns.remove(conn);
            }
            cx.effects.timers.disarm(Timer::Lane(index as u8));
        }
        let of_a_session = [
            Timer::Rejoin,
            Timer::Rebind,
            Timer::Claim,
            Timer::Goaway,
            Timer::Sweep,
            Timer::Acks,
            Timer::Waits,
        ];
        for timer in of_a_session {
            cx.effects.timers.disarm(timer);
        }
        self.session.park();
    }

    /// Why it is really over, when the kit said so before.
    pub(super) fn why(&mut self, failure: Failure) -> Failure {
        self.goaway.take().unwrap_or(failure)
    }

    /// The session is dropped: plans the next try, or gives the error that ends it all.
    pub(super) fn retry(&mut self, cx: &mut Context, failure: &Failure) -> Option<Error> {
        let failure = &self.retry.understood(failure);
        let why = failure.error();
        if failure.is_restart() {
            self.ways.kit_restarts();
        }
        let more = self.ways.has_more(cx.now);
        match self.retry.failure(failure, more, &mut cx.entropy, cx.now) {
            After::Retry(retry_in) => {
                cx.effects.timers.arm(Timer::Retry, cx.now + retry_in);
                match self.has_lanes() {
                    true => self.tell_lanes(cx),
                    false => self.tell_lost(cx, why.to_string()),
                }
                None
            }
            After::GiveUp(error) => Some(error),
        }
    }

    /// Sends the last words on all lanes, which then only wait for them to leave.
    pub(super) fn part(&mut self, cx: &mut Context, goaway: &GoAway, close_code: u16) {
        let Some(session) = self.session.attached_mut() else {
            return;
        };
        session.say(goaway);
        session
            .lanes_mut()
            .push_close(close_code, &failure::plain(&goaway.message));
        for index in 0..MAX_LANES {
            let Some(conn) = self.lanes.conns[index] else {
                continue;
            };
            let (Some(lane), _) = session.detach(index) else {
                continue;
            };
            self.conns.resolve_mut(conn).phase = Phase::Leaving(lane);
            self.lanes.conns[index] = None;
            let at = cx.now + GOODBYE_WITHIN;
            cx.effects.timers.arm(Timer::Leaving(conn), at);
            cx.effects.wake(conn);
        }
    }

    /// A connection whose last words should have left by now, or whose kit closed it.
    pub(super) fn leave(&mut self, cx: &mut Context, conn: ConnKey) {
        cx.effects.timers.disarm(Timer::Leaving(conn));
        if self.conns.remove(conn).is_some() {
            cx.effects.close(conn, CloseHow::Clean);
        }
    }

    /// Nothing follows: of all deadlines only those of last words stay.
    pub(super) fn over(&mut self, cx: &mut Context) {
        self.retry.stage = Stage::Over;
        let mut leaving = Timers::new();
        let mut closed = Vec::new();
        for (conn, lane) in self.conns.iter() {
            match lane.phase {
                Phase::Leaving(_) => leaving.arm(Timer::Leaving(conn), cx.now + GOODBYE_WITHIN),
                _ => closed.push(conn),
            }
        }
        cx.effects.timers = leaving;
        for conn in closed {
            self.leave(cx, conn);
        }
    }

    /// Silence so far proves nothing any more: dial at once. Who stands is asked at once, see
    /// [`Reach::hurry`].
    pub(super) fn disturbed(&mut self, cx: &mut Context) -> Then {
        self.retry.refresh();
        self.ways.refresh();
        match self.retry.stage {
            Stage::Waiting => cx.effects.timers.arm(Timer::Retry, cx.now),
            Stage::Reaching => return self.lane_failed(cx, 0, Failure::Disturbed),
            Stage::Online(_) | Stage::Departing | Stage::Closing | Stage::Over => {}
        }
        Then::Nothing
    }

    /// Whether any lane of the session stands.
    pub(super) fn has_lanes(&self) -> bool {
        let session = self.session.attached();
        session.is_some_and(|session| !session.lanes().is_empty())
    }

    /// Whether callers who want to the container may come.
    pub(super) fn gate(&self) -> Gate {
        match self.session.attached() {
            Some(session) if !session.lanes().is_empty() => match session.terms().forward {
                true => Gate::Open,
                false => Gate::NotGranted,
            },
            // Its streams wait, and so may those who come.
            Some(_) => Gate::Waits,
            None if !self.retry.ever_online => Gate::Waits,
            None => Gate::Away,
        }
    }

    /// Whether the primary does, which carries what is said of the session.
    pub(super) fn has_primary(&self) -> bool {
        let session = self.session.attached();
        session.is_some_and(|session| session.lanes().stands(0))
    }

    fn tell_lost(&mut self, cx: &mut Context, why: String) {
        let due = cx.effects.timers.deadline(Timer::Retry);
        let retry_in = due.map_or(Duration::ZERO, |due| due.since(cx.now));
        self.told_lost = true;
        cx.notify(SessionEvent::Lost { why, retry_in });
    }

    /// The kit was heard then on the primary lane: tells of ways that lead to another one.
    fn tell_of_other_kits(&mut self, cx: &mut Context, heard: Instant) {
        for way in self.ways.lead_elsewhere(heard) {
            if let Some(endpoint) = cx.config.endpoints.get(way) {
                let authority = endpoint.authority();
                cx.notify(SessionEvent::AnotherKit { authority });
            }
        }
    }

    fn tell_lanes(&mut self, cx: &mut Context) {
        let stands = self.retry.stage != Stage::Departing;
        let Some(session) = self.session.attached().filter(|_| stands) else {
            return;
        };
        let standing = session.lanes().iter().count() as u32;
        let granted = self.lanes.granted;
        cx.notify(SessionEvent::Lanes { standing, granted });
    }

    /// The secondary lanes that are neither there nor on their way.
    fn missing_lanes(&self) -> impl Iterator<Item = usize> + use<'_> {
        (1..self.lanes.granted as usize).filter(|index| self.lanes.conns[*index].is_none())
    }

    /// Has the next missing lane be asked for in its time.
    pub(super) fn plan_rejoin(&mut self, cx: &mut Context) {
        let due = self.missing_lanes().map(|it| self.lanes.rejoin.due(it));
        match due.min() {
            Some(due) => cx.effects.timers.arm(Timer::Rejoin, due),
            None => cx.effects.timers.disarm(Timer::Rejoin),
        }
    }

    /// Asks for the right to join the lanes that are missing, when one of them is due.
    pub(super) fn ask_for_tickets(&mut self, cx: &mut Context) {
        let now = cx.now;
        let all: Vec<usize> = self.missing_lanes().collect();
        let rejoin = &mut self.lanes.rejoin;
        let due = all.iter().filter(|it| rejoin.is_due(**it, now)).copied();
        let due: Vec<usize> = due.collect();
        let Some(session) = self.session.attached_mut() else {
            return;
        };
        if !matches!(self.retry.stage, Stage::Online(_)) {
            return;
        }
        if !due.is_empty() {
            let given_up = |index: usize| {
                let nonce = session.lanes().ticket(index)?.clone();
                let index = index as u32;
                Some(MissingLane { index, nonce })
            };
            let missing = all.into_iter().filter_map(given_up).collect();
            session.say(&ReissueRequest { missing });
        }
        for index in due {
            rejoin.asked(index, now);
        }
        self.plan_rejoin(cx);
    }

    /// Joins the lanes that there are tickets for. They void older ones, so a lane that is on its
    /// way takes the new one.
    pub(super) fn join_with(&mut self, cx: &mut Context, tickets: Vec<JoinTicket>) {
        for ticket in tickets {
            let (index, nonce) = (ticket.index as usize, ticket.nonce);
            let granted = (1..self.lanes.granted as usize).contains(&index);
            if !granted || nonce.expose().len() > MAX_NONCE {
                continue;
            }
            match self.lanes.conns[index] {
                Some(conn) => self.takes_later_ticket(conn, index, nonce),
                None if self.lanes.rejoin.take(index) => self.join_lane(cx, index, nonce),
                None => {}
            }
        }
    }

    /// A connection is made for lane `index`, which has the right to join it.
    pub(super) fn join_lane(&mut self, cx: &mut Context, index: usize, nonce: Secret) {
        let way = self.ways.beside(|way| self.lanes_on(way), cx.now);
        self.dial_lane(cx, index, way, Some(nonce));
    }

    /// How many connections there are by a way.
    fn lanes_on(&self, way: usize) -> usize {
        self.conns.iter().filter(|(_, it)| it.way == way).count()
    }

    /// Whether a secondary lane that stands had better join again by another way: nobody notices,
    /// for nothing runs on it, and what is opened just now is kept.
    fn is_to_move(&self, index: usize, way: usize, now: Instant) -> bool {
        let session = self.session.keeps_streams();
        let idle = session.is_some_and(|session| session.lanes().carries(index) == 0);
        // One at a time: what is missing has not chosen yet.
        let all = self.lanes.conns.iter().flatten().count() == self.lanes.granted as usize;
        index != 0 && idle && all && self.ways.is_crowded(way, |way| self.lanes_on(way), now)
    }

    /// Whether no connection is left.
    pub(super) fn is_gone(&self) -> bool {
        self.conns.is_empty()
    }

    /// Whether every connection is where it should be.
    pub(super) fn check_invariants(&self) {
        for (key, lane) in self.conns.iter() {
            if !matches!(lane.phase, Phase::Leaving(_)) {
                let registered = self.lanes.conns[lane.index];
                assert_eq!(registered, Some(key), "a lane that nobody knows");
            }
        }
    }
}
