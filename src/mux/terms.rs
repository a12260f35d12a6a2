//! What both ends of a session agreed on.

use crate::limits::{MAX_SESSION_WINDOW, MAX_STREAM_WINDOW};

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
    /// Bytes that may wait in a lane before no further stream is opened on it.
    pub queue_opens: usize,
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
