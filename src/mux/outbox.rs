//! The outgoing side of a lane: frames become WebSocket messages, in place.
//!
//! Two queues. *Urgent* holds PING, PONG and WINDOW frames, which go ahead of everything that has
//! not begun to leave. *The queue* holds sealed messages, then at most one open message that still
//! takes frames. Bytes of a connection are read straight behind a reserved frame header into the
//! open message ([`Outbox::data_space`]), so on their way out they are copied by nobody but the
//! kernel.
//!
//! A message header is written when the message is sealed, for only then its length is known. The
//! slot kept for it fits the largest header that may come; when a smaller one came, the gap is cut
//! off at the head of the queue, or closed by sliding the (then small) body.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::entropy::Entropy;
use crate::limits::{LANE_QUEUE_SOFT, MAX_FRAME_PAYLOAD, MAX_FRAMES};
use crate::wire::frame::{FrameType, HEADER_LEN, encode_header};
use crate::ws::{self, OpCode, Role};

/// Outgoing frames of one lane.
#[derive(Debug)]
pub struct Outbox {
    role: Role,
    /// Where masks come from; a server sends unmasked and needs none.
    masks: Option<Entropy>,
    /// Whole frames that overtake.
    urgent: Buffer,
    /// A sealed WebSocket frame that overtook, and leaves now.
    overtaking: Buffer,
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
    /// An empty outbox. A client gives a source of masks.
    pub fn new(role: Role, masks: Option<Entropy>) -> Outbox {
        assert_eq!(
            masks.is_some(),
            role == Role::Client,
            "exactly the client masks (RFC 6455 §5.3)"
        );
        Outbox {
            role,
            masks,
            urgent: Buffer::new(),
            overtaking: Buffer::new(),
            queue: Buffer::new(),
            sealed: VecDeque::new(),
            sealed_len: 0,
            begun: false,
            open: None,
            closed: false,
        }
    }

