//! Credit that goes back to the peer, so that no holder starves another (PROTOCOL §5).
//!
//! Credit follows the bytes: it goes back when the local side has taken them. Two things are added
//! for a session whose streams hold much of its window.
//!
//! *Contended*, it gathers less: a sender that shares fairly (`share.rs`) allows a stream no more
//! than its share, withheld credit included.
//!
//! *Early*, session credit goes back for bytes that are still here, so that the peer always has
//! some left for streams that hold little. That memory comes out of a budget of the owner's
//! ([`Session::set_budget`]), as do windows that grow. Where it does not suffice the session may
//! run *dry*: then newcomers should be refused, since nothing they are sent would arrive.

use crate::clock::Instant;
use crate::limits::{DRY_AFTER, EARLY_KEEPS_PIECES_OF};
use crate::mux::share::leave;

/// What a session knows of its streams' hold on its window.
#[derive(Debug)]
pub(super) struct Relief {
    pub(super) contended: bool,
    /// What the peer is to find left: enough that a sender which shares fairly gives each stream
    /// [`EARLY_KEEPS_PIECES_OF`] bytes, and any sender a newcomer its first pieces.
    pub(super) keep: u32,
    /// Bytes that may lie here beyond the first window: given early, or by a window that grew.
    pub(super) budget: u32,
    /// Since when the peer has next to nothing left.
    dry_since: Option<Instant>,
    /// A newcomer was refused for that.
    refused: bool,
}

impl Relief {
    pub(super) fn new(window: u32) -> Relief {
        Relief {
            contended: false,
            keep: leave(EARLY_KEEPS_PIECES_OF, window),
            budget: 0,
            dry_since: None,
            refused: false,
        }
    }

    /// How much of the budget is left where `beyond` of it is used.
    pub(super) fn spare(&self, beyond: u32) -> u32 {
        self.budget.saturating_sub(beyond)
    }

    /// Whether a newcomer is to be refused; remembers that one was.
    pub(super) fn refuses(&mut self, now: Instant) -> bool {
        let dry = self.dry_since.is_some_and(|since| now >= since + DRY_AFTER);
        self.refused |= dry;
        dry
    }

    /// Whether a newcomer was refused since the peer had something left.
    pub(super) fn has_refused(&self) -> bool {
        self.refused
    }

    /// The peer has next to nothing left.
    pub(super) fn runs_dry(&mut self, now: Instant) {
        self.dry_since.get_or_insert(now);
    }

    /// The peer has something left again.
    pub(super) fn is_wet(&mut self) {
        self.dry_since = None;
        self.refused = false;
    }

    /// The session's window is `window` now.
    pub(super) fn window_grew(&mut self, window: u32) {
        self.keep = leave(EARLY_KEEPS_PIECES_OF, window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_to_be_left_of_a_window_that_grew() {
        let mut relief = Relief::new(1 << 20);
        relief.window_grew(16 << 20);
        assert_eq!(relief.keep, Relief::new(16 << 20).keep);
        assert!(relief.keep > Relief::new(1 << 20).keep);
    }

    #[test]
    fn a_session_is_dry_after_a_while_and_no_longer_once_credit_came() {
        let mut relief = Relief::new(1 << 20);
        let now = Instant::ZERO;
        assert!(!relief.refuses(now + DRY_AFTER) && !relief.has_refused());
        relief.runs_dry(now);
        relief.runs_dry(now + DRY_AFTER);
        assert!(!relief.refuses(now), "it may pass");
        assert!(
            relief.refuses(now + DRY_AFTER),
            "counted from the first moment"
        );
        assert!(relief.has_refused());
        relief.is_wet();
        assert!(!relief.refuses(now + DRY_AFTER * 2) && !relief.has_refused());
        relief.budget = 5;
        assert_eq!((relief.spare(3), relief.spare(9)), (2, 0));
    }
}
