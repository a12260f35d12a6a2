//! The outgoing frames of a channel: they become WebSocket messages, in place.
//!
//! These are the frames that must not get lost, of streams and of the session; what concerns one
//! connection only is kept apart (`ahead.rs`). Two queues. *Windows* holds WINDOW frames, which go
//! ahead of everything that has not begun to leave. *The queue* holds sealed messages, then at most
//! one open message that still takes frames. Bytes of a connection are read straight behind a
//! reserved frame header into the open message ([`Outbox::data_space`]), so on their way out they
//! are copied by nobody but the kernel.
//!
//! A message header is written when the message is sealed, for only then its length is known. The
//! slot kept for it fits the largest header that may come; when a smaller one came, the gap is cut
//! off at the head of the queue, or closed by sliding the (then small) body.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::limits::{DATAGRAM_TURNS, LANE_QUEUE_SOFT, MAX_FRAME_PAYLOAD, MAX_FRAMES, REPLAY_BLOCK};
use crate::mux::ahead::Ahead;
use crate::mux::datagrams::Datagrams;
use crate::mux::framing::{Framing, push_frame, put_header};
use crate::mux::kept::Piece;
use crate::mux::messages::{OpenMessage, SMALL_MESSAGE, Sealed};
use crate::mux::replay::{CannotBe, Phase, Replay};
use crate::wire::frame::{FrameType, HEADER_LEN};
use crate::ws::{self, OpCode};

/// Outgoing frames of one channel.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    framing: Framing,
    /// Whole frames that overtake.
    pub(super) windows: Buffer,
    /// What has left and is kept, then sealed messages, then the open one.
    queue: Buffer,
    /// Bytes at the head of the queue that have left. None where nothing is kept.
    left: usize,
    /// Of those, the bytes that nobody needs any more.
    spent: usize,
    sealed: VecDeque<Sealed>,
    /// Bytes of sealed messages that have not left: behind them the open message's slot begins.
    sealed_len: usize,
    open: Option<OpenMessage>,
    /// What is kept for the next connection, if anything is.
    pub(super) replay: Option<Box<Replay>>,
    /// Whether anything is, also while `replay` is lent to what sends it again.
    keeps: bool,
    /// A close frame was queued: nothing may follow it (RFC 6455 §5.5.1), so nothing more is taken.
    closed: bool,
    /// What overtakes all of these.
    datagrams: Datagrams,
    /// STREAM_OPENs that were added, and how many of them have left.
    opens: (u64, u64),
    /// Messages of datagrams that have left since one of the queue has, or since it was empty.
    overtaken: usize,
}

impl Outbox {
    /// An empty outbox, which keeps what leaves if it is given what that takes.
    pub(super) fn new(framing: Framing, replay: Option<Box<Replay>>) -> Outbox {
        Outbox {
            framing,
            keeps: replay.is_some(),
            replay,
            ..Outbox::default()
        }
    }

    /// Bytes that wait to leave, but for those that are to leave again.
    pub(super) fn len(&self) -> usize {
        let behind = self.replay.as_ref().map_or(0, |replay| replay.behind.len());
        self.queued() + self.windows.len() + behind
    }

    /// Bytes that are held up: credit where too much is kept already, and what is to leave again.
    pub(super) fn held_up(&self) -> usize {
        let replay = self.replay.as_ref();
        replay.map_or(0, |replay| replay.gathered() + replay.pending.len())
    }

    /// Whether bulk may be added; beyond the soft bound only control frames are.
    pub(super) fn has_room(&self) -> bool {
        let replay = self.replay.as_ref();
        self.queued() < LANE_QUEUE_SOFT
            && !self.closed
            && replay.is_none_or(|replay| !self.is_full_block() && replay.has_room(self.queued()))
    }

    /// How many bytes of DATA may be added at once.
    pub(super) fn room(&self) -> usize {
        let replay = self.replay.as_ref();
        match self.has_room() {
            true => replay.map_or(usize::MAX, |replay| replay.room(self.queued())),
            false => 0,
        }
    }

