//! Visitors who wait for a laptop that is away (`--hold-visitors`).
//!
//! A request whose head is whole waits unread while the session that owns its port is parked, for
//! at most as long as the operator said: its bytes stay where they came, and nothing more is read.
//! When the laptop is back the oldest is served first. Whose time is over, and who finds no place
//! to wait, is told what everybody is told without it.
//!
//! [`Holding`] knows who waits at which port, and who holds how many of the places: one address
//! cannot have all of them, nor all of those at one port, nor one port all of them. What a visitor
//! holds is in its own entry, as [`Held`], and is given back by value.

use std::collections::BTreeMap;

use crate::clock::Instant;
use crate::http::RequestHead;
use crate::kit::conns::Fin;
use crate::kit::front::throttle::place;
use crate::kit::metrics::{HeldEnd, StreamRefusal};
use crate::kit::session::KitSession;
use crate::kit::stream::Below;
use crate::kit::{Reason, Stopping};
use crate::limits::{HELD_AT_ONE_PORT, HELD_PART, MAX_HELD_VISITORS, VISITOR_GONE_AFTER};
use crate::machine::{ConnKey, ListenerKey};
use crate::shares::Shares;

use super::Visitors;
use super::exchange::Owed;
use super::request::whole;

/// A visitor's place among those who wait.
#[derive(Debug)]
pub(super) struct Held {
    turn: u64,
    address: u128,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holding {
    lines: BTreeMap<ListenerKey, Line>,
    by_address: Shares<u128>,
    turns: u64,
}

/// Who waits at one port.
#[derive(Debug, Default)]
struct Line {
    /// In the order in which they came.
    order: BTreeMap<u64, ConnKey>,
    by_address: Shares<u128>,
}

impl Holding {
    /// A place for one more, where all may have `most`.
    fn enter(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        address: u128,
        until: Instant,
        most: usize,
    ) -> Option<Held> {
        let here = (most * HELD_AT_ONE_PORT.0).div_ceil(HELD_AT_ONE_PORT.1);
        let line = self.lines.get(&listener);
        let may_here = line.is_none_or(|line| line.by_address.may_take(address, 1, here));
        if !may_here || !self.by_address.may_take(address, 1, most) {
            return None;
        }
        self.turns += 1;
        let held = Held {
            turn: self.turns,
            address,
            until,
        };
        self.stand(conn, listener, &held);
        Some(held)
    }

    fn stand(&mut self, conn: ConnKey, listener: ListenerKey, held: &Held) {
        self.by_address.take(held.address, 1);
        let line = self.lines.entry(listener).or_default();
        line.by_address.take(held.address, 1);
        line.order.insert(held.turn, conn);
    }

