//! Visitors that hold a place and want nothing: they go when somebody else wants it.
//!
//! A browser keeps its connections for a minute or more, and anybody may open thousands. So at the
//! cap one of them goes for each newcomer: of the address that holds the most such places, those
//! first that were served and ask for nothing, then those that have not said all of a request
//! although they had time for it.

use std::collections::BTreeMap;

use crate::kit::Kit;
use crate::kit::conns::{ConnEntry, Role};
use crate::kit::throttle::place;
use crate::limits::{PRE_AUTH_MAY_STAY, YIELD_AT_ONCE};
use crate::machine::ConnKey;

use super::State;

impl Kit {
    /// A visitor that is to be closed for a newcomer, if one can go without loss.
    pub(in crate::kit) fn who_yields(&mut self) -> Option<ConnKey> {
        loop {
            if self.yielding.is_empty() {
                self.yielding = self.all_who_yield();
            }
            // Who was found before may have asked for something since.
            let conn = self.yielding.pop()?;
            let entry = self.conns.get(conn.retype());
            if entry.is_some_and(|entry| self.yields(entry).is_some()) {
                return Some(conn);
            }
        }
    }

    /// Looking over all of them costs, so some are found at once; who goes first is last.
    fn all_who_yield(&self) -> Vec<ConnKey> {
        let all = || {
            let all = self.conns.iter();
            all.filter_map(|(key, entry)| Some((key, entry, self.yields(entry)?)))
        };
        let mut held = BTreeMap::new();
        for (_, entry, _) in all() {
            *held.entry(place(entry.from.ip())).or_insert(0usize) += 1;
        }
        let Some((most, _)) = held.into_iter().max_by_key(|(_, count)| *count) else {
            return Vec::new();
        };
        let mut found: Vec<_> = all()
            .filter(|(_, entry, _)| place(entry.from.ip()) == most)
            .map(|(key, _, rank)| (rank, key.retype()))
            .collect();
        found.sort_unstable();
        found.truncate(YIELD_AT_ONCE);
        found.into_iter().rev().map(|(_, key)| key).collect()
    }

    /// Whether a connection may go, and in which order: idle ones first, of those the oldest.
    fn yields(&self, entry: &ConnEntry) -> Option<(bool, crate::clock::Instant)> {
        let Role::Visitor(visitor) = &entry.role else {
            return None;
        };
        let waits = matches!(visitor.state, State::Waiting) && entry.out.is_empty();
        if !waits || entry.permit.is_none() || visitor.no_descriptors {
            return None;
        }
        let idle = visitor.answered > 0 && visitor.inbound.is_empty();
        let had_time = self.now >= visitor.since + PRE_AUTH_MAY_STAY;
        (idle || had_time).then_some((!idle, visitor.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::config::Config;
    use crate::kit::testing::{Host, guarded};
    use std::time::Duration;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A kit with few descriptors, all of whose places are held by one address: it was served, or
    /// has not said all it wants.
    fn crowded(served: bool) -> (Host, crate::kit::testing::Laptop, Vec<ConnKey>) {
        let config = Config {
            fd_budget: 64,
            ..guarded()
        };
        let mut host = Host::new(config);
        let mut laptop = host.laptop("192.0.2.1:1000");
        let mut crowd = Vec::new();
        for port in 0..200 {
            let conn = host.visit_at(host.bound[0], &format!("192.0.2.66:{}", 1000 + port));
            let Some(conn) = conn else { break };
            if served {
                host.send(conn, GET.as_bytes());
                host.exchange(&mut laptop);
                let at = laptop.streams.len() - 1;
                host.answer(&mut laptop, at, 1);
                host.take(conn, usize::MAX);
            } else {
                host.send(conn, b"GET / HT");
            }
            crowd.push(conn);
        }
        (host, laptop, crowd)
    }

    #[test]
    fn idle_and_half_said_visitors_make_room_for_those_who_ask() {
        for served in [true, false] {
            let (mut host, mut laptop, crowd) = crowded(served);
            assert!(crowd.len() > 30, "{}", crowd.len());
            host.pass(Duration::from_secs(2));
            for n in 0..30 {
                let before = laptop.streams.len();
                let peer = format!("192.0.2.{}:1000", 100 + n);
                let conn = host.visit_at(host.bound[0], &peer).expect("a place");
                host.send(conn, GET.as_bytes());
                host.exchange(&mut laptop);
                assert_eq!(laptop.streams.len(), before + 1, "visitor {n}, {served}");
                let at = laptop.streams.len() - 1;
                host.answer(&mut laptop, at, 1);
                assert!(host.receive(conn).starts_with("HTTP/1.1 200"));
                assert!(!host.closed.contains(&conn), "the crowd goes first");
            }
            assert!(host.closed.iter().all(|conn| crowd.contains(conn)));
        }
    }
}
