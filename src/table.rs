//! A bounded slab whose keys carry a generation.
//!
//! A key that outlives its entry finds nothing, even when the slot has a new tenant: that is what
//! lets an event for a dead connection be ignored instead of hitting a stranger. So a name that
//! comes from outside is looked up with [`Table::get`]. A name of our own, which is given up before
//! its entry goes, is looked up with [`Table::resolve`]: if nothing is there, that is a bug.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use slab::Slab;

/// The name of an entry in a [`Table`]: a slot and the generation of its tenant. The mark `K` says
/// which table it is for, without saying what stands there.
pub struct Key<K> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> K>,
}

impl<K> Key<K> {
    /// The slot's number, dense from the table's first: a second table can run parallel to it.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Told apart by this number from every tenant that the table has had, until 2^32 have come.
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// Slot and generation as one number; fits `mio::Token`.
    pub fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The reverse of [`Key::pack`].
    pub fn unpack(packed: u64) -> Key<K> {
        Key {
            index: packed as u32,
            generation: (packed >> 32) as u32,
            of: PhantomData,
        }
    }
}

/// At most `limit` entries of `T`, found by [`Key<K>`]. What nobody else names is its own mark.
#[derive(Debug)]
pub struct Table<K, T = K> {
    slots: Slab<(u32, T)>,
    /// The number of the first slot.
    first: usize,
    limit: usize,
    next_generation: u32,
    by: PhantomData<fn() -> K>,
}

impl<K, T> Table<K, T> {
    /// An empty table that will hold at most `limit` entries.
    pub fn new(limit: usize) -> Table<K, T> {
        Table::numbered_from(0, limit)
    }

    /// The same with slots that are numbered from `first` on, so that tables of one mark can have
    /// numbers of their own each.
    pub fn numbered_from(first: usize, limit: usize) -> Table<K, T> {
        Table {
            slots: Slab::new(),
            first,
            limit,
            next_generation: 1,
            by: PhantomData,
        }
    }

    /// The slot that a key names, if it is one of this table's.
    fn slot(&self, key: Key<K>) -> Option<usize> {
        key.index().checked_sub(self.first)
    }

    /// Adds `value`, or gives it back when the table is full.
    pub fn insert(&mut self, value: T) -> Result<Key<K>, T> {
        if self.slots.len() >= self.limit {
            return Err(value);
        }
        let generation = self.next_generation;
        // Generation 0 is left out, so that a key packed to 0 is never alive.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        let index = self.first + self.slots.insert((generation, value));
        Ok(Key {
            index: index as u32,
            generation,
            of: PhantomData,
        })
    }

    /// The entry, unless it is gone.
    pub fn get(&self, key: Key<K>) -> Option<&T> {
        match self.slots.get(self.slot(key)?) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The entry to change, unless it is gone.
    pub fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        match self.slots.get_mut(self.slot(key)?) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The entry of a key that is given up before its entry goes.
    ///
    /// # Panics
    ///
    /// When the entry is gone.
    #[track_caller]
    pub fn resolve(&self, key: Key<K>) -> &T {
        match self.get(key) {
            Some(value) => value,
            None => dangling(key),
        }
    }

    /// The entry to change, of a key that is given up before its entry goes.
    ///
    /// # Panics
    ///
    /// When the entry is gone.
    #[track_caller]
    pub fn resolve_mut(&mut self, key: Key<K>) -> &mut T {
        match self.get_mut(key) {
            Some(value) => value,
            None => dangling(key),
        }
    }

    /// Takes the entry out; from then on `key` finds nothing.
    pub fn remove(&mut self, key: Key<K>) -> Option<T> {
        self.get(key)?;
        let (_, value) = self.slots.remove(self.slot(key)?);
        if self.slots.is_empty() && self.slots.capacity() > KEEP_SLOTS {
            // After a storm the table must not hold the memory of the storm.
            self.slots = Slab::new();
        }
        Some(value)
    }

    /// Gives memory of slots back that lie behind the last entry.
    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next insert will be refused.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.limit
    }

    /// All entries, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Key<K>, &T)> {
        self.slots.iter().map(|(slot, (generation, value))| {
            (
                Key {
                    index: (self.first + slot) as u32,
                    generation: *generation,
                    of: PhantomData,
                },
                value,
            )
        })
    }

    /// The keys of all entries, in slot order.
    pub fn keys(&self) -> impl Iterator<Item = Key<K>> {
        self.iter().map(|(key, _)| key)
    }

    /// All entries to change, in slot order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key<K>, &mut T)> {
        let first = self.first;
        self.slots
            .iter_mut()
            .map(move |(slot, (generation, value))| {
                (
                    Key {
                        index: (first + slot) as u32,
                        generation: *generation,
                        of: PhantomData,
                    },
                    value,
                )
            })
    }
}

/// What some of a table's entries are to somebody else: found by the same keys, at the same cost.
///
/// It does not hear of entries that go. Whoever keeps a side takes out what the table drops, and
/// until it has, may find what was there.
#[derive(Debug)]
pub struct Side<K, T> {
    slots: Vec<Option<(u32, T)>>,
    len: usize,
    by: PhantomData<fn() -> K>,
}

