//! A bounded slab whose keys carry a generation.
//!
//! A key that outlives its entry finds nothing, even when the slot has a new tenant: that is what
//! lets an event for a dead connection be ignored instead of hitting a stranger.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use slab::Slab;

/// The name of an entry in a [`Table<T>`]: a slot and the generation of its tenant.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The slot, dense from 0: a second table can run parallel to the first.
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
    pub fn unpack(packed: u64) -> Key<T> {
        Key {
            index: packed as u32,
            generation: (packed >> 32) as u32,
            of: PhantomData,
        }
    }

    /// The same name for a table seen as one of another type: a machine's private connection
    /// entries are plain `ConnKey`s for its host.
    pub fn retype<U>(self) -> Key<U> {
        Key {
            index: self.index,
            generation: self.generation,
            of: PhantomData,
        }
    }
}

/// At most `limit` entries of `T`, found by [`Key<T>`].
#[derive(Debug)]
pub struct Table<T> {
    slots: Slab<(u32, T)>,
    limit: usize,
    next_generation: u32,
}

impl<T> Table<T> {
    /// An empty table that will hold at most `limit` entries.
    pub fn new(limit: usize) -> Table<T> {
        Table {
            slots: Slab::new(),
            limit,
            next_generation: 1,
        }
    }

    /// Adds `value`, or gives it back when the table is full.
    pub fn insert(&mut self, value: T) -> Result<Key<T>, T> {
        if self.slots.len() >= self.limit {
            return Err(value);
        }
        let generation = self.next_generation;
        // Generation 0 is left out, so that a key packed to 0 is never alive.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        let index = self.slots.insert((generation, value));
        Ok(Key {
            index: index as u32,
            generation,
            of: PhantomData,
        })
    }

    /// The entry, unless it is gone.
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        match self.slots.get(key.index()) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The entry to change, unless it is gone.
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        match self.slots.get_mut(key.index()) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Takes the entry out; from then on `key` finds nothing.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.get(key)?;
        let (_, value) = self.slots.remove(key.index());
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
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.slots.iter().map(|(index, (generation, value))| {
            (
                Key {
                    index: index as u32,
                    generation: *generation,
                    of: PhantomData,
                },
                value,
            )
        })
    }

    /// All entries to change, in slot order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key<T>, &mut T)> {
        self.slots.iter_mut().map(|(index, (generation, value))| {
            (
                Key {
                    index: index as u32,
                    generation: *generation,
                    of: PhantomData,
                },
                value,
            )
        })
    }
}

/// An empty table keeps its slots up to this many.
const KEEP_SLOTS: usize = 64;

// Written by hand: a derive would ask `T` for the same trait, and a key holds no `T`.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.pack() == other.pack()
    }
}
impl<T> Eq for Key<T> {}
impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pack().cmp(&other.pack())
    }
}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pack().hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_even_when_its_slot_is_taken_again() {
        let mut table = Table::new(2);
        let old = table.insert("old").unwrap();
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert("new").unwrap();
        assert_eq!(old.index(), new.index());
        assert_eq!(table.get(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&"new"));
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = Table::new(1);
        table.insert(1).unwrap();
        assert_eq!(table.insert(2), Err(2));
        assert!(table.is_full());
    }

    #[test]
    fn keys_survive_packing() {
        let mut table = Table::new(10);
        table.insert(0).unwrap();
        let key = table.insert(1).unwrap();
        assert_eq!(Key::unpack(key.pack()), key);
    }
}
