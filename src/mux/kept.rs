//! Bytes that have left and are kept until the peer says that it has their frames (`replay.rs`).
//!
//! They are the outbox's own bytes: WebSocket messages as they left, in the blocks of memory that
//! they were written to. A block that has left goes from the outbox to here whole, and what the
//! peer has taken of it is dropped from its head, so nothing is copied. What is to be sent again is
//! read out of the messages and framed anew.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::limits::SPARE_BLOCKS;

/// One message that left, or was about to.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    /// Bytes of no message in front of it.
    pub(super) gap: usize,
    /// Its bytes, WebSocket header included.
    pub(super) len: usize,
    /// How many of its frames count (PROTOCOL §9).
    pub(super) frames: u64,
    /// Of those, how many are BIND_OK.
    pub(super) bind_oks: u64,
    /// Bytes of DATA payload in it.
    pub(super) data: usize,
    /// WINDOW frames leave from elsewhere: then these are all of it.
    pub(super) windows: Vec<u8>,
}

/// Messages in the order of their frames' numbers, and the blocks where their bytes are: the last
/// ones may be in the outbox still.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) pieces: VecDeque<Piece>,
    pub(super) blocks: VecDeque<Buffer>,
    /// Blocks that were used up, for the next ones.
    spare: Vec<Buffer>,
    /// Bytes of all pieces.
    len: usize,
}

impl Piece {
    /// The bytes it takes of a block.
    fn extent(&self) -> usize {
        self.gap + self.len
    }

    /// The bytes it is reckoned with.
    pub(super) fn weight(&self) -> usize {
        self.len + self.windows.len()
    }
}

impl Kept {
    /// Bytes of all messages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds one behind the others.
    pub(super) fn push(&mut self, piece: Piece) {
        self.len += piece.weight();
        self.pieces.push_back(piece);
    }

    /// Drops the first message. Gives it, and how many of its bytes are in the outbox.
    pub(super) fn drop_first(&mut self) -> Option<(Piece, usize)> {
        let piece = self.pieces.pop_front()?;
        self.len -= piece.weight();
        let elsewhere = self.consume(piece.extent());
        Some((piece, elsewhere))
    }

    /// Takes the first message, whose bytes are all here, and has its bytes looked at.
    pub(super) fn take_first(&mut self, look: impl FnOnce(&Piece, &mut [u8])) {
        let Some(piece) = self.pieces.pop_front() else {
            return;
        };
        self.len -= piece.weight();
        match self.blocks.front_mut() {
            Some(block) if piece.len != 0 => {
                look(&piece, &mut block.bytes_mut()[piece.gap..piece.extent()]);
            }
            _ => look(&piece, &mut []),
        }
        let elsewhere = self.consume(piece.extent());
        debug_assert_eq!(elsewhere, 0, "a message that is not here");
    }

    /// Drops bytes from the head of the blocks. Gives how many of them are not here.
    fn consume(&mut self, mut count: usize) -> usize {
        while count > 0
            && let Some(block) = self.blocks.front_mut()
        {
            let here = count.min(block.len());
            block.consume(here);
            count -= here;
            if block.is_empty() {
                let block = self.blocks.pop_front();
                self.spare.extend(block);
                self.spare.truncate(SPARE_BLOCKS);
            }
        }
        count
    }

    /// Takes in a block that has left, and gives one for what comes next.
    pub(super) fn exchange(&mut self, block: &mut Buffer) {
        let next = self.spare.pop().unwrap_or_default();
        let full = std::mem::replace(block, next);
        self.blocks.extend((!full.is_empty()).then_some(full));
    }

    /// Puts all of this in front of `others`.
    pub(super) fn before(mut self, others: Kept) -> Kept {
        self.pieces.extend(others.pieces);
        self.blocks.extend(others.blocks);
        self.len += others.len;
        self
    }

    /// Gives memory back that nothing is kept in.
    pub(super) fn release_spare(&mut self) {
        self.spare = Vec::new();
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        let blocks = self.blocks.iter().chain(&self.spare);
        blocks.map(Buffer::capacity).sum()
    }

    /// Whether the pieces fit the blocks, of which `elsewhere` bytes are in the outbox.
    pub(super) fn check(&self, elsewhere: usize) {
        let weight: usize = self.pieces.iter().map(Piece::weight).sum();
        assert_eq!(weight, self.len, "kept bytes miscounted");
        let extent: usize = self.pieces.iter().map(Piece::extent).sum();
        let held: usize = self.blocks.iter().map(Buffer::len).sum();
        assert_eq!(extent, held + elsewhere, "bytes of no message are kept");
    }
}
