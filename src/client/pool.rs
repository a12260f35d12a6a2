//! Connections to local servers: how many there are, which are idle, and who waits for one.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Instant;
use crate::limits::{POOL_FRESH_FOR, POOL_IDLE, POOL_IDLE_FOR, UPSTREAMS};
use crate::machine::ConnKey;

/// See the module. `W` names who waits.
#[derive(Debug)]
pub(super) struct Pool<W> {
    /// By binding, the longest-idle first.
    idle: BTreeMap<u64, VecDeque<(ConnKey, Instant)>>,
    idle_count: usize,
    /// Connections that are open, idle or not.
    open: usize,
    waiting: VecDeque<W>,
}

impl<W: Copy + PartialEq> Pool<W> {
    pub fn new() -> Pool<W> {
        Pool {
            idle: BTreeMap::new(),
            idle_count: 0,
            open: 0,
            waiting: VecDeque::new(),
        }
    }

    /// An idle connection of `binding`, the one used last: it is the least likely to be closed
    /// right now. For a request that cannot be sent twice it must have been used very lately.
    pub fn take(&mut self, binding: u64, repeatable: bool, now: Instant) -> Option<ConnKey> {
        let list = self.idle.get_mut(&binding)?;
        let (conn, since) = *list.back()?;
        if !repeatable && now > since + POOL_FRESH_FOR {
            return None;
        }
        list.pop_back();
        self.idle_count -= 1;
        if list.is_empty() {
            self.idle.remove(&binding);
        }
        Some(conn)
    }

    /// Keeps a connection for later. Gives one back that has to be closed for it, perhaps itself.
    pub fn keep(&mut self, binding: u64, conn: ConnKey, now: Instant) -> Option<ConnKey> {
        let list = self.idle.entry(binding).or_default();
        list.push_back((conn, now));
        self.idle_count += 1;
        if list.len() <= POOL_IDLE {
            return None;
        }
        self.idle_count -= 1;
        list.pop_front().map(|(oldest, _)| oldest)
    }

    /// Forgets an idle connection, which is gone.
    pub fn forget(&mut self, binding: u64, conn: ConnKey) {
        if let Some(list) = self.idle.get_mut(&binding)
            && let Some(at) = list.iter().position(|(idle, _)| *idle == conn)
        {
            list.remove(at);
            self.idle_count -= 1;
            if list.is_empty() {
                self.idle.remove(&binding);
            }
        }
    }

    /// Idle connections that were kept long enough, or of a binding that is gone.
    pub fn expired(&mut self, now: Instant, gone: impl Fn(u64) -> bool) -> Vec<ConnKey> {
        let mut expired = Vec::new();
        for (binding, list) in &mut self.idle {
            let all = gone(*binding);
            while let Some((conn, since)) = list.front().copied() {
                if !all && now < since + POOL_IDLE_FOR {
                    break;
                }
                list.pop_front();
                expired.push(conn);
            }
        }
        self.idle_count -= expired.len();
        self.idle.retain(|_, list| !list.is_empty());
        expired
    }

    /// An idle connection of anybody, to be closed so that somebody else may open one.
    pub fn sacrifice(&mut self) -> Option<ConnKey> {
        let oldest = self.idle.iter().filter_map(|(binding, list)| {
            let (conn, since) = list.front()?;
            Some((*since, *binding, *conn))
        });
        let (_, binding, conn) = oldest.min_by_key(|(since, _, _)| *since)?;
        self.forget(binding, conn);
        Some(conn)
    }

    /// Whether one more connection may be opened.
    pub fn has_room(&self) -> bool {
        self.open < UPSTREAMS
    }

    pub fn opened(&mut self) {
        self.open += 1;
    }

    pub fn closed(&mut self) {
        self.open -= 1;
    }

    pub fn open(&self) -> usize {
        self.open
    }

    pub fn idle_count(&self) -> usize {
        self.idle_count
    }

    /// Puts somebody into the line.
    pub fn wait(&mut self, who: W) {
        self.waiting.push_back(who);
    }

    /// Takes somebody out of the line.
    pub fn leave(&mut self, who: W) {
        self.waiting.retain(|waiting| *waiting != who);
    }

    /// Nobody waits any more.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// The first in the line.
    pub fn next_waiting(&mut self) -> Option<W> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn conn(number: u64) -> ConnKey {
        ConnKey::unpack(1 << 32 | number)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn the_last_used_is_taken_first_and_a_stale_one_only_for_what_can_be_repeated() {
        let mut pool = Pool::<()>::new();
        pool.keep(1, conn(1), at(0));
        pool.keep(1, conn(2), at(500));
        assert_eq!(pool.take(2, true, at(600)), None);
        assert_eq!(pool.take(1, false, at(600)), Some(conn(2)));
        assert_eq!(pool.take(1, false, at(1600)), None);
        assert_eq!(pool.take(1, true, at(1600)), Some(conn(1)));
        assert_eq!(pool.idle_count(), 0);
    }

    #[test]
    fn idle_connections_are_bounded_and_expire() {
        let mut pool = Pool::<()>::new();
        for number in 0..POOL_IDLE as u64 {
            assert_eq!(pool.keep(1, conn(number), at(number)), None);
        }
        assert_eq!(pool.keep(1, conn(99), at(99)), Some(conn(0)));
        pool.keep(2, conn(100), at(10_000));
        assert_eq!(pool.expired(at(4_005), |_| false).len(), 5);
        assert_eq!(pool.expired(at(4_005), |binding| binding == 2), [conn(100)]);
        assert_eq!(pool.sacrifice(), Some(conn(6)));
        assert_eq!(pool.idle_count(), POOL_IDLE - 6);
    }
}
