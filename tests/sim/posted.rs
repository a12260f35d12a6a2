//! Connections that wait to be served by a host.

use std::collections::{BTreeSet, VecDeque};

use hoody_tunnel::machine::ConnKey;

use crate::dice::Dice;

/// Each of them once, and in the order in which they came.
#[derive(Default)]
pub struct Posted {
    all: BTreeSet<ConnKey>,
    line: VecDeque<ConnKey>,
}

impl Posted {
    pub fn insert(&mut self, conn: ConnKey) {
        if self.all.insert(conn) {
            self.line.push_back(conn);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Any of them: no machine may break over the order in which it is served.
    pub fn take_any(&mut self, dice: &mut Dice) -> Option<ConnKey> {
        let at = dice.below(self.all.len() as u64) as usize;
        let conn = self.all.iter().nth(at).copied()?;
        self.all.remove(&conn);
        self.line.retain(|other| *other != conn);
        Some(conn)
    }

    /// The first, as the reactor does: with less than that nobody's waiting could be bounded.
    pub fn take_first(&mut self) -> Option<ConnKey> {
        let conn = self.line.pop_front()?;
        self.all.remove(&conn);
        Some(conn)
    }
}
