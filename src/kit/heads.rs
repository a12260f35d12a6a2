//! Memory under what was sent and waits on connections: heads that are not whole yet, mostly.
//!
//! All of it together has a bound. Past it whoever has sent most of a head is refused, visitor or
//! stranger at the kit's own listener, until the rest fits. What was read behind heads takes no
//! more than a half of it from them, for whoever sent that cannot be refused any more.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::limits::{AHEAD_LEAST, AHEAD_SHARE, VISITOR_AHEAD};
use crate::machine::ConnKey;

/// Memory of what came on a connection and waits, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Part of a head.
    Head(usize),
    /// What asks already and is to be judged yet.
    Asking(usize),
    /// What was read behind a head that is whole.
    Behind(usize),
}

impl Waiting {
    pub(super) fn bytes(self) -> usize {
        match self {
            Waiting::Head(bytes) | Waiting::Asking(bytes) | Waiting::Behind(bytes) => bytes,
        }
    }

    fn behind(self) -> usize {
        match self {
            Waiting::Head(_) | Waiting::Asking(_) => 0,
            Waiting::Behind(bytes) => bytes,
        }
    }
}

/// How much waits, and on which connections how much.
#[derive(Debug, Default)]
pub(super) struct Heads {
    total: usize,
    /// Those of them that came behind heads.
    ahead: usize,
    by_size: BTreeSet<(usize, Reverse<ConnKey>)>,
}

impl Heads {
    /// On a connection `after` waits where there was `before`.
    pub(super) fn change(&mut self, conn: ConnKey, before: Waiting, after: Waiting) {
        if before == after {
            return;
        }
        self.by_size.remove(&(before.bytes(), Reverse(conn)));
        if after.bytes() > 0 {
            self.by_size.insert((after.bytes(), Reverse(conn)));
        }
        self.total = self.total - before.bytes() + after.bytes();
        self.ahead = self.ahead - before.behind() + after.behind();
    }

    /// Bytes that one more read may take which is not known to go straight to a stream.
    pub(super) fn piece(&self, bound: usize) -> usize {
        let left = (bound / 2).saturating_sub(self.ahead);
        let left = left.min(bound.saturating_sub(self.total));
        (left / AHEAD_SHARE).clamp(AHEAD_LEAST, VISITOR_AHEAD)
    }

    /// Whether heads are more than what is left to them of the bound.
    fn are_too_much(&self, bound: usize) -> bool {
        self.total - self.ahead > bound - self.ahead.min(bound / 2)
    }

    /// Bytes of all connections.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// The same where heads take more than is left to them of the bound.
    pub(super) fn largest_beyond(&self, bound: usize) -> Option<impl Iterator<Item = ConnKey>> {
        self.are_too_much(bound).then(|| self.largest())
    }

    /// Connections from those with most, of equals who came first.
    fn largest(&self) -> impl Iterator<Item = ConnKey> {
        self.by_size.iter().rev().map(|(_, Reverse(conn))| *conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::config::Config;
    use crate::kit::testing::{Host, guarded};
    use crate::limits::AHEAD_LEAST;

    #[test]
    fn half_sent_heads_at_the_kits_own_door_stay_under_their_bound() {
        let mut host = Host::new(Config {
            memory: crate::limits::MIN_MEMORY,
            ..guarded()
        });
        let bound = host.kit.cx.plan.heads;
        let half = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 30_000]].concat();
        let mut all = Vec::new();
        for port in 1000..1060 {
            let conn = host.visit(&format!("192.0.2.66:{port}"));
            let conn = conn.expect("whoever comes is read");
            host.send(conn, &half);
            assert!(host.kit.conns.heads().total() <= bound);
            all.push(conn);
        }
        assert!(all.len() * half.len() > bound);
        let answers = all.into_iter().map(|conn| host.receive(conn));
        let refused = answers.filter(|answer| answer.starts_with("HTTP/1.1 503 "));
        assert!(refused.count() > 0);
        let answer = host.ask("GET /api/v1/tunnel/health", "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[test]
    fn what_is_read_ahead_of_bodies_stays_under_its_bound_and_nobody_is_refused_for_it() {
        for behind in [
            "POST / HTTP/1.1\r\nContent-Length: 90000\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            let mut host = Host::new(Config {
                memory: crate::limits::MIN_MEMORY,
                session_initial_window: crate::limits::MIN_WINDOW,
                max_sessions: 1,
                ..guarded()
            });
            let mut laptop = host.laptop("192.0.2.1:1000");
            let bound = host.kit.cx.plan.heads;
            let sent = [
                format!("{behind}Host: a\r\n\r\n").into_bytes(),
                vec![b'x'; 80_000],
            ];
            let (mut came, mut conns) = (0, Vec::new());
            for port in 1000..1500 {
                let peer = format!("192.0.2.{}:{port}", port % 100);
                let conn = host.visit_at(host.bound[0], &peer).expect("accepted");
                came += host.send_some(conn, &sent.concat());
                host.exchange(&mut laptop);
                conns.push(conn);
            }
            let window = crate::limits::MIN_WINDOW as usize;
            assert!(came > window / 2, "they were read at first: {came}");
            let most = bound + conns.len() * AHEAD_LEAST;
            let total = host.kit.conns.heads().total();
            assert!(total <= most, "{total} of {most}");
            let refused = conns.iter().filter(|conn| host.closed.contains(conn));
            assert_eq!(refused.count(), 0);
            // Nor is anybody whose head is as long as a head may be.
            for length in [100, 3000, 30_000] {
                let cookie = "x".repeat(length);
                let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
                let peer = format!("198.51.100.1:{length}");
                let conn = host.visit_at(host.bound[0], &peer).expect("accepted");
                let streams = laptop.streams.len();
                host.send(conn, head.as_bytes());
                host.exchange(&mut laptop);
                assert_eq!(laptop.streams.len(), streams + 1, "{length} bytes");
            }
        }
    }

    #[test]
    fn the_largest_comes_first_and_all_of_it_is_counted() {
        let mut heads = Heads::default();
        let conns = [1, 2, 3].map(|packed| ConnKey::unpack(packed | 1 << 32));
        for (conn, size) in conns.into_iter().zip([10, 30, 20]) {
            heads.change(conn, Waiting::Head(0), Waiting::Head(size));
        }
        heads.change(conns[1], Waiting::Head(30), Waiting::Head(5));
        assert_eq!(heads.total(), 35);
        let order: Vec<_> = heads.largest().collect();
        assert_eq!(order, [conns[2], conns[0], conns[1]]);
        for (conn, size) in conns.into_iter().zip([10, 5, 20]) {
            heads.change(conn, Waiting::Head(size), Waiting::Head(0));
        }
        assert_eq!((heads.total(), heads.largest().count()), (0, 0));
    }
}
