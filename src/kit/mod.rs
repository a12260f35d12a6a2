//! The daemon in the container: the machine that owns sessions, ports, visitors and callers.
//!
//! The room decides everything the kit does and carries no byte itself. [`Kit`] dispatches: front,
//! connections, ports, streams and sessions are parts that own their tables and are handed what
//! else they need. What follows from one in another is an answer to the dispatcher, or is asked
//! after everything told (`Kit::settle`).
//!
//! | file | part |
//! | --- | --- |
//! | `context` | what every part uses and none is about: clock, config, effects, metrics |
//! | `conns` | connections: what each is for, how each ends |
//! | `front` | the kit's own listener: operators, and who has not said who it is (PROTOCOL §2) |
//! | `leaving` | those who were answered and linger |
//! | `places` | whose descriptor a newcomer gets, and who goes for it |
//! | `heads` | memory of heads that are not whole |
//! | `sessions`, `joins` | attach, park, resume, end (PROTOCOL §6); secondary lanes (§7) |
//! | `lanes` | frames of a session's lanes |
//! | `accept` | who comes in, and whose place it gets |
//! | `port` | listeners, and who owns which port (PROTOCOL §3) |
//! | `stream` (`visitor`, `caller`) | who wants a stream: EXPOSE (PROTOCOL §4, §11) and PULL |
//! | `operator` | what the operator asks for (PROTOCOL §10) |
//! | `repeats` | complaints that are summed in the log |
//! | `ties` | how the tables of the parts must fit each other |
//! | `carried` | what the wire can carry of what may be configured |
//! | `budget`, `memory`, `config`, `metrics`, `admin` | what their names say |
//!
//! It never does I/O, and never imports `client`.
//!
//! Invariants: a port has one owner; a connection's permit goes home when its entry does; a loan
//! ends before its lane reads again; a session that holds no lane is parked or gone.

mod accept;
pub mod admin;
mod bindings_seen;
pub mod budget;
mod carried;
pub mod config;
mod conns;
mod context;
mod exposition;
mod front;
mod heads;
mod joins;
mod keys;
mod lanes;
mod leaving;
pub mod memory;
pub mod metrics;
mod operator;
mod places;
mod port;
pub mod public_url;
mod repeats;
mod session;
mod sessions;
pub mod stream;
#[cfg(test)]
mod testing;
mod ties;

use std::net::SocketAddr;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::machine::{CloseHow, Command, ConnKey, Ended, Event, ListenerKey, Machine};
use crate::mux::Channel;
use crate::outflow::Piece;
use crate::wire::code::Code;