    /// Somebody's place is free again.
    pub(super) fn leave(&mut self, listener: ListenerKey, held: &Held) {
        self.by_address.give_back(held.address, 1);
        if let Some(line) = self.lines.get_mut(&listener) {
            line.by_address.give_back(held.address, 1);
            line.order.remove(&held.turn);
            if line.order.is_empty() {
                self.lines.remove(&listener);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_address.total()
    }

    /// Where somebody waits.
    fn ports(&self) -> Vec<ListenerKey> {
        self.lines.keys().copied().collect()
    }

    /// All who wait at a port.
    fn at(&self, listener: ListenerKey) -> Vec<ConnKey> {
        let line = self.lines.get(&listener);
        line.map_or_else(Vec::new, |line| line.order.values().copied().collect())
    }

    /// Who has waited longest at one of some ports.
    fn oldest(&self, ports: &[ListenerKey]) -> Option<ConnKey> {
        let lines = ports.iter().filter_map(|port| self.lines.get(port));
        let first = lines.filter_map(|line| line.order.first_key_value()).min();
        first.map(|(_, conn)| *conn)
    }
}

/// What those who wait at a port have to expect.
enum Prospect {
    /// The laptop is awaited.
    Wait,
    /// It is there.
    Served,
    /// It does not come back.
    None,
}

impl Visitors {
    /// A visitor may wait for what it cannot have now. Whoever waited before, as `was` says, goes
    /// on with it, also where it is only room that is wanting.
    pub(super) fn hold(
        &mut self,
        conn: ConnKey,
        why: StreamRefusal,
        was: Option<Held>,
        below: &mut Below<'_>,
    ) -> bool {
        let (Some(entry), Some(visitor)) = (below.conns.get(conn), self.all.get_mut(conn)) else {
            return false;
        };
        let listener = visitor.listener;
        let now = below.cx.now;
        let owner = below.ports.bound(listener).map(|binding| binding.owner);
        let owner = owner.and_then(|owner| below.sessions.get(owner));
        let waits = match why {
            StreamRefusal::Away => owner.is_some_and(KitSession::is_awaited),
            StreamRefusal::MaxStreams | StreamRefusal::Congested | StreamRefusal::Memory => {
                was.is_some()
            }
            _ => false,
        };
        let patience = below.cx.config.hold_visitors;
        if !waits || patience.is_zero() || below.cx.stopping != Stopping::No {
            return false;
        }
        let held = match was {
            Some(held) => {
                self.holding.stand(conn, listener, &held);
                held
            }
            None => {
                let until = match entry.fin() {
                    Fin::NotYet => now + patience,
                    Fin::Ahead | Fin::Read => now + patience.min(VISITOR_GONE_AFTER),
                };
                let most = (below.conns.budget.for_visits() / HELD_PART).min(MAX_HELD_VISITORS);
                let address = place(entry.from.ip());
                let held = self.holding.enter(conn, listener, address, until, most);
                let Some(held) = held else {
                    below.cx.metrics.held(HeldEnd::Full);
                    return false;
                };
                held
            }
        };
        below.cx.arm_conn(conn, held.until);
        visitor.held = Some(held);
        visitor.http.head_stays();
        true
    }

    /// Takes a visitor's place from it.
    fn released(&mut self, conn: ConnKey) -> Option<Held> {
        let visitor = self.all.get_mut(conn)?;
        let held = visitor.held.take()?;
        self.holding.leave(visitor.listener, &held);
        Some(held)
    }

    /// Who waits does so no longer, and is answered or closed by the caller.
    pub(super) fn let_go(&mut self, conn: ConnKey, end: HeldEnd, below: &mut Below<'_>) {
        if self.released(conn).is_some() {
            below.cx.metrics.held(end);
        }
    }

    /// Its FIN is there: who half-closes may wait for a quick answer, who hung up looks the same.
    pub(super) fn held_ends(&mut self, conn: ConnKey, below: &mut Below<'_>) -> bool {
        let visitor = self.all.get_mut(conn);
        let Some(held) = visitor.and_then(|visitor| visitor.held.as_mut()) else {
            return false;
        };
        held.until = held.until.min(below.cx.now + VISITOR_GONE_AFTER);
        below.cx.arm_conn(conn, held.until);
        true
    }

    /// It is looked whether the visitor has waited long enough; false where it waits for nobody.
    pub(super) fn held_timeout(&mut self, conn: ConnKey, below: &mut Below<'_>) -> bool {
        let held = self.all.get(conn).and_then(|it| it.held.as_ref());
        let Some(until) = held.map(|held| held.until) else {
            return false;
        };
        if below.cx.now < until {
            below.cx.arm_conn(conn, until);
            return true;
        }
        let fin = below.conns.get(conn).map(|entry| entry.fin());
        let end = match fin {
            Some(Fin::NotYet) | None => HeldEnd::Expired,
            Some(Fin::Ahead | Fin::Read) => HeldEnd::Gone,
        };
        self.refuse_held(conn, end, StreamRefusal::Away, below);
        true
    }

    /// A visitor has waited in vain.
    fn refuse_held(
        &mut self,
        conn: ConnKey,
        end: HeldEnd,
        why: StreamRefusal,
        below: &mut Below<'_>,
    ) {
        self.let_go(conn, end, below);
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        let Ok(Some(head)) = visitor.http.next_head() else {
            return;
        };
        let length = head.len();
        match RequestHead::parse(head) {
            Ok(parsed) => {
                let owed = Owed {
                    asked: parsed.asked(),
                    // A kit that goes keeps nobody's connection.
                    whole: whole(parsed.body) && why != StreamRefusal::Draining,
                };
                visitor.http.head_read(length);
                self.busy(conn, owed, why, below);
            }
            Err(reject) => self.reject(conn, &reject.into(), below),
        }
        self.weigh(conn, below);
    }

    /// Serves those whose laptop is there again, oldest first, as far as there is room, and tells
    /// those who wait in vain. Gives whether anybody waits no longer.
    pub(in crate::kit) fn serve_held(&mut self, below: &mut Below<'_>) -> bool {
        let before = self.holding.len();
        if before == 0 {
            return false;
        }
        let mut ready = Vec::new();
        for listener in self.holding.ports() {
            let draining = below.cx.stopping != Stopping::No;
            let why = match (draining, prospect(listener, below)) {
                (true, _) => StreamRefusal::Draining,
                (_, Prospect::None) => StreamRefusal::Away,
                (_, Prospect::Wait) => continue,
                (_, Prospect::Served) => {
                    ready.push(listener);
                    continue;
                }
            };
            for conn in self.holding.at(listener) {
                self.refuse_held(conn, HeldEnd::TurnedAway, why, below);
            }
        }
        while let Some(conn) = self.holding.oldest(&ready) {
            let was = self.released(conn);
            self.next_head(conn, was, below);
            let visitor = self.all.get(conn);
            if let Some(visitor) = visitor.filter(|visitor| visitor.held.is_some()) {
                // There is no room, so there is none for those behind it either.
                let full = visitor.listener;
                let owner = |port| below.ports.bound(port).map(|binding| binding.owner);
                let full = owner(full);
                ready.retain(|port| owner(*port) != full);
                continue;
            }
            self.weigh(conn, below);
            let served = self.stream(conn).is_some();
            below.cx.metrics.held(match served {
                true => HeldEnd::Served,
                false => HeldEnd::TurnedAway,
            });
            if served {
                // Nothing was read of it meanwhile, and nobody looked at its clocks.
                let soon = below.cx.now + below.cx.config.visitor_look();
                below.cx.arm_conn(conn, soon);
                below.cx.effects.wake(conn);
            }
        }
        self.holding.len() < before
    }

    /// How many wait.
    pub(in crate::kit) fn held(&self) -> usize {
        self.holding.len()
    }

    /// Whether whoever waits has a place, and nobody else has, and none waits for ever.
    pub(in crate::kit) fn check_held<'a>(
        &self,
        conns: impl Iterator<Item = &'a ConnKey>,
        due: impl Fn(Reason) -> Option<Instant>,
    ) {
        let mut held = 0;
        for conn in conns {
            let visitor = self.all.get(*conn);
            let Some((visitor, place)) = visitor.and_then(|it| Some((it, it.held.as_ref()?)))
            else {
                continue;
            };
            held += 1;
            let line = self.holding.lines.get(&visitor.listener);
            let stands = line.and_then(|line| line.order.get(&place.turn));
            assert_eq!(stands, Some(conn), "it waits and is in no line");
            let due = due(Reason::Conn(*conn));
            assert!(
                due.is_some_and(|due| due <= place.until),
                "it waits for ever"
            );
        }
        assert_eq!(held, self.holding.len(), "a ghost among those who wait");
    }
}

fn prospect(listener: ListenerKey, below: &Below<'_>) -> Prospect {
    let owner = below.ports.bound(listener).map(|binding| binding.owner);
    match owner.and_then(|owner| below.sessions.get(owner)) {
        Some(owner) if owner.is_awaited() => Prospect::Wait,
        Some(owner) if owner.is_open() => Prospect::Served,
        _ => Prospect::None,
    }
}

#[cfg(test)]
#[path = "holding_tests.rs"]
mod tests;