    /// How much waits that does not overtake, bulk above all.
    pub(super) fn queued(&self) -> usize {
        self.queue.len() - self.left
    }

    /// What is kept fills a block, which leaves whole before there is another one.
    fn is_full_block(&self) -> bool {
        self.left > 0 && self.queue.len() >= REPLAY_BLOCK
    }

    /// Adds a WINDOW, which goes ahead of queued data.
    pub(super) fn push_window(&mut self, stream_id: u32, increment: u32) {
        if let Some(replay) = &mut self.replay {
            replay.gather(stream_id, increment);
        } else if !self.closed {
            let payload = increment.to_be_bytes();
            push_frame(&mut self.windows, FrameType::Window, stream_id, &payload);
        }
    }

    /// Adds a frame behind all others.
    pub(super) fn push(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) {
        assert!(
            payload.len() <= MAX_FRAME_PAYLOAD,
            "a frame was made larger than frames may be"
        );
        self.opens.0 += u64::from(kind == FrameType::StreamOpen);
        match &mut self.replay {
            _ if self.closed => {}
            Some(replay) if replay.phase() != Phase::Sending => {
                push_frame(&mut replay.behind, kind, stream_id, payload);
            }
            _ => self.add(kind, stream_id, payload),
        }
    }

    fn add(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) {
        self.open_for(HEADER_LEN + payload.len());
        push_frame(&mut self.queue, kind, stream_id, payload);
        self.count_frame(kind, payload.len());
    }

    /// Which of its STREAM_OPENs came last.
    pub(super) fn opens(&self) -> u64 {
        self.opens.0
    }

    /// Adds a datagram of the stream whose STREAM_OPEN was the one of this number, and says how
    /// many others went for it.
    pub(super) fn push_datagram(&mut self, id: u32, datagram: &[u8], after: u64) -> u64 {
        if self.closed {
            return 1;
        }
        let opened = self.opened();
        self.datagrams.push(id, datagram, after, opened)
    }

    /// Bytes of datagrams that may leave.
    pub(super) fn datagrams_len(&self) -> usize {
        self.datagrams.ready_len()
    }

    /// How many STREAM_OPENs have certainly left: while others are sent again none counts.
    fn opened(&self) -> u64 {
        match self.is_resending() {
            true => 0,
            false => self.opens.1,
        }
    }

    /// Something has left.
    fn opens_leave(&mut self) {
        if self.queued() == 0 {
            self.opens.1 = self.opens.0;
        }
        let opened = self.opened();
        self.datagrams.opened(opened);
    }

    /// Room for one DATA payload of up to `wanted` bytes, to be filled in place and then taken in
    /// by [`Outbox::data_commit`]. `wanted` is at most one frame's payload and not zero. Asked only
    /// while there [is room](Outbox::has_room).
    pub(super) fn data_space(&mut self, wanted: usize) -> &mut [u8] {
        debug_assert!(!self.closed, "DATA behind a close frame");
        let wanted = wanted.min(MAX_FRAME_PAYLOAD);
        if let Some(open) = &self.open {
            let left = open
                .capacity()
                .saturating_sub(self.open_body() + HEADER_LEN);
            if left < wanted.min(WORTH_JOINING) {
                self.seal();
            }
        }
        let (slot, room) = match &self.open {
            Some(open) => (0, open.capacity() - self.open_body() - HEADER_LEN),
            None => (self.slot(true), wanted),
        };
        let offset = slot + HEADER_LEN;
        &mut self.queue.space(offset + wanted.min(room))[offset..]
    }

    /// Makes the first `count` bytes of the last [`Outbox::data_space`] a DATA frame of the stream.
    pub(super) fn data_commit(&mut self, stream_id: u32, count: usize) {
        let slot = if self.open.is_some() {
            0
        } else {
            self.slot(true)
        };
        let header = &mut self.queue.space(slot + HEADER_LEN + count)[slot..slot + HEADER_LEN];
        put_header(header, FrameType::Data, stream_id, count);
        self.queue.commit(slot + HEADER_LEN + count);
        if self.open.is_none() {
            self.open = Some(OpenMessage::new(slot));
        }
        self.count_frame(FrameType::Data, count);
        if self.open.is_some() && self.open_body() >= WORTH_JOINING {
            // Masked at once, while the bytes are in the cache.
            self.seal();
        }
    }

