//! Visitors whose places others may have, when there are no more.
//!
//! A browser keeps its connections for a minute or more, and anybody may open thousands. So at the
//! cap one of them goes for each newcomer: of the address that holds the most such places, those
//! first that were served and ask for nothing, then those that have not said all of a request
//! although they had time for it.
//!
//! Where nobody is, those that have just come and said nothing go, if there are some of one
//! address.
//!
//! Where there are none either, the address that holds the most of all yields, if that is much:
//! those on whose streams nothing moved for as long as it takes to be called stalled. Whoever moves
//! is never cut; its address gets no more than its share (`may_serve_one_more`).

use std::collections::BTreeMap;

use crate::clock::Instant;
use crate::kit::conns::{ConnEntry, Conns, Role};
use crate::kit::front::throttle::place;
use crate::kit::session::Sessions;
use crate::limits::{
    CUT_STALLED_AFTER, FRESH_MAY_STAY, LOOK_AGAIN_AFTER, MANY_FRESH, MUCH, PRE_AUTH_MAY_STAY,
    SILENT_MAY_STAY, YIELD_AT_ONCE,
};
use crate::machine::{Conn, ConnKey};
use crate::table::Side;

use super::Visitor;

/// Looking over all visitors costs, so some are found at once, and where there are none, it is not
/// done again for each newcomer.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Who goes first is last.
    found: Vec<ConnKey>,
    look_again: Option<Instant>,
}

/// How a visitor may go, those first that are missed least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// It was served, and asks for nothing.
    Idle,
    /// It has not said all of a request, although it had time.
    Slow,
    /// It has not said all of a request.
    Fresh,
    /// It is being served, and nothing moved for long.
    Stalled,
}

type Found = Vec<(u128, (Use, Instant), ConnKey)>;

impl Yielding {
    /// Whether a newcomer would get the place of somebody.
    pub(super) fn someone(
        &mut self,
        visitors: &Side<Conn, Visitor>,
        conns: &Conns,
        sessions: &Sessions,
        now: Instant,
    ) -> bool {
        let leaver = self.who(visitors, conns, sessions, now);
        self.found.extend(leaver);
        leaver.is_some()
    }

    /// A visitor that is to be closed for a newcomer, if one can go.
    pub(super) fn who(
        &mut self,
        visitors: &Side<Conn, Visitor>,
        conns: &Conns,
        sessions: &Sessions,
        now: Instant,
    ) -> Option<ConnKey> {
        loop {
            if self.found.is_empty() {
                if self.look_again.is_some_and(|at| now < at) {
                    return None;
                }
                self.found = all_who_yield(visitors, conns, sessions, now);
                self.look_again = self.found.is_empty().then_some(now + LOOK_AGAIN_AFTER);
            }
            // Who was found before may have asked for something since.
            let conn = self.found.pop()?;
            let used = conns.get(conn).zip(visitors.get(conn));
            let used = used.filter(|(entry, visitor)| visitor.has_place(entry));
            if used.is_some_and(|(entry, it)| it.used(entry, sessions, now).is_some()) {
                return Some(conn);
            }
        }
    }
}

fn all_who_yield(
    visitors: &Side<Conn, Visitor>,
    conns: &Conns,
    sessions: &Sessions,
    now: Instant,
) -> Vec<ConnKey> {
    let placed = || {
        let both = conns.iter().filter_map(|(key, entry)| {
            let visitor = visitors.get(key)?;
            Some((key, entry, visitor))
        });
        both.filter(|(_, entry, visitor)| visitor.has_place(entry))
    };
    let all: Found = placed()
        .filter_map(|(key, entry, visitor)| {
            let used = visitor.used(entry, sessions, now)?;
            Some((place(entry.from.ip()), used, key))
        })
        .collect();
    let most_up_to = |last: Use| {
        let willing = all.iter().filter(|(_, (used, _), _)| *used <= last);
        most_of(willing.map(|(holder, ..)| *holder))
    };
    let mut found = if let Some((most, _)) = most_up_to(Use::Slow) {
        of(&all, most, Use::Slow)
    } else if let Some((most, count)) = most_up_to(Use::Fresh)
        && count >= MANY_FRESH
    {
        of(&all, most, Use::Fresh)
    } else {
        let most = most_of(placed().map(|(_, entry, _)| place(entry.from.ip())));
        let much = |(_, count): &(u128, usize)| count * MUCH >= conns.budget.for_visits();
        let most = most.filter(much);
        most.map_or_else(Vec::new, |(most, _)| of(&all, most, Use::Stalled))
    };
    found.reverse();
    found
}

impl Visitor {
    /// Whether it has a place that somebody else could have.
    fn has_place(&self, entry: &ConnEntry) -> bool {
        entry.role == Role::Visitor && entry.permit.is_some() && !self.no_descriptors
    }

