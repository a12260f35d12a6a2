//! What both ends of a session agreed on.

use crate::limits::{MAX_SESSION_WINDOW, MAX_STREAM_WINDOW, MIN_REPLAY_BUFFER};

/// Which end of the session this is; decides the parity of stream ids (PROTOCOL §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens even streams, from 2.
    Kit,
    /// Opens odd streams, from 1.
    Client,
}

/// What both ends agreed on in the handshake, and our own bounds.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Which end we are.
    pub side: Side,
    /// Each stream's window in both directions, in bytes.
    pub stream_window: u32,
    /// The session's window in both directions, in bytes.
    pub session_window: u32,
    /// Streams at once, at most.
    pub max_streams: usize,
    /// Both said `grow-windows` (PROTOCOL §5).
    pub grow_windows: bool,
    /// Both said `header-case` (PROTOCOL §4).
    pub header_case: bool,
    /// Both said `udp` (PROTOCOL §8.1).
    pub udp: bool,
    /// Both said `trailers` (PROTOCOL §4).
    pub trailers: bool,
    /// `forward` was granted (PROTOCOL §8).
    pub forward: bool,
    /// Bytes that parts of heads may take until those come, where both said `long-heads` (PROTOCOL
    /// §4); else 0.
    pub head_parts: usize,
    /// Bytes that may wait in a lane before no further stream is opened on it.
    pub queue_opens: usize,
    /// `replay` was granted (PROTOCOL §9).
    pub replay: Option<Retention>,
}

/// What both sides keep of each lane until it is acknowledged (PROTOCOL §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes that we said we keep.
    pub keeps: u32,
    /// Bytes that we may keep where windows grow.
    pub most: u32,
    /// Bytes that the peer said it keeps.
    pub peer_keeps: u32,
    /// Lanes that were granted, the primary counted.
    pub lanes: u32,
}

impl Retention {
    /// What is agreed on where we keep so much, `most` where windows grow, and the peer said what
    /// it keeps: nothing where either is too little to be worth it.
    pub fn agreed(keeps: u32, most: u32, peer: Option<u64>, lanes: u32) -> Option<Retention> {
        let peer_keeps = u32::try_from(peer.unwrap_or(0)).unwrap_or(u32::MAX);
        let enough = keeps.min(peer_keeps) >= MIN_REPLAY_BUFFER;
        enough.then_some(Retention {
            keeps,
            most,
            peer_keeps,
            lanes,
        })
    }
}

impl Side {
    /// The first stream id that this side gives.
    pub fn first_id(self) -> u32 {
        match self {
            Side::Kit => 2,
            Side::Client => 1,
        }
    }

    /// The other end.
    pub fn other(self) -> Side {
        match self {
            Side::Kit => Side::Client,
            Side::Client => Side::Kit,
        }
    }
}

impl Terms {
    /// Bytes that may be unacknowledged on a lane, where the peer's session window is `window` now.
    pub(super) fn keeps(&self, replay: &Retention, window: u32) -> usize {
        let grown = u64::from(replay.keeps) * u64::from(window.max(1));
        let grown = grown / u64::from(self.session_window.max(1));
        grown.clamp(
            u64::from(replay.keeps),
            u64::from(replay.most.max(replay.keeps)),
        ) as usize
    }

    /// Bytes of DATA that may be: what a lane that is lost leaves to the others is half of the
    /// window at least.
    pub(super) fn unacknowledged_data(&self, replay: &Retention, window: u32) -> usize {
        (window / 2 / replay.lanes.max(1)) as usize
    }

    /// The most credit that a stream and the session may ever have.
    pub(super) fn ceilings(&self) -> (u32, u32) {
        match self.grow_windows {
            true => (
                self.stream_window.max(MAX_STREAM_WINDOW),
                self.session_window.max(MAX_SESSION_WINDOW),
            ),
            false => (self.stream_window, self.session_window),
        }
    }
}
