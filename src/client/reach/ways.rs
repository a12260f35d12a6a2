//! The URLs of a kit, and by which of them a lost connection is dialled next.
//!
//! The best one first: one that did not fail lately, and among those the one by which a connection
//! came about in the least time; then those that failed, the longest ago first. Each is tried once
//! before any is tried again.
//!
//! Each kit's process has a name (`instance`, PROTOCOL §9). A way that leads to another kit than
//! the session's is of no use to it, however well it is. But a name also changes when a kit starts
//! anew, so only what both say at the same time counts: a JOIN that another process refuses while
//! the session's is heard, or a HELLO that is answered by the one of before again.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{
    WAY_ELSEWHERE_FOR, WAY_ELSEWHERE_MAX, WAY_FORGIVEN_AFTER, WAY_FORGIVEN_MAX, WAY_SHARES_AFTER,
};

/// See the module. A way is named by its place in the configuration.
#[derive(Debug)]
pub(in crate::client) struct Ways {
    all: Vec<Way>,
    /// The process that has the session, where it says its name.
    kit: Option<String>,
}

#[derive(Debug, Default, Clone)]
struct Way {
    /// When a connection failed that was the last one by it, and how often in a row before.
    failed: Option<Instant>,
    failures: u32,
    /// How long the last connection took until it carried a session.
    took: Option<Duration>,
    /// In this round.
    tried: bool,
    /// The process that answered last.
    kit: Option<String>,
    elsewhere: Option<Elsewhere>,
}

/// The process that answered last turned out not to be the session's.
#[derive(Debug, Clone, Copy)]
struct Elsewhere {
    /// When, and how often in a row before.
    at: Instant,
    before: u32,
    told: bool,
}

impl Elsewhere {
    /// Until when the way is left alone.
    fn until(self) -> Instant {
        let doubled = WAY_ELSEWHERE_FOR.saturating_mul(1 << self.before.min(8));
        self.at + doubled.min(WAY_ELSEWHERE_MAX)
    }
}

impl Ways {
    /// So many, of which nothing is known.
    pub(super) fn new(count: usize) -> Ways {
        Ways {
            all: vec![Way::default(); count],
            kit: None,
        }
    }

    /// By which way to try to reach the kit now.
    pub(super) fn next(&mut self, now: Instant) -> usize {
        if !self.has_more(now) {
            self.new_round();
        }
        let untried = self.useful(now).filter(|(_, way)| !way.tried);
        let best = untried.min_by_key(|(_, way)| way.rank(now));
        let best = best.map_or(0, |(index, _)| index);
        if let Some(way) = self.all.get_mut(best) {
            way.tried = true;
        }
        best
    }

    /// Whether there is one that was not tried in this round.
    pub(super) fn has_more(&self, now: Instant) -> bool {
        self.useful(now).any(|(_, way)| !way.tried)
    }

    /// By which way one more connection is dialled while others stand, of which so many are on each
    /// way.
    pub(super) fn beside(&self, lanes: impl Fn(usize) -> usize, now: Instant) -> usize {
        let best = self.useful(now).min_by_key(|(index, way)| {
            let (failed, took) = way.rank(now);
            (failed, lanes(*index), took)
        });
        best.map_or(0, |(index, _)| index)
    }

    /// Whether a lane on this way would be better off on another that is well, so that one that
    /// failed and is well again gets its share back.
    pub(super) fn is_crowded(
        &self,
        way: usize,
        lanes: impl Fn(usize) -> usize,
        now: Instant,
    ) -> bool {
        let rested = |at: Instant| now >= at + WAY_SHARES_AFTER;
        let is_well = |way: &Way| way.took.is_some() && way.failed.is_none_or(rested);
        let mut well = self.useful(now).filter(|(_, way)| is_well(way));
        well.any(|(other, _)| lanes(other) + 1 < lanes(way))
    }

    /// Those that lead to the session's kit, as far as is known.
    fn useful(&self, now: Instant) -> impl Iterator<Item = (usize, &Way)> {
        let all = self.all.iter().enumerate();
        all.filter(move |(_, way)| {
            let lately = |elsewhere: Elsewhere| now < elsewhere.until();
            way.kit == self.kit || !way.elsewhere.is_some_and(lately)
        })
    }

    /// A connection that took so long carries the session.
    pub(super) fn stands(&mut self, way: usize, took: Duration) {
        if let Some(way) = self.all.get_mut(way) {
            way.failed = None;
            way.failures = 0;
            way.took = Some(took);
        }
    }

