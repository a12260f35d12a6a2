//! Who fills a lane's queue next.
//!
//! A lane's queue takes bulk up to a bound. Who finds it full, or finds others waiting for it, gets
//! in line, and when half of the queue is free the line moves. Its order is start-time fair queuing
//! (Goyal, Vin and Cheng, 1996): a virtual clock counts the bytes that a stream which sends all the
//! time was given, a stream's turn *starts* where its last one ended but never behind the clock,
//! and whoever would *end* first goes first, if it sends as much as last time. So streams that want
//! much take turns, and one that wants little goes ahead of a thousand of them, also where there is
//! a little room while they wait. Every sixteenth turn is that of the one that waits longest, and
//! what passes a line that does not move is bounded, so that nobody waits for ever behind a crowd
//! of newcomers that want little.
//!
//! Only as many are called as there is room for. What they may send is *expected* until they have
//! tried, and counts as if it were in the queue.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{LANE_QUEUE_SOFT, SHARE_WORTH};
use crate::mux::keys::StreamKey;

/// Every so many calls go to whoever waits longest.
const OLDEST_EVERY: u64 = 16;

/// What a stream had of its lane so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turns {
    /// Where its current turn starts.
    start: u64,
    /// Where its last turn ended.
    end: u64,
    /// How much it sent then: the best guess of what it will send next.
    piece: u32,
    /// It sends past others who wait.
    passes: bool,
}

impl Turns {
    /// Of a stream that sent nothing yet.
    pub(super) fn new() -> Turns {
        Turns {
            start: 0,
            end: 0,
            piece: SHARE_WORTH,
            passes: false,
        }
    }

    /// How much it is thought to send that has at most `wanted` bytes to send.
    fn guess(&self, wanted: usize) -> u64 {
        u64::from(self.piece).min(wanted as u64)
    }
}

/// Where a stream stands in its lane's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoomPlace {
    start: u64,
    /// Where its turn ends if it sends as much as last time.
    end: u64,
    /// Since when it waits, counted in streams that got in line.
    since: u64,
}

/// What a stream may do that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Called {
    /// Where it stood: it gets its place back if somebody was faster.
    place: RoomPlace,
    /// What it is expected to send.
    expected: u32,
}

/// The streams that wait for room in a lane's queue.
#[derive(Debug, Default)]
pub(super) struct RoomLine {
    first_to_end: BTreeSet<(u64, u64, StreamKey)>,
    oldest: BTreeMap<u64, (RoomPlace, StreamKey)>,
    /// The virtual clock: where the turn started of whoever sent last.
    clock: u64,
    /// How many got in line so far.
    joined: u64,
    /// How many were called so far.
    calls: u64,
    /// What those are expected to send who were called and have not tried yet.
    expected: usize,
    /// What others sent since the line moved last.
    passed: usize,
}

impl RoomLine {
    pub(super) fn is_empty(&self) -> bool {
        self.oldest.is_empty()
    }

    /// The virtual clock, which does not run ahead of whoever waits longest: what others would have
    /// had in the meantime is no reason to go behind it.
    fn now(&self) -> u64 {
        match self.oldest.first_key_value() {
            Some((_, (place, _))) => self.clock.min(place.start),
            None => self.clock,
        }
    }

    /// Where the next turn starts of a stream that was not called.
    fn start_of(&self, turns: &Turns) -> u64 {
        turns.end.max(self.now())
    }

    /// What was called for and is not in the queue yet, in bytes.
    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    /// Whether it is the turn of a stream now, which may have been called.
    pub(super) fn is_turn_of(
        &self,
        turns: &mut Turns,
        called: Option<Called>,
        wanted: usize,
    ) -> bool {
        turns.start = match called {
            Some(called) => called.place.start,
            None => self.start_of(turns),
        };
        let end = turns.start + turns.guess(wanted);
        turns.passes = called.is_none() && !self.is_empty();
        let ahead =
            |(first, ..): &(u64, u64, StreamKey)| end < *first && self.passed < LANE_QUEUE_SOFT / 2;
        !turns.passes || self.first_to_end.first().is_some_and(ahead)
    }

    /// A stream whose turn it was sent `count` bytes.
    pub(super) fn sent(&mut self, turns: &mut Turns, count: u32) {
        self.clock = self.clock.max(turns.start);
        turns.end = turns.start + u64::from(count);
        turns.piece = count;
        if turns.passes {
            self.passed += count as usize;
        }
    }

