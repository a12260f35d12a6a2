//! The daemon in the container: the machine that owns sessions, ports, visitors and callers.
//!
//! The room decides everything the kit does and carries no byte itself. [`Kit`] is the table of
//! tables; each file of the room adds one part of its behaviour:
//!
//! | file | part |
//! | --- | --- |
//! | `context` | what every part uses and none is about: clock, config, effects, metrics |
//! | `conns` | connections: what each is for, how each ends |
//! | `front`, `serve` | the kit's own listener: HTTP, and the upgrade |
//! | `leaving` | those who were answered and linger |
//! | `doorstep` | who may wait before it has proven anything (PROTOCOL §2) |
//! | `crowd` | who holds most of something, and yields first |
//! | `heads` | memory of heads that are not whole |
//! | `greeter` | from the upgrade to HELLO or JOIN (PROTOCOL §2, §7) |
//! | `sessions`, `joins` | attach, park, resume, end (PROTOCOL §6); secondary lanes (§7) |
//! | `lanes` | frames of a session's lanes |
//! | `bindings`, `listeners` | who owns which port (PROTOCOL §3) |
//! | `visitor` (`request`, `response`) | EXPOSE (PROTOCOL §4, §11) |
//! | `caller` | PULL |
//! | `operator` | what the operator asks for (PROTOCOL §10) |
//! | `repeats` | complaints that are summed in the log |
//! | `carried` | what the wire can carry of what may be configured |
//! | `budget`, `memory`, `throttle`, `config`, `metrics`, `admin` | what their names say |
//!
//! It never does I/O, and never imports `client`.
//!
//! Invariants: a port has one owner; a connection's permit goes home when its entry does; a loan
//! ends before its lane reads again; a session that holds no lane is parked or gone.

pub mod admin;
mod bindings;
mod bindings_seen;
pub mod budget;
mod caller;
mod carried;
pub mod config;
mod conns;
mod context;
mod crowd;
mod doorstep;
mod exposition;
pub mod front;
mod greeter;
pub mod guard;
mod heads;
mod joins;
mod lanes;
mod leaving;
mod listeners;
pub mod memory;
pub mod metrics;
mod operator;
pub mod public_url;
mod refusals;
mod repeats;
mod serve;
mod session;
mod sessions;
#[cfg(test)]
mod testing;
pub mod throttle;
mod visitor;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::{MAX_CONNS, MAX_LISTENERS};
use crate::machine::{
    CloseHow, Command, Conn, ConnKey, Ended, Event, Listener, ListenerKey, Machine,
};
use crate::mux::Channel;
use crate::outflow::Piece;
use crate::table::Table;

use budget::{FdBudget, FdPermit};
use config::Config;
use conns::{ConnEntry, Role};
use context::Context;
use listeners::{ListenerEntry, PortName};
use session::{KitSession, SessionKey, Sessions};
use throttle::Throttle;

/// What the program around the kit asks of it: nothing yet, operators speak HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KitOrder {}

/// What the kit tells the program around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KitNotice {
    /// The kit's own listener stands.
    Listening(SocketAddr),
    /// The kit's own listener could not be opened; the kit stops.
    CannotListen(String),
    /// Much of what peers sent is gone: the allocator may give the memory back.
    MemoryFreed,
}

/// The daemon's machine.
#[derive(Debug)]
pub struct Kit {
    cx: Context,
    budget: FdBudget,
    throttle: Throttle,
    pool: memory::Pool,
    /// Visitors whose places others may have.
    yielding: visitor::Yielding,
    /// What was sent and waits: heads that are not whole, mostly.
    heads: heads::Heads,
    /// Bytes of memory that were freed and not given back to the system yet.
    freed: usize,
    conns: Table<Conn, ConnEntry>,
    listeners: Table<Listener, ListenerEntry>,
    sessions: Sessions,
    ports: BTreeMap<PortName, ListenerKey>,
    /// Connections that may hold a loan from a lane's buffer.
    borrowers: Vec<ConnKey>,
    /// Connections that only linger.
    leaving: leaving::Leaving,
    /// Connections that have not proven who they are.
    pre_auth: usize,
    /// Where those stand who have not shown a token either.
    doorstep: doorstep::Doorstep,
    front: Option<ListenerKey>,
    /// Listeners that stopped accepting for want of permits.
    accepting: bool,
}