use budget::FdBudget;
use config::Config;
use conns::{ConnEntry, Conns, Role};
use context::Context;
use front::asks::{Denial, UNREADABLE};
use front::{Front, Wants};
use keys::SessionKey;
use metrics::StreamRefusal;
use port::Ports;
use session::Sessions;
use stream::{Below, Streams};

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
    conns: Conns,
    front: Front,
    streams: Streams,
    ports: Ports,
    sessions: Sessions,
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
        let admission = front::admission::Admission::new(config.fd_budget, greeters);
        let budget = FdBudget::new(config.fd_budget, config.descriptor_needs());
        let pool = memory::Pool::new(config.memory_plan().pool);
        let mut kit = Kit {
            sessions: Sessions::new(config.max_sessions, pool),
            cx: Context::new(config, entropy, now),
            conns: Conns::new(budget, admission),
            front: Front::default(),
            streams: Streams::default(),
            ports: Ports::new(),
        };
        kit.ports.open_front(&mut kit.conns.budget, &mut kit.cx);
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
        self.ports.close_all(&mut self.conns.budget, &mut self.cx);
        for session in self.sessions.keys() {
            let grace = crate::limits::SHUTDOWN_DRAIN;
            self.say_goodbye(session, "the kit is shutting down", grace);
        }
        self.stop_if_drained();
    }

    fn stop_if_drained(&mut self) {
        if self.cx.stopping == Stopping::Draining && self.sessions.stream_count() == 0 {
            let served =
                |(_, entry): (_, &ConnEntry)| !entry.role.has_stream() || entry.out.is_empty();
            let served = self.conns.iter().all(served);
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
        let all: Vec<ConnKey> = self.conns.iter().map(|(key, _)| key).collect();
        for conn in all {
            self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        }
        // Closing them frees memory, which goes back with the process.
        self.cx.effects.timers.disarm(Reason::Freed);
        self.cx.tell_all_sums();
        self.cx.effects.ask(Command::Stop);
    }

    fn timeout(&mut self, now: Instant) {
        while let Some(reason) = self.cx.effects.timers.pop_due(now) {
            match reason {
                Reason::Conn(conn) => self.conn_timeout(conn),
                Reason::Lanes(session) => self.check_lanes(session, now),
                Reason::Sweep(session) => self.sweep(session, now),
                Reason::Idle(session) => self.check_idle(session, now),
                Reason::Grace(session) => self.grace_over(session),
                Reason::Accept => self.ports.accept_again(&mut self.cx),
                Reason::Room => self.look_for_room(),
                Reason::Sums => self.cx.tell_sums(),
                Reason::Shutdown => self.stop_now(),
                Reason::Freed => self.give_memory_back(),
            }
        }
    }

    fn conn_timeout(&mut self, conn: ConnKey) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        match entry.role {
            Role::Front | Role::Greeter => {
                let wants = self.front.timeout(conn, &mut self.conns, &mut self.cx);
                self.serve(conn, wants);
            }
            Role::Visitor => {
                let (streams, mut below) = self.streams();
                streams.visitors.timeout(conn, &mut below);
            }
            Role::Leaving { .. } => self.conns.close(conn, CloseHow::Clean, &mut self.cx),
            Role::Lane(..) | Role::Caller => {}
        }
    }

    fn ended(&mut self, conn: ConnKey, how: &Ended, now: Instant) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        match entry.role {
            Role::Lane(session, index) => self.lane_lost(session, index, how, now),
            role @ (Role::Visitor | Role::Caller) => {
                let (streams, mut below) = self.streams();
                streams.gone(conn, role, how, &mut below);
            }
            Role::Front | Role::Greeter | Role::Leaving { .. } => {}
        }
        self.conns.drop(conn, &mut self.cx);
    }

    /// The peer has sent FIN behind bytes that are not read, for want of credit or of a use for
    /// them. Where a stream would wait for it, that one waits no longer than behind a FIN that was
    /// read: whoever left must not keep it.
    fn peer_finished(&mut self, conn: ConnKey) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        entry.fin_ahead = true;
        match entry.role {
            Role::Visitor => {
                let (streams, mut below) = self.streams();
                streams.visitors.ends_ahead(conn, &mut below);
            }
            Role::Caller => self.streams.callers.ends_ahead(conn, &mut self.sessions),
            // These have deadlines of their own, or are asked for signs of life.
            Role::Front | Role::Greeter | Role::Lane(..) | Role::Leaving { .. } => {}
        }
    }

    /// The streams, and the rooms below them.
    fn streams(&mut self) -> (&mut Streams, Below<'_>) {
        let below = Below {
            cx: &mut self.cx,
            conns: &mut self.conns,
            sessions: &mut self.sessions,
            ports: &mut self.ports,
        };
        (&mut self.streams, below)
    }

    /// Serves who stands at the front, `wants` first, until it wants nothing more.
    fn serve(&mut self, conn: ConnKey, mut wants: Option<Wants>) {
        let now = self.cx.now;
        loop {
            let next = wants.take();
            let next = next.or_else(|| self.front.next(conn, &mut self.conns, &mut self.cx));
            let Some(wanted) = next else {
                break;
            };
            let done = match wanted {
                Wants::Answer(ask) => {
                    let (mut text, peer) = (Vec::new(), ask.origin.peer.ip());
                    self.admin(ask.wanted, peer, &mut text, ask.asked, now);
                    let (conns, cx) = (&mut self.conns, &mut self.cx);
                    let keep_alive = ask.asked.keep_alive;
                    self.front.answered(conn, &text, keep_alive, conns, cx);
                    Ok(())
                }
                Wants::Session(hello) => self.hello(conn, &hello, now),
                Wants::Lane(join) => self.join(conn, &join, now),
            };
            if let Err(refused) = done {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.front.send_away(conn, &refused, conns, cx);
            }
        }
        self.front.restand(conn, &mut self.conns, &self.cx);
    }

    /// What follows from what the parts have done, whoever was told something.
    fn settle(&mut self) {
        while let Some(session) = self.streams.visitors.next_spent() {
            let why = "all stream ids were used";
            self.expel(
                session,
                metrics::SessionEnd::Killed,
                Code::NoError,
                1000,
                why,
            );
        }
        while let Some(conn) = self.conns.head_too_much(self.cx.plan.heads) {
            self.refuse_head(conn);
        }
        while let Some((conn, role)) = self.conns.next_left() {
            match role {
                Role::Front | Role::Greeter => self.front.forget(conn, role),
                Role::Visitor | Role::Caller => self.streams.forget(conn, role),
                Role::Lane(..) | Role::Leaving { .. } => {}
            }
        }
        if self.conns.budget.accepting() {
            self.ports.resume(&mut self.cx);
        }
    }

    /// Heads that are not whole take more memory than they may, and this one most of it.
    fn refuse_head(&mut self, conn: ConnKey) {
        let why = StreamRefusal::Heads;
        if let Some(entry) = self.conns.get(conn)
            && entry.role == Role::Visitor
        {
            self.cx.stream_refused(entry.from.ip(), why);
            let (streams, mut below) = self.streams();
            return streams
                .visitors
                .reject(conn, 503, why.sentence(), &mut below);
        }
        let mut text = Vec::new();
        Denial::json(503, why.sentence().trim_end()).write(&mut text, UNREADABLE);
        self.conns.say_and_leave(conn, &text, &mut self.cx);
    }

    /// Tells the program that memory can be given back.
    fn give_memory_back(&mut self) {
        self.conns.spill(&self.sessions);
        self.sessions.release_idle();
        self.conns.shrink();
        self.streams.shrink();
        self.front.shrink();
        self.cx.effects.notify(KitNotice::MemoryFreed);
    }

    fn told(&mut self) {
        self.settle();
        if self.cx.stopping == Stopping::Draining {
            self.stop_if_drained();
            self.settle();
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
            Event::PeerFinished { conn } => self.peer_finished(conn),
            Event::Listening { listener, outcome } => {
                let (conns, sessions) = (&mut self.conns, &mut self.sessions);
                let ports = &mut self.ports;
                ports.listening(listener, outcome, conns, sessions, &mut self.cx);
            }
            Event::AcceptFailed { listener, why } => {
                self.ports.accept_failed(listener, &why, &mut self.cx);
            }
            Event::Holds { conn, bytes } => {
                let (streams, mut below) = self.streams();
                streams.system_holds(conn, bytes, now, &mut below);
            }
            Event::Timeout => self.timeout(now),
            Event::Shutdown => self.shut_down(now),
            // A kit's clock may jump too (a frozen container); its lanes are then looked at anew.
            Event::Disturbed => self.sessions.forgive_silence(now),
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
        let conn = self.accept(listener, peer);
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
                self.conns.spill(&self.sessions);
                let lane = self.sessions.lane_mut(session, index);
                lane.map_or(&mut [], Channel::read_space)
            }
            Role::Greeter => self.front.greeter_space(conn),
            Role::Visitor => {
                let (cx, sessions) = (&mut self.cx, &mut self.sessions);
                self.streams.visitors.space(conn, cx, &self.conns, sessions)
            }
            Role::Caller => self.streams.callers.space(conn, &mut self.sessions),
            Role::Front if !entry.out.is_empty() => &mut [],
            Role::Front | Role::Leaving { .. } => self.cx.scratch_space(),
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
            Role::Visitor => {
                let (streams, mut below) = self.streams();
                streams.visitors.received(conn, count, &mut below);
            }
            Role::Caller => {
                let (streams, mut below) = self.streams();
                streams.callers.received(conn, count, &mut below);
            }
            Role::Front | Role::Greeter => {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.front.received(conn, count, conns, cx);
                self.serve(conn, None);
            }
            Role::Leaving { .. } => self.conns.leaving_received(conn, count, &mut self.cx),
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
            Piece::Nothing => match *role {
                Role::Greeter => self.front.greeter_transmit(conn),
                Role::Lane(session, index) => {
                    let lane = self.sessions.lane_mut(session, index);
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
            match entry.role {
                Role::Greeter => self.front.greeter_transmitted(conn, count),
                Role::Lane(session, index) => {
                    if let Some(mux) = self.sessions.mux_mut(session) {
                        mux.transmitted(index, count);
                    }
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
                Role::Visitor => {
                    let (streams, mut below) = self.streams();
                    streams
                        .visitors
                        .transmitted(conn, passed, drained, &mut below);
                }
                Role::Caller => {
                    let (streams, mut below) = self.streams();
                    streams
                        .callers
                        .transmitted(conn, passed, drained, &mut below);
                }
                Role::Front if drained => {
                    self.serve(conn, None);
                    self.cx.effects.wake(conn);
                }
                _ => {}
            }
            if drained {
                self.conns.after_sending(conn, &mut self.cx);
            }
        }
        self.told();
    }

    fn poll_command(&mut self) -> Option<Command<KitNotice>> {
        if self.cx.effects.is_silent() {
            self.tell_wakes();
            self.settle();
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
