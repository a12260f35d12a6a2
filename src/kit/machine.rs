//! The kit's machine: tells each part what came, and has others see to what follows.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::http::{HttpDate, Refusal};
use crate::kit::budget::FdBudget;
use crate::kit::config::Config;
use crate::kit::conns::{ConnEntry, Conns, Lanes, Role};
use crate::kit::context::Context;
use crate::kit::front::admission::Admission;
use crate::kit::front::greeter::Dismissal;
use crate::kit::front::{Front, Wants};
use crate::kit::keys::SessionKey;
use crate::kit::memory::Pool;
use crate::kit::metrics::{DatagramDrop, SessionEnd, StreamRefusal};
use crate::kit::port::{Ports, Purpose, listener_of};
use crate::kit::session::{Arrived, Sessions};
use crate::kit::stream::{Below, Streams};
use crate::machine::{Command, ConnKey, Ended, Event, ListenerKey, Machine, SocketKey};
use crate::mux::Channel;
use crate::outflow::Piece;
use crate::wire::code::Code;
use crate::wire::control::{GoAway, Hello, Join};

use super::{Handover, KitNotice, KitOrder, Reason, Stopping};

/// The daemon's machine.
#[derive(Debug)]
pub struct Kit {
    pub(super) cx: Context,
    pub(super) conns: Conns,
    pub(super) front: Front,
    pub(super) streams: Streams,
    pub(super) ports: Ports,
    pub(super) sessions: Sessions,
}