/// Why the machine wants to be told at a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// A visitor's, greeter's, front's or leaving connection's next look.
    Conn(ConnKey),
    /// A session's lanes: PING and pong timeout.
    Lanes(SessionKey),
    /// A session's streams: stalls, half-closed idleness.
    Sweep(SessionKey),
    /// A session without streams and bindings.
    Idle(SessionKey),
    /// The grace of a parked session, or of one that is closing.
    Grace(SessionKey),
    /// Complaints were counted since they were told last.
    Sums,
    /// Accepting stopped because the host had no descriptors.
    Accept,
    /// Accepting stopped because there was no place, and nobody yielded one.
    Room,
    /// What runs gets this long after a shutdown.
    Shutdown,
    /// Memory was freed that the system may have back.
    Freed,
}

/// How far the end of the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Draining,
    Done,
}

impl Kit {
    /// A kit that will listen as `config` says. The config must have passed its own check.
    pub fn new(config: Config, entropy: Entropy, now: Instant) -> Kit {
        let greeters = config.max_pre_auth_connections;
        let doorstep = doorstep::Doorstep::new(config.fd_budget, greeters);
        let mut kit = Kit {
            budget: FdBudget::new(config.fd_budget, config.descriptor_needs()),
            pool: memory::Pool::new(config.memory_plan().pool),
            yielding: visitor::Yielding::default(),
            heads: heads::Heads::default(),
            freed: 0,
            sessions: Sessions::new(config.max_sessions),
            cx: Context::new(config, entropy, now),
            throttle: Throttle::new(),
            conns: Table::new(MAX_CONNS),
            listeners: Table::new(MAX_LISTENERS),
            ports: BTreeMap::new(),
            borrowers: Vec::new(),
            leaving: leaving::Leaving::default(),
            pre_auth: 0,
            doorstep,
            front: None,
            accepting: true,
        };
        kit.open_front();
        kit
    }

    /// The first shutdown drains, the second ends.
    fn shut_down(&mut self, now: Instant) {
        if self.cx.stopping != Stopping::No {
            self.stop_now();
            return;
        }
        self.cx.stopping = Stopping::Draining;
        self.cx
            .effects
            .timers
            .arm(Reason::Shutdown, now + crate::limits::SHUTDOWN_DRAIN);
        self.close_listeners();
        for session in self.sessions.keys() {
            let grace = crate::limits::SHUTDOWN_DRAIN;
            self.say_goodbye(session, "the kit is shutting down", grace);
        }
        self.stop_if_drained();
    }

    fn stop_if_drained(&mut self) {
        if self.cx.stopping == Stopping::Draining && self.sessions.stream_count() == 0 {
            let flushed =
                |entry: &ConnEntry| !matches!(entry.role, Role::Visitor(_) | Role::Caller(_));
            let served = self
                .conns
                .iter()
                .all(|(_, entry)| flushed(entry) || entry.out.is_empty());
            if served && self.sessions.are_flushed() {
                self.stop_now();
            }
        }
    }

    fn stop_now(&mut self) {
        if self.cx.stopping == Stopping::Done {
            return;
        }
        self.cx.stopping = Stopping::Done;
        self.cx.effects.timers.disarm(Reason::Shutdown);
        self.cx.effects.timers.disarm(Reason::Accept);
        self.cx.effects.timers.disarm(Reason::Room);
        for session in self.sessions.keys() {
            let why = "the kit is shutting down";
            self.end_session(session, metrics::SessionEnd::Shutdown, why, Some(1001));
        }
        let all: Vec<ConnKey> = self.conns.keys().collect();
        for conn in all {
            self.close_conn(conn, CloseHow::Clean);
        }
        // Closing them frees memory, which goes back with the process.
        self.cx.effects.timers.disarm(Reason::Freed);
        self.cx.tell_all_sums();
        self.cx.effects.ask(Command::Stop);
    }

    fn timeout(&mut self, now: Instant) {
        while let Some(reason) = self.cx.effects.timers.pop_due(now) {
            match reason {
                Reason::Conn(conn) => self.conn_timeout(conn, now),
                Reason::Lanes(session) => self.check_lanes(session, now),
                Reason::Sweep(session) => self.sweep(session, now),
                Reason::Idle(session) => self.check_idle(session, now),
                Reason::Grace(session) => self.grace_over(session),
                Reason::Accept => self.accept_again(),
                Reason::Room => self.look_for_room(),
                Reason::Sums => self.cx.tell_sums(),
                Reason::Shutdown => self.stop_now(),
                Reason::Freed => self.give_memory_back(),
            }
        }
    }

