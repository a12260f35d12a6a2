//! The cap on connections that have proven nothing yet (PROTOCOL §2), and who makes room at it.
//!
//! If newcomers were refused while silent connections wait for their timeouts, a handful of those
//! would keep operators and laptops out. So a silent one goes instead, of the address that holds
//! the most: a flood displaces itself. Where that would take from an address that holds no more
//! than the newcomer's (everybody may be behind one proxy), only those go that had time to speak.
//!
//! Before all others go those who wait with a wrong token, whosever they are: a guesser behind the
//! same proxy must not cost a laptop its place. That its guess was wrong it learns a little sooner.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::kit::conns::{ConnEntry, Role};
use crate::kit::metrics::RefusalReason;
use crate::kit::throttle::place;
use crate::limits::PRE_AUTH_MAY_STAY;
use crate::machine::{CloseHow, ConnKey};

use super::Kit;

/// What a connection that has proven nothing is doing, those first who are missed least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiting {
    /// For us: it is being answered, or its token is not judged yet.
    Served,
    /// For its next request, after at least one.
    Idle,
    /// It has not said what it came for.
    Silent,
    /// For its token to be judged, and that is wrong.
    Guessing,
}

impl Kit {
    /// Whether one more of `peer` may come in, and who is to go for it at the cap: once the
    /// newcomer is in, for a name is free only when the host has closed what had it.
    pub(super) fn doorstep_for(&mut self, peer: IpAddr) -> Option<Option<ConnKey>> {
        if self.pre_auth < self.config.max_pre_auth_connections {
            return Some(None);
        }
        let leaver = self.who_makes_room(place(peer));
        let reason = match leaver {
            Some(_) => RefusalReason::PreAuthDisplaced,
            None => RefusalReason::PreAuthLimit,
        };
        self.metrics.refused(reason);
        let why = "as many connections that have proven nothing as there may be";
        self.complain_refused(peer, reason.name(), why);
        leaver.map(Some)
    }

    /// One goes for a newcomer. A guess that is cut short is a failure as any other.
    pub(super) fn displace(&mut self, leaver: ConnKey) {
        if let Some(entry) = self.conns.get(leaver.retype())
            && entry.waiting() == Some(Waiting::Guessing)
        {
            self.throttle.failed(entry.from.ip(), self.now);
        }
        self.close_conn(leaver, CloseHow::Clean);
    }

    fn who_makes_room(&self, newcomer: u128) -> Option<ConnKey> {
        let all = || {
            let unproven = self.conns.iter();
            unproven.filter_map(|(key, entry)| Some((key, entry, entry.waiting()?)))
        };
        let mut held = BTreeMap::new();
        for (_, entry, _) in all() {
            *held.entry(place(entry.from.ip())).or_insert(0) += 1;
        }
        let holds = |place| held.get(&place).copied().unwrap_or(0);
        let had_time = |since| self.now >= since + PRE_AUTH_MAY_STAY;
        let (((_, holding), _, may_go, ..), key) = all()
            .map(|(key, entry, waiting)| {
                let place = place(entry.from.ip());
                let guesses = waiting == Waiting::Guessing;
                let may_go = guesses || waiting != Waiting::Served && had_time(entry.since);
                let age = Reverse(entry.since);
                let rank = ((guesses, holds(place)), place, may_go, waiting, age);
                (rank, key)
            })
            .max()?;
        (may_go || holding > holds(newcomer) + 1).then_some(key.retype())
    }
}

impl ConnEntry {
    /// What it waits for, if it has proven nothing yet.
    fn waiting(&self) -> Option<Waiting> {
        match &self.role {
            Role::Front(front) if self.out.is_empty() => Some(front.waiting()),
            Role::Front(_) => Some(Waiting::Served),
            Role::Greeter(greeter) => Some(greeter.waiting()),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "doorstep_tests.rs"]
mod tests;
