//! The streams of a session, by key and by id, and whose they are.
//!
//! Owns each stream's state, the ids of both sides, the shares of their holders, and the list of
//! senders that may try again. What it says of time is said from a stream's own record.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{CUT_STALLED_AFTER, PROBES_AT_ONCE};
use crate::mux::credit::{RecvCredit, SendCredit};
use crate::mux::ids::PeerIds;
use crate::mux::keys::{StreamKey, StreamMark};
use crate::mux::room::Turns;
use crate::mux::still::Pace;
use crate::mux::stream::{State, Stream, Waits};
use crate::mux::terms::Terms;
use crate::mux::violation::Violation;
use crate::shares::{Shares, may_hold};
use crate::table::Table;
use crate::wire::code::Code;

/// A session's streams. `T` is what the owner hangs on each.
#[derive(Debug)]
pub struct Streams<T> {
    terms: Terms,
    table: Table<StreamMark, Stream<T>>,
    by_id: BTreeMap<u32, StreamKey>,
    /// Whose they are, where that is counted.
    holders: Shares<u128>,
    pub(super) next_id: u32,
    peer_ids: PeerIds,
    /// Those whose senders found no room or no credit and may try again.
    woken: VecDeque<T>,
}

impl<T: Copy> Streams<T> {
    pub(super) fn new(terms: Terms) -> Streams<T> {
        let may_wait = terms.replay.map_or(0, |_| terms.max_streams);
        Streams {
            terms,
            table: Table::new(terms.max_streams),
            by_id: BTreeMap::new(),
            holders: Shares::new(),
            next_id: terms.side.first_id(),
            peer_ids: PeerIds::new(terms.side.other().first_id(), may_wait),
            woken: VecDeque::new(),
        }
    }

    /// Our next id; none when all were used.
    pub(super) fn give_id(&mut self) -> Option<u32> {
        let id = self.next_id;
        self.next_id = id.checked_add(2)?;
        Some(id)
    }

    /// Takes an id for a stream that the peer opens. False when it is not its to give, or was given
    /// before.
    pub(super) fn peer_gives_id(&mut self, id: u32) -> bool {
        self.peer_ids.open(id)
    }

    /// Whether there is or was a stream with this id.
    pub(super) fn was_opened(&self, id: u32) -> bool {
        match id % 2 == self.terms.side.first_id() % 2 {
            true => id < self.next_id,
            false => self.peer_ids.was_opened(id),
        }
    }

    /// Adds a stream on a lane. `None` when there are as many as agreed.
    pub(super) fn insert(&mut self, id: u32, lane: u8, tag: T, now: Instant) -> Option<StreamKey> {
        let (stream_top, _) = self.terms.ceilings();
        let stream = Stream {
            id,
            tag,
            holder: None,
            lane,
            opened: 0,
            send: SendCredit::new(self.terms.stream_window, stream_top),
            recv: RecvCredit::new(self.terms.stream_window),
            state: State::Open,
            local_finishes: false,
            waits: Waits::No,
            room: None,
            called: None,
            turns: Turns::new(),
            last_turn: 0,
            place: None,
            promised: 0,
            early: 0,
            since_probe: 0,
            last_taken: now,
            pace: Pace::new(now),
            last_moved: now,
            unsaid_since: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        let key = self.table.insert(stream).ok()?;
        self.by_id.insert(id, key);
        Some(key)
    }

    /// Removes a stream. It stands in no line.
    pub(super) fn remove(&mut self, key: StreamKey) -> Option<Stream<T>> {
        let stream = self.table.remove(key)?;
        if let Some(holder) = stream.holder {
            self.holders.give_back(holder, 1);
        }
        self.by_id.remove(&stream.id);
        Some(stream)
    }

    /// A stream is for `holder`, whose share counts it.
    pub(super) fn hold(&mut self, key: StreamKey, holder: u128) {
        if let Some(stream) = self.table.get_mut(key) {
            stream.holder = Some(holder);
            self.holders.take(holder, 1);
        }
    }

    /// Whether the share of streams that `holder` has allows for one more.
    pub(super) fn may_hold_one_more(&self, holder: u128) -> bool {
        let most = self.terms.max_streams;
        let left = most.saturating_sub(self.table.len() + 1);
        may_hold(self.held_by(holder) + 1, 1, left, most)
    }

    /// Streams of one holder.
    pub fn held_by(&self, holder: u128) -> usize {
        self.holders.of(holder)
    }

    pub(super) fn get(&self, key: StreamKey) -> Option<&Stream<T>> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream<T>> {
        self.table.get_mut(key)
    }

    /// One of ours, which stands in some line: it is taken out before it goes.
    pub(super) fn resolve_mut(&mut self, key: StreamKey) -> &mut Stream<T> {
        self.table.resolve_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamKey, &Stream<T>)> {
        self.table.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamKey, &mut Stream<T>)> {
        self.table.iter_mut()
    }

    /// The stream with this id that is not over, for a frame that came on lane `index`: one that is
    /// kept until its bytes are passed on is over too, and nothing can be added to it or taken from
    /// it. Without replay a receiver is lenient about the lane (PROTOCOL §7, §9).
    pub(super) fn live(&self, index: usize, id: u32) -> Result<Option<StreamKey>, Violation> {
        let Some(key) = self.by_id.get(&id).copied() else {
            return Ok(None);
        };
        match self.table.get(key).filter(|stream| !stream.is_over()) {
            Some(stream) if self.terms.replay.is_some() && usize::from(stream.lane) != index => {
                let why = "a stream's frame on a lane that is not the stream's";
                Err(Violation::session(Code::ProtocolError, why))
            }
            stream => Ok(stream.map(|_| key)),
        }
    }

    /// Those that are pinned to a lane.
    pub(super) fn on_lane(&self, index: usize) -> Vec<StreamKey> {
        let all = self.table.iter();
        all.filter(|(_, stream)| usize::from(stream.lane) == index)
            .map(|(key, _)| key)
            .collect()
    }

    /// A lane was down for so long: time stood still for its streams.
    pub(super) fn stood_still(&mut self, index: usize, how_long: Duration) {
        let all = self.table.iter_mut();
        for (_, stream) in all.filter(|(_, stream)| usize::from(stream.lane) == index) {
            stream.last_moved = stream.last_moved + how_long;
            stream.last_taken = stream.last_taken + how_long;
            stream.unsaid_since = None;
        }
    }

    /// Takes a sender out of its wait and has it try again.
    pub(super) fn wake(&mut self, key: StreamKey) {
        if let Some(stream) = self.table.get_mut(key) {
            stream.waits = Waits::No;
            self.woken.push_back(stream.tag);
        }
    }

    /// Whose sender may try again.
    pub(super) fn poll_woken(&mut self) -> Option<T> {
        self.woken.pop_front()
    }

    /// Streams that are not spent.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.table.is_full()
    }

