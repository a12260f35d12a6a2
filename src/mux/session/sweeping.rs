//! What only time does to streams: stalls, half-closed idleness, and telling how slow ones get on
//! (PROTOCOL §4, §5).

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{CUT_STALLED_AFTER, PROBES_AT_ONCE, PROGRESS_AT_ONCE, PROGRESS_UNSAID};
use crate::mux::channel::Channel;
use crate::mux::keys::StreamKey;
use crate::mux::replay::Replay;
use crate::mux::session::Session;
use crate::mux::stream::Stream;
use crate::wire::code::Code;

/// A stream that was reset because of time; the peer was told.
#[derive(Debug)]
pub struct Swept<T> {
    /// What hung on it.
    pub tag: T,
    /// Why.
    pub code: Code,
    /// The same for people.
    pub reason: &'static str,
}

/// One end's account of a session that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Bytes of DATA that the peer allowed us to send.
    pub may_send: u32,
    /// Bytes of DATA that we allowed it to send.
    pub may_be_sent: u32,
    /// Bytes of our window that we have not given back yet.
    pub withheld: u32,
    /// Bytes that are kept until the peer says that it has them.
    pub retained: usize,
}

impl<T: Copy> Session<T> {
    /// Looks over all streams: has those make room for others that hold most of the session's
    /// window, resets who has taken nothing for the longest time where that would cost more memory
    /// than `budget` while others are short, and what has been half-closed and idle for
    /// `half_close_timeout`.
    pub fn sweep(
        &mut self,
        now: Instant,
        half_close_timeout: Duration,
        budget: u32,
    ) -> Vec<Swept<T>> {
        self.set_budget(budget);
        let mut swept = self.sweep_idle(now, half_close_timeout);
        while !self.relieve_stalled() {
            let Some(cut) = self.cut_longest_stalled(now) else {
                break;
            };
            swept.push(cut);
        }
        swept
    }

