//! Credit: how many bytes of DATA may be sent (PROTOCOL §5).
//!
//! Two types, so that they cannot be swapped. Both count bytes of DATA payload only. Each stream
//! has one of either, and so has the session. How streams share the session's is in `share.rs`.

use crate::limits::{CLAIM_LEAST, CLAIM_LEAST_OF_STREAM, SESSION_GATHERS};

/// What the peer allows us to send.
#[derive(Debug)]
pub struct SendCredit {
    available: u32,
    /// The most that was ever available: the window as far as we know it.
    window: u32,
    /// The most that may ever be available: the window, or more where windows may grow.
    ceiling: u32,
    /// Bytes that were sent and not given back, as far as that can be told of a window that grows.
    outstanding: u32,
}

/// The peer gave more credit than its window can hold (FLOW_CONTROL_ERROR).
#[derive(Debug, PartialEq, Eq)]
pub struct CreditOverflow;

impl SendCredit {
    /// A full window of `window` bytes that never exceeds `ceiling`.
    pub fn new(window: u32, ceiling: u32) -> SendCredit {
        SendCredit {
            available: window,
            window,
            ceiling: ceiling.max(window),
            outstanding: 0,
        }
    }

    /// How many bytes may be sent now.
    pub fn available(&self) -> u32 {
        self.available
    }

    /// The window, grown or not, as far as it can be told from what was given.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Bytes that were sent and have not been given back.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Spends credit on bytes that are about to be sent.
    pub fn spend(&mut self, count: u32) {
        assert!(count <= self.available, "sent more than the peer allowed");
        self.available -= count;
        self.outstanding = self.outstanding.saturating_add(count);
    }

    /// Counts `count` bytes as given back that a peer may be withholding.
    pub fn forgive(&mut self, count: u32) {
        self.outstanding = self.outstanding.saturating_sub(count);
    }

    /// The peer gave `increment` bytes back.
    pub fn add(&mut self, increment: u32) -> Result<(), CreditOverflow> {
        match self.available.checked_add(increment) {
            Some(sum) if sum <= self.ceiling => {
                self.available = sum;
                self.window = self.window.max(sum);
                self.outstanding = self.outstanding.saturating_sub(increment);
                Ok(())
            }
            _ => Err(CreditOverflow),
        }
    }
}

/// What we allowed the peer to send.
///
/// Invariant, also through resets: `granted + buffered + unclaimed == window + early`. Bytes move
/// from `granted` (the peer may send them) to `buffered` (they came, the local side has not taken
/// them) to `unclaimed` (taken, but not given back yet), and by a WINDOW back to `granted`.
#[derive(Debug)]
pub struct RecvCredit {
    window: u32,
    granted: u32,
    buffered: u32,
    unclaimed: u32,
    /// Given back although still buffered, so that others find some.
    early: u32,
}

/// The peer sent past the credit it had (FLOW_CONTROL_ERROR).
#[derive(Debug, PartialEq, Eq)]
pub struct CreditExceeded;

impl RecvCredit {
    /// A full window of `window` bytes.
    pub fn new(window: u32) -> RecvCredit {
        RecvCredit {
            window,
            granted: window,
            buffered: 0,
            unclaimed: 0,
            early: 0,
        }
    }

    /// Bytes that came and that the local side has not taken.
    pub fn buffered(&self) -> u32 {
        self.buffered
    }

    /// Of those, the bytes whose credit was given back all the same.
    pub fn early(&self) -> u32 {
        self.early
    }

    /// What the peer may send now, as far as we know, with what goes back next.
    pub fn left(&self) -> u32 {
        self.granted + self.unclaimed
    }

    /// What the peer may send, as far as it was told.
    pub(super) fn granted(&self) -> u32 {
        self.granted
    }

    /// Of a session: how much of it its streams hold that do not pass on what came.
    pub fn is_contended(&self, was: bool) -> bool {
        let enough = match was {
            false => self.window / 2,
            true => self.window / 4 * 3,
        };
        self.granted < enough
    }

    /// The window as it is now, grown or not.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// `count` bytes came from the peer.
    pub fn receive(&mut self, count: u32) -> Result<(), CreditExceeded> {
        if count > self.granted {
            return Err(CreditExceeded);
        }
        self.granted -= count;
        self.buffered += count;
        self.check();
        Ok(())
    }

