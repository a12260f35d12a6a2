//! The client's machine: what the host tells goes to the part that it concerns.
//!
//! The parts are `lanes.rs` (connections to the kit), `frames.rs` (what comes on them),
//! `farewell.rs` (ends), `exchange.rs`, `request.rs` and `response.rs` (streams and their local
//! connections).

use std::net::SocketAddr;

use crate::buffer::Buffer;
use crate::client::bindings::{BindSpec, BindState, Bindings, Bound};
use crate::client::config::Config;
use crate::client::event::{SessionEvent, Shortage};
use crate::client::exchange::{Exchange, ExchangeKey};
use crate::client::lanes::{LaneConn, Lanes, Phase};
use crate::client::link::{self, Link};
use crate::client::messages::{Notice, Order};
use crate::client::pool::Pool;
use crate::client::tally::Tally;
use crate::client::upstream::Upstream;
use crate::client::visitor::Origin;
use crate::client::{Error, TunnelOptions};
use crate::clock::Instant;
use crate::effects::Effects;
use crate::entropy::Entropy;
use crate::limits::{
    CLIENT_BEYOND_WINDOWS, CLIENT_HALF_CLOSE, CLIENT_STREAMS, EVENTS_AT_ONCE, HOST_DESCRIPTORS,
    MAX_LANES, SWEEP_EVERY, TELL_AFTER, UPSTREAMS,
};
use crate::machine::{Command, Conn, ConnKey, Event, ListenerKey, Machine};
use crate::mux::{Session, Wake};
use crate::outflow::Piece;
use crate::shares::Shares;
use crate::table::Table;

/// A connection of ours.
#[derive(Debug)]
pub(super) enum Entry {
    /// To the kit.
    Lane(Box<LaneConn>),
    /// To a local server.
    Upstream(Upstream),
}

/// Why a deadline was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Try to reach the kit.
    Retry,
    /// Look after the connection of this lane: its step takes too long, or it is silent.
    Lane(u8),
    /// Tell what happened to streams.
    Tell,
    /// Look over the streams.
    Sweep,
    /// Look over idle local connections.
    Pool,
    /// Somebody has waited for a local connection for long enough, or one may be tried.
    Line,
    /// Tell who was turned away.
    Refusals,
    /// Bind again what was refused.
    Rebind,
    /// Ask for missing lanes.
    Rejoin,
    /// Streams had their time to finish.
    Close,
    /// The kit said goodbye and should have closed.
    Goaway,
    /// The last frames should have left this connection.
    Leaving(ConnKey),
}

/// The laptop's machine.
pub struct Client {
    /// The moment of what was told last.
    pub(super) now: Instant,
    pub(super) config: Config,
    pub(super) entropy: Entropy,
    pub(super) conns: Table<Conn, Entry>,
    /// The session while connections carry it.
    pub(super) session: Option<Session<ExchangeKey>>,
    /// The session while it waits for the next ones.
    pub(super) parked: Option<Session<ExchangeKey>>,
    pub(super) exchanges: Table<Exchange>,
    /// Exchanges that may hold a loan of a lane's receive buffer.
    pub(super) borrowers: Vec<ExchangeKey>,
    pub(super) link: Link,
    pub(super) lanes: Lanes,
    pub(super) bindings: Bindings,
    pub(super) pool: Pool<ExchangeKey>,
    /// Bytes of requests' heads that are kept, by the visitor's address.
    pub(super) heads: Shares<Origin>,
    /// Visitors for whom there was no room.
    pub(super) refusals: Tally,
    pub(super) effects: Effects<Notice, Timer>,
    /// What happened to streams and was not told yet.
    untold: Vec<SessionEvent>,
    /// Buffers of requests that are over, for the next ones.
    pub(super) spare: Vec<Buffer>,
    /// Room for a response's head on its way.
    pub(super) json: Vec<u8>,
    /// Why the session will end, when the kit said so before it closes.
    pub(super) goaway: Option<crate::client::setback::Setback>,
    /// The host was told to stop.
    pub(super) stopped: bool,
    /// Room for bytes that an idle connection should not send.
    scratch: [u8; 64],
}