    fn conn_timeout(&mut self, conn: ConnKey, now: Instant) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        match entry.role {
            Role::Front(_) => {
                self.front_timeout(conn, now);
                self.restand(conn);
            }
            Role::Greeter(_) => {
                self.greeter_timeout(conn);
                self.restand(conn);
            }
            Role::Visitor(_) => self.visitor_timeout(conn, now),
            Role::Leaving { .. } => self.close_conn(conn, CloseHow::Clean),
            Role::Lane(..) | Role::Caller(_) => {}
        }
    }

    fn ended(&mut self, conn: ConnKey, how: &Ended, now: Instant) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        match entry.role {
            Role::Lane(session, index) => self.lane_lost(session, index, how, now),
            Role::Visitor(_) => self.visitor_gone(conn, how),
            Role::Caller(_) => self.caller_gone(conn, how),
            Role::Front(_) | Role::Greeter(_) | Role::Leaving { .. } => {}
        }
        self.drop_conn(conn);
    }

    /// The peer has sent FIN behind bytes that are not read, for want of credit or of a use for
    /// them. Where a stream would wait for it, that one waits no longer than behind a FIN that was
    /// read: whoever left must not keep it.
    fn peer_finished(&mut self, conn: ConnKey, now: Instant) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        entry.fin_ahead = true;
        match entry.role {
            Role::Visitor(_) => self.visitor_finishes(conn, now),
            Role::Caller(_) => self.caller_finishes(conn),
            // These have deadlines of their own, or are asked for signs of life.
            Role::Front(_) | Role::Greeter(_) | Role::Lane(..) | Role::Leaving { .. } => {}
        }
    }

    /// Whether the pieces fit each other; run after every entry in debug builds.
    pub fn check_invariants(&self) {
        self.sessions.check_invariants();
        let waiting = |entry: &ConnEntry| matches!(entry.role, Role::Front(_) | Role::Greeter(_));
        let pre_auth = self
            .conns
            .iter()
            .filter(|(_, entry)| waiting(entry))
            .count();
        assert_eq!(
            pre_auth, self.pre_auth,
            "connections before authentication miscounted"
        );
        let mut standing = 0;
        for (key, entry) in self.conns.iter() {
            let stands = entry.standing(self.cx.config.token.is_some());
            let noted = self.doorstep.get(key);
            assert_eq!(noted, stands, "the doorstep has an old state of {key:?}");
            standing += usize::from(stands.is_some());
            assert!(
                !entry.out.is_lent() || self.borrowers.contains(&key),
                "a loan that nobody will end"
            );
            if let Role::Lane(session, index) = entry.role {
                let mux = self.sessions.mux(session);
                let lane = mux.and_then(|mux| mux.lane(index)?.conn());
                assert_eq!(lane, Some(key), "a lane of nobody's");
            }
            assert!(
                !matches!(entry.role, Role::Lane(..))
                    || entry.permit.as_ref().map(FdPermit::class) == Some(budget::Class::Lane),
                "a lane with another's permit"
            );
        }
        assert_eq!(standing, self.doorstep.len(), "a ghost on the doorstep");
        for (port, listener) in &self.ports {
            let entry = self.listeners.get(*listener);
            assert!(
                entry.is_some_and(|entry| entry.port_name() == Some(*port)),
                "a port's ghost"
            );
        }
        let beyond = |(key, session): (_, &KitSession)| {
            let until = session.parked_until();
            assert!(
                until.is_none() || until == self.cx.effects.timers.deadline(Reason::Grace(key)),
                "a parked session that waits for ever"
            );
            assert!(
                session.mux().is_some() || session.beyond == 0,
                "nothing is held while parked"
            );
            u64::from(session.mux().map_or(0, |mux| mux.beyond_window()))
        };
        let held: u64 = self.sessions.iter().map(beyond).sum();
        assert!(
            held <= self.pool.size(),
            "sessions hold more than the pool has"
        );
        let heads: usize = self.conns.iter().map(|(_, it)| it.head.bytes()).sum();
        assert_eq!(heads, self.heads.total(), "heads were miscounted");
        for mux in self.sessions.muxes() {
            let all_live = mux.tags().all(|conn| self.conns.get(conn).is_some());
            assert!(all_live, "a stream of a connection that is gone");
        }
        let held = self.conns.len() + self.listeners.len();
        assert_eq!(self.budget.used(), held, "permits and descriptors differ");
    }

    /// Bytes that are held for peers: what no local side has taken, lanes' buffers, waiting heads.
    pub fn held(&self) -> usize {
        let muxes = self.sessions.muxes();
        let held = muxes.map(|mux| {
            let lanes = mux.lanes().map(|(_, lane)| lane.capacity());
            mux.buffered() + lanes.sum::<usize>()
        });
        self.heads.total() + held.sum::<usize>()
    }

    /// Sessions, streams, connections and timers that are left: all zero after a drain.
    pub fn leftovers(&self) -> [usize; 4] {
        [
            self.sessions.len(),
            self.sessions.stream_count(),
            self.conns.len(),
            self.cx.effects.timers.len(),
        ]
    }

    fn told(&mut self) {
        if self.cx.stopping == Stopping::Draining {
            self.stop_if_drained();
        }
        #[cfg(debug_assertions)]
        self.check_invariants();
    }
}

