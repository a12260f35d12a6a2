//! How the streams of a session share its credit (PROTOCOL §5).
//!
//! A window that goes to whoever asks first ends with whoever reads slowest. So a sender gives each
//! stream a *share*: as long as half of the window is left it limits nobody, and as less is left it
//! falls with the cube of that. Whoever holds most waits first, the last part is left to streams
//! that hold little, and it does not run dry: `n` streams that want more than there is settle at
//! about an `n`th of the window each. Nothing has to be known about how many or how slow they are.
//!
//! A receiver can steer such a sender: what it leaves of the window decides the share ([`leave`]).
//!
//! Who waits stands in a [`Line`], least outstanding first, and is called when its share has grown
//! enough. What a stream was called for is *promised* to it until it has sent, so that a little
//! credit does not call a thousand.

use std::collections::BTreeSet;

use crate::limits::{SHARE_LEAST_PART, SHARE_WORTH};
use crate::mux::keys::StreamKey;

/// How many bytes a stream that has `own` outstanding may have so while `available` of the
/// session's `window` are left: 4 a³ / w², and where that is hardly worth a frame a part of what is
/// left. One that has the session nearly to itself may have all but an eighth.
pub(super) fn share(available: u32, window: u32, own: u32) -> u32 {
    let (left, window) = (u64::from(available), u64::from(window.max(1)));
    let part = (left * left / window).saturating_mul(left) / window;
    let others = window.saturating_sub(left).saturating_sub(u64::from(own));
    let alone = (window / 8 * 7).saturating_sub(4 * others);
    let share = part
        .saturating_mul(4)
        .max(left / SHARE_LEAST_PART)
        .max(alone);
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// How much of `window` a receiver has to leave so that the share is `wanted` bytes: the reverse.
pub(super) fn leave(wanted: u32, window: u32) -> u32 {
    let cube = u128::from(wanted) * u128::from(window) * u128::from(window) / 4;
    let (mut low, mut high) = (0, window);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match u128::from(middle).pow(3) <= cube {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

/// A place in the line: outstanding bytes, when it sent last, which stream.
pub(super) type Place = (u32, u64, StreamKey);

/// Streams that wait for their share, and what was promised to those that were called.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: BTreeSet<Place>,
    promised: u32,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn join(&mut self, place: Place) {
        self.waiting.insert(place);
    }

    pub(super) fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// The next one to be called, and what is promised to it, of `available` bytes.
    pub(super) fn call(&mut self, available: u32, window: u32) -> Option<(StreamKey, u32)> {
        let free = available.saturating_sub(self.promised);
        let (outstanding, _, key) = *self.waiting.first()?;
        let share = share(available, window, outstanding);
        let may = share.saturating_sub(outstanding);
        if free == 0 || may < (share / 2).clamp(1, SHARE_WORTH) {
            return None;
        }
        let promise = may.min(free);
        self.waiting.pop_first();
        self.promised += promise;
        Some((key, promise))
    }

    /// A stream used its promise, or does not want it any more.
    pub(super) fn settle(&mut self, promise: u32) {
        self.promised -= promise;
    }

    pub(super) fn promised(&self) -> u32 {
        self.promised
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Place> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Key;

    const WINDOW: u32 = 16 << 20;

    fn key(number: u64) -> StreamKey {
        Key::unpack(1 << 32 | number)
    }

    #[test]
    fn nobody_is_limited_while_half_of_the_window_is_left() {
        for window in [256 << 10, 1 << 20, WINDOW, u32::MAX] {
            assert!(share(window / 2 + 1, window, 0) >= window / 2);
            assert_eq!(share(0, window, 0), 0);
            assert!(share(window / 8, window, window / 8 * 7) >= window / 8 * 7 - 64);
        }
        assert_eq!(share(u32::MAX, 0, 0), u32::MAX);
    }

    #[test]
    fn however_many_want_more_than_there_is_each_gets_its_part_and_some_is_left() {
        for count in [1u32, 2, 17, 100, 1000, 5000] {
            let mut held = vec![0u32; count as usize];
            let mut left = WINDOW;
            // Greedy streams that give nothing back take turns until nobody may have more.
            loop {
                let before = left;
                for held in &mut held {
                    let may = share(left, WINDOW, *held).saturating_sub(*held).min(left);
                    *held += may.min(1024);
                    left -= may.min(1024);
                }
                if left == before {
                    break;
                }
            }
            let most = held.iter().max().copied().unwrap_or(0);
            let least = held.iter().min().copied().unwrap_or(0);
            assert!(left > 0, "{count} used it up");
            assert!(left >= WINDOW / (2 * count + 16), "{count} left {left}");
            assert!(
                most - least <= 1024 + most / 2,
                "{count}: {least} to {most}"
            );
            assert!(most <= 2 * WINDOW / count, "{count}: one has {most}");
        }
    }

    #[test]
    fn where_the_law_leaves_next_to_nothing_a_part_of_what_is_left_is_worth_a_frame() {
        assert_eq!(share(1 << 16, WINDOW, 0), 1 << 9);
    }

    #[test]
    fn a_receiver_can_tell_what_it_has_to_leave() {
        for window in [256 << 10, 1 << 20, WINDOW, 64 << 20] {
            let left = leave(64 << 10, window);
            let share = share(left, window, 0);
            assert!(
                left < window / 2 && share <= 64 << 10,
                "{left} of {window}: {share}"
            );
            assert!(share >= 63 << 10, "{left} of {window}: {share}");
        }
    }

    #[test]
    fn whoever_holds_least_is_called_first_and_no_more_than_credit_covers() {
        let mut line = Line::default();
        for number in 0..1000u32 {
            line.join((number * 16, 7, key(u64::from(number))));
        }
        let available = 1 << 20;
        let mut called = Vec::new();
        while let Some((key, promise)) = line.call(available, WINDOW) {
            called.push((key, promise));
        }
        let sum: u32 = called.iter().map(|(_, promise)| promise).sum();
        assert_eq!(line.promised(), sum);
        assert!(sum <= available && called.len() < 100, "{}", called.len());
        assert!(
            called
                .iter()
                .zip(0..)
                .all(|((it, _), number)| *it == key(number))
        );
        for (_, promise) in called {
            line.settle(promise);
        }
        assert_eq!(line.promised(), 0);
        assert!(line.call(available, WINDOW).is_some());
    }

    #[test]
    fn who_holds_its_share_is_not_called_for_crumbs() {
        let mut line = Line::default();
        let share = share(4 << 20, WINDOW, 0);
        line.join((share - SHARE_WORTH + 1, 0, key(1)));
        assert_eq!(line.call(4 << 20, WINDOW), None);
        line.join((share - SHARE_WORTH, 0, key(2)));
        assert_eq!(line.call(4 << 20, WINDOW), Some((key(2), SHARE_WORTH)));
    }
}
