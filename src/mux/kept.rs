//! Bytes that have left and are kept until the peer says that it has their frames (`replay.rs`).
//!
//! They are the outbox's own bytes: WebSocket messages as they left, in the blocks of memory that
//! they were written to. A block that has left goes from the outbox to here whole, and what the
//! peer has taken of it is dropped from its head, so nothing is copied. What is to be sent again is
//! read out of the messages and framed anew.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::limits::{MAX_FRAME_PAYLOAD, REPLAY_BLOCK, SPARE_BLOCKS};

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
    /// Blocks that were used up, for the next ones: no more than there were in use at once, so
    /// that steady bulk asks the system for no memory.
    spare: Vec<Buffer>,
    /// The most blocks that were in use at once since the lane was last looked after, and between
    /// the two times before.
    most: [usize; 2],
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
                self.spare.truncate(self.spares());
            }
        }
        count
    }

    /// Takes in a block that has left, and gives one for what comes next.
    pub(super) fn exchange(&mut self, block: &mut Buffer) {
        let next = self.spare.pop();
        let next = next.unwrap_or_else(|| Buffer::with_room(REPLAY_BLOCK + MAX_FRAME_PAYLOAD));
        let full = std::mem::replace(block, next);
        self.blocks.extend((!full.is_empty()).then_some(full));
        self.most[0] = self.most[0].max(self.blocks.len());
    }

    /// How many blocks may be spare.
    fn spares(&self) -> usize {
        let wanted = self.most[0].max(self.most[1]).max(SPARE_BLOCKS);
        wanted - wanted.min(self.blocks.len())
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
        self.most = [0; 2];
    }

    /// Some seconds have passed: gives memory back that was not needed in them.
    pub(super) fn look_back(&mut self) {
        self.most = [self.blocks.len(), self.most[0]];
        self.spare.truncate(self.spares());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `blocks` full blocks, and has the peer take them all.
    fn bulk(kept: &mut Kept, outbox: &mut Buffer, blocks: usize) {
        for _ in 0..blocks {
            outbox.extend(&[7; REPLAY_BLOCK]);
            kept.push(Piece {
                len: REPLAY_BLOCK,
                ..Piece::default()
            });
            kept.exchange(outbox);
        }
        while kept.drop_first().is_some() {}
    }

    #[test]
    fn steady_bulk_asks_for_no_memory_and_gives_it_back_when_it_is_over() {
        let (mut kept, mut outbox) = (Kept::default(), Buffer::new());
        bulk(&mut kept, &mut outbox, 9);
        let held = kept.capacity();
        assert!(held >= 9 * REPLAY_BLOCK, "{held}");
        for _ in 0..20 {
            bulk(&mut kept, &mut outbox, 9);
            kept.look_back();
            assert!(kept.capacity() >= held - outbox.capacity());
            assert!(kept.capacity() <= held + outbox.capacity());
        }
        kept.look_back();
        bulk(&mut kept, &mut outbox, 1);
        kept.look_back();
        let room = REPLAY_BLOCK + MAX_FRAME_PAYLOAD;
        assert!(
            kept.capacity() <= SPARE_BLOCKS * room,
            "{}",
            kept.capacity()
        );
    }
}
