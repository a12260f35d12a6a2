//! Connections to the kit: dialled, upgraded, greeted, watched.

use crate::client::context::Timer;
use crate::client::event::SessionEvent;
use crate::client::link::Phase as LinkPhase;
use crate::client::machine::Client;
use crate::client::rejoin::Rejoin;
use crate::client::setback::Setback;
use crate::client::upgrade::Upgrade;
use crate::client::way::{Step, Way};
use crate::clock::Instant;
use crate::limits::{MAX_LANES, MAX_NONCE, PROBE_WITHIN, REACH_WITHIN, STEP_WITHIN};
use crate::machine::{CloseHow, Command, ConnKey, Ended};
use crate::mux::{Item, Liveness, Transport, Violation};
use crate::wire::code::Code;
use crate::wire::control::{
    self, Auth, Capabilities, Hello, Join, JoinOk, JoinTicket, MissingLane, ReissueRequest, Resume,
    Secret,
};
use crate::wire::frame::FrameType;
use crate::ws::Subprotocol;

/// The connections by index; 0 is the primary.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub conns: [Option<ConnKey>; MAX_LANES],
    /// How many the kit granted.
    pub granted: u32,
    /// When missing ones are tried again.
    pub rejoin: Rejoin,
}

/// One connection to the kit.
#[derive(Debug)]
pub(super) struct LaneConn {
    pub index: usize,
    pub phase: Phase,
    /// Since when bytes have waited for its socket.
    pub backlog_since: Option<Instant>,
    /// The network changed then, and nothing was heard since.
    hurried: Option<Instant>,
}

/// How far a connection to the kit is.
#[derive(Debug)]
pub(super) enum Phase {
    /// TCP, proxy, TLS.
    Way(Way),
    /// The WebSocket upgrade.
    Upgrading(Upgrade),
    /// HELLO or JOIN is out.
    Greeting(Transport),
    /// The session has the lane.
    Live,
    /// The last frames are on their way out; nobody waits for an answer.
    Leaving(Transport),
}

impl Client {
    /// Tries to reach the kit.
    pub(super) fn reach(&mut self) {
        if self.link.phase != LinkPhase::Waiting {
            return;
        }
        let attempt = self.link.reach();
        self.cx.notify(SessionEvent::Connecting { attempt });
        self.dial_lane(0, None);
    }

    pub(super) fn dial_lane(&mut self, index: usize, ticket: Option<Secret>) {
        let way = Way::new(self.cx.config.route.clone());
        let target = way.target();
        let entry = LaneConn {
            index,
            phase: Phase::Way(way),
            backlog_since: None,
            hurried: None,
        };
        let Ok(conn) = self.conns.insert(entry) else {
            // Local connections have a bound of their own, so there is room for lanes.
            unreachable!("the table has room for every lane");
        };
        self.lanes.conns[index] = Some(conn);
        if let (Some(session), Some(ticket)) = (&mut self.session, ticket) {
            session.set_ticket(index, ticket);
        }
        self.cx.effects.ask(Command::Dial { conn, target });
        self.cx
            .effects
            .timers
            .arm(Timer::Lane(index as u8), self.cx.now + REACH_WITHIN);
    }

    fn lane_entry(&mut self, conn: ConnKey) -> Option<&mut LaneConn> {
        match self.conns.get_mut(conn) {
            Some(lane) => Some(lane),
            _ => None,
        }
    }

    pub(super) fn lane_connected(&mut self, conn: ConnKey) {
        if let Some(lane) = self.lane_entry(conn)
            && let Phase::Way(way) = &mut lane.phase
        {
            let step = way.connected();
            self.step_on(conn, step);
        }
    }

    pub(super) fn lane_secured(&mut self, conn: ConnKey) {
        if let Some(lane) = self.lane_entry(conn)
            && let Phase::Way(way) = &mut lane.phase
        {
            let step = way.secured();
            self.step_on(conn, step);
        }
    }

    fn step_on(&mut self, conn: ConnKey, step: Step) {
        let Some(index) = self.lane_entry(conn).map(|lane| lane.index) else {
            return;
        };
        self.cx
            .effects
            .timers
            .arm(Timer::Lane(index as u8), self.cx.now + STEP_WITHIN);
        match step {
            Step::Wait => self.cx.effects.wake(conn),
            Step::Secure(server_name) => {
                self.cx.effects.ask(Command::StartTls { conn, server_name });
            }
            Step::Ready => {
                let upgrade = Upgrade::new(&self.cx.config, &mut self.cx.entropy);
                if let Some(lane) = self.lane_entry(conn) {
                    lane.phase = Phase::Upgrading(upgrade);
                }
                self.cx.effects.wake(conn);
            }
        }
    }