impl<K, T> Side<K, T> {
    /// Nothing of nobody.
    pub const fn new() -> Side<K, T> {
        Side {
            slots: Vec::new(),
            len: 0,
            by: PhantomData,
        }
    }

    /// Keeps `value` for `key`, in the place of what was kept for it or its slot's last tenant.
    pub fn insert(&mut self, key: Key<K>, value: T) {
        if self.slots.len() <= key.index() {
            self.slots.resize_with(key.index() + 1, || None);
        }
        let slot = &mut self.slots[key.index()];
        self.len += usize::from(slot.is_none());
        *slot = Some((key.generation, value));
    }

    /// What is kept, if anything is.
    pub fn get(&self, key: Key<K>) -> Option<&T> {
        match self.slots.get(key.index()) {
            Some(Some((generation, value))) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// What is kept, to change.
    pub fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        match self.slots.get_mut(key.index()) {
            Some(Some((generation, value))) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Takes out what is kept.
    pub fn remove(&mut self, key: Key<K>) -> Option<T> {
        self.get(key)?;
        let (_, value) = self.slots[key.index()].take()?;
        self.len -= 1;
        if self.len == 0 && self.slots.capacity() > KEEP_SLOTS {
            self.slots = Vec::new();
        }
        Some(value)
    }

    /// Gives memory of slots back that lie behind the last value.
    pub fn shrink(&mut self) {
        let end = self.slots.iter().rposition(Option::is_some);
        self.slots.truncate(end.map_or(0, |last| last + 1));
        self.slots.shrink_to_fit();
    }

    /// How many values are kept.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<K, T> Default for Side<K, T> {
    fn default() -> Self {
        Side::new()
    }
}

#[cold]
#[track_caller]
fn dangling<K>(key: Key<K>) -> ! {
    panic!("{key:?} outlived what it names")
}

/// An empty table keeps its slots up to this many.
const KEEP_SLOTS: usize = 64;

// Written by hand: a derive would ask `K` for the same trait, and a key holds no `K`.
impl<K> Clone for Key<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Key<K> {}
impl<K> PartialEq for Key<K> {
    fn eq(&self, other: &Self) -> bool {
        self.pack() == other.pack()
    }
}
impl<K> Eq for Key<K> {}
impl<K> PartialOrd for Key<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Key<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pack().cmp(&other.pack())
    }
}
impl<K> Hash for Key<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pack().hash(state);
    }
}
impl<K> fmt::Debug for Key<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_one_mark_can_have_numbers_of_their_own() {
        let (mut low, mut high) = (Table::new(2), Table::numbered_from(2, 2));
        let (a, b): (Key<u8>, Key<u8>) = (low.insert(1).unwrap(), high.insert(2).unwrap());
        assert_eq!((a.index(), b.index()), (0, 2));
        assert_eq!(
            (high.get(b), high.get(a), low.get(b)),
            (Some(&2), None, None)
        );
        assert_eq!(high.keys().collect::<Vec<_>>(), [b]);
        assert_eq!(high.iter_mut().map(|(key, _)| key).collect::<Vec<_>>(), [b]);
        assert_eq!((high.remove(a), high.remove(b)), (None, Some(2)));
    }

    #[test]
    fn a_stale_key_finds_nothing_even_when_its_slot_is_taken_again() {
        let mut table = Table::<(), _>::new(2);
        let old = table.insert("old").unwrap();
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert("new").unwrap();
        assert_eq!(old.index(), new.index());
        assert_eq!(table.get(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&"new"));
    }

    #[test]
    fn a_key_of_our_own_finds_its_entry_or_shows_the_bug() {
        let mut table = Table::<(), _>::new(1);
        let key = table.insert(1).unwrap();
        *table.resolve_mut(key) += 1;
        assert_eq!(*table.resolve(key), 2);
        table.remove(key);
        let looked = std::panic::catch_unwind(|| *table.resolve(key));
        let said = *looked.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(said, "#0.1 outlived what it names");
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = Table::<(), _>::new(1);
        table.insert(1).unwrap();
        assert_eq!(table.insert(2), Err(2));
        assert!(table.is_full());
    }

    #[test]
    fn a_side_keeps_what_belongs_to_a_key_and_not_to_its_slot() {
        let mut table = Table::<(), _>::new(4);
        let mut side = Side::new();
        let [first, second] = ["a", "b"].map(|name| table.insert(name).unwrap());
        side.insert(second, 2);
        assert_eq!((side.get(first), side.get(second)), (None, Some(&2)));
        table.remove(second);
        let third = table.insert("c").unwrap();
        assert_eq!(third.index(), second.index());
        assert_eq!(side.get(third), None);
        side.insert(third, 3);
        assert_eq!((side.remove(second), side.len()), (None, 1));
        side.shrink();
        *side.get_mut(third).unwrap() += 1;
        assert_eq!(side.remove(third), Some(4));
        side.shrink();
        assert_eq!((side.get(third), side.len()), (None, 0));
    }

    #[test]
    fn keys_survive_packing() {
        let mut table = Table::<(), _>::new(10);
        table.insert(0).unwrap();
        let key = table.insert(1).unwrap();
        assert_eq!(Key::unpack(key.pack()), key);
    }
}
