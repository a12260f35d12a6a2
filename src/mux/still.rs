//! Whether who looks still stands still (PROTOCOL §5).
//!
//! A slow reader that reads all the time looks still for long, for two reasons. Its own system
//! opens a closed window only in large steps: Linux may wait until all is read of what it merged,
//! which is the whole of its first buffer (128 KiB, tcp(7) `tcp_rmem`: half a minute at 4 KB/s),
//! and more of a buffer that grew. And the system here says that there is room only when there is
//! much, so that the peer's may take several such steps before anything is written.
//!
//! Against the second the host is asked ([`Command::Probe`]) once a stream looks still: it tries to
//! write all the same, and tells how much the system holds. Whatever the peer's system took since
//! is movement. Against the first, who took much at once has longer to go on: as long as it lasts a
//! reader of [`SLOW_READS`], within bounds.
//!
//! [`Command::Probe`]: crate::machine::Command::Probe

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{CUT_STALLED_AFTER, CUT_STALLED_LATEST, PROBE_STILL_EVERY, SLOW_READS};

/// What is known of how the peer of a stream's local side gets on.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the host was asked last.
    asked: Instant,
    /// DATA bytes of the stream that the peer's system had taken by then.
    taken: u64,
    /// The most that it took between two such times: steps are not all alike.
    step: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            asked: now,
            taken: 0,
            step: 0,
        }
    }

    /// Since when the host was not asked, if it is to be asked now of one whose local side took
    /// something at `last_taken` for the last time.
    pub(super) fn is_due(&self, last_taken: Instant, now: Instant) -> Option<Instant> {
        let since = self.asked.max(last_taken);
        (now >= since + PROBE_STILL_EVERY).then_some(self.asked)
    }

    /// The host is asked.
    pub(super) fn ask(&mut self, now: Instant) {
        self.asked = now;
    }

    /// The peer's system has taken so much. True when that is more than before: then it moved.
    pub(super) fn told(&mut self, taken: u64) -> bool {
        let more = taken.saturating_sub(self.taken);
        self.step = self.step.max(more);
        self.taken += more;
        more > 0
    }

    /// How long it may take nothing before it counts as stalled.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.step / SLOW_READS).clamp(CUT_STALLED_AFTER, CUT_STALLED_LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_much_at_once_has_longer_to_go_on_within_bounds() {
        let mut pace = Pace::new(Instant::ZERO);
        assert_eq!(pace.patience(), CUT_STALLED_AFTER);
        assert!(!pace.told(0), "nothing is no movement");
        let span = (CUT_STALLED_AFTER.as_secs() + 7) * SLOW_READS;
        assert!(pace.told(span));
        assert_eq!(pace.patience(), CUT_STALLED_AFTER + Duration::from_secs(7));
        assert!(
            pace.told(span + 1) && !pace.told(span),
            "only more than ever counts"
        );
        assert_eq!(
            pace.patience(),
            CUT_STALLED_AFTER + Duration::from_secs(7),
            "the largest step"
        );
        assert!(pace.told(u64::MAX));
        assert_eq!(pace.patience(), CUT_STALLED_LATEST);
    }

    #[test]
    fn the_host_is_asked_once_in_a_while_and_not_of_who_moves() {
        let mut pace = Pace::new(Instant::ZERO);
        let due = Instant::ZERO + PROBE_STILL_EVERY;
        assert_eq!(pace.is_due(Instant::ZERO, due), Some(Instant::ZERO));
        assert_eq!(pace.is_due(due, due), None, "it has just taken something");
        pace.ask(due);
        assert_eq!(pace.is_due(Instant::ZERO, due), None);
        assert_eq!(
            pace.is_due(Instant::ZERO, due + PROBE_STILL_EVERY),
            Some(due)
        );
    }
}