impl Kit {
    /// A kit that will listen as `config` says. The config must have passed its own check.
    pub fn new(config: Config, entropy: Entropy, now: Instant) -> Kit {
        let greeters = config.max_pre_auth_connections;
        let admission = Admission::new(config.fd_budget, greeters);
        let budget = FdBudget::new(config.fd_budget, config.descriptor_needs());
        let pool = Pool::new(config.memory_plan().pool);
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

    /// The kit that takes over from another one, whose sessions it knows and whose sockets its host
    /// has.
    pub fn successor(config: Config, entropy: Entropy, now: Instant, handed: Handover) -> Kit {
        let config = Config {
            listen: handed.listen,
            ..config
        };
        let mut kit = Kit::new(config, entropy, now);
        kit.inherit(handed);
        kit
    }

    fn timeout(&mut self, now: Instant) {
        while let Some(reason) = self.cx.effects.timers.pop_due(now) {
            let (sessions, conns, cx) = (&mut self.sessions, &mut self.conns, &mut self.cx);
            match reason {
                Reason::Conn(conn) => self.conn_timeout(conn),
                Reason::Lanes(session) => sessions.check_lanes(session, conns, cx),
                Reason::Sweep(session) => sessions.sweep(session, conns, cx),
                Reason::Acks(session) => sessions.acknowledge(session, cx),
                Reason::Idle(session) => sessions.check_idle(session, conns, cx),
                Reason::Grace(session) => sessions.grace_over(session, conns, cx),
                Reason::Accept => self.ports.accept_again(cx),
                Reason::Room => {
                    let (streams, mut below) = self.streams();
                    streams.look_for_room(&mut below);
                }
                Reason::Peers => {
                    let (streams, mut below) = self.streams();
                    streams.peers.look(&mut below);
                }
                Reason::Handed => self.handed_over(),
                Reason::Sums => cx.tell_sums(),
                Reason::Shutdown => self.stop_now(),
                Reason::Freed => self.give_memory_back(),
            }
            self.settle_sessions();
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
            Role::Leaving { .. } => self.conns.leaver_timeout(conn, &mut self.cx),
            Role::Caller => {
                let (streams, mut below) = self.streams();
                streams.callers.timeout(conn, &mut below);
            }
            Role::Forward => {
                let (streams, mut below) = self.streams();
                streams.forwards.timeout(conn, &mut below);
            }
            Role::Lane(..) => {}
        }
    }

    fn ended(&mut self, conn: ConnKey, how: &Ended) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        match entry.role {
            Role::Lane(session, index) => {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.sessions.lane_lost((session, index), how, conns, cx);
                self.settle_sessions();
            }
            role @ (Role::Visitor | Role::Caller | Role::Forward) => {
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
            Role::Caller => {
                let (streams, mut below) = self.streams();
                streams.callers.ends_ahead(conn, &mut below);
            }
            Role::Forward => self.streams.forwards.ends_ahead(conn, &mut self.sessions),
            // These have deadlines of their own, or are asked for signs of life.
            Role::Front | Role::Greeter | Role::Lane(..) | Role::Leaving { .. } => {}
        }
    }

    /// The streams, and the rooms below them.
    pub(super) fn streams(&mut self) -> (&mut Streams, Below<'_>) {
        let below = Below {
            cx: &mut self.cx,
            conns: &mut self.conns,
            sessions: &mut self.sessions,
            ports: &mut self.ports,
        };
        (&mut self.streams, below)
    }

    /// Somebody has come to a listener. Gives the name of who may stay.
    pub(super) fn accept(&mut self, listener: ListenerKey, peer: SocketAddr) -> Option<ConnKey> {
        if matches!(self.cx.stopping, Stopping::Parting | Stopping::Done) {
            return None;
        }
        let is_front = matches!(self.ports.purpose(listener)?, Purpose::Front);
        let (conns, cx) = (&mut self.conns, &mut self.cx);
        let conn = match is_front {
            true => self.front.accept(peer, conns, cx),
            false => {
                let (streams, mut below) = self.streams();
                return streams.accept(listener, peer, &mut below);
            }
        };
        if conn.is_none() {
            let (streams, mut below) = self.streams();
            streams.pause_at_cap(&mut below);
        }
        conn
    }

    /// Serves who stands at the front, `wants` first, until it wants nothing more.
    fn serve(&mut self, conn: ConnKey, mut wants: Option<Wants>) {
        loop {
            let next = wants.take();
            let next = next.or_else(|| self.front.next(conn, &mut self.conns, &mut self.cx));
            let Some(wanted) = next else {
                break;
            };
            let done = match wanted {
                Wants::Answer(ask) => {
                    let (mut text, peer) = (Vec::new(), ask.origin.peer.ip());
                    self.admin(ask.wanted, peer, &mut text, ask.asked);
                    let (conns, cx) = (&mut self.conns, &mut self.cx);
                    let keep_alive = ask.asked.keep_alive;
                    self.front.answered(conn, &text, keep_alive, conns, cx);
                    Ok(())
                }
                Wants::Session(hello) => self.hello(conn, &hello),
                Wants::Lane(join) => self.join(conn, &join),
            };
            if let Err(refused) = done {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.front.send_away(conn, &refused, conns, cx);
            }
        }
        self.front.restand(conn, &mut self.conns, &self.cx);
    }

    /// A HELLO whose sender has proven itself.
    fn hello(&mut self, conn: ConnKey, hello: &Hello) -> Result<(), Dismissal> {
        let (conns, cx) = (&mut self.conns, &mut self.cx);
        let welcome = self.sessions.welcome(conn, hello, conns, cx)?;
        let key = welcome.key;
        self.settle_sessions();
        let (conns, cx) = (&mut self.conns, &mut self.cx);
        let greeter = self.front.take_greeter(conn, (key, 0), conns, cx);
        if let (Some(greeter), Some(session)) = (greeter, self.sessions.get(key)) {
            let bindings = self.ports.as_resumed(session, &cx.config);
            self.ports.owner_is_back(session, cx);
            self.sessions.attach(welcome, greeter, bindings, cx);
            self.pump(key, 0);
        }
        Ok(())
    }

    /// JOIN: a secondary lane (PROTOCOL §7).
    fn join(&mut self, conn: ConnKey, join: &Join) -> Result<(), Dismissal> {
        let (conns, cx) = (&mut self.conns, &mut self.cx);
        match self.sessions.check_join(join, cx) {
            Ok(joining) => {
                let lane = (joining.session, joining.index);
                conns.place_for_lane(conn, cx)?;
                if let Some(greeter) = self.front.take_greeter(conn, lane, conns, cx) {
                    self.sessions.join(&joining, greeter, cx);
                    self.pump(lane.0, lane.1);
                }
            }
            Err((code, why)) => self.front.refuse_join(conn, code, why, conns, cx),
        }
        Ok(())
    }

    /// Takes in all frames that are whole on a lane.
    fn pump(&mut self, key: SessionKey, index: usize) {
        self.sessions.reckon(key);
        loop {
            let (conns, cx) = (&mut self.conns, &mut self.cx);
            let arrived = self.sessions.next_arrived(key, index, conns, cx);
            self.settle_sessions();
            let Some(arrived) = arrived else {
                return;
            };
            let (streams, mut below) = self.streams();
            match arrived {
                Arrived::Bind(bind) => self.bind(key, bind),
                Arrived::Unbind(bind_id) => {
                    let Below {
                        cx,
                        conns,
                        sessions,
                        ports,
                    } = below;
                    ports.unbind(key, bind_id, &mut conns.budget, sessions, cx);
                }
                frame => streams.arrived(frame, (key, index), &mut below),
            }
        }
    }

    /// What hung on sessions and lanes that are gone: streams are broken, ports are free.
    pub(super) fn settle_sessions(&mut self) {
        while let Some(fallout) = self.sessions.next_fallout() {
            let (streams, mut below) = self.streams();
            for conn in &fallout.lost {
                streams.lost(*conn, fallout.end(), &mut below);
            }
            if let Some(over) = &fallout.over {
                let Below {
                    cx, conns, ports, ..
                } = below;
                ports.release_all(over, &fallout.why, &mut conns.budget, cx);
            }
        }
    }

    /// What follows from what the parts have done, whoever was told something.
    fn settle(&mut self) {
        while let Some(session) = self.streams.visitors.next_spent() {
            let (conns, cx) = (&mut self.conns, &mut self.cx);
            let goaway = GoAway::new(Code::NoError, "all stream ids were used");
            let how = SessionEnd::Killed;
            self.sessions.expel(session, how, goaway, 1000, conns, cx);
        }
        self.settle_sessions();
        if self.streams.peers.len() > 0 && self.ports.take_closed_sockets() {
            let (streams, mut below) = self.streams();
            streams.peers.leave_closed_ports(&mut below);
        }
        while let Some(conn) = self.conns.head_too_much(self.cx.plan.heads) {
            self.refuse_head(conn);
        }
        while let Some((conn, role)) = self.conns.next_left() {
            match role {
                Role::Front | Role::Greeter => self.front.forget(conn, role),
                Role::Visitor | Role::Caller | Role::Forward => self.streams.forget(conn, role),
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
            let refusal = Refusal::text(503, why.sentence());
            return streams.visitors.reject(conn, &refusal, &mut below);
        }
        let (mut text, head) = (Vec::new(), self.front.asks_head(conn));
        Refusal::json(503, why.sentence()).write_and_close(&mut text, head, self.cx.date);
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
        let (streams, mut below) = self.streams();
        if streams.serve_held(&mut below) {
            self.settle();
        }
        if self.cx.stopping != Stopping::No {
            self.go_on_stopping();
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
            Event::Resolved { conn, found } => {
                let (streams, mut below) = self.streams();
                streams.forwards.resolved(conn, &found, &mut below);
            }
            Event::Connected { conn, peer } => {
                let (streams, mut below) = self.streams();
                streams.forwards.connected(conn, peer, &mut below);
            }
            // The kit secures nothing.
            Event::Secured { .. } => {}
            Event::Ended { conn, how } => self.ended(conn, &how),
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
                self.conns.leaver_is_held(conn, bytes, &mut self.cx);
                let (streams, mut below) = self.streams();
                streams.system_holds(conn, bytes, now, &mut below);
            }
            Event::Socket { socket, outcome } => {
                let (conns, sessions) = (&mut self.conns, &mut self.sessions);
                let listener = listener_of(socket);
                let ports = &mut self.ports;
                ports.listening(listener, outcome, conns, sessions, &mut self.cx);
            }
            Event::Unsent { .. } => {
                let why = DatagramDrop::Socket;
                self.cx.metrics.datagrams.dropped(why, 1);
            }
            Event::Timeout => self.timeout(now),
            Event::Shutdown => self.shut_down(),
            Event::Upgrade => self.hand_over(),
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

    fn datagram(&mut self, socket: SocketKey, peer: SocketAddr, datagram: &[u8], now: Instant) {
        self.cx.now = now;
        let (streams, mut below) = self.streams();
        streams
            .peers
            .came(listener_of(socket), peer, datagram, &mut below);
        self.told();
    }

    fn order(&mut self, order: KitOrder, now: Instant) {
        self.cx.now = now;
        match order {
            KitOrder::Succeeded => self.succeeded(),
        }
        self.told();
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
            Role::Forward => self.streams.forwards.space(conn, &mut self.sessions),
            Role::Front if !entry.out.is_empty() => &mut [],
            Role::Front => self.cx.scratch_space(),
            Role::Leaving { patience, .. } => {
                let space = self.cx.scratch_space();
                let most = patience.min(space.len());
                &mut space[..most]
            }
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        entry.bytes.0 += count as u64;
        match entry.role {
            Role::Lane(session, index) => {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.sessions.received(session, index, count, conns, cx);
                self.pump(session, index);
            }
            Role::Visitor => {
                let (streams, mut below) = self.streams();
                streams.visitors.received(conn, count, &mut below);
            }
            Role::Caller => {
                let (streams, mut below) = self.streams();
                streams.callers.received(conn, count, &mut below);
            }
            Role::Forward => {
                let (streams, mut below) = self.streams();
                streams.forwards.received(conn, count, &mut below);
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
            Piece::Loan(lane, span) => self.sessions.payload(*lane, span),
            Piece::Nothing => match *role {
                Role::Greeter => self.front.greeter_transmit(conn),
                Role::Lane(session, index) => self.sessions.transmit(session, index),
                _ => &[],
            },
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        let role = entry.role;
        if entry.out.is_empty() {
            match role {
                Role::Greeter => self.front.greeter_transmitted(conn, count),
                Role::Lane(session, index) => self.sessions.transmitted(session, index, count),
                _ => {}
            }
            return self.told();
        }
        let (passed, drained) = self.conns.taken(conn, count, &mut self.cx);
        match role {
            Role::Visitor | Role::Caller | Role::Forward => {
                let (streams, mut below) = self.streams();
                streams.transmitted(conn, role, passed, drained, &mut below);
            }
            Role::Front if drained => {
                self.serve(conn, None);
                self.cx.effects.wake(conn);
            }
            Role::Leaving { .. } if count > 0 => self.conns.leaver_took(conn, &mut self.cx),
            _ => {}
        }
        if drained {
            self.conns.after_sending(conn, &mut self.cx);
        }
        self.told();
    }

    fn poll_command(&mut self) -> Option<Command<KitNotice>> {
        if self.cx.effects.is_silent() {
            while let Some(conn) = self.sessions.next_sender(&mut self.cx) {
                let (streams, mut below) = self.streams();
                streams.may_go_on(conn, &mut below);
            }
            self.settle();
        }
        self.cx.effects.next_command()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.cx.effects.timers.next().map(|(at, _)| at)
    }

    fn dated(&mut self, unix_seconds: u64) {
        self.cx.date = Some(HttpDate::from_unix(unix_seconds));
    }

    fn turn_ended(&mut self, busy: Duration, _conns: usize) {
        self.cx.metrics.loop_turn.observe(busy);
    }
}
