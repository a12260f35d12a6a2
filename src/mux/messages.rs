//! The messages of an outbox (`outbox.rs`): one that is open, and those that are sealed.

use crate::limits::{MAX_FRAME_PAYLOAD, MAX_FRAMES};
use crate::mux::kept::Piece;
use crate::wire::frame::HEADER_LEN;
use crate::ws::{self, Role};

/// A message that still takes frames.
#[derive(Debug)]
pub(super) struct OpenMessage {
    pub(super) slot: usize,
    pub(super) frames: usize,
    /// Of those, the frames that count for replay, where that is.
    pub(super) reliable: u64,
    /// Of those, how many are BIND_OK.
    pub(super) bind_oks: u64,
    /// Bytes of DATA payload in them.
    pub(super) data: usize,
    /// How many STREAM_OPENs are in it.
    pub(super) opens: u64,
}

/// A message that does not change any more.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) piece: Piece,
    pub(super) opens: u64,
    /// How much of it has left.
    pub(super) taken: usize,
}

impl Sealed {
    pub(super) fn of(piece: Piece, opens: u64) -> Sealed {
        Sealed {
            piece,
            opens,
            taken: 0,
        }
    }

    /// What has not left of it.
    pub(super) fn rest(&self) -> usize {
        self.piece.len - self.taken
    }
}

impl OpenMessage {
    pub(super) fn new(slot: usize) -> OpenMessage {
        OpenMessage {
            slot,
            frames: 0,
            reliable: 0,
            bind_oks: 0,
            data: 0,
            opens: 0,
        }
    }

    /// The longest body whose header fits the slot, within what a peer takes without delay.
    pub(super) fn capacity(&self) -> usize {
        if self.frames >= MAX_FRAMES {
            return 0;
        }
        if self.slot < ws::header_len(Role::Server, SMALL_MESSAGE + 1) {
            return SMALL_MESSAGE;
        }
        HEADER_LEN + MAX_FRAME_PAYLOAD
    }
}

/// The longest body with a header of the short form (RFC 6455 §5.2).
pub(super) const SMALL_MESSAGE: usize = 0xFFFF;