    /// Gets a stream in line; one that was `called` in vain gets its place back.
    pub(super) fn join(
        &mut self,
        key: StreamKey,
        turns: &Turns,
        called: Option<Called>,
        wanted: usize,
    ) -> RoomPlace {
        let place = called.map_or_else(
            || {
                let start = self.start_of(turns);
                self.joined += 1;
                RoomPlace {
                    start,
                    end: start + turns.guess(wanted),
                    since: self.joined,
                }
            },
            |called| called.place,
        );
        self.first_to_end.insert((place.end, place.since, key));
        self.oldest.insert(place.since, (place, key));
        place
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.oldest.len()
    }

    /// Whether this is where those stand, and what was called for, whose places and calls are
    /// `theirs`; for tests, fuzzing and debug builds.
    pub(super) fn check(
        &self,
        theirs: impl Iterator<Item = (StreamKey, Option<RoomPlace>, Option<Called>)>,
    ) {
        let (mut waiting, mut expected) = (0, 0);
        for (key, place, called) in theirs {
            expected += called.map_or(0, |called| called.expected as usize);
            if let Some(place) = place {
                waiting += 1;
                let stands = self.oldest.get(&place.since) == Some(&(place, key))
                    && self.first_to_end.contains(&(place.end, place.since, key));
                assert!(stands, "a place in a lane's line was lost");
            }
        }
        assert_eq!(
            waiting,
            self.len(),
            "a place of a stream that does not wait"
        );
        assert_eq!(self.len(), self.first_to_end.len(), "two orders disagree");
        assert_eq!(expected, self.expected, "a call was forgotten");
    }