    /// Bytes came; 0 is the kit's FIN.
    pub(super) fn lane_received(&mut self, conn: ConnKey, count: usize) {
        let now = self.cx.now;
        let Some(lane) = self.lane_entry(conn) else {
            return;
        };
        let index = lane.index;
        match &mut lane.phase {
            Phase::Leaving(_) if count == 0 => self.leave(conn),
            Phase::Leaving(_) => {}
            Phase::Way(way) => match way.received(count) {
                Ok(step) => self.step_on(conn, step),
                Err(setback) => self.lane_setback(index, setback),
            },
            Phase::Upgrading(upgrade) => match upgrade.received(count) {
                Ok(None) => {}
                Ok(Some(subprotocol)) => self.greet(conn, subprotocol),
                Err(setback) => self.lane_setback(index, setback),
            },
            _ if count == 0 => self.lane_setback(index, Setback::HungUp),
            Phase::Greeting(greeting) => {
                greeting.received(count, now);
                self.poll_greeting(conn);
            }
            Phase::Live => {
                if let Some(session) = &mut self.session
                    && let Some(lane) = session.lane_mut(index)
                {
                    lane.received(count, now);
                }
                self.poll_lane(index);
            }
        }
    }

    /// The WebSocket stands: HELLO or JOIN.
    fn greet(&mut self, conn: ConnKey, subprotocol: Subprotocol) {
        let (now, masks) = (self.cx.now, self.cx.entropy.fork());
        let hello = self.hello(subprotocol);
        let session_id = self.link.session.clone();
        let session = self.session.as_ref();
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let index = entry.index;
        let data_received = session.map(|session| session.data_received(index));
        let mut lane = Transport::client(conn, masks, now);
        if let Phase::Upgrading(upgrade) = &entry.phase {
            lane.feed(upgrade.rest(), now);
        }
        let mut json = Vec::new();
        let ticket = session.and_then(|session| session.ticket(index));
        match (ticket, session_id) {
            (Some(nonce), Some(session_id)) => {
                let join = Join {
                    session_id,
                    index: index as u32,
                    nonce: nonce.clone(),
                    received: Vec::new(),
                    data_received,
                };
                control::write(&join, &mut json);
                lane.push_control(FrameType::Join, &json);
            }
            _ => {
                control::write(&hello, &mut json);
                lane.push_control(FrameType::Hello, &json);
            }
        }
        entry.phase = Phase::Greeting(lane);
        self.cx
            .effects
            .timers
            .arm(Timer::Lane(index as u8), now + STEP_WITHIN);
        self.cx.effects.wake(conn);
        self.poll_greeting(conn);
    }

    fn hello(&self, subprotocol: Subprotocol) -> Hello {
        let token = self.cx.config.token.clone();
        let session_id = self.link.session.clone();
        let v2 = subprotocol == Subprotocol::V2;
        Hello {
            version: subprotocol.name().to_owned(),
            auth: token.map(|token| Auth {
                kind: "bearer".to_owned(),
                token,
            }),
            capabilities: Capabilities::MULTI_WS | Capabilities::GROW_WINDOWS,
            resume: session_id.map(|session_id| Resume {
                session_id,
                received: Vec::new(),
            }),
            max_connections: v2.then_some(self.cx.config.connections),
            replay_buffer: None,
        }
    }

    /// What comes before the session has the lane.
    fn poll_greeting(&mut self, conn: ConnKey) {
        loop {
            let Some(entry) = self.lane_entry(conn) else {
                return;
            };
            let index = entry.index;
            let Phase::Greeting(lane) = &mut entry.phase else {
                return;
            };
            let item = match lane.poll() {
                Ok(Some(item)) => item,
                Ok(None) => return,
                Err(violation) => return self.lane_setback(index, Setback::Violation(violation)),
            };
            match item {
                Item::Pinged => self.cx.effects.wake(conn),
                Item::Closed { code } => {
                    return self.lane_setback(index, Setback::Closed(code));
                }
                Item::Frame { kind, payload, .. } => {
                    let payload = lane.payload(&payload).to_vec();
                    if self.greeted(conn, index, kind, &payload) {
                        return;
                    }
                }
            }
        }
    }

    /// A frame that may be the answer to HELLO or JOIN. True when the lane has left this phase.
    fn greeted(&mut self, conn: ConnKey, index: usize, kind: FrameType, payload: &[u8]) -> bool {
        match (kind, index) {
            (FrameType::HelloOk, 0) => match control::parse(payload) {
                Ok(ok) => {
                    let lane = self.go_live(conn);
                    self.established(lane, ok);
                    self.poll_lane(0);
                }
                Err(error) => self.lane_setback(index, malformed(&error)),
            },
            (FrameType::JoinOk, 1..) => match control::parse(payload) {
                Ok(ok) => self.joined(conn, index, &ok),
                Err(error) => self.lane_setback(index, malformed(&error)),
            },
            (FrameType::JoinErr, 1..) => {
                self.lane_setback(index, Setback::Slow("joining"));
            }
            (FrameType::GoAway, _) => {
                let goaway: control::GoAway = control::parse(payload).unwrap_or_default();
                let code = goaway.code();
                let message = goaway.message;
                self.lane_setback(index, Setback::Goaway { code, message });
            }
            // Nothing else means anything before the session stands.
            _ => return false,
        }
        true
    }

