//! Memory is one number (`--memory`), and these are its parts.
//!
//! A half carries the first windows of all sessions: what a client may send at any time without
//! having been asked again. A quarter, less what the program itself needs, lets sessions hold more
//! than that ([`Pool`]): credit that went back early, and windows that grew; up to half of it is
//! for what they keep until it is acknowledged, where that is enough for each (PROTOCOL §9). An
//! eighth is for heads that are not whole yet, and for parts of long ones from clients (PROTOCOL
//! §4), and the rest for the buffers of lanes.
//!
//! Where the number does not carry the windows that were asked for, smaller ones are advertised,
//! down to the least that older clients can live with (PROTOCOL §5).

use crate::limits::{
    HEADS_IN_PARTS, LANE_MEMORY, LANE_QUEUE_OPENS, LANE_QUEUE_OPENS_LEAST, MAX_HEAD_PARTS,
    MIN_REPLAY_BUFFER, MIN_WINDOW, MOST_KEPT, POOL_SHARE, PROGRAM_MEMORY,
};
use crate::units::show_size;

/// What a number of bytes carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// A stream's window.
    pub stream_window: u32,
    /// A session's window.
    pub session_window: u32,
    /// Bytes that all sessions together may hold beyond their first windows.
    pub pool: u64,
    /// Bytes that one session may keep until its client has acknowledged them (PROTOCOL §9).
    pub kept: u32,
    /// Of those, what is promised for a lane, at most.
    pub kept_of_lane: u32,
    /// Bytes that heads may take which are not whole yet.
    pub heads: usize,
    /// Bytes that parts of long heads may take in one session (PROTOCOL §4); 0 where that is not
    /// enough for one head.
    pub head_parts: usize,
    /// Lanes that one session may have.
    pub lanes: usize,
    /// Bytes that may wait in a lane before no further stream is opened on it.
    pub queue_opens: usize,
}

impl Plan {
    /// What `memory` bytes carry for `sessions` sessions, at most the windows and lanes named.
    pub fn of(
        memory: u64,
        sessions: usize,
        windows: (u32, u32),
        lanes: usize,
        replay_buffer: u32,
    ) -> Plan {
        let sessions = sessions.max(1) as u64;
        let each = |part: u64| usize::try_from(memory / part / sessions).unwrap_or(usize::MAX);
        let carried = u32::try_from(each(2)).unwrap_or(u32::MAX).max(MIN_WINDOW);
        let session_window = windows.1.min(carried);
        let pool = (memory / 4).saturating_sub(PROGRAM_MEMORY);
        // Less than one lane needs is of no use to anybody.
        let most = MOST_KEPT.min(replay_buffer.saturating_mul(lanes as u32));
        let kept = u32::try_from(pool / 2 / sessions)
            .unwrap_or(u32::MAX)
            .min(most);
        let useful = kept.min(replay_buffer) >= MIN_REPLAY_BUFFER;
        let kept = if useful { kept } else { 0 };
        let parts = each(16).min(HEADS_IN_PARTS * MAX_HEAD_PARTS);
        let head_parts = if parts < MAX_HEAD_PARTS { 0 } else { parts };
        let in_parts = head_parts as u64 * sessions;
        Plan {
            session_window,
            stream_window: windows.0.min((session_window / 4).max(MIN_WINDOW)),
            pool: pool - u64::from(kept) * sessions,
            kept,
            kept_of_lane: replay_buffer,
            heads: usize::try_from(memory / 8 - in_parts).unwrap_or(usize::MAX),
            head_parts,
            lanes: lanes.min((each(8) / LANE_MEMORY).max(1)),
            queue_opens: each(16).clamp(LANE_QUEUE_OPENS_LEAST, LANE_QUEUE_OPENS),
        }
    }

    /// Bytes that are promised to be kept of each lane, where a session has so many.
    pub fn kept_of(&self, lanes: usize) -> u32 {
        self.kept_of_lane.min(self.most_kept_of(lanes))
    }

    /// Bytes that may be kept of each lane where windows grow.
    pub fn most_kept_of(&self, lanes: usize) -> u32 {
        self.kept / lanes.max(1) as u32
    }