    /// Adds a WebSocket close behind everything queued (RFC 6455 §5.5.1: nothing may follow it).
    /// What overtakes goes ahead of this too, and none comes later.
    pub(super) fn push_close(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.seal();
        let len = self.framing.put_close(&mut self.queue, code, reason);
        let piece = Piece {
            len,
            ..Piece::default()
        };
        self.sealed.push_back(Sealed::of(piece, 0));
        self.sealed_len += len;
    }

    /// What to send next over a connection: as many whole messages as wait, first of all what goes
    /// ahead.
    pub(super) fn transmit<'a>(&'a mut self, ahead: &'a mut Ahead) -> &'a [u8] {
        if self.sealed_len < LANE_QUEUE_SOFT / 2 {
            self.seal();
        }
        let queued = self.queued();
        if let Some(replay) = &mut self.replay {
            replay.offer_windows(&mut self.windows, queued);
        }
        let mut offered = match &self.replay {
            Some(_) => self.windows.bytes().to_vec(),
            None => Vec::new(),
        };
        let first = match self.overtaken < DATAGRAM_TURNS || self.sealed.is_empty() {
            true => ahead.transmit(&mut self.windows, self.datagrams.ready()),
            false => ahead.transmit(&mut self.windows, &mut Buffer::new()),
        };
        if let Some(replay) = &mut self.replay {
            offered.truncate(offered.len() - self.windows.len());
            replay.windows_leave(offered, first.len());
        }
        match self.sealed.front() {
            _ if first.is_empty() => &self.queue.bytes()[self.left..self.left + self.sealed_len],
            // A message that has begun must be whole before another one.
            Some(begun) if begun.taken > 0 => {
                &self.queue.bytes()[self.left..self.left + begun.rest()]
            }
            _ => first,
        }
    }

    /// The connection's socket took the first `count` bytes of the last [`Outbox::transmit`].
    pub(super) fn transmitted(&mut self, ahead: &mut Ahead, count: usize) {
        if ahead.is_leaving() && !self.has_begun() {
            ahead.transmitted(count);
            self.overtaken += usize::from(!ahead.is_leaving());
            if let Some(replay) = &mut self.replay {
                replay.windows_left(count);
            }
            return;
        }
        self.overtaken = 0;
        match &self.replay {
            Some(_) => self.left += count,
            None => self.queue.consume(count),
        }
        self.sealed_len -= count;
        self.message_left(count);
        let spent = self.replay.as_mut().map_or(0, |it| it.drop_taken());
        self.let_go(spent);
        if let Some(replay) = &mut self.replay
            && self.left == self.queue.len()
        {
            replay.caught_up();
            if self.left >= REPLAY_BLOCK {
                self.queue.consume(self.spent);
                replay.exchange(&mut self.queue);
                (self.left, self.spent) = (0, 0);
            }
        }
        self.opens_leave();
    }

    /// `count` more bytes of the sealed messages have left.
    fn message_left(&mut self, mut count: usize) {
        while let Some(first) = self.sealed.front_mut() {
            if count < first.rest() {
                first.taken += count;
                return;
            }
            count -= first.rest();
            let whole = self.sealed.pop_front();
            self.opens.1 += whole.as_ref().map_or(0, |whole| whole.opens);
            if let (Some(replay), Some(whole)) = (&mut self.replay, whole) {
                replay.left(whole.piece);
            }
        }
    }

    /// Whether part of the first sealed message has left.
    fn has_begun(&self) -> bool {
        self.sealed.front().is_some_and(|first| first.taken > 0)
    }

