//! What only time does to streams: stalls, half-closed idleness, and telling how slow ones get on
//! (PROTOCOL §4, §5).

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::MAX_LANES;
use crate::mux::keys::StreamKey;
use crate::mux::receiving::tell_progress;
use crate::mux::session::Session;
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
        tell_progress(&mut self.streams, &mut self.lanes, now);
        let idle: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                let since = stream.last_moved;
                stream.is_half_closed() && now >= since + half_close_timeout
            })
            .filter(|(_, stream)| !self.lanes.is_down(stream.lane))
            .map(|(key, _)| key)
            .collect();
        idle.into_iter()
            .filter_map(|key| self.sweep_away(key, Code::IdleTimeout, "half-closed and idle"))
            .collect()
    }

    /// How many bytes of the peer's this session may hold beyond its first window.
    pub fn set_budget(&mut self, bytes: u32) {
        self.receiving.set_budget(bytes);
    }

    /// How many of those it uses: what the owner's budgets are reckoned with.
    pub fn beyond_window(&self) -> u32 {
        self.receiving.beyond_window()
    }

    /// Gives credit back early while the budget has some, and calls whose turn is overdue. Says
    /// whether that sufficed, or nobody needs it to: if not, one is to be cut that stalled for long
    /// enough.
    pub fn relieve_stalled(&mut self) -> bool {
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        self.sending.call_overdue(streams, lanes);
        self.receiving.relieve_all(streams, lanes) || !self.receiving.somebody_is_short(streams)
    }

    /// Of the streams that may be cut, the one whose local side has taken nothing for the longest
    /// time, and since when.
    pub fn longest_stalled(&self, now: Instant) -> Option<(Instant, StreamKey)> {
        self.streams
            .iter()
            .filter(|(_, stream)| stream.has_stalled(now) && !self.lanes.is_down(stream.lane))
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

    /// What the session has of credit, and keeps: with both ends' accounts it can be told whether
    /// anything was lost or made up on the way.
    pub fn account(&self) -> Account {
        let ours = &self.receiving.credit;
        Account {
            may_send: self.sending.credit.available(),
            may_be_sent: ours.granted(),
            withheld: ours.left() - ours.granted(),
            retained: self.lanes.retained(),
        }
    }

    /// Whether the parts fit each other; run after every entry in debug builds.
    pub fn check_invariants(&self) {
        assert!(
            self.parts.held() <= self.terms.head_parts,
            "more parts than agreed"
        );
        self.lanes.check_invariants();
        self.streams.check_invariants();
        self.sending.check_invariants(&self.streams, &self.lanes);
        self.receiving.check_invariants(&self.streams);
        let mut carries = [0; MAX_LANES];
        for (_, stream) in self.streams.iter() {
            carries[usize::from(stream.lane)] += 1;
        }
        for (index, channel) in self.lanes.channels.iter().enumerate() {
            assert_eq!(channel.carries, carries[index], "a lane's streams");
            let waits = channel.stands() || channel.is_down();
            assert!(waits || carries[index] == 0, "a stream without its lane");
        }
    }
}
