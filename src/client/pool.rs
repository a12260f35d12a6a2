//! Connections to local servers: how many there are, which are idle, and who waits for one.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Instant;
use crate::limits::{
    HANDLER_DESCRIPTORS, HANDLER_THREADS, POOL_FRESH_FOR, POOL_IDLE, POOL_IDLE_FOR, UPSTREAMS,
};
use crate::machine::ConnKey;

/// Connections that can stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lot {
    /// They lead to a handler of this process, of which each takes a thread.
    pub handler: bool,
    /// The binding's reference.
    pub binding: u64,
}

/// See the module. `W` names who waits.
#[derive(Debug)]
pub(super) struct Pool<W> {
    /// The longest-idle first.
    idle: BTreeMap<Lot, VecDeque<(ConnKey, Instant)>>,
    idle_count: usize,
    /// Descriptors that connections may take.
    most: usize,
    /// Connections that are open, idle or not.
    open: usize,
    /// Of those, the ones to handlers.
    open_to_handlers: usize,
    waiting: VecDeque<(Lot, W)>,
}

impl<W: Copy + PartialEq> Pool<W> {
    pub fn new() -> Pool<W> {
        Pool {
            most: UPSTREAMS,
            idle: BTreeMap::new(),
            idle_count: 0,
            open: 0,
            open_to_handlers: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Makes do with so many descriptors, if they are fewer.
    pub fn fit(&mut self, descriptors: usize) {
        self.most = descriptors.clamp(HANDLER_DESCRIPTORS, UPSTREAMS);
    }

    /// An idle connection, the one used last: it is the least likely to be closed right now. For a
    /// request that cannot be sent twice it must have been used very lately.
    pub fn take(&mut self, lot: Lot, repeatable: bool, now: Instant) -> Option<ConnKey> {
        let list = self.idle.get_mut(&lot)?;
        let (conn, since) = *list.back()?;
        if !repeatable && now > since + POOL_FRESH_FOR {
            return None;
        }
        list.pop_back();
        self.idle_count -= 1;
        if list.is_empty() {
            self.idle.remove(&lot);
        }
        Some(conn)
    }

    /// Keeps a connection for later. Gives one back that has to be closed for it, perhaps itself.
    pub fn keep(&mut self, lot: Lot, conn: ConnKey, now: Instant) -> Option<ConnKey> {
        let list = self.idle.entry(lot).or_default();
        list.push_back((conn, now));
        self.idle_count += 1;
        if list.len() <= POOL_IDLE {
            return None;
        }
        list.front().map(|(oldest, _)| *oldest)
    }

    /// Forgets an idle connection, which is gone.
    pub fn forget(&mut self, lot: Lot, conn: ConnKey) {
        if let Some(list) = self.idle.get_mut(&lot)
            && let Some(at) = list.iter().position(|(idle, _)| *idle == conn)
        {
            list.remove(at);
            self.idle_count -= 1;
            if list.is_empty() {
                self.idle.remove(&lot);
            }
        }
    }

    /// Idle connections that were kept long enough, or of a binding that is gone.
    pub fn expired(&self, now: Instant, gone: impl Fn(u64) -> bool) -> Vec<ConnKey> {
        let mut expired = Vec::new();
        for (lot, list) in &self.idle {
            let all = gone(lot.binding);
            let old = |since: Instant| all || now >= since + POOL_IDLE_FOR;
            let old = list.iter().take_while(|(_, since)| old(*since));
            expired.extend(old.map(|(conn, _)| *conn));
        }
        expired
    }

    /// The connection that has been idle for longest and that, when it is closed, makes room for
    /// one of `lot`.
    pub fn sacrifice(&self, lot: Lot) -> Option<ConnKey> {
        let only_handlers = self.fits(lot);
        let fitting = self
            .idle
            .iter()
            .filter(|(other, _)| !only_handlers || (other.handler && lot.handler));
        let oldest = fitting.filter_map(|(_, list)| list.front());
        let (conn, _) = oldest.min_by_key(|(_, since)| *since)?;
        Some(*conn)
    }

    /// Whether one more connection may be opened.
    pub fn has_room(&self, lot: Lot) -> bool {
        self.fits(lot) && (!lot.handler || self.open_to_handlers < HANDLER_THREADS)
    }

    /// Whether there are descriptors for one more connection.
    fn fits(&self, lot: Lot) -> bool {
        let more = if lot.handler { HANDLER_DESCRIPTORS } else { 1 };
        self.open + self.open_to_handlers * (HANDLER_DESCRIPTORS - 1) + more <= self.most
    }

    pub fn opened(&mut self, lot: Lot) {
        self.open += 1;
        self.open_to_handlers += usize::from(lot.handler);
    }

    pub fn closed(&mut self, lot: Lot) {
        self.open -= 1;
        self.open_to_handlers -= usize::from(lot.handler);
    }

    pub fn open(&self) -> usize {
        self.open
    }

    pub fn idle_count(&self) -> usize {
        self.idle_count
    }

    /// Puts somebody into the line.
    pub fn wait(&mut self, lot: Lot, who: W) {
        self.waiting.push_back((lot, who));
    }

    /// Takes somebody out of the line.
    pub fn leave(&mut self, who: W) {
        self.waiting.retain(|(_, waiting)| *waiting != who);
    }

    /// Nobody waits any more.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Whether anybody waits.
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The first in the line who may open a connection now.
    pub fn next_waiting(&mut self) -> Option<W> {
        let may = |(lot, _): &(Lot, W)| self.has_room(*lot);
        let at = self.waiting.iter().position(may)?;
        self.waiting.remove(at).map(|(_, who)| who)
    }

    /// The first in the line who can use a connection of `lot`.
    pub fn next_waiting_for(&mut self, lot: Lot) -> Option<W> {
        let at = self.waiting.iter().position(|(wanted, _)| *wanted == lot)?;
        self.waiting.remove(at).map(|(_, who)| who)
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

    fn lot(binding: u64) -> Lot {
        Lot {
            handler: false,
            binding,
        }
    }

    #[test]
    fn the_last_used_is_taken_first_and_a_stale_one_only_for_what_can_be_repeated() {
        let mut pool = Pool::<()>::new();
        pool.keep(lot(1), conn(1), at(0));
        pool.keep(lot(1), conn(2), at(500));
        assert_eq!(pool.take(lot(2), true, at(600)), None);
        assert_eq!(pool.take(lot(1), false, at(600)), Some(conn(2)));
        assert_eq!(pool.take(lot(1), false, at(1600)), None);
        assert_eq!(pool.take(lot(1), true, at(1600)), Some(conn(1)));
        assert_eq!(pool.idle_count(), 0);
    }

    #[test]
    fn idle_connections_are_bounded_and_expire() {
        let mut pool = Pool::<()>::new();
        for number in 0..POOL_IDLE as u64 {
            assert_eq!(pool.keep(lot(1), conn(number), at(number)), None);
        }
        assert_eq!(pool.keep(lot(1), conn(999), at(99)), Some(conn(0)));
        pool.forget(lot(1), conn(0));
        pool.keep(lot(2), conn(1000), at(10_000));
        assert_eq!(pool.expired(at(4_005), |_| false).len(), 5);
        assert!(
            pool.expired(at(4_005), |binding| binding == 2)
                .contains(&conn(1000))
        );
        assert_eq!(pool.idle_count(), POOL_IDLE + 1);
    }

    #[test]
    fn handlers_have_a_bound_of_their_own_and_a_line_that_others_pass() {
        let mut pool = Pool::new();
        let handler = Lot {
            handler: true,
            binding: 1,
        };
        for _ in 0..HANDLER_THREADS {
            assert!(pool.has_room(handler));
            pool.opened(handler);
        }
        assert!(!pool.has_room(handler) && pool.has_room(lot(2)));
        pool.keep(lot(2), conn(1), at(0));
        assert_eq!(pool.sacrifice(handler), None, "that would free no thread");
        pool.keep(handler, conn(2), at(5));
        assert_eq!(pool.sacrifice(handler), Some(conn(2)));
        pool.wait(handler, "first");
        pool.wait(lot(2), "second");
        assert_eq!(pool.next_waiting(), Some("second"));
        assert_eq!(pool.next_waiting(), None);
        assert_eq!(pool.next_waiting_for(lot(2)), None);
        assert_eq!(pool.next_waiting_for(handler), Some("first"));
    }

    #[test]
    fn few_descriptors_are_few_connections_and_a_handler_takes_three() {
        let mut pool = Pool::<()>::new();
        let handler = Lot {
            handler: true,
            binding: 1,
        };
        pool.fit(7);
        pool.opened(handler);
        pool.opened(handler);
        assert!(pool.has_room(lot(2)) && !pool.has_room(handler));
        pool.opened(lot(2));
        assert!(!pool.has_room(lot(2)));
        pool.keep(lot(2), conn(1), at(0));
        assert_eq!(pool.sacrifice(handler), Some(conn(1)));
        let mut pool = Pool::<()>::new();
        pool.fit(0);
        assert!(pool.has_room(handler), "one is always served");
    }
}
