//! Who comes to a port: a place is found or made, and where there is none, whoever comes waits in
//! the kernel.

use std::net::SocketAddr;

use crate::kit::budget::Class;
use crate::kit::conns::{Conns, LaneName, Lanes, Role};
use crate::kit::metrics::StreamRefusal;
use crate::kit::places::Place;
use crate::kit::port::Purpose;
use crate::kit::session::{KitSession, Sessions};
use crate::machine::{ConnKey, ListenerKey};
use crate::mux::Span;
use crate::shares::{is_plenty, may_hold};
use crate::wire::service::Service;

use super::forward::{Failed, Forwards, Opened};
use super::waiting::may_wait;
use super::{Below, Streams};

impl Streams {
    /// Somebody has come to the listener of a binding. Gives the name of who may stay.
    pub(in crate::kit) fn accept(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        below: &mut Below<'_>,
    ) -> Option<ConnKey> {
        let binding = match below.ports.purpose(listener)? {
            Purpose::Bound(key) => below.ports.binding(*key),
            Purpose::Vacant => return self.accept_visitor(listener, peer, below),
            Purpose::Front | Purpose::Opening(_) => return None,
        };
        match binding.service {
            Service::HttpExpose => return self.accept_visitor(listener, peer, below),
            Service::TcpExpose | Service::TcpPull => {}
            // Nobody is accepted there: datagrams just come.
            Service::UdpExpose | Service::UdpPull => return None,
        }
        let owner = below.sessions.get(binding.owner);
        let is_served = owner.is_some_and(KitSession::is_open);
        if !is_served && !may_wait(StreamRefusal::Away, false, listener, below) {
            below.cx.stream_refused(peer.ip(), StreamRefusal::Away);
            return None;
        }
        let conn = self.add_or_refuse(Role::Caller, Class::Caller, peer, below)?;
        let arrived = self.callers.arrived(conn, listener, below);
        arrived.then_some(conn)
    }

    /// A client opens a stream, for which it has the kit connect.
    pub(super) fn opened(
        &mut self,
        opened: Opened,
        lane: LaneName,
        payload: &Span,
        below: &mut Below<'_>,
    ) {
        let (session, payload) = (lane.0, below.sessions.payload(lane, payload));
        let wanted = self.forwards.wanted(opened, session, payload, below);
        let target = match wanted {
            Ok(target) => target,
            Err(failed) => return Forwards::refuse(opened.id, lane, &failed, below),
        };
        let peer = below.sessions.get(session).map(|session| session.peer);
        let place = self.place(Class::Forward, below);
        let (Some(place), Some(peer)) = (place, peer) else {
            return Forwards::refuse(opened.id, lane, &Failed::descriptors(), below);
        };
        if let Some(conn) = self.add(Role::Forward, peer, place, below) {
            self.forwards.begin(conn, opened.id, lane, target, below);
        }
    }

    fn accept_visitor(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        below: &mut Below<'_>,
    ) -> Option<ConnKey> {
        let (conn, full) = match self.place(Class::Visitor, below) {
            Some(place) => (self.add(Role::Visitor, peer, place, below)?, false),
            None => {
                let conn = self.add_or_refuse(Role::Visitor, Class::Refusal, peer, below)?;
                (conn, true)
            }
        };
        self.visitors.arrived(conn, listener, full, below.cx);
        self.pause_at_cap(below);
        Some(conn)
    }

    fn add(
        &mut self,
        role: Role,
        peer: SocketAddr,
        (permit, leaver): Place,
        below: &mut Below<'_>,
    ) -> Option<ConnKey> {
        let added = below.conns.add(role, peer, permit, below.cx.now);
        // Only now, for a name is free only when the host has closed what had it.
        match leaver {
            Some(leaver) if below.conns.admission.get(leaver).is_some() => {
                below.conns.displace(leaver, below.cx);
            }
            Some(leaver) => self.visitors.yield_place(leaver, below),
            None => {}
        }
        added
    }

    /// The same for one who is closed at once where there is no place.
    fn add_or_refuse(
        &mut self,
        role: Role,
        class: Class,
        peer: SocketAddr,
        below: &mut Below<'_>,
    ) -> Option<ConnKey> {
        let Some(place) = self.place(class, below) else {
            self.pause_at_cap(below);
            below
                .cx
                .stream_refused(peer.ip(), StreamRefusal::Descriptors);
            return None;
        };
        self.add(role, peer, place, below)
    }

    /// A place for somebody new, perhaps that of one who goes for it.
    fn place(&mut self, class: Class, below: &mut Below<'_>) -> Option<Place> {
        let (sessions, now) = (&*below.sessions, below.cx.now);
        let yields = |conns: &_| self.visitors.who_yields(conns, sessions, now);
        below.conns.place(class, yields)
    }

    fn someone_yields(&mut self, below: &Below<'_>) -> bool {
        let now = below.cx.now;
        self.visitors
            .someone_yields(below.conns, below.sessions, now)
    }

    /// At the cap, and where nobody would yield, nobody is accepted on bindings.
    pub(in crate::kit) fn pause_at_cap(&mut self, below: &mut Below<'_>) {
        let accepts = below.ports.are_accepting() && !below.conns.budget.accepting();
        if accepts && !self.someone_yields(below) {
            below.ports.pause(below.cx);
            self.look_for_room(below);
        }
    }

    /// Those who wait are accepted as soon as somebody would yield to them: who was fresh at the
    /// cap may have said nothing since.
    pub(in crate::kit) fn look_for_room(&mut self, below: &mut Below<'_>) {
        if below.ports.are_accepting() {
            return;
        }
        match self.someone_yields(below) {
            true => below.ports.resume(below.cx),
            false => below.ports.look_again(below.cx),
        }
    }
}

/// Whether descriptors suffice for one more request of `holder`, with what it has. Who only keeps a
/// connection has nothing by that: its place goes to whoever wants it.
pub(super) fn may_serve_one_more(holder: u128, conns: &Conns, sessions: &Sessions) -> bool {
    let most = conns.budget.for_visits();
    let left = most.saturating_sub(sessions.stream_count() + 1);
    let held = || {
        sessions
            .muxes()
            .map(|mux| mux.streams().held_by(holder))
            .sum::<usize>()
    };
    is_plenty(left, most) || may_hold(held() + 1, 1, left, most)
}