    /// The local side took `count` bytes, `early` of them with their credit given back before.
    pub fn pass_on(&mut self, count: u32, early: u32) {
        assert!(count <= self.buffered, "passed on more than had come");
        assert!(
            early <= count && early <= self.early,
            "credit would go back twice"
        );
        self.buffered -= count;
        self.early -= early;
        self.unclaimed += count - early;
        self.check();
    }

    /// Lets `count` buffered bytes have their credit back before they are passed on.
    pub fn give_early(&mut self, count: u32) {
        assert!(
            count <= self.buffered - self.early,
            "credit cannot go back early twice"
        );
        self.early += count;
        self.unclaimed += count;
        self.check();
    }

    /// How much the window should grow, towards `top`, when `bytes` came in one round trip: it is
    /// doubled when they are three eighths of it or more (a sender that shares keeps one stream
    /// below half), unless the local side holds them up.
    pub fn growth(&self, bytes: u64, top: u32) -> Option<u32> {
        let limits = bytes >= u64::from(self.window / 8 * 3) && self.buffered <= self.window / 4;
        (limits && self.window < top).then(|| self.window.min(top - self.window))
    }

    /// Grows the window by `extra` bytes, given to the peer with the next claim.
    pub fn grow(&mut self, extra: u32) {
        self.window += extra;
        self.unclaimed += extra;
        self.check();
    }

    /// Of a stream: the increment to give back now, if it is worth a WINDOW. Credit is gathered up
    /// to a quarter of the window, and less while the peer has little left: some senders wait until
    /// they may send 64 KiB at once (PROTOCOL §5). Where the session is contended, a sender may
    /// allow the stream no more than it has outstanding now: half of that goes back at once.
    pub fn claim(&mut self, contended: bool) -> Option<u32> {
        let plenty = self.unclaimed > 0 && self.unclaimed >= self.window / 4;
        let needed = self.granted < SENDERS_WAIT_FOR && self.unclaimed >= SENDERS_WAIT_FOR;
        let shared =
            contended && self.unclaimed >= CLAIM_LEAST_OF_STREAM && self.unclaimed >= self.buffered;
        (plenty || needed || shared).then(|| self.claim_all())
    }

    /// Of a session: the same. The less the peer has, the smaller the pieces it gets.
    pub fn claim_of_session(&mut self) -> Option<u32> {
        let plenty = self.unclaimed > 0 && self.unclaimed >= self.window / SESSION_GATHERS;
        let needed = self.unclaimed >= (self.granted / 4).max(CLAIM_LEAST);
        (plenty || needed).then(|| self.claim_all())
    }

    /// Whether anything is withheld.
    pub fn withholds(&self) -> bool {
        self.unclaimed > 0
    }

    /// Gives all back that is withheld, if that is worth a WINDOW.
    pub fn claim_withheld(&mut self) -> Option<u32> {
        (self.unclaimed >= CLAIM_LEAST_OF_STREAM).then(|| self.claim_all())
    }

    pub(super) fn claim_all(&mut self) -> u32 {
        let increment = self.unclaimed;
        self.unclaimed = 0;
        self.granted += increment;
        self.check();
        increment
    }

    fn check(&self) {
        debug_assert_eq!(
            u64::from(self.granted) + u64::from(self.buffered) + u64::from(self.unclaimed),
            u64::from(self.window) + u64::from(self.early),
            "credit was lost or made up"
        );
    }
}