    /// Whether it is being served, and nothing moved for long.
    pub(super) fn stalls(&self, entry: &ConnEntry, sessions: &Sessions, now: Instant) -> bool {
        matches!(self.used(entry, sessions, now), Some((Use::Stalled, _)))
    }

    /// How it may go, if it may at all, and since when it is so.
    fn used(&self, entry: &ConnEntry, sessions: &Sessions, now: Instant) -> Option<(Use, Instant)> {
        if self.held.is_some() {
            // These have a bound of their own.
            return None;
        }
        if let Some((since, served, says)) = self.http.waits_since() {
            let patience = match says {
                true => PRE_AUTH_MAY_STAY,
                false => SILENT_MAY_STAY,
            };
            let slow = now >= since + patience;
            // What it said may lie in its socket and be read in this very turn.
            let known = now >= since + FRESH_MAY_STAY;
            let used = match (served, slow) {
                (true, _) => Use::Idle,
                (_, true) => Use::Slow,
                _ => Use::Fresh,
            };
            let may_go = entry.out.is_empty() && (served || known);
            return may_go.then_some((used, since));
        }
        let (moved, patience) = match self.stream() {
            Some(name) => {
                let mux = sessions.mux(name.session)?;
                if mux.stands_still(name.stream) {
                    return None;
                }
                (
                    mux.streams().last_moved(name.stream)?,
                    mux.streams().patience(name.stream),
                )
            }
            None => (self.http.leaves_since()?, CUT_STALLED_AFTER),
        };
        (now >= moved + patience).then_some((Use::Stalled, moved))
    }
}

/// Who is named most often, and how often.
fn most_of(holders: impl Iterator<Item = u128>) -> Option<(u128, usize)> {
    let mut held = BTreeMap::new();
    for holder in holders {
        *held.entry(holder).or_insert(0usize) += 1;
    }
    held.into_iter().max_by_key(|(_, count)| *count)
}

