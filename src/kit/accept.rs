//! Who comes in: a place is found or made, and the part that the listener is for takes over.

use std::net::SocketAddr;

use crate::kit::budget::Class;
use crate::kit::conns::Role;
use crate::kit::front::admission::Room;
use crate::kit::keys::Mode;
use crate::kit::metrics::StreamRefusal;
use crate::kit::places::Place;
use crate::kit::port::Purpose;
use crate::machine::{ConnKey, ListenerKey};

use super::{Kit, Stopping};

impl Kit {
    /// Somebody has come to a listener. Gives the name of who may stay.
    pub(super) fn accept(&mut self, listener: ListenerKey, peer: SocketAddr) -> Option<ConnKey> {
        if self.cx.stopping != Stopping::No {
            return None;
        }
        let binding = match self.ports.purpose(listener)? {
            Purpose::Front => return self.accept_front(peer),
            Purpose::Opening(_) => return None,
            Purpose::Bound(binding) => self.ports.binding(*binding),
        };
        if binding.mode == Mode::Expose {
            return self.accept_visitor(listener, peer);
        }
        let (session, bind_id, port) = (binding.owner, binding.bind_id, binding.port());
        let owner = self.sessions.get(session);
        if !owner.is_some_and(|session| session.is_open()) {
            self.cx.stream_refused(peer.ip(), StreamRefusal::Away);
            return None;
        }
        let conn = self.add_conn_of_stream(Role::Caller, Class::Caller, peer)?;
        let (streams, mut below) = self.streams();
        let arrived = streams
            .callers
            .arrived(conn, session, (bind_id, port), peer, &mut below);
        arrived.then_some(conn)
    }

    fn accept_front(&mut self, peer: SocketAddr) -> Option<ConnKey> {
        let leaver = self.conns.admission.leaver(Room::Hall);
        let place = self.take_place(Class::Front)?;
        let conn = self.add_conn(Role::Front, peer, place)?;
        self.front.arrived(conn, &mut self.conns, &mut self.cx);
        if let Some(leaver) = leaver {
            self.conns.displace(leaver, &mut self.cx);
        }
        Some(conn)
    }

    fn accept_visitor(&mut self, listener: ListenerKey, peer: SocketAddr) -> Option<ConnKey> {
        let (conn, full) = match self.place(Class::Visitor) {
            Some(place) => (self.add_conn(Role::Visitor, peer, place)?, false),
            None => {
                let conn = self.add_conn_of_stream(Role::Visitor, Class::Refusal, peer)?;
                (conn, true)
            }
        };
        let visitors = &mut self.streams.visitors;
        visitors.arrived(conn, listener, full, &mut self.cx);
        self.pause_accepting_at_cap();
        Some(conn)
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
            Some(leaver) if self.conns.admission.get(leaver).is_some() => {
                self.conns.displace(leaver, &mut self.cx);
            }
            Some(leaver) => {
                let (streams, mut below) = self.streams();
                streams.visitors.yield_place(leaver, &mut below);
            }
            None => {}
        }
        added
    }

    /// The same for who came for a stream, and is closed at once where there is no place.
    fn add_conn_of_stream(
        &mut self,
        role: Role,
        class: Class,
        peer: SocketAddr,
    ) -> Option<ConnKey> {
        let Some(place) = self.take_place(class) else {
            let why = StreamRefusal::Descriptors;
            self.cx.stream_refused(peer.ip(), why);
            return None;
        };
        self.add_conn(role, peer, place)
    }

    /// A place for somebody new, perhaps that of one who goes for it.
    fn place(&mut self, class: Class) -> Option<Place> {
        let (visitors, sessions) = (&mut self.streams.visitors, &self.sessions);
        let now = self.cx.now;
        self.conns
            .place(class, |conns| visitors.who_yields(conns, sessions, now))
    }

    /// The same; or the listeners stop accepting until some come home.
    fn take_place(&mut self, class: Class) -> Option<Place> {
        let place = self.place(class);
        if place.is_none() {
            self.pause_accepting_at_cap();
        }
        place
    }

    fn someone_yields(&mut self) -> bool {
        let visitors = &mut self.streams.visitors;
        visitors.someone_yields(&self.conns, &self.sessions, self.cx.now)
    }

    /// At the cap, and where nobody would yield, nobody is accepted on bindings.
    fn pause_accepting_at_cap(&mut self) {
        let accepts = self.ports.are_accepting() && !self.conns.budget.accepting();
        if accepts && !self.someone_yields() {
            self.ports.pause(&mut self.cx);
            self.look_for_room();
        }
    }

    /// Those who wait are accepted as soon as somebody would yield to them: who was fresh at the
    /// cap may have said nothing since.
    pub(super) fn look_for_room(&mut self) {
        if self.ports.are_accepting() {
            return;
        }
        match self.someone_yields() {
            true => self.ports.resume(&mut self.cx),
            false => self.ports.look_again(&mut self.cx),
        }
    }
}
