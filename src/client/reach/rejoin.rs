//! When a missing lane is tried again: each has a pause of its own, so that one that the way to the
//! kit does not carry is tried ever less often, and costs the others nothing. One that streams wait
//! for is never waited out.
//!
//! A ticket voids those before it, also one that is on its way to be used. So the latest one is
//! kept here while another is tried.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{
    MAX_LANES, REJOIN_EVERY, REJOIN_MAX, RETRY_FIRST, RETRY_SOON, STABLE_AFTER, STOOD_AFTER,
};
use crate::wire::control::Secret;

/// The pauses of a session's lanes, by index.
#[derive(Debug, Default)]
pub(in crate::client) struct Rejoin {
    pauses: [Pause; MAX_LANES],
}

#[derive(Debug, Default)]
struct Pause {
    /// How often in a row it did not come about, or did not last.
    failures: u32,
    /// Since when it stands.
    stands: Option<Instant>,
    /// Nothing is done for it before.
    until: Instant,
    /// A ticket for it is on its way.
    asked: bool,
    /// One that came while an older one was tried.
    spare: Option<Secret>,
}

impl Rejoin {
    /// A session begins, and with it come tickets for all lanes.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.pauses = Default::default();
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

    /// A ticket came while an older one is tried.
    pub(crate) fn keep(&mut self, index: usize, ticket: Secret) {
        self.pauses[index].spare = Some(ticket);
    }

    /// The kit did not take the ticket that was tried. Gives a later one, if there is one.
    pub(crate) fn refused(&mut self, index: usize) -> Option<Secret> {
        self.pauses[index].spare.take()
    }

    /// The lane stands.
    pub(crate) fn joined(&mut self, index: usize, now: Instant) {
        self.pauses[index].stands = Some(now);
        self.pauses[index].spare = None;
    }

    /// The lane, or the try to join it, is no more; `awaited` by streams or not.
    pub(crate) fn gone(&mut self, index: usize, awaited: bool, now: Instant) {
        let pause = &mut self.pauses[index];
        let stood = pause.stands.take();
        if stood.is_some_and(|since| now >= since + STABLE_AFTER) {
            pause.failures = 0;
        }
        let doubled = |first: Duration| first * (1 << pause.failures.min(8));
        let span = match stood {
            Some(since) if awaited && now >= since + STOOD_AFTER => Duration::ZERO,
            Some(_) if awaited => RETRY_FIRST,
            None if awaited => doubled(RETRY_FIRST).min(RETRY_SOON),
            Some(_) => doubled(RETRY_FIRST).min(REJOIN_MAX),
            None => doubled(REJOIN_EVERY).min(REJOIN_MAX),
        };
        pause.until = now + span;
        pause.failures += 1;
        pause.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_does_not_last_is_tried_ever_less_often_and_one_that_did_at_once() {
        let mut rejoin = Rejoin::default();
        let mut now = Instant::ZERO;
        rejoin.begin(now);
        assert!(rejoin.take(1) && !rejoin.take(1), "one ticket is one try");
        let pause = |rejoin: &Rejoin, now: Instant| rejoin.due(1).since(now);
        for seconds in [2, 4, 8, 16, 30, 30] {
            rejoin.gone(1, false, now);
            assert_eq!(pause(&rejoin, now), Duration::from_secs(seconds));
            assert!(!rejoin.take(1), "nobody asked for it");
            now = rejoin.due(1);
            assert!(rejoin.is_due(1, now) && rejoin.is_due(2, now));
            rejoin.asked(1, now);
            assert!(!rejoin.is_due(1, now));
        }
        rejoin.joined(1, now);
        now = now + STABLE_AFTER;
        rejoin.gone(1, false, now);
        assert_eq!(pause(&rejoin, now), RETRY_FIRST);
        rejoin.joined(1, now);
        rejoin.gone(1, false, now);
        assert_eq!(pause(&rejoin, now), RETRY_FIRST * 2);
    }

    #[test]
    fn a_lane_that_streams_wait_for_is_never_waited_out() {
        let mut rejoin = Rejoin::default();
        let mut now = Instant::ZERO;
        rejoin.begin(now);
        for round in 0..20 {
            rejoin.gone(1, true, now);
            let pause = rejoin.due(1).since(now);
            assert!(pause <= RETRY_SOON, "round {round}: {pause:?}");
            now = rejoin.due(1);
        }
        for stood in [STOOD_AFTER, STABLE_AFTER, Duration::ZERO, STOOD_AFTER] {
            rejoin.joined(1, now);
            now = now + stood;
            rejoin.gone(1, true, now);
            let wanted = if stood.is_zero() {
                RETRY_FIRST
            } else {
                Duration::ZERO
            };
            assert_eq!(rejoin.due(1).since(now), wanted, "after {stood:?}");
        }
    }
}
