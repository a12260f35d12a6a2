//! Connections to local servers: how many there are, which are idle, and who waits for one.
//!
//! A connection that serves somebody is a *slot* taken by that visitor's address. Idle ones are
//! closed before anybody has to wait. Where slots run out (there are as many as descriptors, or the
//! system had none left) newcomers stand in a line, those first whose address holds least, and
//! nobody stands there for longer than [`SLOT_WAIT`].

use std::collections::{BTreeMap, VecDeque};

use crate::client::keys::Origin;
use crate::client::local::visitor::Visitor;
use crate::clock::Instant;
use crate::limits::{POOL_FRESH_FOR, POOL_IDLE, POOL_IDLE_FOR, SHORT_FOR, SHORT_SPARE, UPSTREAMS};
use crate::machine::ConnKey;
use crate::shares::Shares;

/// Who may have a connection again, as far as the last exchange on it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Nobody.
    Never,
    /// The visitor whose own it is: what the server sends late is an answer to nobody else.
    ByTheVisitor,
    /// Whoever comes next.
    ByAnybody,
}

/// Connections that can stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::client) struct PoolKey {
    /// The binding's reference.
    pub binding: u64,
    /// They carried a login that holds for the connection, of this visitor's connection.
    pub visitor: Option<Visitor>,
}

/// Somebody who waits for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Waiter<W> {
    pub who: W,
    pub pool_key: PoolKey,
    pub origin: Origin,
    /// Then it is told that there is none.
    pub until: Instant,
}

/// The system had fewer descriptors than we thought.
#[derive(Debug, Clone, Copy)]
struct Short {
    /// So many connections may be open.
    most: usize,
    /// When some more are tried.
    more_at: Instant,
}

/// See the module. `W` names who waits.
#[derive(Debug)]
pub(in crate::client) struct Pool<W> {
    /// The longest-idle first.
    idle: BTreeMap<PoolKey, VecDeque<(ConnKey, Instant)>>,
    idle_count: usize,
    /// Descriptors that connections may take.
    most: usize,
    short: Option<Short>,
    /// Connections that are open, idle or not.
    open: usize,
    /// Those that serve somebody, by the visitor's address.
    busy: Shares<Origin>,
    /// The one whose time is over first stands first.
    waiting: VecDeque<Waiter<W>>,
}

