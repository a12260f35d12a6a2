//! The only clock of the program, and what it notices about sleep.
//!
//! `CLOCK_MONOTONIC` stands still while the machine sleeps, so deadlines alone would not notice a
//! night in a bag. Two other clocks go on: the one that counts sleep and the wall clock. A jump
//! between them and ours means that the world went on without us, and so does a turn that comes
//! long after it was due.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::CLOCK_JUMP;

/// Reads the time for one host.
#[derive(Debug)]
pub struct Clock {
    /// How far the two witnesses were ahead of our clock at the last look.
    ahead: [i128; 2],
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl Clock {
    /// A clock that has seen no jump yet.
    pub fn new() -> Clock {
        let ours = nanos_of(OURS);
        Clock {
            ahead: WITNESSES.map(|clock| nanos_of(clock) - ours),
        }
    }

    /// The moment, on a scale that all clocks of this process share.
    pub fn now(&self) -> Instant {
        now()
    }

    /// The second by the wall clock, since 1970, as the last look showed it.
    pub fn wall_second(&self, now: Instant) -> u64 {
        let [_, wall] = self.ahead;
        u64::try_from((nanos(now) + wall) / 1_000_000_000).unwrap_or(0)
    }

    /// Whether a witness moved against our clock since the last look: the machine slept, or
    /// somebody set the time.
    pub fn jumped(&mut self, now: Instant) -> bool {
        let ahead = WITNESSES.map(|clock| nanos_of(clock) - nanos(now));
        let limit = CLOCK_JUMP.as_nanos() as i128;
        let jumped = (0..ahead.len()).any(|n| (ahead[n] - self.ahead[n]).abs() > limit);
        self.ahead = ahead;
        jumped
    }

    /// Whether it is much later than it should be by now: the process was stopped, which no clock
    /// tells (SIGSTOP, a frozen cgroup, a paused virtual machine).
    pub fn overslept(now: Instant, due: Instant) -> bool {
        now > due + CLOCK_JUMP
    }
}

fn nanos(at: Instant) -> i128 {
    i128::from(at.as_nanos())
}

/// The moment, for code around the reactor that has no [`Clock`] at hand.
pub fn now() -> Instant {
    Instant::from_nanos(u64::try_from(nanos_of(OURS)).unwrap_or(0))
}

/// The time that passed since `earlier` by the same clock.
pub fn elapsed(earlier: Instant) -> Duration {
    now().since(earlier)
}

#[cfg(not(target_os = "macos"))]
const OURS: libc::clockid_t = libc::CLOCK_MONOTONIC;
#[cfg(not(target_os = "macos"))]
const WITNESSES: [libc::clockid_t; 2] = [libc::CLOCK_BOOTTIME, libc::CLOCK_REALTIME];

// On macOS it is CLOCK_MONOTONIC that counts sleep, and CLOCK_UPTIME_RAW that does not.
#[cfg(target_os = "macos")]
const OURS: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
#[cfg(target_os = "macos")]
const WITNESSES: [libc::clockid_t; 2] = [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME];

fn nanos_of(clock: libc::clockid_t) -> i128 {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spec` is a valid place for a timespec and lives through the call.
    let outcome = unsafe { libc::clock_gettime(clock, &mut spec) };
    assert_eq!(outcome, 0, "a clock of this system cannot be read");
    i128::from(spec.tv_sec) * 1_000_000_000 + i128::from(spec.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_does_not_jump_by_itself() {
        let mut clock = Clock::new();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        assert!(!clock.jumped(now()));
    }

    #[test]
    fn who_comes_back_long_after_it_was_due_overslept() {
        let now = Clock::new().now();
        assert!(!Clock::overslept(now, now + Duration::from_secs(3600)));
        assert!(!Clock::overslept(now, now));
        assert!(Clock::overslept(now, Instant::ZERO));
    }

    #[test]
    fn a_witness_that_moved_against_our_clock_is_a_jump_once() {
        let mut clock = Clock::new();
        clock.ahead[0] -= 2_000_000_000;
        assert!(clock.jumped(now()));
        assert!(!clock.jumped(now()));
        clock.ahead[1] += 1_000_000_000;
        assert!(!clock.jumped(now()));
    }
}
