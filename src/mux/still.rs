//! Whether who looks still stands still (PROTOCOL §5).
//!
//! A slow reader that reads all the time looks still for long, for two reasons. Its own system
//! opens a closed window only in large steps: Linux may wait until all is read of what it merged,
//! which is the whole of its first buffer (128 KiB, tcp(7) `tcp_rmem`: half a minute at 4 KB/s),
//! and more of a buffer that grew. And the system here says that there is room only when there is
//! much, so that the peer's may take several such steps before anything is written.
//!
//! Against the second the host is asked ([`Command::Probe`]) once a stream looks still: it tries to
//! write all the same, and tells how much the system holds. Whatever the peer's system took since
//! is movement. Against the first, who took much at once has longer to go on: as long as it lasts a
//! reader of [`SLOW_READS`], within bounds.
//!
//! [`Command::Probe`]: crate::machine::Command::Probe

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{
    CUT_STALLED_AFTER, CUT_STALLED_LATEST, PROBE_STILL_EVERY, PROBES_AT_ONCE, SLOW_READS,
};
use crate::mux::session::Session;
use crate::mux::stream::{Stream, StreamKey};

/// What is known of how the peer of a stream's local side gets on.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the host was asked last.
    asked: Instant,
    /// DATA bytes of the stream that the peer's system had taken by then.
    taken: u64,
    /// The most that it took between two such times: steps are not all alike.
    step: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            asked: now,
            taken: 0,
            step: 0,
        }
    }

    /// How long it may take nothing before it counts as stalled.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.step / SLOW_READS).clamp(CUT_STALLED_AFTER, CUT_STALLED_LATEST)
    }
}

impl<T> Stream<T> {
    /// Whether its local side has taken nothing for so long that it may be cut for it.
    pub(super) fn has_stalled(&self, now: Instant) -> bool {
        self.recv.buffered() > 0 && now >= self.last_taken + self.pace.patience()
    }
}

impl<T: Copy> Session<T> {
    /// What hangs on the streams of which the host is to be asked: their local sides have taken
    /// nothing for a while although there is something, and they were not asked of since. Those
    /// come first that were not asked of for the longest time.
    pub fn who_looks_still(&mut self, now: Instant) -> Vec<T> {
        let mut still: Vec<(Instant, StreamKey)> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                let since = stream.pace.asked.max(stream.last_taken);
                stream.recv.buffered() > 0 && now >= since + PROBE_STILL_EVERY
            })
            .map(|(key, stream)| (stream.pace.asked, key))
            .collect();
        still.sort_unstable();
        still.truncate(PROBES_AT_ONCE);
        let mut tags = Vec::with_capacity(still.len());
        for (_, key) in still {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.pace.asked = now;
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
        if taken <= stream.pace.taken {
            return false;
        }
        stream.pace.step = stream.pace.step.max(taken - stream.pace.taken);
        stream.pace.taken = taken;
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