impl<W: Copy + PartialEq> Pool<W> {
    pub(crate) fn new() -> Pool<W> {
        Pool {
            most: UPSTREAMS,
            short: None,
            idle: BTreeMap::new(),
            idle_count: 0,
            open: 0,
            busy: Shares::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Makes do with so many descriptors, if they are fewer.
    pub(crate) fn fit(&mut self, descriptors: usize) {
        self.most = descriptors.clamp(1, UPSTREAMS);
    }

    /// The system refused a descriptor: what is open is all there is, and a few of those are left
    /// to the connections to the kit.
    pub(crate) fn ran_short(&mut self, now: Instant) {
        let most = self.open.saturating_sub(SHORT_SPARE);
        let most = self.short.map_or(most, |short| most.min(short.most));
        let more_at = now + SHORT_FOR;
        self.short = Some(Short { most, more_at });
    }

    /// Tries a few more when it is time to.
    pub(crate) fn recover(&mut self, now: Instant) {
        if let Some(short) = &mut self.short
            && now >= short.more_at
        {
            if now >= short.more_at + SHORT_FOR * 8 {
                // Nobody has asked since, so nothing is known any more.
                self.short = None;
                return;
            }
            short.most += 1 + short.most / 8;
            short.more_at = now + SHORT_FOR;
            if short.most >= self.most {
                self.short = None;
            }
        }
    }

    /// Whether the system had no more lately.
    pub(crate) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// Connections that may be open now.
    pub(crate) fn cap(&self) -> usize {
        self.short
            .map_or(self.most, |short| short.most.min(self.most))
    }

    /// Whether one more visitor of `origin` may be served: idle connections make room.
    pub(crate) fn may_serve(&self, origin: Origin) -> bool {
        self.busy.may_take(origin, 1, self.cap())
    }

    /// A connection serves somebody now.
    pub(crate) fn serves(&mut self, origin: Origin) {
        self.busy.take(origin, 1);
    }

    /// And now it does not any more.
    pub(crate) fn served(&mut self, origin: Origin) {
        self.busy.give_back(origin, 1);
    }

    /// Connections that serve somebody.
    pub(crate) fn busy(&self) -> usize {
        self.busy.total()
    }

    /// An idle connection, the one used last: it is the least likely to be closed right now. For a
    /// request that cannot be sent twice it must have been used very lately; but a login that holds
    /// for the connection goes on with it, whatever its age.
    pub(crate) fn take(
        &mut self,
        pool_key: PoolKey,
        repeatable: bool,
        now: Instant,
    ) -> Option<ConnKey> {
        let list = self.idle.get_mut(&pool_key)?;
        let (conn, since) = *list.back()?;
        if !repeatable && pool_key.visitor.is_none() && now > since + POOL_FRESH_FOR {
            return None;
        }
        list.pop_back();
        self.idle_count -= 1;
        if list.is_empty() {
            self.idle.remove(&pool_key);
        }
        Some(conn)
    }

    /// Keeps a connection for later. Gives one back that has to be closed for it, perhaps itself.
    pub(crate) fn keep(
        &mut self,
        pool_key: PoolKey,
        conn: ConnKey,
        now: Instant,
    ) -> Option<ConnKey> {
        self.idle
            .entry(pool_key)
            .or_default()
            .push_back((conn, now));
        self.idle_count += 1;
        let same = |other: &PoolKey| other.binding == pool_key.binding;
        let lists = || self.idle.iter().filter(|(other, _)| same(other));
        if lists().map(|(_, list)| list.len()).sum::<usize>() <= POOL_IDLE {
            return None;
        }
        let oldest = lists().filter_map(|(_, list)| list.front());
        oldest
            .min_by_key(|(_, since)| *since)
            .map(|(conn, _)| *conn)
    }

    /// Forgets an idle connection, which is gone.
    pub(crate) fn forget(&mut self, pool_key: PoolKey, conn: ConnKey) {
        if let Some(list) = self.idle.get_mut(&pool_key)
            && let Some(at) = list.iter().position(|(idle, _)| *idle == conn)
        {
            list.remove(at);
            self.idle_count -= 1;
            if list.is_empty() {
                self.idle.remove(&pool_key);
            }
        }
    }

    /// Idle connections that were kept long enough, or of a binding that is gone.
    pub(crate) fn expired(&self, now: Instant, gone: impl Fn(u64) -> bool) -> Vec<ConnKey> {
        let mut expired = Vec::new();
        for (pool_key, list) in &self.idle {
            let all = gone(pool_key.binding);
            let old = |since: Instant| all || now >= since + POOL_IDLE_FOR;
            let old = list.iter().take_while(|(_, since)| old(*since));
            expired.extend(old.map(|(conn, _)| *conn));
        }
        expired
    }

    /// Every idle connection.
    pub(crate) fn all_idle(&self) -> Vec<ConnKey> {
        let all = self.idle.values().flatten();
        all.map(|(conn, _)| *conn).collect()
    }

    /// The connection that has been idle for longest.
    pub(crate) fn sacrifice(&self) -> Option<ConnKey> {
        let oldest = self.idle.values().filter_map(VecDeque::front);
        let (conn, _) = oldest.min_by_key(|(_, since)| *since)?;
        Some(*conn)
    }

    /// Whether one more connection may be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.open < self.cap()
    }

    pub(crate) fn opened(&mut self) {
        self.open += 1;
    }

    pub(crate) fn closed(&mut self) {
        self.open -= 1;
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn idle_count(&self) -> usize {
        self.idle_count
    }

    /// Puts somebody into the line.
    pub(crate) fn wait(&mut self, waiter: Waiter<W>) {
        let at = |other: &Waiter<W>| other.until <= waiter.until;
        let at = self.waiting.partition_point(at);
        self.waiting.insert(at, waiter);
    }

    /// Takes somebody out of the line.
    pub(crate) fn leave(&mut self, who: W) {
        self.waiting.retain(|waiter| waiter.who != who);
    }

    /// Nobody waits any more.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting = VecDeque::new();
    }

    /// Whether anybody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When to look at the line again, if anybody stands there.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        let until = self.waiting.front()?.until;
        Some(self.short.map_or(until, |short| short.more_at.min(until)))
    }