    /// Takes a stream out that does not wait any more.
    pub(super) fn leave(&mut self, place: RoomPlace) {
        if let Some((place, key)) = self.oldest.remove(&place.since) {
            self.first_to_end.remove(&(place.end, place.since, key));
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&self) -> Option<StreamKey> {
        match (self.calls + 1) % OLDEST_EVERY {
            0 => self.oldest.first_key_value().map(|(_, (_, key))| *key),
            _ => self.first_to_end.first().map(|(_, _, key)| *key),
        }
    }

    /// The stream at `place` is called, which has credit for `most` bytes. Says what it is expected
    /// to send.
    pub(super) fn call(&mut self, place: RoomPlace, most: u32) -> (Called, usize) {
        self.leave(place);
        self.calls += 1;
        self.passed = 0;
        let guess = u32::try_from(place.end - place.start).unwrap_or(u32::MAX);
        let expected = guess.min(most).max(1);
        self.expected += expected as usize;
        (Called { place, expected }, expected as usize)
    }

    /// A stream that was called has tried, or will not.
    pub(super) fn settle(&mut self, called: Option<Called>) {
        self.expected -= called.map_or(0, |called| called.expected as usize);
    }

    /// A stream that was called and has not tried for long may still do so; others need not wait.
    pub(super) fn expect_no_more(&mut self, called: &mut Option<Called>) {
        self.settle(*called);
        if let Some(called) = called {
            called.expected = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Key;

    const MUCH: usize = 1 << 20;

    fn key(number: u64) -> StreamKey {
        Key::unpack(1 << 32 | number)
    }

    /// Streams of a lane, each of which sends pieces of its own size whenever it may.
    #[derive(Default)]
    struct Crowd {
        line: RoomLine,
        turns: Vec<Turns>,
        places: BTreeMap<StreamKey, (usize, RoomPlace)>,
    }

    impl Crowd {
        fn add(&mut self) -> usize {
            self.turns.push(Turns::new());
            self.turns.len() - 1
        }

        /// One that had its turn, with a large piece, and waits for the next.
        fn add_bulk(&mut self) -> usize {
            let bulk = self.add();
            self.join(bulk);
            assert_eq!(self.call(|_| 60_000), bulk);
            self.join(bulk);
            bulk
        }

        fn join(&mut self, who: usize) {
            let place = self
                .line
                .join(key(who as u64), &self.turns[who], None, MUCH);
            self.places.insert(key(who as u64), (who, place));
        }

        /// Calls the next one, which sends what `piece` says of it.
        fn call(&mut self, piece: impl Fn(usize) -> u32) -> usize {
            let next = self.line.next().expect("somebody waits");
            let (who, place) = self.places.remove(&next).unwrap();
            let (called, _) = self.line.call(place, u32::MAX);
            self.line.settle(Some(called));
            let turns = &mut self.turns[who];
            assert!(self.line.is_turn_of(turns, Some(called), MUCH));
            self.line.sent(turns, piece(who));
            who
        }
    }

    #[test]
    fn streams_that_want_all_they_can_get_take_turns() {
        let mut crowd = Crowd::default();
        // Some send bigger pieces than others: they get fewer.
        let piece = |who: usize| [1000, 4000, 16_000][who % 3];
        for _ in 0..30 {
            let who = crowd.add();
            crowd.join(who);
        }
        let mut sent = [0u32; 30];
        for _ in 0..3000 {
            let who = crowd.call(piece);
            sent[who] += piece(who);
            crowd.join(who);
        }
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(most - least <= 2 * 16_000 + most / 2, "{sent:?}");
    }

    #[test]
    fn one_that_wants_little_goes_ahead_of_a_thousand_however_long_it_has_talked() {
        let mut crowd = Crowd::default();
        let talk = crowd.add();
        crowd.join(talk);
        let piece = |who: usize| if who == talk { 100 } else { 60_000 };
        crowd.call(piece);
        let bulk: Vec<usize> = (0..1000).map(|_| crowd.add()).collect();
        bulk.iter().for_each(|who| crowd.join(*who));
        bulk.iter().for_each(|_| {
            crowd.call(piece);
        });
        bulk.iter().for_each(|who| crowd.join(*who));
        for _ in 0..500 {
            for _ in 0..7 {
                let who = crowd.call(piece);
                crowd.join(who);
            }
            crowd.join(talk);
            let before = [crowd.call(piece), crowd.call(piece)];
            assert!(before.contains(&talk), "{before:?}");
            for who in before {
                if who != talk {
                    crowd.join(who);
                }
            }
        }
    }

    #[test]
    fn what_is_known_to_be_little_goes_first_whatever_went_before() {
        let mut line = RoomLine::default();
        let mut bulk = Turns::new();
        line.is_turn_of(&mut bulk, None, MUCH);
        line.sent(&mut bulk, 60_000);
        line.join(key(1), &bulk, None, MUCH);
        line.join(key(2), &bulk, None, MUCH);
        assert!(!line.is_turn_of(&mut bulk, None, MUCH));
        assert!(line.is_turn_of(&mut bulk, None, 100));
        line.join(key(3), &bulk, None, 100);
        assert_eq!(line.next(), Some(key(3)));
    }

    #[test]
    fn nobody_waits_for_ever_behind_newcomers_that_want_little() {
        let mut crowd = Crowd::default();
        let bulk = crowd.add_bulk();
        for number in 1.. {
            for _ in 0..2 {
                let who = crowd.add();
                crowd.join(who);
            }
            if crowd.call(|_| 100) == bulk {
                break;
            }
            assert!(number <= OLDEST_EVERY, "it was never called");
        }
    }

    #[test]
    fn what_passes_a_line_that_does_not_move_is_bounded() {
        let mut crowd = Crowd::default();
        let bulk = crowd.add_bulk();
        let mut passed = 0;
        loop {
            let mut newcomer = Turns::new();
            if !crowd.line.is_turn_of(&mut newcomer, None, MUCH) {
                break;
            }
            crowd.line.sent(&mut newcomer, 1000);
            passed += 1000;
            assert!(passed <= LANE_QUEUE_SOFT, "the line waits for ever");
        }
        assert!(passed > 10_000, "only {passed} passed");
        crowd.call(|_| 60_000);
        crowd.join(bulk);
        assert!(crowd.line.is_turn_of(&mut Turns::new(), None, MUCH));
    }

    #[test]
    fn who_wants_much_does_not_pass() {
        let mut crowd = Crowd::default();
        let bulk = [crowd.add(), crowd.add()];
        for who in bulk {
            crowd.join(who);
            crowd.call(|_| 60_000);
        }
        crowd.join(bulk[0]);
        assert!(!crowd.line.is_turn_of(&mut crowd.turns[bulk[1]], None, MUCH));
    }

    #[test]
    fn who_was_called_in_vain_gets_its_place_back() {
        let mut line = RoomLine::default();
        let first = line.join(key(1), &Turns::new(), None, MUCH);
        let (called, expected) = line.call(first, 64);
        assert_eq!((expected, line.expected()), (64, 64));
        line.join(key(2), &Turns::new(), None, MUCH);
        line.settle(Some(called));
        assert_eq!(line.expected(), 0);
        assert_eq!(line.join(key(1), &Turns::new(), Some(called), MUCH), first);
        assert_eq!(line.next(), Some(key(1)));
        line.leave(first);
        assert_eq!(line.next(), Some(key(2)));
    }

    #[test]
    fn who_does_not_take_its_turn_is_not_waited_for() {
        let mut line = RoomLine::default();
        let place = line.join(key(1), &Turns::new(), None, MUCH);
        let mut called = Some(line.call(place, u32::MAX).0);
        assert_eq!(line.expected(), SHARE_WORTH as usize);
        line.expect_no_more(&mut called);
        assert_eq!(line.expected(), 0);
        line.settle(called);
        assert_eq!(line.expected(), 0);
    }
}
