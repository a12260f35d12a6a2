//! Which of the peer's stream ids were opened.
//!
//! Ids only grow, over all lanes of the session together (PROTOCOL §4); but lanes race, so a
//! smaller id may come after a larger one. What was jumped over is remembered as ranges.

use crate::limits::MAX_ID_GAPS;

/// The ids that the peer gave out so far.
#[derive(Debug)]
pub struct PeerIds {
    /// The smallest id above all that came.
    next: u32,
    /// All ids of the peer's parity were used.
    used_up: bool,
    /// Jumped-over ids `first..=last`, oldest first.
    gaps: Vec<(u32, u32)>,
    /// How many of those are remembered.
    most_gaps: usize,
    parity: u32,
}

impl PeerIds {
    /// None yet; the peer begins with `first`. So many that it opens may wait on lanes which are
    /// slower or down, each of them jumped over.
    pub fn new(first: u32, wait: usize) -> PeerIds {
        PeerIds {
            next: first,
            used_up: false,
            gaps: Vec::new(),
            most_gaps: wait.max(MAX_ID_GAPS),
            parity: first % 2,
        }
    }

    /// Takes `id` for a new stream. False when it is not the peer's to give, or was given before.
    pub fn open(&mut self, id: u32) -> bool {
        if !self.is_theirs(id) {
            return false;
        }
        if id >= self.next && !self.used_up {
            if id > self.next {
                self.add_gap(self.next, id - 2);
            }
            match id.checked_add(2) {
                Some(next) => self.next = next,
                None => self.used_up = true,
            }
            return true;
        }
        let Some(at) = self
            .gaps
            .iter()
            .position(|(first, last)| (*first..=*last).contains(&id))
        else {
            return false;
        };
        let (first, last) = self.gaps.remove(at);
        if id < last {
            self.gaps.insert(at, (id + 2, last));
        }
        if id > first {
            self.gaps.insert(at, (first, id - 2));
        }
        true
    }

    /// Whether the peer opened a stream with this id, at any time.
    pub fn was_opened(&self, id: u32) -> bool {
        self.is_theirs(id)
            && (id < self.next || self.used_up)
            && !self
                .gaps
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&id))
    }

    fn is_theirs(&self, id: u32) -> bool {
        id != 0 && id % 2 == self.parity
    }

    fn add_gap(&mut self, first: u32, last: u32) {
        if self.gaps.len() == self.most_gaps {
            // The oldest gap is the least likely to be filled; its ids count as used from now on.
            self.gaps.remove(0);
        }
        self.gaps.push((first, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_given_once_and_in_any_order_of_lanes() {
        let mut ids = PeerIds::new(2, 0);
        assert!(!ids.was_opened(2));
        assert!(ids.open(2));
        assert!(!ids.open(2));
        assert!(ids.open(10));
        assert!(!ids.was_opened(6));
        assert!(ids.open(6));
        assert!(!ids.open(6));
        assert!(ids.open(8) && ids.open(4));
        assert!((1..=5).all(|half| ids.was_opened(half * 2)));
        assert!(ids.gaps.is_empty(), "what was filled takes no place");
        assert!(!ids.open(3), "odd ids are ours");
        assert!(!ids.was_opened(0));
    }

    #[test]
    fn the_last_id_can_be_given_and_nothing_after_it() {
        let mut ids = PeerIds::new(1, 0);
        assert!(ids.open(u32::MAX));
        assert!(!ids.open(u32::MAX));
        assert!(ids.was_opened(u32::MAX));
        assert!(ids.open(u32::MAX - 2), "it was only jumped over");
    }
}
