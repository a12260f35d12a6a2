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
use crate::limits::{DRY_AFTER, DRY_BELOW, EARLY_KEEPS_PIECES_OF};
use crate::mux::session::Session;
use crate::mux::share::leave;
use crate::mux::stream::{Stream, StreamKey};

/// What a session knows of its streams' hold on its window.
#[derive(Debug)]
pub(super) struct Relief {
    contended: bool,
    /// What the peer is to find left: enough that a sender which shares fairly gives each stream
    /// [`EARLY_KEEPS_PIECES_OF`] bytes, and any sender a newcomer its first pieces.
    keep: u32,
    /// Bytes that may lie here beyond the first window: given early, or by a window that grew.
    budget: u32,
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

    /// The session's window is `window` now.
    pub(super) fn window_grew(&mut self, window: u32) {
        self.keep = leave(EARLY_KEEPS_PIECES_OF, window);
    }
}

impl<T: Copy> Session<T> {
    /// How many bytes of the peer's this session may hold beyond its first window.
    pub fn set_budget(&mut self, bytes: u32) {
        self.relief.budget = bytes;
    }

    /// How many of those it uses: what the owner's budgets are reckoned with.
    pub fn beyond_window(&self) -> u32 {
        self.recv.early() + (self.recv.window() - self.terms.session_window)
    }

    /// What is missing of that which the peer is to find left.
    fn missing(&self) -> u32 {
        self.relief.keep.saturating_sub(self.recv.left())
    }

    /// What is left of the budget.
    pub(super) fn spare(&self) -> u32 {
        self.relief.budget.saturating_sub(self.beyond_window())
    }

    /// Whether a newcomer is to be refused, since others hold all there is and what it is sent
    /// would not arrive.
    pub fn refuses_newcomers(&mut self, now: Instant) -> bool {
        let dry = self
            .relief
            .dry_since
            .is_some_and(|since| now >= since + DRY_AFTER);
        self.relief.refused |= dry;
        dry
    }

    /// Whether others are short of what the streams hold: there are some that have nothing to pass
    /// on, or would be, had they not been refused.
    pub(super) fn somebody_is_short(&self) -> bool {
        let waits = |stream: &Stream<T>| !stream.remote_done() && stream.recv.buffered() == 0;
        self.relief.refused || self.streams.iter().any(|(_, stream)| waits(stream))
    }

    /// The local side took `count` bytes of the stream's DATA: their credit goes back.
    pub fn passed_on(&mut self, key: StreamKey, count: usize, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let count = count as u32;
        let early = stream.early.min(count);
        stream.early -= early;
        stream.recv.pass_on(count, 0);
        stream.last_taken = now;
        stream.last_moved = now;
        let increment = match stream.remote_done() {
            true => None,
            false => stream.recv.claim(self.relief.contended),
        };
        let (id, lane) = (stream.id, stream.lane);
        if let Some(increment) = increment {
            self.push_window(lane, id, increment);
        }
        self.recv.pass_on(count, early);
        self.give_session_credit();
        self.drop_if_spent(key);
    }

    pub(super) fn give_session_credit(&mut self) {
        if let Some(increment) = self.recv.claim_of_session() {
            self.push_window(0, 0, increment);
        }
        if self.recv.left() >= DRY_BELOW {
            self.relief.dry_since = None;
            self.relief.refused = false;
        }
        if self.relief.contended {
            self.relief.contended = self.recv.is_contended(true);
        }
    }

    /// DATA of a stream was booked: sees to it that the peer has some left for the others.
    #[inline]
    pub(super) fn relieve(&mut self, key: StreamKey, now: Instant) {
        if !self.relief.contended && self.recv.is_contended(false) {
            self.relief.contended = true;
            self.give_withheld();
        }
        if !self.relief.contended || self.missing() == 0 {
            return;
        }
        self.give_early(key);
        // Looking over all of them is worth it only for much.
        let much = self.relief.keep / 4;
        if self.missing() > much && self.spare() > much {
            self.relieve_all();
        }
        if self.recv.left() < DRY_BELOW {
            self.relief.dry_since.get_or_insert(now);
        }
    }

    /// Gives session credit back for what the stream holds, as much as is missing and the budget
    /// has.
    fn give_early(&mut self, key: StreamKey) {
        let most = self.missing().min(self.spare());
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let held = stream.recv.buffered() - stream.early;
        let count = held.min(most);
        if count != 0 {
            stream.early += count;
            self.recv.give_early(count);
            self.give_session_credit();
        }
    }

    /// Gives all streams what they withhold.
    fn give_withheld(&mut self) {
        let mut windows = Vec::new();
        for (_, stream) in self.streams.iter_mut().filter(|(_, it)| !it.remote_done()) {
            let increment = stream.recv.claim_withheld();
            windows.extend(increment.map(|increment| (stream.lane, stream.id, increment)));
        }
        for (lane, id, increment) in windows {
            self.push_window(lane, id, increment);
        }
    }

    /// Has those streams that hold most make good what is missing. Says whether the budget
    /// sufficed.
    pub(super) fn relieve_all(&mut self) -> bool {
        if self.missing() == 0 {
            return true;
        }
        let held = |stream: &Stream<T>| stream.recv.buffered() - stream.early;
        let mut holders: Vec<(u32, StreamKey)> = self
            .streams
            .iter()
            .filter(|(_, stream)| held(stream) != 0)
            .map(|(key, stream)| (held(stream), key))
            .collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in holders {
            if self.missing() == 0 || self.spare() == 0 {
                break;
            }
            self.give_early(key);
        }
        self.missing() == 0
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
}
