//! Visitors who wait for a laptop that is away (`--hold-visitors`).
//!
//! A request whose head is whole waits unread while the session that owns its port is parked, for
//! at most as long as the operator said: its bytes stay where they came, and nothing more is read.
//! When the laptop is back the oldest is served first. Whose time is over, and who finds no place
//! to wait, is told what everybody is told without it.
//!
//! Who waits where, and who has how many of the places, is in `Holding`.

use crate::clock::Instant;
use crate::http::RequestHead;
use crate::kit::Reason;
use crate::kit::conns::Fin;
use crate::kit::metrics::{HeldEnd, StreamRefusal};
use crate::kit::stream::Below;
use crate::kit::stream::waiting::{Held, may_wait, no_room_at};
use crate::limits::VISITOR_GONE_AFTER;
use crate::machine::ConnKey;

use super::Visitors;
use super::exchange::Owed;
use super::request::whole;

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
        let Some(visitor) = self.all.get_mut(conn) else {
            return false;
        };
        let listener = visitor.listener;
        if !may_wait(why, was.is_some(), listener, below) {
            return false;
        }
        let held = match was {
            Some(held) => {
                self.holding.stand(conn, listener, &held);
                held
            }
            None => {
                let holding = &mut self.holding;
                let held = holding.enter(conn, listener, below.conns, below.cx);
                let Some(held) = held else {
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
        let (mut ready, in_vain) = self.holding.sort_out(below);
        for (conn, why) in in_vain {
            self.refuse_held(conn, HeldEnd::TurnedAway, why, below);
        }
        while let Some(conn) = self.holding.oldest(&ready) {
            let was = self.released(conn);
            self.next_head(conn, was, below);
            let visitor = self.all.get(conn);
            if let Some(visitor) = visitor.filter(|visitor| visitor.held.is_some()) {
                // There is no room, so there is none for those behind it either.
                no_room_at(visitor.listener, &mut ready, below);
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
            self.holding.check(*conn, visitor.listener, place, &due);
        }
        assert_eq!(held, self.holding.len(), "a ghost among those who wait");
    }
}

#[cfg(test)]
#[path = "holding_tests.rs"]
mod tests;
