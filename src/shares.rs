//! Who holds how much of a bound, so that one holder cannot have all of it.
//!
//! While plenty is free anybody may take. The last eighth is kept for those who hold less than
//! their share, so whoever holds most is the first to be told no, and a newcomer finds something.
//! The less is left of it, the less one may hold: two or three who are greedy cannot have it all.

use std::collections::BTreeMap;

/// See the module. `H` names a holder.
#[derive(Debug)]
pub struct Shares<H> {
    held: BTreeMap<H, usize>,
    total: usize,
}

impl<H: Ord + Copy> Shares<H> {
    /// Nobody holds anything.
    pub fn new() -> Shares<H> {
        Shares {
            held: BTreeMap::new(),
            total: 0,
        }
    }

    /// What all hold together.
    pub fn total(&self) -> usize {
        self.total
    }

    /// What one holds.
    pub fn of(&self, holder: H) -> usize {
        self.held.get(&holder).copied().unwrap_or(0)
    }

    /// Whether `holder` may take `amount`, where all may hold `most` together.
    pub fn may_take(&self, holder: H, amount: usize, most: usize) -> bool {
        let Some(left) = most
            .checked_sub(self.total)
            .and_then(|free| free.checked_sub(amount))
        else {
            return false;
        };
        // There is always one more to come, for whom the last part is kept.
        let others = self.held.len() - usize::from(self.held.contains_key(&holder));
        let share = (most / (others + 2)).max(amount);
        let held = self.of(holder) + amount;
        is_plenty(left, most) || held <= share && may_hold(held, amount, left, most)
    }

    /// `holder` takes `amount`.
    pub fn take(&mut self, holder: H, amount: usize) {
        *self.held.entry(holder).or_default() += amount;
        self.total += amount;
    }

    /// `holder` gives `amount` back of what it took.
    pub fn give_back(&mut self, holder: H, amount: usize) {
        let Some(held) = self.held.get_mut(&holder) else {
            assert!(amount == 0, "more was given back than taken");
            return;
        };
        *held = held
            .checked_sub(amount)
            .expect("a holder gave more back than it took");
        self.total -= amount;
        if *held == 0 {
            self.held.remove(&holder);
        }
    }
}

impl<H: Ord + Copy> Default for Shares<H> {
    fn default() -> Shares<H> {
        Shares::new()
    }
}

/// Whether one may hold `held`, after it took `amount` and `left` of `most` were left.
pub fn may_hold(held: usize, amount: usize, left: usize, most: usize) -> bool {
    is_plenty(left, most) || held <= ((left + amount) / PIECE).max(amount)
}

/// Whether anybody may take where `left` of `most` would be left.
pub fn is_plenty(left: usize, most: usize) -> bool {
    left >= most / KEPT
}

/// One part in so many is kept for those who hold little.
const KEPT: usize = 8;
/// Of what is left of that, each may hold one part in so many.
const PIECE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_leaves_the_last_eighth_to_others() {
        let mut shares = Shares::new();
        let mut taken = 0;
        while shares.may_take("greedy", 1, 80) {
            shares.take("greedy", 1);
            taken += 1;
        }
        assert_eq!(taken, 70);
        while shares.may_take("second", 1, 80) {
            shares.take("second", 1);
        }
        assert_eq!(shares.of("second"), 2, "the next greedy one finds less");
        for visitor in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            assert!(shares.may_take(visitor, 1, 80), "{visitor}");
            shares.take(visitor, 1);
        }
        assert!(!shares.may_take("i", 1, 80), "all is taken");
        shares.give_back("greedy", 1);
        assert!(!shares.may_take("greedy", 1, 80), "who holds most yields");
        assert!(shares.may_take("i", 1, 80));
        assert_eq!((shares.total(), shares.of("a")), (79, 1));
    }

    #[test]
    fn a_dozen_greedy_holders_leave_something_to_the_next() {
        let mut shares = Shares::new();
        for greedy in 0..12 {
            while shares.may_take(greedy, 1, 1024) {
                shares.take(greedy, 1);
            }
        }
        assert_eq!(shares.of(0), 896);
        assert!(shares.may_take(99, 1, 1024), "{} are taken", shares.total());
    }

    #[test]
    fn where_many_hold_something_one_may_hold_its_share_and_no_more() {
        let mut shares = Shares::new();
        for other in 0..40 {
            shares.take(other, 137);
        }
        // For forty others, itself and one who is to come.
        let share = 6400 / 42;
        shares.take(99, share - 1);
        assert!(shares.may_take(99, 1, 6400));
        shares.take(99, 1);
        assert!(!shares.may_take(99, 1, 6400));
        let left = 6400 - shares.total() - 1;
        assert!(
            may_hold(share + 1, 1, left, 6400),
            "only its share forbids it"
        );
    }

    #[test]
    fn of_the_last_part_one_may_hold_a_piece_and_no_more() {
        assert!(may_hold(2, 1, 7, 80));
        assert!(!may_hold(3, 1, 7, 80));
        assert!(may_hold(80, 1, 10, 80), "that is plenty");
        assert!(
            may_hold(9, 9, 0, 80),
            "a piece is never less than was asked for"
        );
    }

    #[test]
    fn whoever_is_alone_and_small_bounds_still_get_something() {
        let mut shares = Shares::new();
        assert!(shares.may_take("one", 1, 1));
        assert!(!shares.may_take("one", 1, 0));
        assert!(!shares.may_take("one", 9, 8), "more than there is");
        shares.take("one", 1);
        assert!(!shares.may_take("other", 1, 1));
        shares.give_back("one", 1);
        assert_eq!(shares.total(), 0);
        assert!(shares.held.is_empty(), "nothing is remembered of who left");
    }
}