impl Client {
    /// A client that begins to connect with its first timeout. Refuses options that cannot work.
    pub fn new(options: &TunnelOptions, entropy: Entropy, now: Instant) -> Result<Client, Error> {
        Ok(Client::with_config(Config::new(options)?, entropy, now))
    }

    pub(super) fn with_config(config: Config, entropy: Entropy, now: Instant) -> Client {
        let mut effects = Effects::new();
        effects.timers.arm(Timer::Retry, now);
        Client {
            now,
            link: Link::new(config.retry_for, config.resume.clone(), now),
            config,
            entropy,
            // One more generation of lanes may be saying goodbye.
            conns: Table::new(UPSTREAMS + 2 * MAX_LANES),
            session: None,
            parked: None,
            exchanges: Table::new(CLIENT_STREAMS),
            borrowers: Vec::new(),
            lanes: Lanes::default(),
            bindings: Bindings::default(),
            pool: Pool::new(),
            heads: Shares::new(),
            refusals: Tally::default(),
            effects,
            untold: Vec::new(),
            spare: Vec::new(),
            json: Vec::new(),
            goaway: None,
            stopped: false,
            scratch: [0; 64],
        }
    }

    /// Makes do with so many descriptors, if they are fewer than it would take: requests wait for a
    /// moment, and are then refused, where the system would have none for them. Lanes need theirs
    /// first, and those that are saying goodbye while others take their place.
    pub fn with_descriptors(mut self, descriptors: usize) -> Client {
        let lanes = 2 * self.config.connections as usize;
        self.pool
            .fit(descriptors.saturating_sub(HOST_DESCRIPTORS + lanes));
        self
    }

    /// Tells what happened. Ends of streams are gathered for a moment: to wake somebody for each
    /// costs more than the stream did.
    pub(super) fn notify(&mut self, event: SessionEvent) {
        let may_wait = matches!(
            event,
            SessionEvent::Request(_) | SessionEvent::StreamClosed(_)
        );
        self.untold.push(event);
        if may_wait && self.untold.len() < EVENTS_AT_ONCE {
            self.effects
                .timers
                .arm_if_unset(Timer::Tell, self.now + TELL_AFTER);
        } else {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.effects.timers.disarm(Timer::Tell);
        let events = std::mem::take(&mut self.untold);
        self.effects.notify(Notice::Events(events));
    }

    fn bind(&mut self, reference: u64, spec: BindSpec) {
        if self.bindings.all.len() >= crate::limits::CLIENT_BINDINGS {
            let text = "This session has as many bindings as a client keeps.".to_owned();
            let outcome = Err(Error::Options(text));
            let notice = Notice::Bound { reference, outcome };
            return self.effects.notify(notice);
        }
        self.bindings.all.push(Bound::new(reference, spec));
        self.ask_for_bindings();
    }

    fn unbind(&mut self, reference: u64) {
        let Some(bound) = self.bindings.get_mut(reference) else {
            let outcome = Err(Error::Closed("There is no such binding any more.".into()));
            let notice = Notice::Unbound { reference, outcome };
            return self.effects.notify(notice);
        };
        let stands = bound.state == BindState::Standing;
        bound.state = BindState::Leaving;
        let bind_id = bound.bind_id();
        if stands && self.link.is_online() {
            self.send_unbind(bind_id);
        } else if bind_id.is_none() || !self.link.is_online() {
            // When the kit is back it will be told of what it still has (`session_resumed`).
            self.forget_binding(reference);
            let notice = Notice::Unbound {
                reference,
                outcome: Ok(()),
            };
            self.effects.notify(notice);
        }
    }

    fn timeout(&mut self) {
        while let Some(timer) = self.effects.timers.pop_due(self.now) {
            match timer {
                Timer::Retry => self.reach(),
                Timer::Lane(index) => self.look_after_lane(usize::from(index)),
                Timer::Tell => self.tell(),
                Timer::Sweep => self.sweep(),
                Timer::Pool => self.sweep_pool(),
                Timer::Line => self.look_at_line(),
                Timer::Refusals => self.tell_refusals(),
                Timer::Rebind => self.ask_for_bindings(),
                Timer::Rejoin => self.ask_for_tickets(),
                Timer::Close => self.say_goodbye(),
                Timer::Goaway => self.goaway_overdue(),
                Timer::Leaving(conn) => self.leave(conn),
            }
        }
    }

    fn sweep(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        for key in session.who_looks_still(self.now) {
            if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
                self.effects.probe(conn);
            }
        }
        for swept in session.sweep(self.now, CLIENT_HALF_CLOSE, CLIENT_BEYOND_WINDOWS) {
            self.stream_lost(swept.tag, swept.reason);
        }
        self.arm_sweep();
    }

