//! How many visitors were turned away, summed up so that a flood of them is told in a few lines.

use std::collections::BTreeMap;

use crate::client::context::Timer;
use crate::client::event::{SessionEvent, Shortage};
use crate::client::local::{Around, LocalSide};
use crate::clock::Instant;
use crate::limits::{REFUSALS_EVERY, REFUSALS_GATHER};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::client) struct Tally {
    untold: BTreeMap<Shortage, u64>,
    total: u64,
    told_at: Option<Instant>,
}

impl Tally {
    /// One more. Gives the moment at which to tell.
    pub(super) fn count(&mut self, why: Shortage, now: Instant) -> Instant {
        *self.untold.entry(why).or_default() += 1;
        self.total += 1;
        let soon = now + REFUSALS_GATHER;
        self.told_at
            .map_or(soon, |told| soon.max(told + REFUSALS_EVERY))
    }

    /// What is to be told.
    pub(super) fn tell(&mut self, now: Instant) -> Option<SessionEvent> {
        let untold = std::mem::take(&mut self.untold);
        let (why, _) = untold.iter().max_by_key(|(_, count)| **count)?;
        self.told_at = Some(now);
        Some(SessionEvent::TurnedAway {
            count: untold.values().sum(),
            total: self.total,
            why: *why,
        })
    }
}

impl LocalSide {
    /// A visitor is turned away.
    pub(in crate::client) fn count_refusal(&mut self, around: &mut Around<'_>, why: Shortage) {
        let at = self.refusals.count(why, around.cx.now);
        around.cx.effects.timers.arm_if_unset(Timer::Refusals, at);
    }

    pub(in crate::client) fn tell_refusals(&mut self, around: &mut Around<'_>) {
        if let Some(event) = self.refusals.tell(around.cx.now) {
            around.cx.notify(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_first_are_told_soon_and_the_others_in_sums() {
        let mut tally = Tally::default();
        let start = Instant::ZERO + Duration::from_secs(100);
        assert_eq!(tally.tell(start), None, "there is nothing to tell");
        assert_eq!(
            tally.count(Shortage::Connections, start),
            start + REFUSALS_GATHER
        );
        tally.count(Shortage::Descriptors, start);
        tally.count(Shortage::Descriptors, start);
        let told = |count, total, why| SessionEvent::TurnedAway { count, total, why };
        let first = start + REFUSALS_GATHER;
        assert_eq!(
            tally.tell(first),
            Some(told(3, 3, Shortage::Descriptors)),
            "most were for want of descriptors"
        );
        let next = tally.count(Shortage::Heads, first);
        assert_eq!(next, first + REFUSALS_EVERY, "not again at once");
        assert_eq!(tally.tell(next), Some(told(1, 4, Shortage::Heads)));
        let late = next + REFUSALS_EVERY * 3;
        assert_eq!(tally.count(Shortage::Heads, late), late + REFUSALS_GATHER);
    }
}