/// The piece, in bytes, that some senders want to send whole or not at all (PROTOCOL §5).
const SENDERS_WAIT_FOR: u32 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_refused_past_the_window() {
        let mut credit = SendCredit::new(100, 100);
        credit.spend(40);
        assert_eq!(credit.add(41), Err(CreditOverflow));
        assert_eq!(credit.add(u32::MAX), Err(CreditOverflow));
        assert_eq!(credit.add(40), Ok(()));
        assert_eq!(credit.available(), 100);
    }

    #[test]
    fn every_byte_gives_its_credit_back() {
        let mut credit = RecvCredit::new(1 << 20);
        let (mut sent, mut back) = (0u64, 0u64);
        for round in 0..10_000u32 {
            let piece = round * 37 % 65_536;
            if credit.receive(piece).is_ok() {
                sent += u64::from(piece);
            }
            credit.pass_on(credit.buffered() / 2, 0);
            back += u64::from(credit.claim(false).unwrap_or(0));
        }
        credit.pass_on(credit.buffered(), 0);
        back += u64::from(credit.claim(false).unwrap_or(0));
        assert!(sent > 1 << 22, "the window never reopened");
        assert!(
            sent - back < 1 << 18,
            "more than a quarter of the window was withheld"
        );
    }

    #[test]
    fn credit_given_early_does_not_go_back_twice() {
        let mut credit = RecvCredit::new(1 << 20);
        credit.receive(1 << 20).unwrap();
        credit.give_early(1 << 20);
        assert_eq!(credit.claim(false), Some(1 << 20));
        credit.receive(5).unwrap();
        credit.pass_on(1 << 20, 1 << 20);
        credit.pass_on(5, 0);
        assert_eq!(credit.buffered(), 0);
        assert_eq!(credit.claim(false), None);
    }

    #[test]
    fn nothing_is_never_given_back_however_small_the_window() {
        // A kit may say any window, and an increment of 0 is a protocol error.
        for window in [0, 1, 3, 4] {
            let mut credit = RecvCredit::new(window);
            assert_eq!(credit.claim(false), None);
            assert_eq!(credit.claim_of_session(), None);
            if credit.receive(1).is_ok() {
                credit.pass_on(1, 0);
                assert_eq!(credit.claim(false), Some(1));
            }
        }
    }

    #[test]
    fn a_sender_without_credit_for_one_piece_is_helped_before_a_quarter_is_gathered() {
        let mut credit = RecvCredit::new(1 << 20);
        credit.receive(1 << 20).unwrap();
        credit.pass_on(65_535, 0);
        assert_eq!(credit.claim(false), None);
        credit.pass_on(1, 0);
        assert_eq!(credit.claim(false), Some(65_536));
        // Who has as much as it may wait for is helped no sooner than others.
        let mut credit = RecvCredit::new(1 << 20);
        credit.receive((1 << 20) - 65_536).unwrap();
        credit.pass_on(65_536, 0);
        assert_eq!(credit.claim(false), None);
    }

    #[test]
    fn what_is_outstanding_is_what_was_sent_and_neither_given_back_nor_forgiven() {
        let mut credit = SendCredit::new(100, 100);
        credit.spend(90);
        credit.add(20).unwrap();
        assert_eq!((credit.outstanding(), credit.available()), (70, 30));
        credit.forgive(30);
        assert_eq!((credit.outstanding(), credit.available()), (40, 30));
        credit.forgive(41);
        assert_eq!((credit.outstanding(), credit.available()), (0, 30));
    }

    #[test]
    fn a_session_is_contended_from_half_of_its_window_on_until_three_quarters_are_back() {
        let mut credit = RecvCredit::new(1 << 20);
        credit.receive(1 << 18).unwrap();
        assert!(!credit.is_contended(false) && !credit.is_contended(true));
        credit.receive(1).unwrap();
        assert!(!credit.is_contended(false) && credit.is_contended(true));
        credit.receive((1 << 18) - 1).unwrap();
        assert!(!credit.is_contended(false) && credit.is_contended(true));
        credit.receive(1).unwrap();
        assert!(credit.is_contended(false) && credit.is_contended(true));
    }

    #[test]
    fn a_window_is_doubled_up_to_its_top_where_it_limits_and_the_local_side_keeps_up() {
        let (window, top) = (1 << 20, 16 << 20);
        let mut credit = RecvCredit::new(window);
        let enough = u64::from(window / 8 * 3);
        assert_eq!(credit.growth(enough - 1, top), None);
        assert_eq!(credit.growth(enough, top), Some(window));
        assert_eq!(credit.growth(enough, window + 5), Some(5));
        assert_eq!(credit.growth(enough, window), None);
        credit.receive(window / 4).unwrap();
        assert_eq!(credit.growth(enough, top), Some(window));
        credit.receive(1).unwrap();
        assert_eq!(credit.growth(enough, top), None);
    }

    #[test]
    fn the_less_the_peer_has_of_a_session_the_smaller_the_pieces_it_gets() {
        for (left, piece) in [(1 << 20, 1 << 18), (65_536, 16_384), (0, CLAIM_LEAST)] {
            let mut credit = RecvCredit::new(16 << 20);
            credit.receive((16 << 20) - left).unwrap();
            credit.pass_on(piece - 1, 0);
            assert_eq!(credit.claim_of_session(), None, "{left}");
            credit.pass_on(1, 0);
            assert_eq!(credit.claim_of_session(), Some(piece), "{left}");
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "credit was lost or made up")]
    fn credit_that_comes_from_nowhere_is_noticed() {
        let mut credit = RecvCredit::new(100);
        credit.granted += 1;
        credit.check();
    }
}