    /// Queues what the last connection lost, a little at a time, and then what was added since.
    /// Says whether that is done now.
    pub(super) fn send_again(&mut self) -> bool {
        let Some(mut replay) = self.replay.take_if(|it| it.phase() == Phase::Resending) else {
            return false;
        };
        while self.queued() < LANE_QUEUE_SOFT / 2 && !self.is_full_block() {
            if !replay.pending.is_empty() {
                replay.send_again(|kind, id, payload| self.add(kind, id, payload));
            } else if !replay.send_behind(|kind, id, payload| self.add(kind, id, payload)) {
                break;
            }
        }
        let is_done = self.queued() == 0 && replay.caught_up();
        self.replay = Some(replay);
        self.opens_leave();
        is_done
    }

    /// The peer has taken so many frames.
    pub(super) fn acknowledged(&mut self, count: u64) -> Result<(), CannotBe> {
        let Some(replay) = &mut self.replay else {
            return Ok(());
        };
        let spent = replay.acknowledged(count)?;
        self.let_go(spent);
        Ok(())
    }

    /// Nobody needs so many bytes more of those that have left.
    fn let_go(&mut self, count: usize) {
        self.spent += count;
        if self.spent == self.left {
            self.queue.consume(self.left);
            (self.left, self.spent) = (0, 0);
        }
    }

    /// Leaves all that waits to a connection, which goes on alone.
    pub(super) fn leave_to(mut self, ahead: &mut Ahead) {
        self.seal();
        let begun = self.sealed.front().filter(|first| first.taken > 0);
        let begun = begun.map_or(0, Sealed::rest);
        let (begun, rest) = self.queue.bytes()[self.left..].split_at(begun);
        ahead.inherit(begun, &mut self.windows, rest);
    }

    /// The connection is lost: what it did not carry waits for the next one. What has begun to
    /// leave is the connection's to finish, should it still be able to.
    /// Gives how many datagrams are lost with it.
    pub(super) fn suspend(&mut self, ahead: &mut Ahead) -> u64 {
        let lost = self.datagrams.clear();
        self.seal();
        if self.has_begun()
            && let Some(begun) = self.sealed.front()
        {
            let count = begun.rest();
            let rest = &self.queue.bytes()[self.left..self.left + count];
            ahead.inherit(rest, &mut Buffer::new(), &[]);
            self.left += count;
            self.sealed_len -= count;
            self.message_left(count);
        }
        let Some(replay) = &mut self.replay else {
            return lost;
        };
        let mut block = std::mem::take(&mut self.queue);
        block.consume(self.spent);
        let unsent = self.sealed.drain(..).map(|sealed| sealed.piece);
        replay.suspend(unsent, block, &self.windows);
        (self.left, self.spent, self.sealed_len) = (0, 0, 0);
        self.windows.release();
        self.closed = false;
        lost
    }

    /// Another connection carries it, whose peer has taken so many frames.
    pub(super) fn resume(&mut self, framing: Framing, received: u64) {
        self.framing = framing;
        if let Some(replay) = &mut self.replay {
            replay.resume(received);
        }
        self.opens_leave();
    }

    /// Takes credit for a stream back that has not left.
    pub(super) fn take_window(&mut self, stream_id: u32) -> Option<u32> {
        self.replay.as_mut()?.take_gathered(stream_id)
    }

    /// Whether what comes now has to wait for what is sent again.
    pub(super) fn is_resending(&self) -> bool {
        let replay = self.replay.as_ref();
        replay.is_some_and(|replay| replay.phase() == Phase::Resending)
    }

    /// Whether a stream more may be opened, as far as what is kept is concerned.
    pub(super) fn may_open(&self) -> bool {
        let replay = self.replay.as_ref();
        let is_full = |replay: &Replay| replay.is_full(self.queued());
        replay.is_none_or(|replay| replay.phase() == Phase::Sending && !is_full(replay))
    }

    /// Gives memory back when nothing waits.
    pub(super) fn release_if_idle(&mut self) {
        self.windows.release_if_idle(0);
        self.queue.release_if_idle(0);
        self.datagrams.release_if_idle();
        if let Some(replay) = &mut self.replay {
            replay.release_spare();
        }
    }