    /// The session is with this process, which answered by this way.
    pub(super) fn session_is_at(&mut self, way: usize, kit: Option<&str>, now: Instant) {
        let kit = kit.map(str::to_owned);
        let before = std::mem::replace(&mut self.kit, kit.clone());
        let Some(answered) = self.all.get_mut(way) else {
            return;
        };
        answered.elsewhere = None;
        let answered_before = std::mem::replace(&mut answered.kit, kit.clone());
        if kit.is_some() && kit != before && kit == answered_before {
            // It is the one that was there before another one was, so both are.
            let others = self.all.iter_mut();
            others
                .filter(|way| way.kit.is_some() && way.kit == before)
                .for_each(|way| way.leads_elsewhere(false, now));
        }
    }

    /// A JOIN by this way was refused by this process. Says whether that is another one than the
    /// session's.
    pub(super) fn refused_by(&mut self, way: usize, kit: Option<String>, now: Instant) -> bool {
        let is_another = kit.is_some() && self.kit.is_some() && kit != self.kit;
        if let Some(way) = self.all.get_mut(way).filter(|_| is_another) {
            let same = way.kit == kit;
            way.kit = kit;
            way.leads_elsewhere(same, now);
        }
        is_another
    }

    /// The session's kit was heard then: those that led to another one before do not lead to one
    /// that took its place. Gives those that were not given before.
    pub(super) fn lead_elsewhere(&mut self, heard: Instant) -> Vec<usize> {
        let mut others = Vec::new();
        for (index, way) in self.all.iter_mut().enumerate() {
            if way.kit != self.kit
                && let Some(elsewhere) = &mut way.elsewhere
                && elsewhere.at < heard
                && !std::mem::replace(&mut elsewhere.told, true)
            {
                others.push(index);
            }
        }
        others
    }

    /// The session's kit says that another process takes its place: one that answered already,
    /// while both were there, is perhaps that one.
    pub(super) fn kit_restarts(&mut self) {
        let once = |way: &&mut Way| way.elsewhere.is_some_and(|it| it.before == 0);
        let met_once = self.all.iter_mut().filter(once);
        met_once.for_each(|way| way.elsewhere = None);
    }

    /// The next try is the first one of a round.
    pub(super) fn new_round(&mut self) {
        self.all.iter_mut().for_each(|way| way.tried = false);
    }

    /// A connection, or a try to make one, failed.
    pub(super) fn failed(&mut self, way: usize, now: Instant) {
        if let Some(way) = self.all.get_mut(way) {
            way.failures += u32::from(way.failed.is_some());
            way.failed = Some(now);
        }
    }

    /// The network is another one: failures of before mean nothing.
    pub(super) fn refresh(&mut self) {
        self.new_round();
        for way in &mut self.all {
            (way.failed, way.failures) = (None, 0);
        }
    }
}

impl Way {
    /// It does so now, to the `same` one as before or not.
    fn leads_elsewhere(&mut self, same: bool, now: Instant) {
        let before = self.elsewhere;
        self.elsewhere = Some(Elsewhere {
            at: now,
            before: before.map_or(0, |it| it.before + 1),
            told: same && before.is_some_and(|it| it.told),
        });
    }