/// Some of one holder's, in the order in which they go, up to a certain use.
fn of(all: &Found, holder: u128, last: Use) -> Vec<ConnKey> {
    let mut found: Vec<_> = all
        .iter()
        .filter(|(of, (used, _), _)| *of == holder && *used <= last)
        .map(|(_, used, key)| (*used, *key))
        .collect();
    found.sort_unstable();
    found.truncate(YIELD_AT_ONCE);
    found.into_iter().map(|(_, key)| key).collect()
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
                let peer = format!("192.0.2.{}:1000", 100 + n);
                let conn = is_served(&mut host, &mut laptop, &peer);
                assert!(!host.closed.contains(&conn), "the crowd goes first");
            }
            assert!(host.closed.iter().all(|conn| crowd.contains(conn)));
        }
    }

    /// Lets time pass until the listeners of bindings accept.
    fn until_accepted(host: &mut Host) {
        for _ in 0..40 {
            if host.accepts {
                return;
            }
            host.pass(Duration::from_millis(50));
        }
        panic!("nobody is accepted any more");
    }

    #[test]
    fn silent_visitors_of_many_addresses_keep_nobody_waiting_for_longer_than_a_second() {
        for (addresses, said) in [(9, ""), (30, "GET / HT"), (200, "")] {
            let config = Config {
                fd_budget: 256,
                ..guarded()
            };
            let mut host = Host::new(config);
            let mut laptop = host.laptop("192.0.2.1:1000");
            let mut crowd = Vec::new();
            while host.accepts {
                let n = crowd.len();
                let peer = format!("198.51.100.{}:{}", n % addresses, 1000 + n);
                let conn = host.visit_at(host.bound[0], &peer).expect("not lost");
                host.send(conn, said.as_bytes());
                crowd.push(conn);
            }
            assert!(crowd.len() > 150, "{}", crowd.len());
            for n in 0..50 {
                until_accepted(&mut host);
                is_served(&mut host, &mut laptop, &format!("203.0.113.{n}:1000"));
            }
            assert!(host.now.since(Instant::ZERO) < Duration::from_secs(2));
        }
    }

    #[test]
    fn whoever_was_accepted_in_a_burst_is_answered_and_the_rest_waits() {
        let config = Config {
            fd_budget: 128,
            ..guarded()
        };
        let mut host = Host::new(config);
        let mut laptop = host.laptop("192.0.2.1:1000");
        let (mut asked, mut answered) = (0, 0);
        while asked < 400 {
            let mut burst = Vec::new();
            while host.accepts && asked < 400 {
                let peer = format!("192.0.2.66:{}", 1000 + asked);
                burst.push(host.visit_at(host.bound[0], &peer).expect("not lost"));
                asked += 1;
            }
            for conn in burst {
                host.send(conn, GET.as_bytes());
                let streams = laptop.streams.len();
                host.exchange(&mut laptop);
                if laptop.streams.len() > streams {
                    host.answer(&mut laptop, streams, 1);
                }
                let answer = host.receive(conn);
                answered += usize::from(answer.starts_with("HTTP/1.1 "));
            }
            until_accepted(&mut host);
        }
        assert_eq!(answered, asked);
    }

    /// Asks as a visitor at `peer`, for whom there is a place and a stream, and is answered.
    fn is_served(host: &mut Host, laptop: &mut crate::kit::testing::Laptop, peer: &str) -> ConnKey {
        let before = laptop.streams.len();
        let conn = host.visit_at(host.bound[0], peer).expect("a place");
        host.send(conn, GET.as_bytes());
        host.exchange(laptop);
        assert_eq!(laptop.streams.len(), before + 1, "{peer} has a stream");
        host.answer(laptop, before, 1);
        let answer = host.receive(conn);
        assert!(answer.starts_with("HTTP/1.1 200"), "{peer}: {answer}");
        conn
    }

    /// Has everybody of an address ask for something that is not answered, until no place is left.
    fn busy_crowd(host: &mut Host, laptop: &mut crate::kit::testing::Laptop) -> Vec<ConnKey> {
        let mut crowd = Vec::new();
        for port in 0..200 {
            let conn = host.visit_at(host.bound[0], &format!("192.0.2.66:{}", 1000 + port));
            let Some(conn) = conn else { break };
            host.send(conn, GET.as_bytes());
            host.exchange(laptop);
            if !host.receive(conn).contains("503 ") {
                crowd.push(conn);
            }
        }
        crowd
    }

    #[test]
    fn busy_visitors_of_one_address_leave_places_to_those_of_others() {
        let config = Config {
            fd_budget: 128,
            ..guarded()
        };
        let mut host = Host::new(config);
        let mut laptop = host.laptop("192.0.2.1:1000");
        let crowd = busy_crowd(&mut host, &mut laptop);
        let places = host.kit.conns.budget.for_visits();
        assert!(crowd.len() > places * 3 / 4, "{} of {places}", crowd.len());
        for n in 0..places / 16 {
            let peer = format!("192.0.2.{}:1000", 100 + n);
            is_served(&mut host, &mut laptop, &peer);
        }
        assert!(
            crowd.iter().all(|conn| !host.closed.contains(conn)),
            "nobody is cut"
        );
    }

    #[test]
    fn where_the_streams_of_a_session_are_few_one_address_does_not_get_all_of_them() {
        let config = Config {
            max_streams_per_session: 16,
            ..guarded()
        };
        let mut host = Host::new(config);
        let mut laptop = host.laptop("192.0.2.1:1000");
        assert_eq!(busy_crowd(&mut host, &mut laptop).len(), 14);
        is_served(&mut host, &mut laptop, "192.0.2.7:1000");
        assert_eq!(laptop.streams.len(), 15);
    }

    #[test]
    fn where_nobody_is_idle_whoever_holds_much_and_stalls_makes_room_and_nobody_else() {
        let (mut host, mut laptop, _) = crowded(false);
        let places = host.kit.conns.budget.for_visits();
        host.pass(Duration::from_secs(20));
        let crowd = busy_crowd(&mut host, &mut laptop);
        // Many others have the rest, each a little.
        let mut others = Vec::new();
        for n in 0..100 {
            let peer = format!("198.51.100.{n}:1000");
            let Some(conn) = host.visit_at(host.bound[0], &peer) else {
                break;
            };
            host.send(conn, GET.as_bytes());
            host.exchange(&mut laptop);
            if !host.receive(conn).contains("503 ") {
                others.push(conn);
            }
        }
        assert!(crowd.len() + others.len() >= places);
        host.closed.clear();
        let streams = host.kit.sessions.stream_count();
        host.pass_with(&mut laptop, CUT_STALLED_AFTER + Duration::from_secs(1));
        for n in 0..5 {
            let peer = format!("203.0.113.{n}:1000");
            let conn = host.visit_at(host.bound[0], &peer).expect("a place");
            host.send(conn, GET.as_bytes());
            let before = laptop.streams.len();
            host.exchange(&mut laptop);
            assert_eq!(laptop.streams.len(), before + 1, "visitor {n}");
        }
        let cut = host
            .closed
            .iter()
            .filter(|conn| crowd.contains(conn))
            .count();
        assert_eq!(cut, 5);
        assert_eq!(
            host.kit.sessions.stream_count(),
            streams,
            "theirs end with them"
        );
        let told = "hoody_tunnel_streams_total{outcome=\"stalled\"} 5";
        assert!(host.get("metrics").contains(told));
        assert!(others.iter().all(|conn| !host.closed.contains(conn)));
    }
}
