//! Connections to the kit: dialled, upgraded, greeted, watched.

use std::time::Duration;

use crate::client::context::{Context, Timer};
use crate::client::reach::failover::awaited;
use crate::client::reach::failure::Failure;
use crate::client::reach::rejoin::Rejoin;
use crate::client::reach::retry::Stage;
use crate::client::reach::returning::offered;
use crate::client::reach::route::{Advance, Route};
use crate::client::reach::upgrade::Upgrade;
use crate::client::reach::{Reach, Then};
use crate::clock::Instant;
use crate::limits::{
    ASK_AFTER, MAX_LANES, PROBE_WITHIN, PROMISE_MAX, PROMISE_MIN, REACH_WITHIN, STALE_WITHIN,
    STEP_WITHIN,
};
use crate::machine::{CloseHow, Command, ConnKey, Ended};
use crate::mux::{Item, Liveness, Transport, Violation};
use crate::wire::code::Code;
use crate::wire::control::{self, Auth, Hello, HelloOk, Join, Secret};
use crate::wire::frame::FrameType;
use crate::ws::Subprotocol;

/// The connections by index; 0 is the primary.
#[derive(Debug, Default)]
pub(in crate::client) struct Lanes {
    pub conns: [Option<ConnKey>; MAX_LANES],
    /// How many the kit granted.
    pub granted: u32,
    /// When missing ones are tried again.
    pub rejoin: Rejoin,
}

/// One connection to the kit.
#[derive(Debug)]
pub(in crate::client) struct LaneConn {
    pub index: usize,
    /// By which way to the kit, and since when.
    pub way: usize,
    began: Instant,
    pub phase: Phase,
    /// Since when bytes have waited for its socket.
    pub backlog_since: Option<Instant>,
    /// The network changed then, and no sign of life came since.
    hurried: Option<Instant>,
    /// When bytes left last, and when HELLO or JOIN was said.
    said: Instant,
    greeted: Instant,
}

/// How far a connection to the kit is.
#[derive(Debug)]
pub(in crate::client) enum Phase {
    /// TCP, proxy, TLS.
    Route(Route),
    /// The WebSocket upgrade.
    Upgrading(Upgrade),
    /// HELLO or JOIN is out.
    Greeting(Transport),
    /// The session has the lane.
    Live,
    /// The last frames are on their way out; nobody waits for an answer.
    Leaving(Transport),
}

impl Reach {
    pub(crate) fn dial_lane(
        &mut self,
        cx: &mut Context,
        index: usize,
        way: usize,
        ticket: Option<Secret>,
    ) {
        let Some(endpoint) = cx.config.endpoints.get(way) else {
            unreachable!("ways are named by their place");
        };
        let asks = index == 0 && !self.retry.ever_online && self.doubt.asks(way);
        let route = Route::new(endpoint.clone(), asks);
        let target = route.target();
        let entry = LaneConn {
            index,
            way,
            began: cx.now,
            phase: Phase::Route(route),
            backlog_since: None,
            hurried: None,
            said: cx.now,
            greeted: cx.now,
        };
        let Ok(conn) = self.conns.insert(entry) else {
            // Local connections have a bound of their own, so there is room for lanes.
            unreachable!("the table has room for every lane");
        };
        self.lanes.conns[index] = Some(conn);
        if let (Some(session), Some(ticket)) = (self.session.attached_mut(), ticket) {
            session.lanes_mut().set_ticket(index, ticket);
        }
        cx.effects.ask(Command::Dial { conn, target });
        let timer = Timer::Lane(index as u8);
        cx.effects.timers.arm(timer, cx.now + REACH_WITHIN);
    }

    pub(crate) fn lane_connected(&mut self, cx: &mut Context, conn: ConnKey) {
        if let Some(lane) = self.conns.get_mut(conn)
            && let Phase::Route(route) = &mut lane.phase
        {
            let step = route.connected();
            self.step_on(cx, conn, step);
        }
    }

    pub(crate) fn lane_secured(&mut self, cx: &mut Context, conn: ConnKey) -> Then {
        if let Some(lane) = self.conns.get_mut(conn)
            && let (index, Phase::Route(route)) = (lane.index, &mut lane.phase)
        {
            match route.secured() {
                Ok(step) => self.step_on(cx, conn, step),
                Err(failure) => return self.lane_failed(cx, index, failure),
            }
        }
        Then::Nothing
    }

