//! Who waits for a laptop that is away (`--hold-visitors`), at which port and in what order.
//!
//! [`Holding`] knows who holds how many of the places: one address cannot have all of them, nor all
//! of those at one port, nor one port all of them. Visitors and callers have one each, for they
//! wait for different things. What one of them holds is in its own entry, as [`Held`], and is given
//! back by value.

use std::collections::BTreeMap;

use crate::clock::Instant;
use crate::kit::conns::{Conns, Fin};
use crate::kit::context::Context;
use crate::kit::front::throttle::place;
use crate::kit::metrics::{HeldEnd, StreamRefusal};
use crate::kit::{Reason, Stopping};
use crate::limits::{HELD_AT_ONE_PORT, HELD_PART, MAX_HELD_VISITORS, VISITOR_GONE_AFTER};
use crate::machine::{ConnKey, ListenerKey};
use crate::shares::Shares;

use super::Below;

/// A visitor's place among those who wait.
#[derive(Debug)]
pub(super) struct Held {
    turn: u64,
    address: u128,
    pub(super) until: Instant,
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
    /// A place for one more, until the operator's patience ends: before long for one whose FIN is
    /// there, for who half-closes may wait for a quick answer, and who hung up looks the same.
    pub(super) fn enter(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        conns: &Conns,
        cx: &mut Context,
    ) -> Option<Held> {
        let entry = conns.get(conn)?;
        let patience = match entry.fin() {
            Fin::NotYet => cx.config.hold_visitors,
            Fin::Ahead | Fin::Read => cx.config.hold_visitors.min(VISITOR_GONE_AFTER),
        };
        let most = (conns.budget.for_visits() / HELD_PART).min(MAX_HELD_VISITORS);
        let held = self.take(
            conn,
            listener,
            (place(entry.from.ip()), cx.now + patience),
            most,
        );
        if held.is_none() {
            cx.metrics.held(HeldEnd::Full);
        }
        held
    }

    fn take(
        &mut self,
        conn: ConnKey,
        listener: ListenerKey,
        (address, until): (u128, Instant),
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

    pub(super) fn stand(&mut self, conn: ConnKey, listener: ListenerKey, held: &Held) {
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

    /// Whether one who waits has the place that it thinks, and does not wait for ever.
    pub(super) fn check(
        &self,
        conn: ConnKey,
        listener: ListenerKey,
        held: &Held,
        due: impl Fn(Reason) -> Option<Instant>,
    ) {
        let line = self.lines.get(&listener);
        let stands = line.and_then(|line| line.order.get(&held.turn));
        assert_eq!(stands, Some(&conn), "it waits and is in no line");
        let due = due(Reason::Conn(conn));
        assert!(
            due.is_some_and(|due| due <= held.until),
            "it waits for ever"
        );
    }

    /// All who wait at a port.
    pub(super) fn at(&self, listener: ListenerKey) -> Vec<ConnKey> {
        let line = self.lines.get(&listener);
        line.map_or_else(Vec::new, |line| line.order.values().copied().collect())
    }

    /// The ports whose laptop is there again, and those who wait elsewhere in vain, with the
    /// reason.
    pub(super) fn sort_out(
        &self,
        below: &Below<'_>,
    ) -> (Vec<ListenerKey>, Vec<(ConnKey, StreamRefusal)>) {
        let (mut ready, mut in_vain) = (Vec::new(), Vec::new());
        for listener in self.lines.keys().copied() {
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
            in_vain.extend(self.at(listener).into_iter().map(|conn| (conn, why)));
        }
        (ready, in_vain)
    }

    /// Who has waited longest at one of some ports.
    pub(super) fn oldest(&self, ports: &[ListenerKey]) -> Option<ConnKey> {
        let lines = ports.iter().filter_map(|port| self.lines.get(port));
        let first = lines.filter_map(|line| line.order.first_key_value()).min();
        first.map(|(_, conn)| *conn)
    }
}

/// Whether somebody may come to wait now, who was refused for this; `waits` already.
pub(super) fn may_wait(
    why: StreamRefusal,
    waits: bool,
    listener: ListenerKey,
    below: &Below<'_>,
) -> bool {
    let may = match why {
        StreamRefusal::Away => matches!(prospect(listener, below), Prospect::Wait),
        StreamRefusal::MaxStreams | StreamRefusal::Congested | StreamRefusal::Memory => waits,
        _ => false,
    };
    may && !below.cx.config.hold_visitors.is_zero() && below.cx.stopping == Stopping::No
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

fn prospect(listener: ListenerKey, below: &Below<'_>) -> Prospect {
    let owner = below.ports.bound(listener).map(|binding| binding.owner);
    match owner.and_then(|owner| below.sessions.get(owner)) {
        Some(owner) if owner.is_awaited() => Prospect::Wait,
        Some(owner) if owner.is_open() => Prospect::Served,
        _ => Prospect::None,
    }
}

/// There is no room for one who waits at a port, nor for others whom its owner would serve.
pub(super) fn no_room_at(listener: ListenerKey, ready: &mut Vec<ListenerKey>, below: &Below<'_>) {
    let owner = |port| below.ports.bound(port).map(|binding| binding.owner);
    let full = owner(listener);
    ready.retain(|port| owner(*port) != full);
}