    /// JOIN_OK came: the session has one more lane.
    fn joined(&mut self, conn: ConnKey, index: usize, ok: &JoinOk) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.settle(index, ok.data_received).is_err() {
            let why = "JOIN_OK tells of DATA that this connection cannot have carried";
            let violation = Violation::session(Code::ProtocolError, why);
            return self.lane_setback(index, Setback::Violation(violation));
        }
        let lane = self.go_live(conn);
        if let (Some(session), Some(lane)) = (&mut self.session, lane) {
            session.attach(index, lane);
        }
        self.lanes.rejoin.joined(index, self.cx.now);
        self.tell_lanes();
        self.poll_lane(index);
    }

    /// Takes the lane out of its entry, for the session to have.
    fn go_live(&mut self, conn: ConnKey) -> Option<Transport> {
        let quiet = self.cx.config.keepalive;
        let entry = self.lane_entry(conn)?;
        let index = entry.index;
        let lane = match std::mem::replace(&mut entry.phase, Phase::Live) {
            Phase::Greeting(lane) => Some(lane),
            _ => None,
        };
        self.cx
            .effects
            .timers
            .arm(Timer::Lane(index as u8), self.cx.now + quiet);
        lane
    }

    pub(super) fn lane_transmitted(&mut self, conn: ConnKey, count: usize) {
        let now = self.cx.now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        match &mut entry.phase {
            Phase::Way(way) => way.out.consume(count),
            Phase::Upgrading(upgrade) => upgrade.out.consume(count),
            Phase::Greeting(lane) | Phase::Leaving(lane) => {
                lane.transmitted(count);
            }
            Phase::Live => {
                let Some(session) = &mut self.session else {
                    return;
                };
                session.transmitted(entry.index, count);
                let Some(lane) = session.lane_mut(entry.index) else {
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
    pub(super) fn lane_ended(&mut self, conn: ConnKey, how: Ended) {
        let Some(entry) = self.conns.remove(conn) else {
            return;
        };
        let setback = match (&entry.phase, how) {
            (Phase::Leaving(_), _) => {
                self.cx.effects.timers.disarm(Timer::Leaving(conn));
                return self.stop_if_over();
            }
            (Phase::Way(way), Ended::Failed(failure)) => match way.doing() {
                "connecting" => {
                    if failure.is_shortage() {
                        let (local, mut around) = self.local();
                        local.lane_found_no_descriptor(&mut around);
                    }
                    Setback::Dial(failure)
                }
                "negotiating TLS" => Setback::Tls(failure),
                _ => Setback::Dropped(Ended::Failed(failure)),
            },
            (_, how) => Setback::Dropped(how),
        };
        self.lane_gone(entry.index, setback);
    }

    /// We give a connection to the kit up.
    pub(super) fn lane_setback(&mut self, index: usize, setback: Setback) {
        if let Some(conn) = self.lanes.conns[index] {
            let how = match setback {
                // A dead connection's bytes are not worth keeping in the kernel.
                Setback::Silent => CloseHow::Reset,
                _ => CloseHow::Clean,
            };
            self.cx.effects.close(conn, how);
            self.conns.remove(conn);
        }
        self.lane_gone(index, setback);
    }

    /// The connection of a lane is no more.
    fn lane_gone(&mut self, index: usize, setback: Setback) {
        self.lanes.conns[index] = None;
        self.cx.effects.timers.disarm(Timer::Lane(index as u8));
        if index == 0 {
            return self.link_lost(setback);
        }
        self.local.spill(self.session.as_ref());
        let Some(session) = &mut self.session else {
            return;
        };
        let (lane, lost) = session.detach(index);
        for key in lost {
            let (local, mut around) = self.local();
            local.stream_lost(&mut around, key, "its connection to the kit was lost");
        }
        if lane.is_some() {
            self.tell_lanes();
        }
        self.lanes.rejoin.gone(index, self.cx.now);
        self.plan_rejoin();
    }

    fn tell_lanes(&mut self) {
        let Some(session) = &self.session else { return };
        let standing = session.lanes().count() as u32;
        let granted = self.lanes.granted;
        self.cx.notify(SessionEvent::Lanes { standing, granted });
    }

    /// Looks after a lane whose time has come.
    pub(super) fn look_after_lane(&mut self, index: usize) {
        let Some(conn) = self.lanes.conns.get(index).copied().flatten() else {
            return;
        };
        let (now, ping, keepalive) = (
            self.cx.now,
            self.cx.entropy.octets(),
            self.cx.config.keepalive,
        );
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let slow = match &entry.phase {
            Phase::Way(way) => Some(Setback::Slow(way.doing())),
            Phase::Upgrading(upgrade) => Some(upgrade.timed_out()),
            Phase::Greeting(_) => Some(Setback::Slow("waiting for the session")),
            Phase::Live | Phase::Leaving(_) => None,
        };
        if let Some(setback) = slow {
            return self.lane_setback(index, setback);
        }
        // A quiet lane gives its receive buffer back.
        self.local.spill(self.session.as_ref());
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(session) = &mut self.session else {
            return;
        };
        if index == 0 && session.has_run_dry(now) {
            return self.lane_setback(0, Setback::Slow("credit was awaited"));
        }
        let heard = session.transport(index).map(Transport::last_heard);
        entry.hurried = entry
            .hurried
            .filter(|at| heard.is_some_and(|heard| *at > heard));
        let (quiet, patience) = match entry.hurried {
            Some(_) => (std::time::Duration::ZERO, PROBE_WITHIN),
            None => (keepalive, keepalive * 3 / 2),
        };
        let Some(health) = session.check_lane(index, now, quiet, patience, ping) else {
            return;
        };
        match health {
            Liveness::LookAgain(at) => {
                // An answer starts a new silence, which must not be noticed late.
                let at = at.min(now + keepalive);
                self.cx.effects.timers.arm(Timer::Lane(index as u8), at);
            }
            Liveness::Dead => self.lane_setback(index, Setback::Silent),
        }
    }

    /// Silence so far proves nothing any more: ask at once, and dial at once.
    pub(super) fn disturbed(&mut self) {
        self.link.refresh();
        match self.link.phase {
            LinkPhase::Waiting => self.cx.effects.timers.arm(Timer::Retry, self.cx.now),
            LinkPhase::Reaching => self.lane_setback(0, Setback::Disturbed),
            LinkPhase::Online(_) | LinkPhase::Closing => {
                for index in 0..MAX_LANES {
                    let Some(conn) = self.lanes.conns[index] else {
                        continue;
                    };
                    let now = self.cx.now;
                    if let Some(lane) = self.lane_entry(conn)
                        && matches!(lane.phase, Phase::Live)
                    {
                        lane.hurried = Some(now);
                        self.look_after_lane(index);
                    }
                }
            }
            LinkPhase::Over => {}
        }
    }

    /// The secondary lanes that are neither there nor on their way.
    fn missing_lanes(&self) -> impl Iterator<Item = usize> + use<'_> {
        (1..self.lanes.granted as usize).filter(|index| self.lanes.conns[*index].is_none())
    }

    /// Has the next missing lane be asked for in its time.
    pub(super) fn plan_rejoin(&mut self) {
        let due = self.missing_lanes().map(|it| self.lanes.rejoin.due(it));
        match due.min() {
            Some(due) => self.cx.effects.timers.arm(Timer::Rejoin, due),
            None => self.cx.effects.timers.disarm(Timer::Rejoin),
        }
    }

    /// Asks for the right to join the lanes that are missing, when one of them is due.
    pub(super) fn ask_for_tickets(&mut self) {
        let now = self.cx.now;
        let all: Vec<usize> = self.missing_lanes().collect();
        let rejoin = &mut self.lanes.rejoin;
        let due = all.iter().filter(|it| rejoin.is_due(**it, now)).copied();
        let due: Vec<usize> = due.collect();
        let Some(session) = &mut self.session else {
            return;
        };
        if !matches!(self.link.phase, LinkPhase::Online(_)) {
            return;
        }
        if !due.is_empty() {
            let mut json = Vec::new();
            let given_up = |index: usize| {
                let nonce = session.ticket(index)?.clone();
                let index = index as u32;
                Some(MissingLane { index, nonce })
            };
            let missing = all.into_iter().filter_map(given_up).collect();
            control::write(&ReissueRequest { missing }, &mut json);
            session.push_control(FrameType::ReissueJoinTickets, &json);
        }
        for index in due {
            rejoin.asked(index, now);
        }
        self.plan_rejoin();
    }

    /// Joins the lanes that there are tickets for.
    pub(super) fn join_with(&mut self, tickets: Vec<JoinTicket>) {
        for ticket in tickets {
            let index = ticket.index as usize;
            let missing = self.missing_lanes().any(|missing| missing == index);
            let fits = ticket.nonce.expose().len() <= MAX_NONCE;
            if missing && fits && self.lanes.rejoin.take(index) {
                self.dial_lane(index, Some(ticket.nonce));
            }
        }
    }
}

pub(super) fn malformed(error: &control::ControlError) -> Setback {
    Setback::Violation(Violation::session(Code::ProtocolError, error.to_string()))
}
