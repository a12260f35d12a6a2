//! Connections that were told all they will be told, and linger so that they hear it.
//!
//! A close with unread bytes is a reset, which may destroy the last words on their way; so whoever
//! was answered for good stays until it closes, or a few seconds. It is owed nothing more: the
//! class has a cap, at which the oldest goes, and whoever wants a descriptor gets theirs first.

use std::collections::VecDeque;

use crate::kit::budget::{Class, FdPermit};
use crate::kit::conns::{Conns, Role};
use crate::kit::context::Context;
use crate::kit::front::greeter::Dismissal;
use crate::machine::{CloseHow, ConnKey};

/// Connections that began to leave, oldest first, and some that are gone by now.
#[derive(Debug, Default)]
pub(super) struct Leaving(VecDeque<ConnKey>);

impl Leaving {
    fn add(&mut self, conn: ConnKey) {
        self.0.push_back(conn);
    }

    /// The oldest of those that `stands` says are still there. Those before it are forgotten.
    fn oldest(&mut self, stands: impl Fn(ConnKey) -> bool) -> Option<ConnKey> {
        while let Some(conn) = self.0.front().copied() {
            if stands(conn) {
                return Some(conn);
            }
            self.0.pop_front();
        }
        None
    }

    /// Forgets those that are gone once they are many against the `standing`.
    fn tidy(&mut self, standing: usize, stands: impl Fn(ConnKey) -> bool) {
        if self.0.len() > 2 * standing + 64 {
            self.0.retain(|conn| stands(*conn));
        }
    }
}

/// A permit for a newcomer; and who has to be closed once the newcomer is in, for it was its.
pub(super) type Place = (FdPermit, Option<ConnKey>);

impl Conns {
    /// A connection began to leave: from here on its place is of the class for that. Where that
    /// class is full, the oldest goes.
    pub(super) fn lingers(&mut self, conn: ConnKey, cx: &mut Context) {
        while let Some(entry) = self.table.get_mut(conn)
            && let Some(permit) = &mut entry.permit
            && !self.budget.reclass(permit, Class::Leaving)
        {
            // Without another one to go it keeps the place that it has.
            if !self.hurry_leaving(cx) {
                break;
            }
        }
        self.leaving.add(conn);
        let table = &self.table;
        self.leaving.tidy(self.budget.out(Class::Leaving), |conn| {
            table.get(conn).is_some()
        });
    }

    /// Closes a connection that is owed nothing, for its descriptor: one that is leaving, or who
    /// stands on the admission with more than what is kept for that. False where there is none.
    fn hurry_one(&mut self, cx: &mut Context) -> bool {
        if self.hurry_leaving(cx) {
            return true;
        }
        let spare = self.spare_front();
        if let Some(conn) = spare {
            self.displace(conn, cx);
        }
        spare.is_some()
    }

    /// Who goes from the admission where more are there than are kept places for.
    fn spare_front(&self) -> Option<ConnKey> {
        let more = self.budget.exceeds_reserve(Class::Front);
        self.admission.first_to_go().filter(|_| more)
    }

    /// Closes the connection that has been leaving for longest; false where there is none.
    fn hurry_leaving(&mut self, cx: &mut Context) -> bool {
        let oldest = self.oldest_leaving();
        if let Some(conn) = oldest {
            self.close(conn, CloseHow::Clean, cx);
        }
        oldest.is_some()
    }

    fn oldest_leaving(&mut self) -> Option<ConnKey> {
        let table = &self.table;
        self.leaving.oldest(|conn| {
            let entry = table.get(conn);
            entry.is_some_and(|entry| matches!(entry.role, Role::Leaving { .. }))
        })
    }

    /// A place for a newcomer. `yields` knows who of those that came for a stream gives up its own.
    pub(super) fn place(
        &mut self,
        class: Class,
        yields: impl FnOnce(&Conns) -> Option<ConnKey>,
    ) -> Option<Place> {
        if let Some(permit) = self.budget.take(class) {
            return Some((permit, None));
        }
        let leaving = self.oldest_leaving();
        if let Some(place) = leaving.and_then(|leaver| self.place_of(leaver, class)) {
            return Some(place);
        }
        let leaver = match class {
            Class::Front => self.admission.first_to_go()?,
            Class::Visitor | Class::Caller => match self.spare_front() {
                Some(leaver) => leaver,
                None => yields(self)?,
            },
            _ => return None,
        };
        self.place_of(leaver, class)
    }

    /// The permit of one who has to go, for somebody else.
    fn place_of(&mut self, leaver: ConnKey, class: Class) -> Option<Place> {
        let entry = self.table.get_mut(leaver)?;
        let mut permit = entry.permit.take()?;
        if self.budget.reclass(&mut permit, class) {
            return Some((permit, Some(leaver)));
        }
        entry.permit = Some(permit);
        None
    }

    /// Makes sure that a connection which came through the front counts as a lane, so that sessions
    /// cannot use up what operators and newcomers need.
    pub(super) fn place_for_lane(
        &mut self,
        conn: ConnKey,
        cx: &mut Context,
    ) -> Result<(), Dismissal> {
        while let Some(entry) = self.table.get_mut(conn)
            && let Some(permit) = &mut entry.permit
        {
            if self.budget.reclass(permit, Class::Lane) {
                return Ok(());
            }
            if !self.hurry_one(cx) {
                break;
            }
        }
        Err(Dismissal::no_place())
    }

    /// A permit for something that is no connection.
    pub(super) fn permit_for(&mut self, class: Class, cx: &mut Context) -> Option<FdPermit> {
        loop {
            let permit = self.budget.take(class);
            if permit.is_some() || !self.hurry_one(cx) {
                return permit;
            }
        }
    }
}

#[cfg(test)]
#[path = "leaving_tests.rs"]
mod tests;
