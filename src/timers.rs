//! Deadlines in order, each with its reason.
//!
//! Traffic never re-arms a timer: it writes a `last_heard` somewhere, and the expiry looks at that
//! and arms the rest. So a busy connection costs no timer work at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Instant;

/// One deadline for each `K`; `K` is the reason, so it names both whom and why.
#[derive(Debug)]
pub struct Timers<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_reason: BTreeMap<K, Instant>,
}

impl<K: Copy + Ord> Timers<K> {
    /// No deadlines.
    pub fn new() -> Timers<K> {
        Timers {
            by_time: BTreeSet::new(),
            by_reason: BTreeMap::new(),
        }
    }

    /// Sets the deadline of `reason`, in place of an earlier one.
    pub fn arm(&mut self, reason: K, at: Instant) {
        if let Some(before) = self.by_reason.insert(reason, at) {
            self.by_time.remove(&(before, reason));
        }
        self.by_time.insert((at, reason));
    }

    /// Sets the deadline of `reason` unless one is set already.
    pub fn arm_if_unset(&mut self, reason: K, at: Instant) {
        if !self.by_reason.contains_key(&reason) {
            self.arm(reason, at);
        }
    }

    /// Forgets the deadline of `reason`, if there is one.
    pub fn disarm(&mut self, reason: K) {
        if let Some(at) = self.by_reason.remove(&reason) {
            self.by_time.remove(&(at, reason));
        }
    }

    /// The next deadline and its reason.
    pub fn next(&self) -> Option<(Instant, K)> {
        self.by_time.first().copied()
    }

    /// When the deadline of `reason` is, if one is set.
    pub fn deadline(&self, reason: K) -> Option<Instant> {
        self.by_reason.get(&reason).copied()
    }

    /// Takes out the next reason whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, reason) = self.next()?;
        if at > now {
            return None;
        }
        self.disarm(reason);
        Some(reason)
    }

    /// How many deadlines are set.
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }
}

impl<K: Copy + Ord> Default for Timers<K> {
    fn default() -> Self {
        Timers::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_only_when_due() {
        let mut timers = Timers::new();
        let at = Instant::from_nanos;
        timers.arm("b", at(20));
        timers.arm("a", at(10));
        timers.arm("b", at(5));
        assert_eq!(timers.next(), Some((at(5), "b")));
        assert_eq!(timers.pop_due(at(4)), None);
        assert_eq!(timers.pop_due(at(30)), Some("b"));
        assert_eq!(timers.pop_due(at(30)), Some("a"));
        assert_eq!(timers.pop_due(at(30)), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn a_disarmed_deadline_never_comes() {
        let mut timers = Timers::new();
        timers.arm(1, Instant::from_nanos(1));
        timers.disarm(1);
        timers.disarm(1);
        assert_eq!(timers.pop_due(Instant::from_nanos(9)), None);
    }
}
