//! Token buckets against frames that cost the receiver more than the sender.
//!
//! A flood ends the session with ENHANCE_YOUR_CALM, never the kit. Whatever answers something we
//! did is paid for by what we did: existing clients answer every DATA with two WINDOWs (PROTOCOL
//! §5), and a client that resets every stream we opened does nothing wrong.

use crate::clock::Instant;
use crate::limits::{
    Allowance, FLOOD_ASKING, FLOOD_EMPTY_DATA, FLOOD_OPEN_RESET, FLOOD_PING, FLOOD_WINDOW,
    HASTY_OPENS, WINDOWS_EARNED_PER_DATA,
};
use crate::mux::violation::Violation;
use crate::wire::code::Code;

/// What a bucket counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nuisance {
    /// STREAM_OPEN and RESET.
    OpenReset,
    /// STREAM_OPEN of a client that may open streams: one too many costs the stream.
    Opening,
    /// PING, of the tunnel or of the WebSocket.
    Ping,
    /// WINDOW.
    Window,
    /// DATA without bytes.
    EmptyData,
    /// A session frame, or a frame on a stream that was never opened.
    Asking,
}

/// One session's buckets.
#[derive(Debug)]
pub struct Flood {
    buckets: [Bucket; 6],
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl Flood {
    /// Full buckets.
    pub fn new(now: Instant) -> Flood {
        let full = |nuisance| Bucket {
            tokens: allowance(nuisance).burst,
            refilled: now,
        };
        Flood {
            buckets: [
                full(Nuisance::OpenReset),
                full(Nuisance::Opening),
                full(Nuisance::Ping),
                full(Nuisance::Window),
                full(Nuisance::EmptyData),
                full(Nuisance::Asking),
            ],
        }
    }

    /// We sent a DATA frame: WINDOWs will answer it.
    pub fn sent_data(&mut self) {
        self.earn(Nuisance::Window, WINDOWS_EARNED_PER_DATA);
    }

    /// A stream was opened by the side that serves visitors: it may be reset.
    pub fn opened_stream(&mut self) {
        self.earn(Nuisance::OpenReset, 1);
    }

    /// The peer sent one more; a violation when that was one too many.
    pub fn count(&mut self, nuisance: Nuisance, now: Instant) -> Result<(), Violation> {
        let bucket = &mut self.buckets[nuisance as usize];
        if bucket.tokens == 0 {
            bucket.refill(allowance(nuisance), now);
        }
        match bucket.tokens.checked_sub(1) {
            Some(left) => {
                bucket.tokens = left;
                Ok(())
            }
            None => Err(Violation::session(
                Code::EnhanceYourCalm,
                nuisance.sentence(),
            )),
        }
    }

    fn earn(&mut self, nuisance: Nuisance, count: u32) {
        let bucket = &mut self.buckets[nuisance as usize];
        bucket.tokens = bucket.tokens.saturating_add(count);
    }
}

impl Bucket {
    /// Looks at the clock only when the bucket is empty: a well-behaved peer costs no arithmetic.
    fn refill(&mut self, allowance: Allowance, now: Instant) {
        let passed = now.since(self.refilled).as_millis();
        let earned = passed.saturating_mul(u128::from(allowance.per_second)) / 1000;
        if earned > 0 {
            self.tokens = u32::try_from(earned)
                .unwrap_or(u32::MAX)
                .min(allowance.burst);
            self.refilled = now;
        }
    }
}

impl Nuisance {
    fn sentence(self) -> &'static str {
        match self {
            Nuisance::Opening => "streams opened too fast",
            Nuisance::OpenReset => "too many streams opened or reset in a short time",
            Nuisance::Ping => "too many PINGs in a short time",
            Nuisance::Window => "more WINDOWs than the data sent to you explains",
            Nuisance::EmptyData => "too many DATA frames without data",
            Nuisance::Asking => "too many frames that want an answer in a short time",
        }
    }
}

fn allowance(nuisance: Nuisance) -> Allowance {
    match nuisance {
        Nuisance::OpenReset => FLOOD_OPEN_RESET,
        Nuisance::Opening => HASTY_OPENS,
        Nuisance::Ping => FLOOD_PING,
        Nuisance::Window => FLOOD_WINDOW,
        Nuisance::EmptyData => FLOOD_EMPTY_DATA,
        Nuisance::Asking => FLOOD_ASKING,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_windows_for_every_data_are_no_flood() {
        let mut flood = Flood::new(Instant::ZERO);
        for _ in 0..1_000_000 {
            flood.sent_data();
            flood.count(Nuisance::Window, Instant::ZERO).unwrap();
            flood.count(Nuisance::Window, Instant::ZERO).unwrap();
        }
    }

    #[test]
    fn streams_that_were_opened_for_visitors_may_all_be_reset() {
        let mut flood = Flood::new(Instant::ZERO);
        for _ in 0..10 * FLOOD_OPEN_RESET.burst {
            flood.opened_stream();
            flood.count(Nuisance::OpenReset, Instant::ZERO).unwrap();
        }
    }

    #[test]
    fn a_second_refills_what_one_second_allows_however_often_it_is_asked_for() {
        for pieces in [1, 2 * FLOOD_PING.per_second] {
            let mut flood = Flood::new(Instant::ZERO);
            while flood.count(Nuisance::Ping, Instant::ZERO).is_ok() {}
            let mut allowed = 0;
            for piece in 1..=pieces {
                let now = Instant::ZERO + Duration::from_secs(1) * piece / pieces;
                while flood.count(Nuisance::Ping, now).is_ok() {
                    allowed += 1;
                }
            }
            assert_eq!(allowed, FLOOD_PING.per_second, "in {pieces} pieces");
        }
    }

    #[test]
    fn every_nuisance_is_called_by_its_name() {
        let all = [
            Nuisance::OpenReset,
            Nuisance::Ping,
            Nuisance::Window,
            Nuisance::EmptyData,
            Nuisance::Asking,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for nuisance in all {
            let mut flood = Flood::new(Instant::ZERO);
            let refused = loop {
                if let Err(violation) = flood.count(nuisance, Instant::ZERO) {
                    break violation;
                }
            };
            assert_eq!(refused.code, Code::EnhanceYourCalm);
            assert!(seen.insert(refused.why.to_string()), "{}", refused.why);
        }
        assert!(seen.iter().all(|words| words.len() > 10));
    }

    #[test]
    fn a_flood_is_a_violation_and_patience_refills() {
        let mut flood = Flood::new(Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut allowed = 0;
        while flood.count(Nuisance::Ping, now).is_ok() {
            allowed += 1;
        }
        assert_eq!(allowed, FLOOD_PING.burst);
        now = now + Duration::from_secs(1);
        assert!(flood.count(Nuisance::Ping, now).is_ok());
    }
}