    /// Resets what has been half-closed and idle for `half_close_timeout`, and tells what moves:
    /// the part of a sweep that concerns each session by itself.
    pub fn sweep_idle(&mut self, now: Instant, half_close_timeout: Duration) -> Vec<Swept<T>> {
        self.tell_progress(now);
        let idle: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                let since = stream.last_moved;
                stream.is_half_closed() && now >= since + half_close_timeout
            })
            .filter(|(_, stream)| !self.is_down(stream))
            .map(|(key, _)| key)
            .collect();
        idle.into_iter()
            .filter_map(|key| self.sweep_away(key, Code::IdleTimeout, "half-closed and idle"))
            .collect()
    }

    /// When anything of the stream moved last, in either direction: bytes came, left or were taken
    /// here, or the peer told that its local side took some.
    pub fn last_moved(&self, key: StreamKey) -> Option<Instant> {
        Some(self.streams.get(key)?.last_moved)
    }

    /// The local side has ended, behind bytes of its that wait for credit: until our EOF can follow
    /// them, the stream counts as half-closed where nothing moves.
    pub fn local_finishes(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.local_finishes = true;
        }
    }

    /// Gives credit back that was withheld for a while. Gathered up to a quarter of a window it can
    /// take minutes where the local side is slow, and behind the peer's EOF nothing goes back at
    /// all; but the peer has clocks, and they should run only while nothing moves.
    fn tell_progress(&mut self, now: Instant) {
        let mut unsaid = Vec::new();
        for (key, stream) in self.streams.iter_mut() {
            if stream.is_over() || !stream.recv.withholds() {
                stream.unsaid_since = None;
                continue;
            }
            let since = *stream.unsaid_since.get_or_insert(now);
            if now >= since + PROGRESS_UNSAID {
                unsaid.push((since, key));
            }
        }
        unsaid.sort_unstable();
        unsaid.truncate(PROGRESS_AT_ONCE);
        for (_, key) in unsaid {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.unsaid_since = None;
                let increment = stream.recv.claim_all();
                let (lane, id) = (stream.lane, stream.id);
                self.push_window(lane, id, increment);
            }
        }
    }

    /// Gives credit back early while the budget has some, and calls whose turn is overdue. Says
    /// whether that sufficed, or nobody needs it to: if not, one is to be cut that stalled for long
    /// enough.
    pub fn relieve_stalled(&mut self) -> bool {
        self.call_overdue();
        self.relieve_all() || !self.somebody_is_short()
    }

    /// Of the streams that may be cut, the one whose local side has taken nothing for the longest
    /// time, and since when.
    pub fn longest_stalled(&self, now: Instant) -> Option<(Instant, StreamKey)> {
        self.streams
            .iter()
            .filter(|(_, stream)| stream.has_stalled(now) && !self.is_down(stream))
            .map(|(key, stream)| (stream.last_taken, key))
            .min_by_key(|(since, _)| *since)
    }

    /// Resets that stream.
    pub fn cut_longest_stalled(&mut self, now: Instant) -> Option<Swept<T>> {
        let (_, key) = self.longest_stalled(now)?;
        self.sweep_away(key, Code::EnhanceYourCalm, "stalled for too long")
    }

    fn sweep_away(&mut self, key: StreamKey, code: Code, reason: &'static str) -> Option<Swept<T>> {
        let tag = self.streams.get(key)?.tag;
        self.reset(key, code, reason);
        Some(Swept { tag, code, reason })
    }

    /// Whether the pieces fit each other; run after every entry in debug builds.
    pub fn check_invariants(&self) {
        let buffered: u64 = self
            .streams
            .iter()
            .map(|(_, s)| u64::from(s.recv.buffered()))
            .sum();
        assert_eq!(
            buffered,
            u64::from(self.recv.buffered()),
            "streams and session disagree"
        );
        let early: u64 = self.streams.iter().map(|(_, s)| u64::from(s.early)).sum();
        assert_eq!(
            early,
            u64::from(self.recv.early()),
            "early credit was lost or made up"
        );
        let promised: u32 = self.streams.iter().map(|(_, s)| s.promised).sum();
        assert_eq!(promised, self.line.promised(), "a promise was forgotten");
        for place in self.line.waiting() {
            let stream = self.streams.get(place.2);
            let stands = stream.is_some_and(|stream| stream.place == Some(*place));
            assert!(stands, "a place in the line of a stream that does not wait");
        }
        assert_eq!(
            self.by_id.len(),
            self.streams.len(),
            "an id without a stream"
        );
        for (key, stream) in self.streams.iter() {
            assert_eq!(
                self.by_id.get(&stream.id),
                Some(&key),
                "an id names a stranger"
            );
            assert!(
                !stream.is_over() || stream.recv.buffered() > 0,
                "a spent stream was kept"
            );
            let lane = self.channels.get(usize::from(stream.lane));
            assert!(
                lane.is_some_and(|lane| lane.stands() || lane.is_down()),
                "a stream without its lane"
            );
        }
        for (index, channel) in self.channels.iter().enumerate() {
            channel.check_invariants();
            let of_lane = |stream: &Stream<T>| usize::from(stream.lane) == index;
            let its = self.streams.iter().filter(|(_, stream)| of_lane(stream));
            let theirs = its.map(|(key, stream)| (key, stream.room, stream.called));
            channel.line.check(theirs);
        }
    }

    /// What the session has of credit, and keeps: with both ends' accounts it can be told whether
    /// anything was lost or made up on the way.
    pub fn account(&self) -> Account {
        let replays = self.channels.iter().filter_map(Channel::replay);
        Account {
            may_send: self.send.available(),
            may_be_sent: self.recv.granted(),
            withheld: self.recv.left() - self.recv.granted(),
            retained: replays.map(Replay::retained).sum(),
        }
    }

    /// What hangs on the streams of which the host is to be asked: their local sides have taken
    /// nothing for a while although there is something, and they were not asked of since. Those
    /// come first that were not asked of for the longest time.
    pub fn who_looks_still(&mut self, now: Instant) -> Vec<T> {
        let mut still: Vec<(Instant, StreamKey)> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.recv.buffered() > 0)
            .filter_map(|(key, stream)| Some((stream.pace.is_due(stream.last_taken, now)?, key)))
            .collect();
        still.sort_unstable();
        still.truncate(PROBES_AT_ONCE);
        let mut tags = Vec::with_capacity(still.len());
        for (_, key) in still {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.pace.ask(now);
                tags.push(stream.tag);
            }
        }
        tags
    }

    /// The host told that the system holds so many bytes for a stream's local side. True when the
    /// peer's took some since that was told last, or since the stream began: then it moved.
    pub fn system_holds(&mut self, key: StreamKey, bytes: usize, now: Instant) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
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
        let stream = self.streams.get(key);
        stream.map_or(CUT_STALLED_AFTER, |stream| stream.pace.patience())
    }
}
