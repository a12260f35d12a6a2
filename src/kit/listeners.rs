//! Listening sockets: the kit's own and those of bindings; who may come in, and when nobody may.

use std::net::{IpAddr, SocketAddr};

use log::{info, warn};

use crate::clock::Instant;
use crate::kit::budget::{Class, FdPermit};
use crate::kit::conns::Role;
use crate::kit::doorstep::Room;
use crate::kit::leaving::Place;
use crate::kit::metrics::StreamRefusal;
use crate::kit::repeats::Complaint;
use crate::kit::session::SessionKey;
use crate::limits::{ACCEPT_RETRY, FRONT_HEAD_TIMEOUT, LOOK_AGAIN_AFTER};
use crate::machine::{Command, ConnKey, IoFailure, ListenerKey};
use crate::wire::control::Bind;

use super::{Kit, KitNotice, Reason, Stopping};

/// What a port is known by: EXPOSE and PULL of one number may listen on different addresses.
pub(super) type PortName = (Mode, u16);

/// Which way a binding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// HTTP from the world to the laptop.
    Expose,
    /// TCP from the container to the laptop.
    Pull,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct ListenerEntry {
    pub(super) purpose: Purpose,
    pub(super) permit: FdPermit,
}

/// What a listener is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The kit's own.
    Front,
    /// A BIND that waits for the socket.
    Opening(Opening),
    /// A binding's.
    Bound {
        /// Its owner, live or parked.
        session: SessionKey,
        /// The owner's name for it.
        bind_id: u64,
        /// EXPOSE or PULL.
        mode: Mode,
        /// The port.
        port: u16,
    },
}

/// A BIND that waits for its socket.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) session: SessionKey,
    pub(super) bind: Bind,
    pub(super) mode: Mode,
    pub(super) addr: SocketAddr,
    /// How many more ports may be tried when the kit picks.
    pub(super) tries: u32,
}

impl ListenerEntry {
    /// The port it holds, if it is a binding's (or about to be).
    pub(super) fn port_name(&self) -> Option<PortName> {
        match &self.purpose {
            Purpose::Front => None,
            Purpose::Opening(opening) => {
                Some((opening.mode, opening.addr.port())).filter(|(_, port)| *port != 0)
            }
            Purpose::Bound { mode, port, .. } => Some((*mode, *port)),
        }
    }
}

impl Kit {
    pub(super) fn open_front(&mut self) {
        let Some(permit) = self.conns.budget.take(Class::Listener) else {
            self.cx.effects.notify(KitNotice::CannotListen(
                "the descriptor budget is too small for a listener".into(),
            ));
            self.cx.effects.ask(Command::Stop);
            return;
        };
        let entry = ListenerEntry {
            purpose: Purpose::Front,
            permit,
        };
        if let Ok(listener) = self.listeners.insert(entry) {
            self.front = Some(listener);
            self.cx.effects.ask(Command::Listen {
                listener,
                addr: self.cx.config.listen,
            });
        }
    }

    pub(super) fn listening(
        &mut self,
        listener: ListenerKey,
        outcome: Result<SocketAddr, IoFailure>,
        now: Instant,
    ) {
        let Some(entry) = self.listeners.get(listener) else {
            return;
        };
        match (&entry.purpose, outcome) {
            (Purpose::Front, Ok(addr)) => {
                // The port may have been the system's choice; no binding may have it.
                self.cx.config.listen = addr;
                info!("listening on {addr}");
                if let Some(note) = self.cx.plan.note(&self.cx.config) {
                    warn!("{note}");
                }
                self.cx.effects.notify(KitNotice::Listening(addr));
            }
            (Purpose::Front, Err(why)) => {
                let text = format!("cannot listen on {}: {}", self.cx.config.listen, why.text);
                self.drop_listener(listener);
                self.cx.effects.notify(KitNotice::CannotListen(text));
                self.cx.effects.ask(Command::Stop);
            }
            (Purpose::Opening(_), Ok(addr)) => self.binding_opened(listener, addr, now),
            (Purpose::Opening(_), Err(why)) => self.binding_failed(listener, &why, now),
            (Purpose::Bound { .. }, _) => {}
        }
    }

