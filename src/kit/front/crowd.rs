//! Who holds places of which there are few, and who is the first to go for a newcomer.
//!
//! Of the holder that has the most places, whoever is missed least; among holders that have the
//! same, whoever is missed least of all. So a flood of one holder displaces itself, and one of many
//! holders displaces those that came first. Every question costs the logarithm of the crowd.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

type Order<K, W> = (W, Reverse<K>);

/// See the module. `K` names a member, `H` its holder; of two members the one with the larger `W`
/// is missed less, and of equals the one with the smaller name, which came first.
#[derive(Debug)]
pub(in crate::kit) struct Crowd<K, H, W> {
    members: BTreeMap<K, (H, W)>,
    of: BTreeMap<H, BTreeSet<Order<K, W>>>,
    /// Each holder by how much it has and by its own first to go.
    holders: BTreeSet<(usize, Order<K, W>, H)>,
}

impl<K: Ord + Copy, H: Ord + Copy, W: Ord + Copy> Crowd<K, H, W> {
    pub(crate) const fn new() -> Crowd<K, H, W> {
        Crowd {
            members: BTreeMap::new(),
            of: BTreeMap::new(),
            holders: BTreeSet::new(),
        }
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// How many of them are this holder's.
    pub(crate) fn held_by(&self, holder: H) -> usize {
        self.of.get(&holder).map_or(0, BTreeSet::len)
    }

    /// Whose a member is, and how little it is missed.
    pub(crate) fn get(&self, key: K) -> Option<(H, W)> {
        self.members.get(&key).copied()
    }

    /// `key` is a member for this holder, or with `None` is none.
    pub(crate) fn set(&mut self, key: K, member: Option<(H, W)>) {
        if self.get(key) == member {
            return;
        }
        if let Some((holder, weight)) = self.members.remove(&key) {
            self.change(holder, |of| of.remove(&(weight, Reverse(key))));
        }
        if let Some((holder, weight)) = member {
            self.members.insert(key, (holder, weight));
            self.change(holder, |of| of.insert((weight, Reverse(key))));
        }
    }

    /// Who goes first, and how much its holder has.
    pub(crate) fn first_to_go(&self) -> Option<(K, usize)> {
        let (count, (_, Reverse(key)), _) = self.holders.last()?;
        Some((*key, *count))
    }

    fn change(&mut self, holder: H, change: impl FnOnce(&mut BTreeSet<Order<K, W>>) -> bool) {
        let of = self.of.entry(holder).or_default();
        if let Some(first) = of.last() {
            self.holders.remove(&(of.len(), *first, holder));
        }
        change(of);
        if let Some(first) = of.last() {
            self.holders.insert((of.len(), *first, holder));
        } else {
            self.of.remove(&holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    fn leaves(crowd: &mut Crowd<u32, char, u32>) -> Option<u32> {
        let (key, _) = crowd.first_to_go()?;
        crowd.set(key, None);
        Some(key)
    }

    #[test]
    fn of_whoever_holds_most_goes_who_is_missed_least() {
        let mut crowd = Crowd::new();
        for (key, holder, weight) in [(1, 'a', 9), (2, 'b', 1), (3, 'b', 3), (4, 'b', 2)] {
            crowd.set(key, Some((holder, weight)));
        }
        assert_eq!(crowd.first_to_go(), Some((3, 3)));
        assert_eq!(leaves(&mut crowd), Some(3));
        assert_eq!(leaves(&mut crowd), Some(4));
        // Now both hold one, and the other is missed less.
        assert_eq!(leaves(&mut crowd), Some(1));
        assert_eq!(leaves(&mut crowd), Some(2));
        assert_eq!(leaves(&mut crowd), None);
        assert_eq!(crowd.len(), 0);
    }

    #[test]
    fn it_agrees_with_counting_everybody_however_members_change() {
        let mut entropy = Entropy::from_seed(7);
        let mut crowd: Crowd<u32, u32, u32> = Crowd::new();
        let mut plain: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for _ in 0..20_000 {
            let key = entropy.below(40);
            let member = (entropy.below(3) > 0).then(|| (entropy.below(6), entropy.below(9)));
            crowd.set(key, member);
            match member {
                Some(member) => drop(plain.insert(key, member)),
                None => drop(plain.remove(&key)),
            }
            let held = |holder| plain.values().filter(|(of, _)| *of == holder).count();
            let first = plain
                .iter()
                .map(|(key, (holder, weight))| (held(*holder), *weight, Reverse(*key)))
                .max();
            assert_eq!(
                crowd.first_to_go(),
                first.map(|(count, _, Reverse(key))| (key, count))
            );
            assert_eq!((crowd.len(), crowd.held_by(2)), (plain.len(), held(2)));
            assert_eq!(crowd.of.len(), crowd.holders.len());
        }
    }
}
