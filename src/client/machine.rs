//! The client's machine: what the host tells goes to the part that it concerns.
//!
//! Connections of the local side have numbers of their own (`local`), so the number of one tells
//! whose it is. Lanes are in `lanes.rs`, what comes on them in `frames.rs`, ends in `farewell.rs`.

use std::net::SocketAddr;

use crate::client::bindings::Bindings;
use crate::client::config::Config;
use crate::client::context::{Around, Context, Mux, Timer};
use crate::client::event::Shortage;
use crate::client::lanes::{LaneConn, Lanes, Phase};
use crate::client::link::{self, Link};
use crate::client::local::{LANE_CONNS, LocalSide};
use crate::client::messages::{Notice, Order};
use crate::client::{Error, TunnelOptions};
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::HOST_DESCRIPTORS;
use crate::machine::{Command, Conn, ConnKey, Event, ListenerKey, Machine};
use crate::mux::{Session, Wake};
use crate::table::Table;

/// The laptop's machine.
pub struct Client {
    pub(super) cx: Context,
    pub(super) conns: Table<Conn, LaneConn>,
    /// The session while connections carry it.
    pub(super) session: Option<Mux>,
    /// The session while it waits for the next ones.
    pub(super) parked: Option<Mux>,
    pub(super) link: Link,
    pub(super) lanes: Lanes,
    pub(super) bindings: Bindings,
    pub(super) local: LocalSide,
    /// Why the session will end, when the kit said so before it closes.
    pub(super) goaway: Option<crate::client::setback::Setback>,
    /// The host was told to stop.
    pub(super) stopped: bool,
    /// Room for bytes that nobody wants.
    scratch: [u8; 64],
}

impl Client {
    /// A client that begins to connect with its first timeout. Refuses options that cannot work.
    pub fn new(options: &TunnelOptions, entropy: Entropy, now: Instant) -> Result<Client, Error> {
        Ok(Client::with_config(Config::new(options)?, entropy, now))
    }

    pub(super) fn with_config(config: Config, entropy: Entropy, now: Instant) -> Client {
        let link = Link::new(config.retry_for, config.resume.clone(), now);
        let mut cx = Context::new(config, entropy, now);
        cx.effects.timers.arm(Timer::Retry, now);
        Client {
            cx,
            conns: Table::new(LANE_CONNS),
            session: None,
            parked: None,
            link,
            lanes: Lanes::default(),
            bindings: Bindings::default(),
            local: LocalSide::new(),
            goaway: None,
            stopped: false,
            scratch: [0; 64],
        }
    }

    /// Makes do with so many descriptors, if they are fewer than it would take: requests wait for a
    /// moment, and are then refused, where the system would have none for them. Lanes need theirs
    /// first, and those that are saying goodbye while others take their place.
    pub fn with_descriptors(mut self, descriptors: usize) -> Client {
        let lanes = 2 * self.cx.config.connections as usize;
        let rest = descriptors.saturating_sub(HOST_DESCRIPTORS + lanes);
        self.local.fit(rest);
        self
    }

    /// The local side, and what it needs around it.
    pub(super) fn local(&mut self) -> (&mut LocalSide, Around<'_>) {
        let around = Around {
            cx: &mut self.cx,
            mux: self.session.as_mut(),
            bindings: &self.bindings,
        };
        (&mut self.local, around)
    }

    /// The bindings, and the session that takes more of them: none while it is given up.
    fn bindings(&mut self) -> (&mut Bindings, &mut Context, Option<&mut Mux>) {
        let stays = matches!(self.link.phase, link::Phase::Online(_));
        let session = self.session.as_mut().filter(|_| stays);
        (&mut self.bindings, &mut self.cx, session)
    }

    fn timeout(&mut self) {
        while let Some(timer) = self.cx.effects.timers.pop_due(self.cx.now) {
            match timer {
                Timer::Retry => self.reach(),
                Timer::Lane(index) => self.look_after_lane(usize::from(index)),
                Timer::Tell => self.cx.tell(),
                Timer::Rebind => {
                    let (bindings, cx, session) = self.bindings();
                    bindings.ask(cx, session)
                }
                Timer::Rejoin => self.ask_for_tickets(),
                Timer::Close => self.say_goodbye(),
                Timer::Goaway => self.goaway_overdue(),
                Timer::Leaving(conn) => self.leave(conn),
                Timer::Sweep | Timer::Pool | Timer::Line | Timer::Refusals => {
                    let (local, mut around) = self.local();
                    local.timeout(&mut around, timer);
                }
            }
        }
    }