    /// Bytes that wait to leave.
    pub fn len(&self) -> usize {
        self.queue.len() + self.urgent.len() + self.overtaking.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether bulk may be added; beyond the soft bound only control frames are.
    pub fn has_room(&self) -> bool {
        self.queue.len() < LANE_QUEUE_SOFT && !self.closed
    }

    /// How much waits that does not overtake, bulk above all.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of frames that answer the peer and wait: a peer that asks and never reads makes these
    /// grow.
    pub fn urgent_len(&self) -> usize {
        self.urgent.len() + self.overtaking.len()
    }

    /// Adds a frame that goes ahead of queued data (PROTOCOL §6: PONG; WINDOW, PING).
    pub fn push_urgent(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) {
        if self.closed {
            return;
        }
        let space = self.urgent.space(HEADER_LEN + payload.len());
        write_frame(space, kind, stream_id, payload);
        self.urgent.commit(HEADER_LEN + payload.len());
    }

    /// Adds a frame behind all others.
    pub fn push(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) {
        assert!(
            payload.len() <= MAX_FRAME_PAYLOAD,
            "a frame was made larger than frames may be"
        );
        if self.closed {
            return;
        }
        let frame_len = HEADER_LEN + payload.len();
        self.open_for(frame_len);
        let space = self.queue.space(frame_len);
        write_frame(space, kind, stream_id, payload);
        self.queue.commit(frame_len);
        self.count_frame();
    }

    /// Room for one DATA payload of up to `wanted` bytes, to be filled in place and then taken in
    /// by [`Outbox::data_commit`]. `wanted` is at most one frame's payload and not zero. Asked only
    /// while there [is room](Outbox::has_room).
    pub fn data_space(&mut self, wanted: usize) -> &mut [u8] {
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
    pub fn data_commit(&mut self, stream_id: u32, count: usize) {
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

    /// Adds a WebSocket control frame (close, ping, pong), ahead of what has not begun to leave.
    pub fn push_websocket_control(&mut self, opcode: OpCode, payload: &[u8]) {
        if self.closed {
            return;
        }
        let mut body = Buffer::new();
        body.extend(payload);
        self.frame_into_overtaking(opcode, body);
    }

    /// Adds a WebSocket close behind everything queued (RFC 6455 §5.5.1: nothing may follow it).
    /// What is urgent overtakes this too, and none comes later.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.seal();
        let mut payload = [0; 125];
        let mut cut = reason.len().min(123);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        payload[..2].copy_from_slice(&code.to_be_bytes());
        payload[2..2 + cut].copy_from_slice(&reason.as_bytes()[..cut]);
        let body = &mut payload[..2 + cut];
        let mask = self.masks.as_mut().map(Entropy::octets);
        let header = ws::header_len(self.role, body.len());
        let total = header + body.len();
        let space = self.queue.space(total);
        ws::write_header(space, self.role, OpCode::Close, body.len(), mask);
        space[header..total].copy_from_slice(body);
        if let Some(key) = mask {
            ws::apply_mask(&mut space[header..total], key, 0);
        }
        self.queue.commit(total);
        self.sealed.push_back(total);
        self.sealed_len += total;
    }

    /// What to send next: as many whole messages as wait, urgent frames first.
    pub fn transmit(&mut self) -> &[u8] {
        if !self.urgent.is_empty() && self.overtaking.is_empty() {
            self.seal_urgent();
        }
        if self.sealed_len < LANE_QUEUE_SOFT / 2 {
            self.seal();
        }
        if self.overtaking.is_empty() {
            return &self.queue.bytes()[..self.sealed_len];
        }
        match self.sealed.front() {
            // A message that has begun must be whole before another one.
            Some(first) if self.begun => &self.queue.bytes()[..*first],
            _ => self.overtaking.bytes(),
        }
    }

    /// The socket took the first `count` bytes of the last [`Outbox::transmit`].
    pub fn transmitted(&mut self, mut count: usize) {
        if !self.overtaking.is_empty() && !self.begun {
            self.overtaking.consume(count);
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

    /// Gives memory back when nothing waits.
    pub fn release_if_idle(&mut self) {
        for buffer in [&mut self.urgent, &mut self.overtaking, &mut self.queue] {
            buffer.release_if_idle(0);
        }
    }

    /// Memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.urgent.capacity() + self.overtaking.capacity() + self.queue.capacity()
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
            self.role,
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
        let header = ws::header_len(self.role, body);
        let gap = slot - header;
        if self.sealed_len == 0 {
            self.queue.consume(gap);
        } else if gap != 0 {
            let tail = &mut self.queue.bytes_mut()[self.sealed_len..];
            tail.copy_within(slot.., header);
            self.queue.truncate(self.queue.len() - gap);
        }
        let mask = self.masks.as_mut().map(Entropy::octets);
        let message = &mut self.queue.bytes_mut()[self.sealed_len..];
        ws::write_header(message, self.role, OpCode::Binary, body, mask);
        if let Some(key) = mask {
            ws::apply_mask(&mut message[header..], key, 0);
        }
        self.sealed.push_back(header + body);
        self.sealed_len += header + body;
    }

    /// Makes one message of the urgent frames, at most as many as a message may hold.
    fn seal_urgent(&mut self) {
        let body = whole_frames(self.urgent.bytes());
        let mut message = Buffer::new();
        message.extend(&self.urgent.bytes()[..body]);
        self.urgent.consume(body);
        self.frame_into_overtaking(OpCode::Binary, message);
    }

    fn frame_into_overtaking(&mut self, opcode: OpCode, mut body: Buffer) {
        let mask = self.masks.as_mut().map(Entropy::octets);
        let header = ws::header_len(self.role, body.len());
        let space = self.overtaking.space(header + body.len());
        ws::write_header(space, self.role, opcode, body.len(), mask);
        if let Some(key) = mask {
            ws::apply_mask(body.bytes_mut(), key, 0);
        }
        space[header..].copy_from_slice(body.bytes());
        self.overtaking.commit(header + body.len());
    }

    /// Whether the pieces fit each other; for tests, fuzzing and debug builds.
    pub fn check_invariants(&self) {
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

fn put_header(out: &mut [u8], kind: FrameType, stream_id: u32, len: usize) {
    if let Some(header) = out.first_chunk_mut::<HEADER_LEN>() {
        encode_header(header, kind, stream_id, len);
    }
}

fn write_frame(space: &mut [u8], kind: FrameType, stream_id: u32, payload: &[u8]) {
    put_header(space, kind, stream_id, payload.len());
    space[HEADER_LEN..].copy_from_slice(payload);
}

/// The length of the leading frames that fit one message; our own frames, so they parse.
fn whole_frames(frames: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..MAX_FRAMES {
        let Some(length) = frames.get(at + 5..at + HEADER_LEN) else {
            break;
        };
        let payload = length
            .iter()
            .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
        at += HEADER_LEN + payload;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "sealed bytes miscounted")]
    fn an_outbox_that_miscounts_is_noticed() {
        let mut out = Outbox::new(Role::Server, None);
        out.sealed_len = 1;
        out.check_invariants();
    }
}
