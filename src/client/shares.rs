//! Who holds how much of a bound, so that one holder cannot have all of it.
//!
//! While plenty is free anybody may take. The last eighth is kept for those who hold less than
//! their share, so whoever holds most is the first to be told no, and a newcomer finds something.

use std::collections::BTreeMap;

/// See the module. `H` names a holder.
#[derive(Debug)]
pub(super) struct Shares<H> {
    held: BTreeMap<H, usize>,
    total: usize,
}

impl<H: Ord + Copy> Shares<H> {
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
        let share = most / (others + 2);
        left >= most / KEPT || self.of(holder) + amount <= share.max(amount)
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

/// One part in so many is kept for those who hold little.
const KEPT: usize = 8;

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
        for visitor in ["a", "b", "c", "d", "e"] {
            for _ in 0..2 {
                assert!(shares.may_take(visitor, 1, 80), "{visitor}");
                shares.take(visitor, 1);
            }
        }
        assert!(!shares.may_take("f", 1, 80), "all is taken");
        shares.give_back("greedy", 1);
        assert!(!shares.may_take("greedy", 1, 80), "who holds most yields");
        assert!(shares.may_take("f", 1, 80));
        assert_eq!((shares.total(), shares.of("a")), (79, 2));
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