    /// Streams are looked over only while there are any.
    pub(super) fn arm_sweep(&mut self) {
        if self
            .session
            .as_ref()
            .is_some_and(|session| session.stream_count() > 0)
        {
            self.effects
                .timers
                .arm_if_unset(Timer::Sweep, self.now + SWEEP_EVERY);
        }
    }

    /// Lets those go on who may, and looks whether everything still fits.
    fn settle(&mut self) {
        while let Some(wake) = self.session.as_mut().and_then(Session::poll_wake) {
            match wake {
                Wake::LaneLast(conn) => {
                    if let Some(Entry::Lane(lane)) = self.conns.get_mut(conn) {
                        lane.backlog_since.get_or_insert(self.now);
                    }
                    self.effects.wake_last(conn);
                }
                Wake::Lane(conn) => {
                    if let Some(Entry::Lane(lane)) = self.conns.get_mut(conn) {
                        lane.backlog_since.get_or_insert(self.now);
                    }
                    self.effects.wake(conn);
                }
                Wake::Sender(exchange) => self.sender_may_go_on(exchange),
            }
        }
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// Copies what is lent from lanes' buffers, because one of them is about to be read into.
    pub(super) fn spill(&mut self) {
        let Some(session) = &self.session else {
            self.borrowers.clear();
            return;
        };
        for key in self.borrowers.drain(..) {
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange
                    .out
                    .spill(|lane, span| session.payload(*lane, span));
            }
        }
    }

    /// Whether the parts fit each other.
    pub fn check_invariants(&self) {
        if let Some(session) = &self.session {
            session.check_invariants();
            for key in session.tags() {
                assert!(
                    self.exchanges.get(key).is_some(),
                    "a stream without an exchange"
                );
            }
        }
        for (key, exchange) in self.exchanges.iter() {
            assert!(self.session.is_some(), "an exchange outlived its session");
            assert!(
                !exchange.out.is_lent() || self.borrowers.contains(&key),
                "a loan that nobody will end"
            );
            let Some(conn) = exchange.conn else { continue };
            match self.conns.get(conn) {
                Some(Entry::Upstream(upstream)) => {
                    assert_eq!(
                        upstream.exchange,
                        Some(key),
                        "a connection serves a stranger"
                    );
                }
                _ => panic!("an exchange holds a connection that is gone"),
            }
        }
        let heads = self
            .exchanges
            .iter()
            .map(|(_, exchange)| exchange.head_bytes);
        assert_eq!(
            self.heads.total(),
            heads.sum::<usize>(),
            "heads were miscounted"
        );
        let (mut open, mut idle) = (0, 0);
        for (key, entry) in self.conns.iter() {
            match entry {
                Entry::Upstream(upstream) => {
                    open += 1;
                    idle += usize::from(upstream.exchange.is_none());
                }
                Entry::Lane(lane) if !matches!(lane.phase, Phase::Leaving(_)) => {
                    let registered = self.lanes.conns[lane.index];
                    assert_eq!(registered, Some(key), "a lane that nobody knows");
                }
                Entry::Lane(_) => {}
            }
        }
        assert_eq!(self.pool.open(), open, "local connections were miscounted");
        assert_eq!(
            self.pool.idle_count(),
            idle,
            "idle connections were miscounted"
        );
        assert_eq!(self.pool.busy(), open - idle, "slots were miscounted");
        let over = self.link.phase == link::Phase::Over;
        assert!(
            !over || (open == 0 && self.exchanges.is_empty()),
            "something outlived the end"
        );
    }
}

impl Machine for Client {
    type Order = Order;
    type Notice = Notice;

    fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Connected { conn, .. } => match self.conns.get(conn) {
                Some(Entry::Lane(_)) => self.lane_connected(conn),
                Some(Entry::Upstream(_)) => self.upstream_connected(conn),
                None => {}
            },
            Event::Secured { conn } => self.lane_secured(conn),
            Event::Ended { conn, how } => match self.conns.get(conn) {
                Some(Entry::Lane(_)) => self.lane_ended(conn, how),
                Some(Entry::Upstream(_)) => self.upstream_ended(conn, how),
                None => {}
            },
            Event::Holds { conn, bytes } => self.upstream_holds(conn, bytes),
            Event::Timeout => self.timeout(),
            Event::Shutdown => self.close(false),
            Event::Disturbed => self.disturbed(),
            // What a local server said before its end is owed to whoever is slow in taking it, and
            // the kit knows when that is nobody any more. Lanes are asked for signs of life.
            Event::PeerFinished { .. } => {}
            // A client listens nowhere.
            Event::Listening { .. } | Event::AcceptFailed { .. } => {}
        }
        self.settle();
    }

    fn accepted(&mut self, _: ListenerKey, _: SocketAddr, _: Instant) -> Option<ConnKey> {
        None
    }

    fn order(&mut self, order: Order, now: Instant) {
        self.now = now;
        match order {
            Order::Bind { reference, spec } => self.bind(reference, spec.0),
            Order::Unbind { reference } => self.unbind(reference),
            Order::TurnedAway => self.count_refusal(Shortage::Handlers),
            Order::Close { at_once } => self.close(at_once),
        }
        self.settle();
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        if let Some(Entry::Lane(lane)) = self.conns.get(conn)
            && matches!(lane.phase, Phase::Live)
        {
            self.spill();
        }
        if let Some(Entry::Upstream(upstream)) = self.conns.get(conn) {
            return match upstream.exchange {
                Some(exchange) => self.upstream_space(exchange),
                None => &mut self.scratch,
            };
        }
        let Some(Entry::Lane(lane)) = self.conns.get_mut(conn) else {
            return &mut [];
        };
        match &mut lane.phase {
            Phase::Way(way) => way.read_space(),
            Phase::Upgrading(upgrade) => upgrade.read_space(),
            Phase::Greeting(greeting) => greeting.read_space(),
            Phase::Live => {
                let session = self.session.as_mut();
                let lane = session.and_then(|session| session.lane_mut(lane.index));
                lane.map_or(&mut [], |lane| lane.read_space())
            }
            // What comes after our goodbye is thrown away, but for the end.
            Phase::Leaving(_) => &mut self.scratch,
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.now = now;
        match self.conns.get(conn) {
            Some(Entry::Lane(_)) => self.lane_received(conn, count),
            Some(Entry::Upstream(_)) => self.upstream_received(conn, count),
            None => {}
        }
        self.settle();
    }

    fn transmit(&mut self, conn: ConnKey, _: Instant) -> &[u8] {
        match self.conns.get_mut(conn) {
            Some(Entry::Lane(lane)) => match &mut lane.phase {
                Phase::Way(way) => way.out.bytes(),
                Phase::Upgrading(upgrade) => upgrade.out.bytes(),
                Phase::Greeting(lane) | Phase::Leaving(lane) => lane.transmit(),
                Phase::Live => {
                    let session = self.session.as_mut();
                    session.map_or(&[], |session| session.transmit(lane.index))
                }
            },
            Some(Entry::Upstream(upstream)) => {
                let exchange = upstream.exchange.and_then(|key| self.exchanges.get(key));
                match exchange.map(|exchange| exchange.out.next()) {
                    Some(Piece::Own(bytes)) => bytes,
                    Some(Piece::Loan(lane, span)) => {
                        let session = self.session.as_ref();
                        session.map_or(&[], |session| session.payload(*lane, span))
                    }
                    Some(Piece::Nothing) | None => &[],
                }
            }
            None => &[],
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.now = now;
        match self.conns.get(conn) {
            Some(Entry::Lane(_)) => self.lane_transmitted(conn, count),
            Some(Entry::Upstream(_)) => self.upstream_transmitted(conn, count),
            None => {}
        }
        self.settle();
    }

    fn poll_command(&mut self) -> Option<Command<Notice>> {
        self.effects.next_command()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.effects.timers.next().map(|(at, _)| at)
    }
}
