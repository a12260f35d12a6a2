//! What only time does to streams: stalls and half-closed idleness (PROTOCOL §4, §5).

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::STALLED_AFTER;
use crate::mux::session::Session;
use crate::mux::stream::StreamKey;
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

impl<T: Copy> Session<T> {
    /// Looks over all streams: gives session credit back early for bytes whose local side takes
    /// nothing, and resets what stalled longest where that would cost too much memory, or what has
    /// been half-closed and idle for `half_close_timeout`.
    pub fn sweep(&mut self, now: Instant, half_close_timeout: Duration) -> Vec<Swept<T>> {
        let mut swept = Vec::new();
        let idle: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                stream.local_done != stream.remote_done
                    && now >= stream.last_moved + half_close_timeout
            })
            .map(|(key, _)| key.retype())
            .collect();
        for key in idle {
            self.sweep_away(key, Code::IdleTimeout, "half-closed and idle", &mut swept);
        }
        while let Some(key) = self.relieve_stalled(now) {
            self.sweep_away(
                key,
                Code::EnhanceYourCalm,
                "stalled for too long",
                &mut swept,
            );
        }
        self.give_session_credit();
        swept
    }

    /// Gives credit back early for stalled streams, longest-stalled first so that those which may
    /// yet go on keep theirs cheap. Names the longest-stalled stream when the budget does not last.
    fn relieve_stalled(&mut self, now: Instant) -> Option<StreamKey> {
        let mut stalled: Vec<(Instant, StreamKey, u32)> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                stream.recv.buffered() > stream.early && now >= stream.last_taken + STALLED_AFTER
            })
            .map(|(key, stream)| {
                (
                    stream.last_taken,
                    key.retype(),
                    stream.recv.buffered() - stream.early,
                )
            })
            .collect();
        stalled.sort_unstable_by_key(|(since, key, _)| (*since, *key));
        for (_, key, held) in stalled {
            if self.recv.early() + held > self.terms.stall_budget {
                return self.longest_stalled(now);
            }
            if let Some(stream) = self.streams.get_mut(key.retype()) {
                stream.early += held;
                self.recv.give_early(held);
            }
        }
        None
    }

    fn longest_stalled(&self, now: Instant) -> Option<StreamKey> {
        self.streams
            .iter()
            .filter(|(_, stream)| {
                stream.recv.buffered() > 0 && now >= stream.last_taken + STALLED_AFTER
            })
            .min_by_key(|(_, stream)| stream.last_taken)
            .map(|(key, _)| key.retype())
    }

    fn sweep_away(
        &mut self,
        key: StreamKey,
        code: Code,
        reason: &'static str,
        swept: &mut Vec<Swept<T>>,
    ) {
        let Some(stream) = self.streams.get(key.retype()) else {
            return;
        };
        let tag = stream.tag;
        self.reset(key, code, reason);
        swept.push(Swept { tag, code, reason });
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
        assert_eq!(
            self.by_id.len(),
            self.streams.len(),
            "an id without a stream"
        );
        for (key, stream) in self.streams.iter() {
            assert_eq!(
                self.by_id.get(&stream.id),
                Some(&key.retype()),
                "an id names a stranger"
            );
            assert!(
                !stream.is_over() || stream.recv.buffered() > 0,
                "a spent stream was kept"
            );
            assert!(
                self.lane(usize::from(stream.lane)).is_some(),
                "a stream without its lane"
            );
        }
        for (_, lane) in self.lanes() {
            lane.out.check_invariants();
        }
    }
}