    /// Lets those go on who may, and looks whether everything still fits.
    fn settle(&mut self) {
        while let Some(wake) = self.session.as_mut().and_then(Session::poll_wake) {
            match wake {
                Wake::LaneLast(conn) => {
                    if let Some(lane) = self.conns.get_mut(conn) {
                        lane.backlog_since.get_or_insert(self.cx.now);
                    }
                    self.cx.effects.wake_last(conn);
                }
                Wake::Lane(conn) => {
                    if let Some(lane) = self.conns.get_mut(conn) {
                        lane.backlog_since.get_or_insert(self.cx.now);
                    }
                    self.cx.effects.wake(conn);
                }
                Wake::Sender(exchange) => {
                    let (local, mut around) = self.local();
                    local.sender_may_go_on(&mut around, exchange);
                }
            }
        }
        if self.bindings.one_has_left() {
            self.local.binding_gone(&mut self.cx);
        }
        self.close_when_idle();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// Whether the parts fit each other.
    pub fn check_invariants(&self) {
        if let Some(session) = &self.session {
            session.check_invariants();
        }
        self.local.check_invariants(self.session.as_ref());
        for (key, lane) in self.conns.iter() {
            assert!(is_lanes(key), "a lane under another's name");
            if !matches!(lane.phase, Phase::Leaving(_)) {
                let registered = self.lanes.conns[lane.index];
                assert_eq!(registered, Some(key), "a lane that nobody knows");
            }
        }
        let over = self.link.phase == link::Phase::Over;
        let nothing = self.local.is_gone() && self.local.is_idle();
        assert!(!over || nothing, "something outlived the end");
    }
}

/// Whether a connection is one to the kit; else it is to a local server.
fn is_lanes(conn: ConnKey) -> bool {
    conn.index() < LANE_CONNS
}

impl Machine for Client {
    type Order = Order;
    type Notice = Notice;

    fn handle(&mut self, event: Event, now: Instant) {
        self.cx.now = now;
        match event {
            Event::Connected { conn, .. } if is_lanes(conn) => self.lane_connected(conn),
            Event::Connected { conn, .. } => {
                let (local, mut around) = self.local();
                local.upstream_connected(&mut around, conn);
            }
            Event::Secured { conn } => self.lane_secured(conn),
            Event::Ended { conn, how } if is_lanes(conn) => self.lane_ended(conn, how),
            Event::Ended { conn, how } => {
                let (local, mut around) = self.local();
                local.upstream_ended(&mut around, conn, how);
            }
            Event::Holds { conn, bytes } => {
                let (local, mut around) = self.local();
                local.upstream_holds(&mut around, conn, bytes);
            }
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
        self.cx.now = now;
        match order {
            Order::Bind { reference, spec } => {
                let (bindings, cx, session) = self.bindings();
                bindings.bind(cx, session, reference, spec.0)
            }
            Order::Unbind { reference } => {
                self.bindings
                    .unbind(&mut self.cx, self.session.as_mut(), reference)
            }
            Order::TurnedAway => {
                let (local, mut around) = self.local();
                local.count_refusal(&mut around, Shortage::Handlers);
            }
            Order::Close { at_once } => self.close(at_once),
        }
        self.settle();
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        if !is_lanes(conn) {
            return self.local.read_space(self.session.as_mut(), conn);
        }
        let Some(lane) = self.conns.get_mut(conn) else {
            return &mut [];
        };
        match &mut lane.phase {
            Phase::Way(way) => way.read_space(),
            Phase::Upgrading(upgrade) => upgrade.read_space(),
            Phase::Greeting(greeting) => greeting.read_space(),
            Phase::Live => {
                self.local.spill(self.session.as_ref());
                let session = self.session.as_mut();
                let lane = session.and_then(|session| session.lane_mut(lane.index));
                lane.map_or(&mut [], |lane| lane.read_space())
            }
            // What comes after our goodbye is thrown away, but for the end.
            Phase::Leaving(_) => &mut self.scratch,
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        if is_lanes(conn) {
            self.lane_received(conn, count);
        } else {
            let (local, mut around) = self.local();
            local.upstream_received(&mut around, conn, count);
        }
        self.settle();
    }

    fn transmit(&mut self, conn: ConnKey, _: Instant) -> &[u8] {
        if !is_lanes(conn) {
            return self.local.transmit(self.session.as_ref(), conn);
        }
        match self
            .conns
            .get_mut(conn)
            .map(|lane| (&mut lane.phase, lane.index))
        {
            Some((Phase::Way(way), _)) => way.out.bytes(),
            Some((Phase::Upgrading(upgrade), _)) => upgrade.out.bytes(),
            Some((Phase::Greeting(lane) | Phase::Leaving(lane), _)) => lane.transmit(),
            Some((Phase::Live, index)) => {
                let session = self.session.as_mut();
                session.map_or(&[], |session| session.transmit(index))
            }
            None => &[],
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        if is_lanes(conn) {
            self.lane_transmitted(conn, count);
        } else {
            let (local, mut around) = self.local();
            local.upstream_transmitted(&mut around, conn, count);
        }
        self.settle();
    }

    fn poll_command(&mut self) -> Option<Command<Notice>> {
        self.cx.effects.next_command()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.cx.effects.timers.next().map(|(at, _)| at)
    }
}