    fn step_on(&mut self, cx: &mut Context, conn: ConnKey, step: Advance) {
        let Some(index) = self.conns.get(conn).map(|lane| lane.index) else {
            return;
        };
        self.arm_step(cx, index);
        match step {
            Advance::Wait => cx.effects.wake(conn),
            Advance::Secure(server_name) => {
                cx.effects.ask(Command::tls_with_the_kit(conn, server_name));
            }
            Advance::Ready => {
                if let Some(lane) = self.conns.get_mut(conn)
                    && let Phase::Route(route) = &lane.phase
                {
                    let upgrade = Upgrade::new(&cx.config, route.endpoint(), &mut cx.entropy);
                    lane.phase = Phase::Upgrading(upgrade);
                }
                cx.effects.wake(conn);
            }
        }
    }

    /// Bytes came; 0 is the kit's FIN.
    pub(crate) fn lane_received(&mut self, cx: &mut Context, conn: ConnKey, count: usize) -> Then {
        let Some(lane) = self.conns.get_mut(conn) else {
            return Then::Nothing;
        };
        let index = lane.index;
        match &mut lane.phase {
            Phase::Leaving(_) if count == 0 => self.leave(cx, conn),
            Phase::Leaving(_) => {}
            Phase::Route(route) => match route.received(count) {
                Ok(step) => self.step_on(cx, conn, step),
                Err(failure) => return self.lane_failed(cx, index, failure),
            },
            Phase::Upgrading(upgrade) => match upgrade.received(count) {
                Ok(None) => {}
                Ok(Some(subprotocol)) => return self.greet(cx, conn, subprotocol),
                Err(failure) => return self.lane_failed(cx, index, failure),
            },
            _ if count == 0 => return self.lane_failed(cx, index, Failure::HungUp),
            Phase::Greeting(greeting) => {
                greeting.received(count, cx.now);
                return self.poll_greeting(cx, conn);
            }
            Phase::Live => {
                if let Some(session) = self.session.attached_mut()
                    && let Some(lane) = session.lanes_mut().get_mut(index)
                {
                    lane.received(count, cx.now);
                }
                return Then::Frames(index);
            }
        }
        Then::Nothing
    }

