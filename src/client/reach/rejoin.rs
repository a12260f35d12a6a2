//! When a missing lane is tried again: each has a pause of its own, so that one that the way to the
//! kit does not carry is tried ever less often, and costs the others nothing.

use crate::clock::Instant;
use crate::limits::{MAX_LANES, REJOIN_EVERY, REJOIN_MAX, RETRY_FIRST, STABLE_AFTER};

/// The pauses of a session's lanes, by index.
#[derive(Debug, Default)]
pub(in crate::client) struct Rejoin {
    pauses: [Pause; MAX_LANES],
}

#[derive(Debug, Default, Clone, Copy)]
struct Pause {
    /// How often in a row it did not come about, or did not last.
    failures: u32,
    /// Since when it stands.
    stands: Option<Instant>,
    /// Nothing is done for it before.
    until: Instant,
    /// A ticket for it is on its way.
    asked: bool,
}

impl Rejoin {
    /// A session begins, and with it come tickets for all lanes.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.pauses = [Pause::default(); MAX_LANES];
        for index in 0..MAX_LANES {
            self.asked(index, now);
        }
    }

    /// Whether a ticket for lane `index` is to be asked for.
    pub(crate) fn is_due(&self, index: usize, now: Instant) -> bool {
        self.pauses[index].until <= now
    }

    /// When it is.
    pub(crate) fn due(&self, index: usize) -> Instant {
        self.pauses[index].until
    }

    /// It was asked for; the answer may get lost.
    pub(crate) fn asked(&mut self, index: usize, now: Instant) {
        let pause = &mut self.pauses[index];
        pause.asked = true;
        pause.until = now + REJOIN_EVERY;
    }

    /// A ticket came: whether it is to be used. A lane that pauses did not ask for it.
    pub(crate) fn take(&mut self, index: usize) -> bool {
        std::mem::take(&mut self.pauses[index].asked)
    }

    /// The lane stands.
    pub(crate) fn joined(&mut self, index: usize, now: Instant) {
        self.pauses[index].stands = Some(now);
    }

    /// The lane, or the try to join it, is no more.
    pub(crate) fn gone(&mut self, index: usize, now: Instant) {
        let pause = &mut self.pauses[index];
        let stood = pause.stands.take();
        if stood.is_some_and(|since| now >= since + STABLE_AFTER) {
            pause.failures = 0;
        }
        let first = match stood {
            Some(_) => RETRY_FIRST,
            None => REJOIN_EVERY,
        };
        pause.until = now + (first * (1 << pause.failures.min(8))).min(REJOIN_MAX);
        pause.failures += 1;
        pause.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_lane_that_does_not_last_is_tried_ever_less_often_and_one_that_did_at_once() {
        let mut rejoin = Rejoin::default();
        let mut now = Instant::ZERO;
        rejoin.begin(now);
        assert!(rejoin.take(1) && !rejoin.take(1), "one ticket is one try");
        let pause = |rejoin: &Rejoin, now: Instant| rejoin.due(1).since(now);
        for seconds in [2, 4, 8, 16, 30, 30] {
            rejoin.gone(1, now);
            assert_eq!(pause(&rejoin, now), Duration::from_secs(seconds));
            assert!(!rejoin.take(1), "nobody asked for it");
            now = rejoin.due(1);
            assert!(rejoin.is_due(1, now) && rejoin.is_due(2, now));
            rejoin.asked(1, now);
            assert!(!rejoin.is_due(1, now));
        }
        rejoin.joined(1, now);
        now = now + STABLE_AFTER;
        rejoin.gone(1, now);
        assert_eq!(pause(&rejoin, now), RETRY_FIRST);
        rejoin.joined(1, now);
        rejoin.gone(1, now);
        assert_eq!(pause(&rejoin, now), RETRY_FIRST * 2);
    }
}