    /// The less, the better.
    fn rank(&self, now: Instant) -> (Option<Instant>, Duration) {
        let span = WAY_FORGIVEN_AFTER.saturating_mul(1 << self.failures.min(8));
        let span = span.min(WAY_FORGIVEN_MAX);
        let failed = self.failed.filter(|at| now < *at + span);
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
                assert_eq!(ways.has_more(now), wanted < 2);
                ways.failed(wanted, now);
            }
        }
        let mut only = Ways::new(1);
        for _ in 0..3 {
            assert_eq!(only.next(now), 0);
            assert!(!only.has_more(now));
        }
    }

    #[test]
    fn a_dead_way_is_not_what_a_lane_comes_back_to_each_time_however_long_it_pauses() {
        for pause in [Duration::from_secs(1), WAY_FORGIVEN_AFTER] {
            let mut now = Instant::ZERO;
            let mut ways = Ways::new(2);
            ways.stands(0, MS);
            let lanes = |way: usize| usize::from(way == 0);
            let mut in_vain = 0;
            for _ in 0..10 {
                match ways.beside(lanes, now) {
                    1 => ways.failed(1, now),
                    _ => break,
                }
                in_vain += 1;
                now = now + pause;
            }
            assert!(in_vain <= 2, "pauses of {pause:?}");
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
        let mut refreshed = Ways {
            all: ways.all.clone(),
            kit: None,
        };
        refreshed.refresh();
        assert_eq!(order(&mut refreshed, now), [1, 2, 0]);
        now = now + WAY_FORGIVEN_AFTER;
        assert_eq!(order(&mut ways, now), [2, 0, 1], "1 failed twice");
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
        let later = now + WAY_FORGIVEN_AFTER;
        assert_eq!(ways.beside(|way| lanes[way], later), 1);
        // One at a time goes back, until it makes no difference.
        let crowded = |ways: &Ways, lanes: [usize; 3], now| {
            [0, 1, 2].map(|way| ways.is_crowded(way, |way| lanes[way], now))
        };
        let later = later + WAY_SHARES_AFTER;
        assert_eq!(crowded(&ways, lanes, later), [false; 3], "it never worked");
        for way in 0..3 {
            ways.stands(way, MS);
        }
        ways.failed(1, now);
        assert_eq!(crowded(&ways, lanes, now), [false; 3]);
        assert_eq!(crowded(&ways, lanes, later), [true, false, true]);
        assert_eq!(crowded(&ways, [2, 1, 3], later), [false, false, true]);
        assert_eq!(crowded(&ways, [2, 2, 2], later), [false; 3]);
        assert_eq!(crowded(&ways, [2, 1, 2], later), [false; 3]);
        let only = Ways::new(1);
        assert!(!only.is_crowded(0, |_| 16, now));
    }

    #[test]
    fn a_way_to_another_kit_is_not_taken_and_a_kit_that_was_started_anew_is_no_other() {
        let mut now = Instant::ZERO;
        let kit = |name: &str| Some(name.to_owned());
        let mut ways = Ways::new(2);
        let tried = |ways: &mut Ways, now| {
            ways.new_round();
            let first = ways.next(now);
            let more = ways.has_more(now);
            (first, more)
        };
        let later = |now| now + MS;
        // Started anew: each way tells another name than before, one after the other.
        for (way, name) in [(0, "a"), (1, "b"), (0, "b")] {
            ways.session_is_at(way, Some(name), now);
        }
        assert_eq!(tried(&mut ways, now), (0, true));
        // The one of before is there again: there are two.
        ways.session_is_at(0, Some("a"), now);
        assert_eq!(tried(&mut ways, now), (0, true));
        ways.session_is_at(1, Some("b"), now);
        assert_eq!(tried(&mut ways, now), (1, false));
        assert_eq!(ways.beside(|way| way, now), 1);
        assert_eq!(ways.lead_elsewhere(later(now)), [0]);
        // It is told once, and asked again after a while.
        assert!(ways.refused_by(0, kit("a"), now));
        assert_eq!(ways.lead_elsewhere(later(now)), [0; 0]);
        now = now + WAY_ELSEWHERE_FOR;
        assert_eq!(tried(&mut ways, now), (1, false), "longer each time");
        now = now + WAY_ELSEWHERE_FOR;
        assert_eq!(tried(&mut ways, now), (0, true));
        assert!(ways.refused_by(0, kit("c"), now));
        assert_eq!(
            ways.lead_elsewhere(now),
            [0; 0],
            "the session's may be gone"
        );
        assert_eq!(ways.lead_elsewhere(later(now)), [0], "another one");
        assert!(!ways.refused_by(0, kit("b"), now), "it is the same");
        assert!(!ways.refused_by(0, None, now), "an older kit");
        // Nor is one known to that has answered once, when the session's kit hands over.
        assert!(ways.beside(|way| way, now) == 1);
        ways.kit_restarts();
        assert_eq!(tried(&mut ways, now), (1, false), "it did so before");
        let mut other = Ways::new(2);
        other.session_is_at(0, Some("a"), now);
        assert!(other.refused_by(1, kit("b"), now));
        assert_eq!(tried(&mut other, now), (0, false));
        other.kit_restarts();
        assert_eq!(tried(&mut other, now), (0, true));
        // A JOIN that met the one that took the place of the session's was not misled.
        assert!(ways.refused_by(0, kit("d"), now));
        ways.session_is_at(1, Some("d"), now);
        assert_eq!(ways.lead_elsewhere(later(now)), [0; 0]);
        assert!(ways.beside(|way| 1 - way, now) == 1 && tried(&mut ways, now).1);
    }
}