    /// Where the next bytes of a connection to the kit go.
    pub(crate) fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        let Some(lane) = self.conns.get_mut(conn) else {
            return &mut [];
        };
        match &mut lane.phase {
            Phase::Route(route) => route.read_space(),
            Phase::Upgrading(upgrade) => upgrade.read_space(),
            Phase::Greeting(greeting) => greeting.read_space(),
            Phase::Live => {
                let session = self.session.attached_mut();
                let lane = session.and_then(|session| session.lanes_mut().get_mut(lane.index));
                lane.map_or(&mut [], |lane| lane.read_space())
            }
            // What comes after our goodbye is thrown away, but for the end.
            Phase::Leaving(_) => &mut self.scratch,
        }
    }

    /// What a connection to the kit is to be sent.
    pub(crate) fn transmit(&mut self, conn: ConnKey) -> &[u8] {
        let Some(lane) = self.conns.get_mut(conn) else {
            return &[];
        };
        match &mut lane.phase {
            Phase::Route(route) => route.out.bytes(),
            Phase::Upgrading(upgrade) => upgrade.out.bytes(),
            Phase::Greeting(transport) | Phase::Leaving(transport) => transport.transmit(),
            Phase::Live => {
                let session = self.session.attached_mut();
                session.map_or(&[], |session| session.transmit(lane.index))
            }
        }
    }

    /// Frames may wait for a lane's socket.
    pub(crate) fn has_backlog(&mut self, conn: ConnKey, now: Instant) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let session = self.session.attached();
        let lane = session.and_then(|session| session.lanes().get(entry.index));
        if lane.is_some_and(|lane| !lane.is_flushed()) {
            entry.backlog_since.get_or_insert(now);
        }
    }

    /// The WebSocket stands: HELLO or JOIN.
    fn greet(&mut self, cx: &mut Context, conn: ConnKey, subprotocol: Subprotocol) -> Then {
        let (now, masks) = (cx.now, cx.entropy.fork());
        self.hellos += 1;
        let hello = self.hello(cx, subprotocol);
        let session_id = self.retry.session.clone();
        let session = self.session.attached();
        let Some(entry) = self.conns.get_mut(conn) else {
            return Then::Nothing;
        };
        let index = entry.index;
        let data_received = session.map(|session| session.lanes().data_received(index));
        let mut lane = Transport::client(conn, masks, now);
        if let Phase::Upgrading(upgrade) = &entry.phase {
            lane.feed(upgrade.rest(), now);
        }
        let ticket = session.and_then(|session| session.lanes().ticket(index));
        match (ticket, session_id) {
            (Some(nonce), Some(session_id)) => {
                lane.say(&Join {
                    session_id,
                    index: index as u32,
                    nonce: nonce.clone(),
                    received: session.and_then(|session| session.lanes().joins_with(index)),
                    data_received,
                    credit_received: session
                        .and_then(|session| session.lanes().credit_received(index)),
                });
            }
            _ => lane.say(&hello),
        }
        entry.phase = Phase::Greeting(lane);
        entry.greeted = now;
        self.arm_step(cx, index);
        cx.effects.wake(conn);
        self.poll_greeting(cx, conn)
    }

    /// The next step on the way of a lane begins.
    fn arm_step(&self, cx: &mut Context, index: usize) {
        // Without the primary nothing goes; a secondary that is slow keeps nobody waiting.
        let within = match index {
            0 => self.retry.step_within(),
            _ => STEP_WITHIN,
        };
        let timer = Timer::Lane(index as u8);
        cx.effects.timers.arm(timer, cx.now + within);
    }

    fn hello(&self, cx: &Context, subprotocol: Subprotocol) -> Hello {
        let token = cx.config.token.clone();
        let v2 = subprotocol == Subprotocol::V2;
        let keeps = cx.config.keeps();
        Hello {
            version: subprotocol.name().to_owned(),
            auth: token.map(|token| Auth {
                kind: "bearer".to_owned(),
                token,
            }),
            capabilities: offered(keeps.is_some()),
            resume: self.resume(),
            max_connections: v2.then_some(cx.config.connections),
            replay_buffer: keeps.map(u64::from),
            ping_every_ms: promise(cx.config.keepalive),
        }
    }

    /// What comes before the session has the lane.
    fn poll_greeting(&mut self, cx: &mut Context, conn: ConnKey) -> Then {
        loop {
            let Some(entry) = self.conns.get_mut(conn) else {
                return Then::Nothing;
            };
            let index = entry.index;
            let Phase::Greeting(lane) = &mut entry.phase else {
                return Then::Nothing;
            };
            let item = match lane.poll() {
                Ok(Some(item)) => item,
                Ok(None) => return Then::Nothing,
                Err(violation) => {
                    return self.lane_failed(cx, index, Failure::Violation(violation));
                }
            };
            match item {
                Item::Pinged => cx.effects.wake(conn),
                Item::Closed { code } => {
                    return self.lane_failed(cx, index, Failure::Closed(code));
                }
                Item::Frame { kind, payload, .. } => {
                    let payload = lane.payload(&payload).to_vec();
                    if let Some(then) = self.greeted(cx, conn, index, kind, &payload) {
                        return then;
                    }
                }
            }
        }
    }

    /// A frame that may be the answer to HELLO or JOIN: what follows if it is.
    fn greeted(
        &mut self,
        cx: &mut Context,
        conn: ConnKey,
        index: usize,
        kind: FrameType,
        payload: &[u8],
    ) -> Option<Then> {
        let failure = match (kind, index) {
            (FrameType::HelloOk, 0) => match control::parse::<HelloOk>(payload) {
                Ok(ok) if self.contradicts(&ok) => {
                    let why = "HELLO_OK tells of frames that this session cannot have carried";
                    Failure::Violation(Violation::session(Code::ProtocolError, why))
                }
                Ok(ok) => {
                    let lane = self.go_live(cx, conn)?;
                    return Some(match self.established(cx, lane, &ok) {
                        true => Then::GoesOn(Box::new(ok)),
                        false => Then::Stands(Box::new(ok)),
                    });
                }
                Err(error) => malformed(&error),
            },
            (FrameType::JoinOk, 1..) => match control::parse(payload) {
                Ok(ok) => return Some(self.joined(cx, conn, index, &ok)),
                Err(error) => malformed(&error),
            },
            (FrameType::JoinErr, 1..) => match control::parse(payload) {
                Ok(err) => return Some(self.join_refused(cx, conn, index, err)),
                Err(error) => malformed(&error),
            },
            (FrameType::GoAway, _) => {
                let goaway: control::GoAway = control::parse(payload).unwrap_or_default();
                Failure::from(goaway)
            }
            // Nothing else means anything before the session stands.
            _ => return None,
        };
        Some(self.lane_failed(cx, index, failure))
    }

    /// Takes the lane out of its entry, for the session to have.
    pub(super) fn go_live(&mut self, cx: &mut Context, conn: ConnKey) -> Option<Transport> {
        let quiet = match self.lanes.granted {
            0 | 1 => cx.config.keepalive,
            _ => cx.config.keepalive.min(ASK_AFTER),
        };
        let entry = self.conns.get_mut(conn)?;
        let index = entry.index;
        entry.said = cx.now;
        self.ways.stands(entry.way, cx.now.since(entry.began));
        let lane = match std::mem::replace(&mut entry.phase, Phase::Live) {
            Phase::Greeting(mut lane) => {
                lane.measured(cx.now.since(entry.greeted));
                Some(lane)
            }
            _ => None,
        };
        cx.effects
            .timers
            .arm(Timer::Lane(index as u8), cx.now + quiet);
        lane
    }

    pub(crate) fn lane_transmitted(&mut self, cx: &mut Context, conn: ConnKey, count: usize) {
        let now = cx.now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        match &mut entry.phase {
            Phase::Route(route) => route.out.consume(count),
            Phase::Upgrading(upgrade) => upgrade.out.consume(count),
            Phase::Greeting(lane) | Phase::Leaving(lane) => {
                lane.transmitted(count);
            }
            Phase::Live => {
                let Some(session) = self.session.attached_mut() else {
                    return;
                };
                session.transmitted(entry.index, count);
                entry.said = now;
                let Some(lane) = session.lanes_mut().get_mut(entry.index) else {
                    return;
                };
                // A socket that was full takes bytes again only when the kit's system acknowledges
                // others: on a slow link with a long way out that is the life that is seen first.
                if entry.backlog_since.is_some_and(|since| now > since) {
                    lane.shows_life(now);
                }
                entry.backlog_since = match lane.is_flushed() {
                    true => None,
                    false => Some(entry.backlog_since.unwrap_or(now)),
                };
            }
        }
    }

    /// The world ended a connection to the kit.
    pub(crate) fn lane_ended(&mut self, cx: &mut Context, conn: ConnKey, how: Ended) -> Then {
        let Some(entry) = self.conns.remove(conn) else {
            return Then::Nothing;
        };
        let failure = match (&entry.phase, how) {
            (Phase::Leaving(_), _) => {
                cx.effects.timers.disarm(Timer::Leaving(conn));
                return Then::Nothing;
            }
            (Phase::Route(route), Ended::Failed(failure)) => route.failed(failure),
            (Phase::Upgrading(upgrade), how) => upgrade.dropped(Failure::Dropped(how)),
            (_, how) => Failure::Dropped(how),
        };
        self.ways.failed(entry.way, cx.now);
        self.doubt.after(&failure, entry.way);
        let is_short = failure.is_shortage();
        match (self.lane_gone(cx, entry.index, failure), is_short) {
            (then, true) => Then::Short(Box::new(then)),
            (then, false) => then,
        }
    }

    /// We give a connection to the kit up.
    pub(crate) fn lane_failed(&mut self, cx: &mut Context, index: usize, failure: Failure) -> Then {
        if let Some(conn) = self.lanes.conns[index] {
            let how = match failure {
                // A dead connection's bytes are not worth keeping in the kernel.
                Failure::Silent => CloseHow::Reset,
                _ => CloseHow::Clean,
            };
            cx.effects.close(conn, how);
            if let Some(entry) = self.conns.remove(conn)
                && failure.is_the_ways()
            {
                self.ways.failed(entry.way, cx.now);
                self.doubt.after(&failure, entry.way);
            }
        }
        self.lane_gone(cx, index, failure)
    }

    /// The connection of a lane is no more.
    fn lane_gone(&mut self, cx: &mut Context, index: usize, failure: Failure) -> Then {
        self.lanes.conns[index] = None;
        cx.effects.timers.disarm(Timer::Lane(index as u8));
        match index {
            0 => Then::Lost(failure),
            _ => Then::LaneLost(index),
        }
    }

    /// The network changed: whether a lane that stands is to be asked for a sign of life now.
    pub(crate) fn hurry(&mut self, index: usize, now: Instant) -> bool {
        let (Stage::Online(_) | Stage::Closing | Stage::Departing) = self.retry.stage else {
            return false;
        };
        let Some(conn) = self.lanes.conns[index] else {
            return false;
        };
        let lane = self.conns.resolve_mut(conn);
        let is_live = matches!(lane.phase, Phase::Live);
        if is_live {
            lane.hurried = Some(now);
        }
        is_live
    }

    /// Looks after a lane whose time has come. One that is quiet gives its receive buffer back.
    pub(crate) fn look_after_lane(&mut self, cx: &mut Context, index: usize) -> Then {
        let Some(conn) = self.lanes.conns.get(index).copied().flatten() else {
            return Then::Nothing;
        };
        let (now, ping, keepalive) = (cx.now, cx.entropy.octets(), cx.config.keepalive);
        let Some(entry) = self.conns.get_mut(conn) else {
            return Then::Nothing;
        };
        let slow = match &entry.phase {
            Phase::Route(route) => Some(Failure::Slow(route.doing())),
            Phase::Upgrading(upgrade) => Some(upgrade.timed_out()),
            Phase::Greeting(_) => Some(Failure::Slow("waiting for the session")),
            Phase::Live | Phase::Leaving(_) => None,
        };
        if let Some(failure) = slow {
            return self.lane_failed(cx, index, failure);
        }
        let way = entry.way;
        if self.is_to_move(index, way, now) {
            return self.lane_failed(cx, index, Failure::Moved);
        }
        let (Some(session), Some(entry)) = (self.session.attached_mut(), self.conns.get_mut(conn))
        else {
            return Then::Nothing;
        };
        if index == 0 && session.has_run_dry(now) {
            return self.lane_failed(cx, 0, Failure::Slow("credit was awaited"));
        }
        let transport = session.lanes().transport(index);
        let heard = transport.map(Transport::last_heard);
        let lives = |at| transport.is_some_and(|lane| lane.lives_since(at, STALE_WITHIN));
        entry.hurried = entry.hurried.filter(|at| !lives(*at));
        let is_late = entry.hurried.is_some_and(|at| now >= at + PROBE_WITHIN);
        // The kit is promised to hear of us, also while it is the only one who has much to say.
        let is_owed = now >= entry.said + keepalive;
        let watch = self.failover.watch(session, index);
        let (quiet, patience) = match (entry.hurried, &watch) {
            (Some(_), _) => (Duration::ZERO, PROBE_WITHIN),
            (None, watch) => {
                let quiet = if is_owed { keepalive / 2 } else { keepalive };
                let asked = watch.as_ref().map_or(quiet, |watch| watch.quiet.min(quiet));
                let patience = watch.as_ref().and_then(|watch| watch.patience);
                (asked, patience.unwrap_or(keepalive * 3 / 2))
            }
        };
        let health = match is_late {
            true => Some(Liveness::Dead),
            false => session.lanes_mut().check(index, now, quiet, patience, ping),
        };
        let Some(health) = health else {
            return Then::Nothing;
        };
        match health {
            Liveness::LookAgain(at) => {
                let says = session
                    .lanes()
                    .get(index)
                    .is_some_and(|lane| !lane.is_flushed());
                if is_owed && !says {
                    session.lanes_mut().keep_heard(index, ping);
                }
                let due = if is_owed { now } else { entry.said } + keepalive;
                // An answer starts a new silence, which must not be noticed late.
                let at = at.min(due);
                let looks = watch.and_then(|watch| awaited(session, index, watch.look, cx));
                let at = looks.map_or(at, |looks| at.min(looks));
                cx.effects.timers.arm(Timer::Lane(index as u8), at);
                if let (0, Some(heard)) = (index, heard) {
                    self.tell_of_other_kits(cx, heard);
                }
                Then::Nothing
            }
            Liveness::Dead => {
                self.failover.gives_up(session, index);
                self.lane_failed(cx, index, Failure::Silent)
            }
        }
    }

    /// A stream was opened on a lane: whether that lives is of interest sooner from now on.
    pub(in crate::client) fn carries_more(&self, cx: &mut Context, index: usize) {
        let timer = Timer::Lane(index as u8);
        let timers = &mut cx.effects.timers;
        let soon = cx.now + ASK_AFTER;
        if self.lanes.granted > 1 && timers.deadline(timer).is_some_and(|at| at > soon) {
            timers.arm(timer, soon);
        }
    }
}

/// How often something leaves on every lane, as HELLO says it; none where that is not often enough
/// to be said.
fn promise(keepalive: Duration) -> Option<u64> {
    let often = keepalive.max(PROMISE_MIN);
    (often <= PROMISE_MAX).then_some(often.as_millis() as u64)
}

pub(crate) fn malformed(error: &control::ControlError) -> Failure {
    Failure::Violation(Violation::session(Code::ProtocolError, error.to_string()))
}
