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
use crate::limits::{LANE_QUEUE_SOFT, MAX_FRAME_PAYLOAD, MAX_FRAMES};
use crate::mux::ahead::Ahead;
use crate::mux::framing::{Framing, push_frame, put_header};
use crate::wire::frame::{FrameType, HEADER_LEN};
use crate::ws::{self, OpCode, Role};

/// Outgoing frames of one channel.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    framing: Framing,
    /// Whole frames that overtake.
    pub(super) windows: Buffer,
    /// Sealed messages, then the open one.
    queue: Buffer,
    /// Lengths of the sealed messages, of the first only what is left of it.
    sealed: VecDeque<usize>,
    /// The sum of `sealed`: the open message's slot begins here.
    sealed_len: usize,
    /// Whether part of the first sealed message has left.
    begun: bool,
    open: Option<OpenMessage>,
    /// A close frame was queued: nothing may follow it (RFC 6455 §5.5.1), so nothing more is taken.
    closed: bool,
}

#[derive(Debug)]
struct OpenMessage {
    slot: usize,
    frames: usize,
}

impl Outbox {
    /// An empty outbox.
    pub(super) fn new(framing: Framing) -> Outbox {
        Outbox {
            framing,
            ..Outbox::default()
        }
    }

    /// Bytes that wait to leave.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.windows.len()
    }

    /// Whether bulk may be added; beyond the soft bound only control frames are.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < LANE_QUEUE_SOFT && !self.closed
    }

    /// How much waits that does not overtake, bulk above all.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Adds a WINDOW, which goes ahead of queued data.
    pub(super) fn push_window(&mut self, stream_id: u32, increment: u32) {
        if !self.closed {
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
        if self.closed {
            return;
        }
        let frame_len = HEADER_LEN + payload.len();
        self.open_for(frame_len);
        push_frame(&mut self.queue, kind, stream_id, payload);
        self.count_frame();
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
            self.open = Some(OpenMessage { slot, frames: 0 });
        }
        self.count_frame();
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
        let length = self.framing.put_close(&mut self.queue, code, reason);
        self.sealed.push_back(length);
        self.sealed_len += length;
    }

    /// What to send next over a connection: as many whole messages as wait, first of all what goes
    /// ahead.
    pub(super) fn transmit<'a>(&'a mut self, ahead: &'a mut Ahead) -> &'a [u8] {
        if self.sealed_len < LANE_QUEUE_SOFT / 2 {
            self.seal();
        }
        let first = ahead.transmit(&mut self.windows);
        match self.sealed.front() {
            _ if first.is_empty() => &self.queue.bytes()[..self.sealed_len],
            // A message that has begun must be whole before another one.
            Some(begun) if self.begun => &self.queue.bytes()[..*begun],
            _ => first,
        }
    }

    /// The connection's socket took the first `count` bytes of the last [`Outbox::transmit`].
    pub(super) fn transmitted(&mut self, ahead: &mut Ahead, mut count: usize) {
        if ahead.is_leaving() && !self.begun {
            ahead.transmitted(count);
            return;
        }
        self.queue.consume(count);
        self.sealed_len -= count;
        while let Some(first) = self.sealed.front_mut() {
            if count < *first {
                *first -= count;
                self.begun |= count > 0;
                return;
            }
            count -= *first;
            self.sealed.pop_front();
            self.begun = false;
        }
    }

    /// Leaves all that waits to a connection, which goes on alone.
    pub(super) fn leave_to(mut self, ahead: &mut Ahead) {
        self.seal();
        let begun = self
            .sealed
            .front()
            .filter(|_| self.begun)
            .map_or(0, |it| *it);
        let (begun, rest) = self.queue.bytes().split_at(begun);
        ahead.inherit(begun, &mut self.windows, rest);
    }

    /// Gives memory back when nothing waits.
    pub(super) fn release_if_idle(&mut self) {
        self.windows.release_if_idle(0);
        self.queue.release_if_idle(0);
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.windows.capacity() + self.queue.capacity()
    }

    fn open_body(&self) -> usize {
        let slot = self.open.as_ref().map_or(0, |open| open.slot);
        self.queue.len() - self.sealed_len - slot
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
        self.open = Some(OpenMessage { slot, frames: 0 });
    }

    fn count_frame(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.frames += 1;
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
        let (slot, body) = (open.slot, self.open_body());
        if body == 0 {
            return;
        }
        self.open = None;
        let header = ws::header_len(self.framing.role, body);
        let gap = slot - header;
        if self.sealed_len == 0 {
            self.queue.consume(gap);
        } else if gap != 0 {
            let tail = &mut self.queue.bytes_mut()[self.sealed_len..];
            tail.copy_within(slot.., header);
            self.queue.truncate(self.queue.len() - gap);
        }
        let mask = self.framing.mask();
        let message = &mut self.queue.bytes_mut()[self.sealed_len..];
        ws::write_header(message, self.framing.role, OpCode::Binary, body, mask);
        if let Some(key) = mask {
            ws::apply_mask(&mut message[header..], key, 0);
        }
        self.sealed.push_back(header + body);
        self.sealed_len += header + body;
    }

    /// Whether the pieces fit each other; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.sealed.iter().sum::<usize>(),
            self.sealed_len,
            "sealed bytes miscounted"
        );
        assert!(
            self.sealed_len <= self.queue.len(),
            "more sealed than queued"
        );
        assert!(
            self.open.is_some() || self.sealed_len == self.queue.len(),
            "bytes of no message"
        );
        assert!(!self.begun || !self.sealed.is_empty(), "nothing has begun");
    }
}

impl OpenMessage {
    /// The longest body whose header fits the slot, within what a peer takes without delay.
    fn capacity(&self) -> usize {
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
const SMALL_MESSAGE: usize = 0xFFFF;
/// A read into less room than this, in bytes, is better put into a message of its own.
const WORTH_JOINING: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "sealed bytes miscounted")]
    fn an_outbox_that_miscounts_is_noticed() {
        let mut out = Outbox::new(Framing::new(Role::Server, None));
        out.sealed_len = 1;
        out.check_invariants();
    }
}
