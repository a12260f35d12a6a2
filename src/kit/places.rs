//! Places for newcomers: whose descriptor somebody gets who wants one, and who goes for it.
//!
//! First go those that are owed nothing (`leaving`), then those that have proven nothing (`front`),
//! then those that came for a stream and yield.

use std::net::IpAddr;

use crate::http::trail::Origin;
use crate::kit::budget::{Class, FdPermit};
use crate::kit::conns::{Conns, Role};
use crate::kit::context::Context;
use crate::kit::front::admission::Room;
use crate::kit::front::asks::Denial;
use crate::kit::front::greeter::Dismissal;
use crate::kit::front::throttle::place;
use crate::kit::metrics::RefusalReason;
use crate::limits::LOOPBACK_RESERVE;
use crate::machine::ConnKey;

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
    /// has proven nothing where more such are than are kept places for. False where there is none.
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
            self.dismiss(conn, cx);
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
            Class::Visitor | Class::Caller | Class::Forward => match self.spare_front() {
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

impl Conns {
    /// One goes for a newcomer. A guess that is cut short is a failure as any other.
    pub(super) fn displace(&mut self, leaver: ConnKey, cx: &mut Context) {
        let Some(entry) = self.table.get(leaver) else {
            return;
        };
        let peer = entry.from.ip();
        let room = self.admission.get(leaver).map(|(room, ..)| room);
        if room == Some(Room::Guessing) {
            self.admission.throttle.failed(peer, cx.now);
        }
        self.dismiss(leaver, cx);
        let why = match room {
            Some(Room::Proven) => "it said no HELLO, and another one wanted its place",
            _ => "it had proven nothing, and another one wanted its place",
        };
        cx.refused(peer, RefusalReason::PreAuthDisplaced, why);
    }

    /// One more waits with a wrong token.
    pub(super) fn guess_comes(&mut self, cx: &mut Context) {
        if let Some(leaver) = self.admission.leaver(Room::Guessing) {
            self.displace(leaver, cx);
        }
    }

    /// One more wants to wait for its HELLO without having shown a token.
    pub(super) fn greeter_comes(
        &mut self,
        origin: &Origin,
        cx: &mut Context,
    ) -> Result<(), Denial> {
        let peer = origin.peer.ip();
        let direct = is_loopback(peer) && !origin.forwarded;
        let more = if direct { LOOPBACK_RESERVE } else { 0 };
        match self.admission.greeter(place(peer), more, cx.now) {
            Ok(leaver) => {
                leaver
                    .into_iter()
                    .for_each(|leaver| self.displace(leaver, cx));
                Ok(())
            }
            Err(()) => Err(Denial::no_place()),
        }
    }
}

fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