    /// Some seconds have passed: gives memory back that was not needed in them.
    pub(super) fn look_back(&mut self) {
        if let Some(replay) = &mut self.replay {
            replay.look_back();
        }
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        let kept = self.replay.as_ref().map_or(0, |replay| replay.capacity());
        let datagrams = self.datagrams.capacity();
        self.windows.capacity() + self.queue.capacity() + datagrams + kept
    }

    fn open_body(&self) -> usize {
        let slot = self.open.as_ref().map_or(0, |open| open.slot);
        self.queued() - self.sealed_len - slot
    }

    /// Sees to it that there is an open message with room for a frame of `frame_len` bytes.
    fn open_for(&mut self, frame_len: usize) {
        if let Some(open) = &self.open {
            if self.open_body() + frame_len <= open.capacity() {
                return;
            }
            self.seal();
        }
        let slot = self.slot(frame_len > SMALL_MESSAGE);
        self.queue.space(slot);
        self.queue.commit(slot);
        self.open = Some(OpenMessage::new(slot));
    }

    fn count_frame(&mut self, kind: FrameType, payload: usize) {
        let Some(open) = &mut self.open else { return };
        open.frames += 1;
        open.opens += u64::from(kind == FrameType::StreamOpen);
        if self.keeps {
            open.reliable += u64::from(kind.is_reliable());
            open.bind_oks += u64::from(kind == FrameType::BindOk);
            if kind == FrameType::Data {
                open.data += payload;
                if let Some(replay) = &mut self.replay {
                    replay.adds_data(payload);
                }
            }
        }
        if open.frames == MAX_FRAMES {
            self.seal();
        }
    }

    fn slot(&self, large: bool) -> usize {
        ws::header_len(
            self.framing.role,
            if large {
                SMALL_MESSAGE + 1
            } else {
                SMALL_MESSAGE
            },
        )
    }

    /// Closes the open message: from here on its bytes do not change.
    fn seal(&mut self) {
        let Some(open) = &self.open else { return };
        let (slot, opens, body) = (open.slot, open.opens, self.open_body());
        if body == 0 {
            return;
        }
        let header = ws::header_len(self.framing.role, body);
        let mut piece = Piece {
            len: header + body,
            frames: open.reliable,
            bind_oks: open.bind_oks,
            data: open.data,
            ..Piece::default()
        };
        self.open = None;
        let gap = slot - header;
        if self.sealed_len == 0 && self.left == 0 {
            self.queue.consume(gap);
        } else if self.sealed_len == 0 {
            self.left += gap;
            piece.gap = gap;
        } else if gap != 0 {
            let tail = &mut self.queue.bytes_mut()[self.left + self.sealed_len..];
            tail.copy_within(slot.., header);
            self.queue.truncate(self.queue.len() - gap);
        }
        let mask = self.framing.mask();
        let message = &mut self.queue.bytes_mut()[self.left + self.sealed_len..];
        ws::write_header(message, self.framing.role, OpCode::Binary, body, mask);
        if let Some(key) = mask {
            ws::apply_mask(&mut message[header..], key, 0);
        }
        self.sealed_len += piece.len;
        self.sealed.push_back(Sealed::of(piece, opens));
    }

    /// Whether the pieces fit each other; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.sealed.iter().map(Sealed::rest).sum::<usize>(),
            self.sealed_len,
            "sealed bytes miscounted"
        );
        assert!(self.spent <= self.left, "what is needed was dropped");
        assert!(self.sealed_len <= self.queued(), "more sealed than queued");
        assert!(
            self.open.is_some() || self.sealed_len == self.queued(),
            "bytes of no message"
        );
        if let Some(replay) = &self.replay {
            let unfinished = self.sealed.front();
            let unfinished = unfinished.map_or(0, |first| first.taken + first.piece.gap);
            replay.check(self.left - self.spent - unfinished);
        }
    }
}

/// A read into less room than this, in bytes, is better put into a message of its own.
const WORTH_JOINING: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Role;

    #[test]
    #[should_panic(expected = "sealed bytes miscounted")]
    fn an_outbox_that_miscounts_is_noticed() {
        let mut out = Outbox::new(Framing::new(Role::Server, None), None);
        out.sealed_len = 1;
        out.check_invariants();
    }
}