impl Machine for Kit {
    type Order = KitOrder;
    type Notice = KitNotice;

    fn handle(&mut self, event: Event, now: Instant) {
        self.cx.now = now;
        match event {
            // The kit dials nobody.
            Event::Connected { .. } | Event::Secured { .. } => {}
            Event::Ended { conn, how } => self.ended(conn, &how, now),
            Event::PeerFinished { conn } => self.peer_finished(conn, now),
            Event::Listening { listener, outcome } => self.listening(listener, outcome, now),
            Event::AcceptFailed { listener, why } => self.accept_failed(listener, &why, now),
            Event::Holds { conn, bytes } => self.system_holds(conn, bytes, now),
            Event::Timeout => self.timeout(now),
            Event::Shutdown => self.shut_down(now),
            // A kit's clock may jump too (a frozen container); its lanes are then looked at anew.
            Event::Disturbed => self.disturbed(now),
        }
        self.told();
    }

    fn accepted(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey> {
        self.cx.now = now;
        let conn = self.accept(listener, peer, now);
        self.told();
        conn
    }

    fn order(&mut self, order: KitOrder, _now: Instant) {
        match order {}
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        let Some(entry) = self.conns.get(conn) else {
            return &mut [];
        };
        if entry.read_closed {
            return &mut [];
        }
        match entry.role {
            Role::Lane(session, index) => {
                self.spill_loans();
                let lane = self.sessions.lane_mut(session, index);
                lane.map_or(&mut [], Channel::read_space)
            }
            Role::Greeter(_) => self.greeter_space(conn),
            Role::Visitor(_) => self.visitor_space(conn),
            Role::Caller(_) => self.caller_space(conn),
            Role::Front(_) if !entry.out.is_empty() => &mut [],
            Role::Front(_) | Role::Leaving { .. } => self.cx.scratch_space(),
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        entry.bytes.0 += count as u64;
        match entry.role {
            Role::Lane(session, index) => self.lane_received(session, index, count, now),
            Role::Greeter(_) => {
                self.greeter_received(conn, count, now);
                self.restand(conn);
            }
            Role::Visitor(_) => self.visitor_received(conn, count, now),
            Role::Caller(_) => self.caller_received(conn, count, now),
            Role::Front(_) => {
                self.front_received(conn, count, now);
                self.restand(conn);
            }
            Role::Leaving { .. } => self.leaving_received(conn, count),
        }
        self.told();
    }

    fn transmit(&mut self, conn: ConnKey, _now: Instant) -> &[u8] {
        let Some(entry) = self.conns.get_mut(conn) else {
            return &[];
        };
        let ConnEntry { role, out, .. } = entry;
        match out.next() {
            Piece::Own(bytes) => bytes,
            Piece::Loan((session, lane), span) => {
                let mux = self.sessions.mux(*session);
                mux.map_or(&[], |mux| mux.payload(*lane, span))
            }
            Piece::Nothing => match role {
                Role::Greeter(greeter) => greeter.lane.transmit(),
                Role::Lane(session, index) => {
                    let lane = self.sessions.lane_mut(*session, *index);
                    lane.map_or(&[], Channel::transmit)
                }
                _ => &[],
            },
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if entry.out.is_empty() {
            match &mut entry.role {
                Role::Greeter(greeter) => {
                    greeter.lane.transmitted(count);
                }
                Role::Lane(session, index) => {
                    let (session, index) = (*session, *index);
                    self.lane_transmitted(session, index, count);
                }
                _ => {}
            }
        } else {
            entry.bytes.1 += count as u64;
            let passed = entry.out.taken(count);
            let drained = entry.out.is_empty();
            if drained && passed > 0 {
                self.cx
                    .metrics
                    .relay_wait
                    .observe(now.since(entry.waiting_since));
            }
            match entry.role {
                Role::Visitor(_) => self.visitor_transmitted(conn, passed, drained, now),
                Role::Caller(_) => self.caller_transmitted(conn, passed, drained, now),
                Role::Front(_) if drained => {
                    self.front_goes_on(conn, now);
                    self.restand(conn);
                    self.cx.effects.wake(conn);
                }
                _ => {}
            }
            if drained {
                self.after_sending(conn);
            }
        }
        self.told();
    }

    fn poll_command(&mut self) -> Option<Command<KitNotice>> {
        if self.cx.effects.is_silent() {
            self.tell_wakes();
        }
        self.cx.effects.next_command()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.cx.effects.timers.next().map(|(at, _)| at)
    }

    fn turn_ended(&mut self, busy: std::time::Duration, _conns: usize) {
        self.cx.metrics.loop_turn.observe(busy);
    }
}