    /// Forgets a listener whose socket is closed, and frees its port and permit.
    pub(super) fn drop_listener(&mut self, listener: ListenerKey) -> Option<Purpose> {
        let entry = self.listeners.remove(listener)?;
        if let Some(port) = entry.port_name()
            && self.ports.get(&port) == Some(&listener)
        {
            self.ports.remove(&port);
        }
        if self.front == Some(listener) {
            self.front = None;
        }
        if let Purpose::Bound {
            mode: Mode::Expose,
            port,
            ..
        } = entry.purpose
        {
            self.cx.metrics.binding_closed(port);
        }
        self.conns.budget.give_back(entry.permit);
        Some(entry.purpose)
    }

    pub(super) fn close_listener(&mut self, listener: ListenerKey) {
        if self.drop_listener(listener).is_some() {
            self.cx.effects.ask(Command::Unlisten { listener });
        }
    }

    /// On shutdown nobody new comes in.
    pub(super) fn close_listeners(&mut self) {
        let all: Vec<ListenerKey> = self.listeners.keys().collect();
        for listener in all {
            self.close_listener(listener);
        }
    }

    pub(super) fn accept(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey> {
        if self.cx.stopping != Stopping::No {
            return None;
        }
        let entry = self.listeners.get(listener)?;
        match &entry.purpose {
            Purpose::Front => {
                let leaver = self.conns.doorstep.leaver(Room::Hall);
                let place = self.take_place(Class::Front)?;
                let conn = self.add_conn(Role::Front, peer, place)?;
                self.fronts.insert(conn, Box::default());
                self.restand(conn);
                self.cx.arm_conn(conn, now + FRONT_HEAD_TIMEOUT);
                if let Some(leaver) = leaver {
                    self.conns.displace(leaver, &mut self.cx);
                }
                Some(conn)
            }
            Purpose::Opening(_) => None,
            Purpose::Bound {
                session,
                bind_id,
                mode: Mode::Pull,
                ..
            } => {
                let (session, bind_id) = (*session, *bind_id);
                if !self
                    .sessions
                    .get(session)
                    .is_some_and(|session| session.is_open())
                {
                    self.cx.stream_refused(peer.ip(), StreamRefusal::Away);
                    return None;
                }
                let place = self.take_place_of_stream(Class::Caller, peer)?;
                let conn = self.add_conn(Role::Caller, peer, place)?;
                let (streams, below) = self.streams();
                streams.callers.arrived(conn, session, bind_id, peer, below)
            }
            Purpose::Bound {
                mode: Mode::Expose, ..
            } => {
                let (place, full) = match self.place(Class::Visitor) {
                    Some(place) => (place, false),
                    None => (self.take_place_of_stream(Class::Refusal, peer)?, true),
                };
                let conn = self.add_conn(Role::Visitor, peer, place)?;
                let visitors = &mut self.streams.visitors;
                visitors.arrived(conn, listener, full, &mut self.cx);
                self.pause_accepting_at_cap();
                Some(conn)
            }
        }
    }

    fn add_conn(
        &mut self,
        role: Role,
        peer: SocketAddr,
        (permit, leaver): Place,
    ) -> Option<ConnKey> {
        let added = self.conns.add(role, peer, permit, self.cx.now);
        // Only now, for a name is free only when the host has closed what had it.
        match leaver {
            Some(leaver) if self.conns.doorstep.get(leaver).is_some() => {
                self.conns.displace(leaver, &mut self.cx);
            }
            Some(leaver) => {
                let (streams, below) = self.streams();
                streams.visitors.yield_place(leaver, below);
            }
            None => {}
        }
        added
    }

    /// A place for somebody new, perhaps that of one who goes for it.
    fn place(&mut self, class: Class) -> Option<Place> {
        let (visitors, sessions) = (&mut self.streams.visitors, &self.sessions);
        let now = self.cx.now;
        self.conns
            .place(class, |conns| visitors.who_yields(conns, sessions, now))
    }

    /// A permit, perhaps of one who lingers; or the listeners stop accepting until some come home.
    fn take_place(&mut self, class: Class) -> Option<Place> {
        let place = self.place(class);
        if place.is_none() {
            self.pause_accepting_at_cap();
        }
        place
    }

    /// The same for who came for a stream, and is closed at once where there is no place.
    fn take_place_of_stream(&mut self, class: Class, peer: SocketAddr) -> Option<Place> {
        let place = self.take_place(class);
        if place.is_none() {
            self.cx
                .stream_refused(peer.ip(), StreamRefusal::Descriptors);
        }
        place
    }

    /// At the cap, and where nobody would yield, nobody is accepted on bindings: those who wait do
    /// so in the kernel, where they are not lost.
    fn pause_accepting_at_cap(&mut self) {
        if self.accepting
            && !self.conns.budget.accepting()
            && !self
                .streams
                .visitors
                .someone_yields(&self.conns, &self.sessions, self.cx.now)
        {
            self.accepting = false;
            self.tell_accepting(false);
            self.look_for_room();
        }
    }

    /// Those who wait are accepted as soon as somebody would yield to them: who was fresh at the
    /// cap may have said nothing since.
    pub(super) fn look_for_room(&mut self) {
        if self.accepting {
            return;
        }
        if self
            .streams
            .visitors
            .someone_yields(&self.conns, &self.sessions, self.cx.now)
        {
            self.accepting = true;
            return self.tell_accepting(true);
        }
        self.cx
            .effects
            .timers
            .arm(Reason::Room, self.cx.now + LOOK_AGAIN_AFTER);
    }

    /// Accepts again once enough permits are home: looked at after everything told.
    pub(super) fn resume_accepting(&mut self) {
        if !self.accepting && self.conns.budget.accepting() {
            self.accepting = true;
            self.tell_accepting(true);
        }
    }

    fn tell_accepting(&mut self, on: bool) {
        let bound: Vec<ListenerKey> = self
            .listeners
            .iter()
            .filter(|(_, entry)| matches!(entry.purpose, Purpose::Bound { .. }))
            .map(|(key, _)| key)
            .collect();
        for listener in bound {
            self.cx.effects.ask(Command::Accept { listener, on });
        }
    }

    pub(super) fn accept_failed(&mut self, listener: ListenerKey, why: &IoFailure, now: Instant) {
        let complaint = Complaint {
            level: log::Level::Warn,
            what: "could not accept",
            reason: "host",
        };
        self.cx
            .complain(complaint, &format!("({}); trying again shortly", why.text));
        self.cx.metrics.accept_failed();
        if self.listeners.get(listener).is_some() {
            self.cx
                .effects
                .timers
                .arm_if_unset(Reason::Accept, now + ACCEPT_RETRY);
        }
    }

    pub(super) fn accept_again(&mut self) {
        let all: Vec<ListenerKey> = self.listeners.keys().collect();
        for listener in all {
            if self.accepting || self.front == Some(listener) {
                self.cx.effects.ask(Command::Accept { listener, on: true });
            }
        }
    }

    /// Whether a binding may not have this port because the kit itself listens there.
    pub(super) fn is_own_port(&self, port: u16) -> bool {
        self.front.is_some() && self.cx.config.listen.port() == port
    }

    pub(super) fn expose_addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.cx.config.expose_host, port)
    }

    /// The loopback address that BIND's `host` names, if it does (PROTOCOL §3).
    pub(super) fn pull_addr(host: Option<&str>, port: u16) -> Option<SocketAddr> {
        let ip: IpAddr = match host {
            None | Some("127.0.0.1") | Some("localhost") => [127, 0, 0, 1].into(),
            Some("::1") => std::net::Ipv6Addr::LOCALHOST.into(),
            Some(_) => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}