    /// Gives memory back that is not needed now.
    pub(super) fn shrink(&mut self) {
        self.table.shrink();
    }

    /// What hangs on each.
    pub fn tags(&self) -> impl Iterator<Item = T> {
        self.table.iter().map(|(_, stream)| stream.tag)
    }

    /// Whether bytes that were sent on the stream lie with the peer, as far as it has told.
    pub fn is_held_by_peer(&self, key: StreamKey) -> bool {
        let stream = self.table.get(key);
        stream.is_some_and(|stream| stream.send.outstanding() > 0)
    }

    /// Whether some have nothing to pass on: they may wait for what others hold.
    pub(super) fn some_are_empty(&self) -> bool {
        let waits = |stream: &Stream<T>| !stream.remote_done() && stream.recv.buffered() == 0;
        self.table.iter().any(|(_, stream)| waits(stream))
    }

    /// When anything of the stream moved last, in either direction: bytes came, left or were taken
    /// here, or the peer told that its local side took some.
    pub fn last_moved(&self, key: StreamKey) -> Option<Instant> {
        Some(self.table.get(key)?.last_moved)
    }

    /// The local side has ended, behind bytes of its that wait for credit: until our EOF can follow
    /// them, the stream counts as half-closed where nothing moves.
    pub fn local_finishes(&mut self, key: StreamKey) {
        if let Some(stream) = self.table.get_mut(key) {
            stream.local_finishes = true;
        }
    }

    /// What hangs on the streams of which the host is to be asked: their local sides have taken
    /// nothing for a while although there is something, and they were not asked of since. Those
    /// come first that were not asked of for the longest time.
    pub fn who_looks_still(&mut self, now: Instant) -> Vec<T> {
        let mut still: Vec<(Instant, StreamKey)> = self
            .table
            .iter()
            .filter(|(_, stream)| stream.recv.buffered() > 0)
            .filter_map(|(key, stream)| Some((stream.pace.is_due(stream.last_taken, now)?, key)))
            .collect();
        still.sort_unstable();
        still.truncate(PROBES_AT_ONCE);
        let mut tags = Vec::with_capacity(still.len());
        for (_, key) in still {
            let stream = self.table.resolve_mut(key);
            stream.pace.ask(now);
            tags.push(stream.tag);
        }
        tags
    }

    /// The host told that the system holds so many bytes for a stream's local side. True when the
    /// peer's took some since that was told last, or since the stream began: then it moved.
    pub fn system_holds(&mut self, key: StreamKey, bytes: usize, now: Instant) -> bool {
        let Some(stream) = self.table.get_mut(key) else {
            return false;
        };
        let buffered = u64::from(stream.recv.buffered());
        let written = stream.bytes_in.saturating_sub(buffered);
        // Heads and what frames a chunk are held too, and are not counted here.
        let taken = written.saturating_sub(bytes as u64);
        if !stream.pace.told(taken) {
            return false;
        }
        stream.last_taken = now;
        stream.last_moved = now;
        true
    }

    /// How long nothing of a stream may move before it counts as stalled.
    pub fn patience(&self, key: StreamKey) -> Duration {
        let stream = self.table.get(key);
        stream.map_or(CUT_STALLED_AFTER, |stream| stream.pace.patience())
    }

    /// Whether ids, keys and shares fit each other; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_id.len(), self.table.len(), "an id without a stream");
        for (key, stream) in self.table.iter() {
            let named = self.by_id.get(&stream.id);
            assert_eq!(named, Some(&key), "an id names a stranger");
            let spent = stream.is_over() && stream.recv.buffered() == 0;
            assert!(!spent, "a spent stream was kept");
        }
    }

    #[cfg(test)]
    pub(super) fn key_of(&self, id: u32) -> Option<StreamKey> {
        self.by_id.get(&id).copied()
    }
}
