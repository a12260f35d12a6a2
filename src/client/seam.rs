//! The client's machine as its host sees it (the seam, `machine.rs` of the crate): which part is
//! told, and which is asked.

use std::net::SocketAddr;

use crate::client::event::Shortage;
use crate::client::keys::is_lanes;
use crate::client::machine::Client;
use crate::client::messages::{Notice, Order};
use crate::clock::Instant;
use crate::limits::MAX_LANES;
use crate::machine::{Command, ConnKey, Event, ListenerKey, Machine, SocketKey};

impl Machine for Client {
    type Order = Order;
    type Notice = Notice;

    fn handle(&mut self, event: Event, now: Instant) {
        self.cx.now = now;
        match event {
            Event::Connected { conn, .. }
            | Event::Secured { conn }
            | Event::Ended { conn, .. }
            | Event::Holds { conn, .. }
                if !is_lanes(conn) =>
            {
                let (local, mut around) = self.local();
                local.told(&mut around, event);
            }
            Event::Socket { .. } => {
                let (local, mut around) = self.local();
                local.told(&mut around, event);
            }
            Event::Connected { conn, .. } => self.reach.lane_connected(&mut self.cx, conn),
            Event::Secured { conn } => {
                let then = self.reach.lane_secured(&mut self.cx, conn);
                self.follow(then);
            }
            Event::Ended { conn, how } => {
                let then = self.reach.lane_ended(&mut self.cx, conn, how);
                self.follow(then);
            }
            Event::Timeout => self.timeout(),
            Event::Shutdown => self.close(false),
            Event::Disturbed => {
                let then = self.reach.disturbed(&mut self.cx);
                self.follow(then);
                for index in 0..MAX_LANES {
                    if self.reach.hurry(index, now) {
                        self.look_after_lane(index);
                    }
                }
            }
            // What a local server said before its end is owed to whoever is slow in taking it, and
            // the kit knows when that is nobody any more. Lanes are asked for signs of life.
            Event::PeerFinished { .. } | Event::Holds { .. } | Event::Resolved { .. } => {}
            // Whoever sends datagrams counts on some to be lost.
            Event::Unsent { .. } => {}
            Event::Listening { listener, outcome } => {
                self.forwards.listening(&mut self.cx, listener, outcome);
            }
            Event::AcceptFailed { listener, .. } => {
                self.forwards.accept_again(&mut self.cx, listener);
            }
            // Its program has no successor.
            Event::Upgrade => {}
        }
        self.settle();
    }

    fn accepted(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey> {
        self.cx.now = now;
        let caller = self.forwards.admits(listener, peer.ip())?;
        let (local, mut around) = self.local();
        let conn = local.caller_came(&mut around, &caller, peer);
        self.settle();
        conn
    }

    fn datagram(&mut self, socket: SocketKey, _: SocketAddr, datagram: &[u8], now: Instant) {
        self.cx.now = now;
        let (local, mut around) = self.local();
        local.datagram_leaves(&mut around, socket, datagram);
        self.settle();
    }

    fn order(&mut self, order: Order, now: Instant) {
        self.cx.now = now;
        match order {
            Order::Bind { .. }
            | Order::Unbind { .. }
            | Order::Forward { .. }
            | Order::Unforward { .. }
            | Order::Connect { .. }
                if self.has_heir() =>
            {
                self.pass_on(order)
            }
            Order::Stay(heir) => self.stay(*heir),
            Order::Bind { reference, spec } => {
                let awaited = self.bindings.awaits_claims(now);
                let (bindings, cx, session) = self.bindings();
                bindings.bind(cx, session, reference, spec.0);
                if awaited {
                    self.hear_all();
                }
            }
            Order::Unbind { reference } => {
                self.bindings
                    .unbind(&mut self.cx, self.reach.session.attached_mut(), reference)
            }
            Order::Forward { reference, spec } => {
                self.forwards.forward(&mut self.cx, reference, spec.0);
            }
            Order::Connect {
                reference,
                spec,
                socket,
            } => {
                let target = &spec.0.target;
                self.forwards
                    .connect(&mut self.cx, reference, target, socket);
            }
            Order::Unforward { reference } => self.forwards.unforward(&mut self.cx, reference),
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
            return self
                .local
                .read_space(self.reach.session.attached_mut(), conn);
        }
        if self.bindings.awaits_claims(self.cx.now) {
            return &mut [];
        }
        self.local.spill(self.reach.session.attached());
        self.reach.read_space(conn)
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        if is_lanes(conn) {
            let then = self.reach.lane_received(&mut self.cx, conn, count);
            self.follow(then);
        } else {
            let (local, mut around) = self.local();
            local.upstream_received(&mut around, conn, count);
        }
        self.settle();
    }

    fn transmit(&mut self, conn: ConnKey, _: Instant) -> &[u8] {
        if !is_lanes(conn) {
            return self.local.transmit(self.reach.session.attached(), conn);
        }
        self.reach.transmit(conn)
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        self.cx.now = now;
        if is_lanes(conn) {
            self.reach.lane_transmitted(&mut self.cx, conn, count);
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
