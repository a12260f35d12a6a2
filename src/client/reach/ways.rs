//! The URLs of a kit, and by which of them a lost connection is dialled next.
//!
//! The best one first: one that did not fail lately, and among those the one by which a connection
//! came about in the least time; then those that failed, the longest ago first. Each is tried once
//! before any is tried again.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::WAY_FORGIVEN_AFTER;

/// See the module. A way is named by its place in the configuration.
#[derive(Debug)]
pub(in crate::client) struct Ways(Vec<Way>);

#[derive(Debug, Default, Clone)]
struct Way {
    /// When a connection failed that was the last one by it.
    failed: Option<Instant>,
    /// How long the last connection took until it carried a session.
    took: Option<Duration>,
    /// In this round.
    tried: bool,
}

impl Ways {
    /// So many, of which nothing is known.
    pub(super) fn new(count: usize) -> Ways {
        Ways(vec![Way::default(); count])
    }

    /// By which way to try to reach the kit now.
    pub(super) fn next(&mut self, now: Instant) -> usize {
        if !self.has_more() {
            self.new_round();
        }
        let untried = self.0.iter().enumerate().filter(|(_, way)| !way.tried);
        let best = untried.min_by_key(|(_, way)| way.rank(now));
        let best = best.map_or(0, |(index, _)| index);
        if let Some(way) = self.0.get_mut(best) {
            way.tried = true;
        }
        best
    }

    /// Whether there is one that was not tried in this round.
    pub(super) fn has_more(&self) -> bool {
        self.0.iter().any(|way| !way.tried)
    }

    /// By which way one more connection is dialled while others stand, of which so many are on each
    /// way.
    pub(super) fn beside(&self, lanes: impl Fn(usize) -> usize, now: Instant) -> usize {
        let all = self.0.iter().enumerate();
        let best = all.min_by_key(|(index, way)| {
            let (failed, took) = way.rank(now);
            (failed, lanes(*index), took)
        });
        best.map_or(0, |(index, _)| index)
    }

    /// A connection that took so long carries the session.
    pub(super) fn stands(&mut self, way: usize, took: Duration) {
        if let Some(way) = self.0.get_mut(way) {
            way.failed = None;
            way.took = Some(took);
        }
    }

    /// The next try is the first one of a round.
    pub(super) fn new_round(&mut self) {
        self.0.iter_mut().for_each(|way| way.tried = false);
    }

    /// A connection, or a try to make one, failed.
    pub(super) fn failed(&mut self, way: usize, now: Instant) {
        if let Some(way) = self.0.get_mut(way) {
            way.failed = Some(now);
        }
    }

    /// The network is another one: failures of before mean nothing.
    pub(super) fn refresh(&mut self) {
        self.new_round();
        self.0.iter_mut().for_each(|way| way.failed = None);
    }
}

impl Way {
    /// The less, the better.
    fn rank(&self, now: Instant) -> (Option<Instant>, Duration) {
        let failed = self.failed.filter(|at| now < *at + WAY_FORGIVEN_AFTER);
        (failed, self.took.unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_is_tried_once_a_round_in_the_order_given_as_long_as_nothing_is_known() {
        let now = Instant::ZERO;
        let mut ways = Ways::new(3);
        for _ in 0..2 {
            for wanted in 0..3 {
                assert_eq!(ways.next(now), wanted);
                assert_eq!(ways.has_more(), wanted < 2);
                ways.failed(wanted, now);
            }
        }
        let mut only = Ways::new(1);
        for _ in 0..3 {
            assert_eq!(only.next(now), 0);
            assert!(!only.has_more());
        }
    }

    #[test]
    fn a_way_that_failed_comes_last_until_it_is_forgiven_and_then_the_quickest_is_first() {
        let mut now = Instant::ZERO;
        let mut ways = Ways::new(3);
        for (way, took) in [(0, 30), (1, 10), (2, 20)] {
            ways.stands(way, took * MS);
        }
        let order = |ways: &mut Ways, now| {
            ways.new_round();
            [ways.next(now), ways.next(now), ways.next(now)]
        };
        assert_eq!(order(&mut ways, now), [1, 2, 0]);
        ways.failed(1, now);
        assert_eq!(order(&mut ways, now), [2, 0, 1]);
        now = now + MS;
        ways.failed(2, now);
        assert_eq!(order(&mut ways, now), [0, 1, 2]);
        now = now + MS;
        ways.failed(1, now);
        assert_eq!(order(&mut ways, now), [0, 2, 1]);
        let mut refreshed = Ways(ways.0.clone());
        refreshed.refresh();
        assert_eq!(order(&mut refreshed, now), [1, 2, 0]);
        now = now + WAY_FORGIVEN_AFTER;
        assert_eq!(order(&mut ways, now), [1, 2, 0]);
        ways.failed(0, now);
        ways.stands(0, 5 * MS);
        assert_eq!(order(&mut ways, now), [0, 1, 2]);
    }

    #[test]
    fn lanes_are_spread_over_the_ways_that_are_well() {
        let now = Instant::ZERO;
        let mut ways = Ways::new(3);
        ways.failed(1, now);
        let mut lanes = [1, 0, 0];
        for _ in 0..5 {
            let way = ways.beside(|way| lanes[way], now);
            lanes[way] += 1;
        }
        assert_eq!(lanes, [3, 0, 3]);
        assert_eq!(ways.beside(|way| lanes[way], now + WAY_FORGIVEN_AFTER), 1);
    }
}