    /// What the operator should know of it: windows that were lowered, or do not fit all the same.
    pub fn note(&self, memory: u64, sessions: usize, session_window: u32) -> Option<String> {
        let carries = self.carries(memory, sessions);
        let memory = show_size(memory);
        let show = |window: u32| show_size(u64::from(window));
        if !carries {
            return Some(format!(
                "{memory} of memory (--memory) do not carry {sessions} sessions (--max-sessions) \
                 whose clients use all of the smallest windows"
            ));
        }
        (self.session_window < session_window).then(|| {
            format!(
                "windows are lowered to {} a stream and {} a session: {memory} of memory \
                 (--memory) carry no more for {sessions} sessions (--max-sessions)",
                show(self.stream_window),
                show(self.session_window),
            )
        })
    }

    /// Whether the windows of so many sessions fit: false where even the smallest ones do not.
    pub fn carries(&self, memory: u64, sessions: usize) -> bool {
        u64::from(self.session_window) * sessions as u64 <= memory / 2
    }
}

/// What sessions hold beyond their first windows, all of them together.
#[derive(Debug)]
pub struct Pool {
    size: u64,
    held: u64,
}

impl Pool {
    /// A pool of `size` bytes.
    pub fn new(size: u64) -> Pool {
        Pool { size, held: 0 }
    }

    /// What one may hold that holds `own` now: most of what the others leave, so that whoever comes
    /// next still finds some. Nobody has to give anything back for that; who holds more than that
    /// gets nothing further until it does.
    pub fn budget(&self, own: u32) -> u32 {
        let left = self.size.saturating_sub(self.held - u64::from(own));
        let (part, of) = POOL_SHARE;
        u32::try_from(left / of * part).unwrap_or(u32::MAX)
    }

    /// One that held `before` holds `after` now.
    pub fn update(&mut self, before: u32, after: u32) {
        self.held = self.held - u64::from(before) + u64::from(after);
    }

    /// Bytes that are held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Bytes that may be held.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        DEFAULT_REPLAY_BUFFER, DEFAULT_SESSION_WINDOW, DEFAULT_STREAM_WINDOW, MAX_LANES,
    };

    const WINDOWS: (u32, u32) = (DEFAULT_STREAM_WINDOW, DEFAULT_SESSION_WINDOW);

    #[test]
    fn the_default_number_carries_the_default_windows_of_the_default_sessions() {
        let plan = Plan::of(256 << 20, 8, WINDOWS, MAX_LANES, DEFAULT_REPLAY_BUFFER);
        assert_eq!((plan.stream_window, plan.session_window), WINDOWS);
        assert_eq!(
            (plan.lanes, plan.queue_opens),
            (MAX_LANES, LANE_QUEUE_OPENS)
        );
    }

    #[test]
    fn whatever_the_number_its_parts_are_no_more_than_it() {
        for mebibytes in [4u64, 8, 16, 33, 64, 100, 256, 1000, 65_536] {
            for sessions in [1usize, 2, 8, 100, 4096] {
                let memory = mebibytes << 20;
                let plan = Plan::of(memory, sessions, WINDOWS, MAX_LANES, DEFAULT_REPLAY_BUFFER);
                assert!(plan.stream_window >= MIN_WINDOW);
                assert!(plan.stream_window <= plan.session_window);
                assert!(plan.lanes >= 1);
                if plan.carries(memory, sessions) {
                    let windows = u64::from(plan.session_window) * sessions as u64;
                    let parts = plan.head_parts as u64 * sessions as u64;
                    assert!(windows + plan.pool + plan.heads as u64 + parts <= memory);
                } else {
                    assert_eq!(
                        plan.session_window, MIN_WINDOW,
                        "{mebibytes} for {sessions}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_session_leaves_some_of_the_pool_to_the_next() {
        let mut pool = Pool::new(64 << 20);
        let mut held = [0u32; 8];
        for round in 0..100 {
            let who = round % held.len();
            let budget = pool.budget(held[who]);
            let after = budget.max(held[who] / 2);
            pool.update(held[who], after);
            held[who] = after;
            assert!(pool.held() <= pool.size());
        }
        let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        assert!(*least > 2 << 20, "{held:?}");
        assert!(*most < 5 * *least, "{held:?}");
    }
}