    /// One who has waited for long enough, taken out of the line.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<W> {
        self.waiting.front().filter(|first| first.until <= now)?;
        self.waiting.pop_front().map(|waiter| waiter.who)
    }

    /// Who may open a connection now: of those, one whose address holds least.
    pub(crate) fn next_waiting(&mut self) -> Option<W> {
        self.next(|pool, waiter| pool.has_room() && pool.may_serve(waiter.origin))
    }

    /// The same, for a connection of `pool_key` that is there.
    pub(crate) fn next_waiting_for(&mut self, pool_key: PoolKey) -> Option<W> {
        self.next(|pool, waiter| waiter.pool_key == pool_key && pool.may_serve(waiter.origin))
    }

    fn next(&mut self, may: impl Fn(&Pool<W>, &Waiter<W>) -> bool) -> Option<W> {
        let fitting = self.waiting.iter().enumerate();
        let fitting = fitting.filter(|(_, waiter)| may(self, waiter));
        let (at, _) = fitting.min_by_key(|(_, waiter)| self.busy.of(waiter.origin))?;
        self.waiting.remove(at).map(|waiter| waiter.who)
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

    fn pool_key(binding: u64) -> PoolKey {
        PoolKey {
            binding,
            visitor: None,
        }
    }

    fn origin(number: u8) -> Origin {
        Some(std::net::IpAddr::from([10, 0, 0, number]))
    }

    fn waiter<W>(who: W, pool_key: PoolKey, of: u8, until: u64) -> Waiter<W> {
        Waiter {
            who,
            pool_key,
            origin: origin(of),
            until: at(until),
        }
    }

    #[test]
    fn those_whose_address_holds_least_come_first_and_nobody_waits_for_ever() {
        let mut pool = Pool::new();
        pool.fit(16);
        for _ in 0..14 {
            assert!(pool.may_serve(origin(1)));
            pool.opened();
            pool.serves(origin(1));
        }
        assert!(!pool.may_serve(origin(1)), "the last eighth is for others");
        pool.wait(waiter("greedy", pool_key(1), 1, 500));
        pool.wait(waiter("late", pool_key(1), 2, 700));
        pool.wait(waiter("retried", pool_key(1), 3, 600));
        assert_eq!(pool.look_at(), Some(at(500)));
        pool.serves(origin(3));
        assert_eq!(pool.next_waiting(), Some("late"));
        pool.opened();
        pool.serves(origin(2));
        assert_eq!(pool.next_waiting(), None, "all are taken");
        assert_eq!(pool.overdue(at(499)), None);
        assert_eq!(pool.overdue(at(650)), Some("greedy"));
        assert_eq!(pool.overdue(at(650)), Some("retried"));
        assert_eq!((pool.overdue(at(650)), pool.look_at()), (None, None));
    }

    #[test]
    fn a_system_that_had_no_more_is_asked_again_in_small_steps() {
        let mut pool = Pool::<()>::new();
        pool.fit(100);
        for _ in 0..18 {
            pool.opened();
            pool.serves(origin(1));
        }
        pool.ran_short(at(0));
        assert_eq!(pool.cap(), 18 - SHORT_SPARE, "a few are left for the lanes");
        assert!(!pool.may_serve(origin(2)) && pool.is_short());
        pool.recover(at(249));
        assert_eq!(pool.cap(), 16);
        pool.recover(at(250));
        assert_eq!(pool.cap(), 19);
        pool.recover(at(500));
        assert_eq!(pool.cap(), 22);
        pool.ran_short(at(501));
        assert_eq!(pool.cap(), 16);
        pool.recover(at(60_000));
        assert_eq!(pool.cap(), 100, "what was long ago proves nothing");
        assert!(!pool.is_short());
    }

    #[test]
    fn a_login_keeps_its_connection_for_its_visitor_and_counts_among_the_idle() {
        let mut pool = Pool::<()>::new();
        let alice = PoolKey {
            visitor: Visitor::named("10.0.0.1:5000", Some(1)),
            ..pool_key(1)
        };
        pool.keep(alice, conn(1), at(0));
        assert_eq!(pool.take(pool_key(1), true, at(1)), None, "it is Alice's");
        let bob = PoolKey {
            visitor: Visitor::named("10.0.0.1:5001", Some(1)),
            ..pool_key(1)
        };
        assert_eq!(pool.take(bob, true, at(1)), None);
        let next = PoolKey {
            visitor: Visitor::named("10.0.0.1:5000", Some(2)),
            ..pool_key(1)
        };
        assert_eq!(pool.take(next, true, at(1)), None, "another has her port");
        assert_eq!(
            pool.take(alice, false, at(3000)),
            Some(conn(1)),
            "of any age"
        );
        for number in 0..POOL_IDLE as u64 {
            let visitor = Visitor::named("10.0.0.1:5002", Some(number));
            let pool_key = PoolKey {
                visitor,
                ..pool_key(1)
            };
            assert_eq!(pool.keep(pool_key, conn(number), at(number)), None);
        }
        assert_eq!(pool.keep(pool_key(1), conn(999), at(999)), Some(conn(0)));
    }

    #[test]
    fn the_last_used_is_taken_first_and_a_stale_one_only_for_what_can_be_repeated() {
        let mut pool = Pool::<()>::new();
        pool.keep(pool_key(1), conn(1), at(0));
        pool.keep(pool_key(1), conn(2), at(500));
        assert_eq!(pool.take(pool_key(2), true, at(600)), None);
        assert_eq!(pool.take(pool_key(1), false, at(600)), Some(conn(2)));
        assert_eq!(pool.take(pool_key(1), false, at(1600)), None);
        assert_eq!(pool.take(pool_key(1), true, at(1600)), Some(conn(1)));
        assert_eq!(pool.idle_count(), 0);
    }

    #[test]
    fn idle_connections_are_bounded_and_expire() {
        let mut pool = Pool::<()>::new();
        for number in 0..POOL_IDLE as u64 {
            assert_eq!(pool.keep(pool_key(1), conn(number), at(number)), None);
        }
        assert_eq!(pool.keep(pool_key(1), conn(999), at(99)), Some(conn(0)));
        pool.forget(pool_key(1), conn(0));
        pool.keep(pool_key(2), conn(1000), at(10_000));
        assert_eq!(pool.expired(at(4_005), |_| false).len(), 5);
        assert!(
            pool.expired(at(4_005), |binding| binding == 2)
                .contains(&conn(1000))
        );
        assert_eq!(pool.idle_count(), POOL_IDLE + 1);
    }

    #[test]
    fn few_descriptors_are_few_connections_and_idle_ones_make_room() {
        let mut pool = Pool::new();
        pool.fit(2);
        pool.opened();
        pool.keep(pool_key(1), conn(1), at(7));
        pool.opened();
        pool.keep(pool_key(2), conn(2), at(5));
        assert!(!pool.has_room());
        assert_eq!(pool.sacrifice(), Some(conn(2)));
        pool.wait(waiter("first", pool_key(1), 1, 10));
        pool.wait(waiter("second", pool_key(2), 1, 20));
        assert_eq!(pool.next_waiting(), None);
        assert_eq!(pool.next_waiting_for(pool_key(3)), None);
        assert_eq!(pool.next_waiting_for(pool_key(2)), Some("second"));
        pool.forget(pool_key(2), conn(2));
        pool.closed();
        assert_eq!(pool.next_waiting(), Some("first"));
        let mut pool = Pool::<()>::new();
        pool.fit(0);
        assert!(pool.has_room(), "one is always served");
    }
}
