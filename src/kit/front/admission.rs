//! Connections that have proven nothing yet, and who of them makes room (PROTOCOL §2).
//!
//! They wait in four rooms. In the *hall* is whoever has asked nothing, or was answered: each
//! newcomer gets in there, and at its cap one goes for it, so that whoever asks for `health` is
//! always read and answered, whatever waits. Who *guesses* shows a wrong token and waits to hear
//! so; one more guess displaces the oldest, which costs nobody else a place. Who *greets* has
//! upgraded and not said HELLO; only that needs one of `--max-pre-auth-connections` places.
//!
//! In each room whoever holds most yields first ([`Crowd`]): a flood displaces itself. Greeters are
//! on their way through several round trips, so where that would take from an address that holds no
//! more than the newcomer's (everybody may be behind one proxy), only those go that had time to
//! speak, and else the newcomer is told to come again.
//!
//! Who has upgraded with the token and says no HELLO waits in a room of its own, where no stranger
//! can take its place while there are more of these. But it holds none that others need: where
//! these are the most, the one that is silent for longest goes.

use std::cmp::Reverse;

use crate::clock::Instant;
use crate::kit::front::bans::Bans;
use crate::kit::front::crowd::Crowd;
use crate::kit::front::throttle::Throttle;
use crate::limits::{HALL_PART, MAX_HALL, MIN_HALL, PRE_AUTH_MAY_STAY};
use crate::machine::ConnKey;

/// A room of the admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kit) enum Room {
    Guessing,
    Hall,
    Greeting,
    Proven,
}

/// Whoever came or asked longest ago is missed least.
type Missed = Reverse<Instant>;

/// Who stands where.
#[derive(Debug)]
pub(in crate::kit) struct Admission {
    rooms: [Crowd<ConnKey, u128, Missed>; 4],
    caps: [usize; 4],
    /// Who guessed wrong lately.
    pub throttle: Throttle,
    /// Whom an operator keeps away.
    pub bans: Bans,
}

/// Where a connection stands: the room, for which address, and how little it is missed.
pub(in crate::kit) type Standing = (Room, u128, Missed);

impl Admission {
    /// Of a kit with so many descriptors, of which so many greeters may wait.
    pub(crate) fn new(descriptors: usize, greeters: usize) -> Admission {
        let hall = (descriptors / HALL_PART).clamp(MIN_HALL, MAX_HALL);
        Admission {
            rooms: [const { Crowd::new() }; 4],
            caps: [greeters, hall, greeters, usize::MAX],
            throttle: Throttle::new(),
            bans: Bans::default(),
        }
    }

    /// A connection stands there now, or nowhere.
    pub(crate) fn set(&mut self, conn: ConnKey, standing: Option<Standing>) {
        for room in ALL {
            let member = standing.filter(|(of, ..)| *of == room);
            let member = member.map(|(_, holder, missed)| (holder, missed));
            self.rooms[room as usize].set(conn, member);
        }
    }

    /// Where a connection stands.
    pub(crate) fn get(&self, conn: ConnKey) -> Option<Standing> {
        ALL.into_iter().find_map(|room| {
            let (holder, missed) = self.rooms[room as usize].get(conn)?;
            Some((room, holder, missed))
        })
    }

    /// How many stand on it.
    pub(crate) fn len(&self) -> usize {
        self.rooms.iter().map(Crowd::len).sum()
    }

    /// Who is to go for one more in a room that always takes one more. In the hall once it is in,
    /// for a name is free only when the host has closed what had it.
    pub(crate) fn leaver(&self, room: Room) -> Option<ConnKey> {
        let crowd = &self.rooms[room as usize];
        let full = crowd.len() >= self.caps[room as usize];
        let (conn, _) = crowd.first_to_go().filter(|_| full)?;
        Some(conn)
    }

    /// Whether one more of `holder` may greet, where `more` places are kept for its like, and who
    /// is to go for it.
    pub(in crate::kit) fn greeter(
        &self,
        holder: u128,
        more: usize,
        now: Instant,
    ) -> Result<Option<ConnKey>, ()> {
        let crowd = &self.rooms[Room::Greeting as usize];
        if crowd.len() < self.caps[Room::Greeting as usize] + more {
            return Ok(None);
        }
        let (conn, held) = crowd.first_to_go().ok_or(())?;
        let since = crowd.get(conn).map(|(_, Reverse(since))| since);
        let had_time = since.is_some_and(|since| now >= since + PRE_AUTH_MAY_STAY);
        let yields = had_time || held > crowd.held_by(holder) + 1;
        yields.then_some(Some(conn)).ok_or(())
    }

    /// Who gives its descriptor to somebody who wants one: a guesser, or else one of the fullest
    /// room, so that greeters leave some to those who only ask.
    pub(crate) fn first_to_go(&self) -> Option<ConnKey> {
        let [guessing, others @ ..] = &self.rooms;
        // Of rooms that are equally full it is the first.
        let fullest = others.iter().rev().max_by_key(|room| room.len());
        let first = guessing.first_to_go();
        let first = first.or_else(|| fullest?.first_to_go());
        first.map(|(conn, _)| conn)
    }
}

const ALL: [Room; 4] = [Room::Guessing, Room::Hall, Room::Greeting, Room::Proven];

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
