//! What leaves a connection ahead of its channel's frames.
//!
//! PING and PONG concern one connection, as does what is said before there is a session: they wait
//! here, and do not outlive it. They become one WebSocket message, together with the channel's
//! WINDOW frames (`outbox.rs`), behind whole WebSocket frames that are about to leave.

use crate::buffer::Buffer;
use crate::limits::MAX_FRAMES;
use crate::mux::framing::{Framing, push_frame, whole_frames};
use crate::wire::frame::FrameType;
use crate::ws::OpCode;

/// The outgoing bytes of a connection that are not its channel's.
#[derive(Debug)]
pub(super) struct Ahead {
    framing: Framing,
    /// Whole frames that are in no message yet.
    frames: Buffer,
    /// Sealed WebSocket frames.
    leaving: Buffer,
    /// A close frame was queued, here or in the channel: nothing more is taken.
    closed: bool,
}

impl Ahead {
    pub(super) fn new(framing: Framing) -> Ahead {
        Ahead {
            framing,
            frames: Buffer::new(),
            leaving: Buffer::new(),
            closed: false,
        }
    }

    /// The same framing for a channel.
    pub(super) fn fork_framing(&mut self) -> Framing {
        self.framing.fork()
    }

    /// Bytes that wait to leave.
    pub(super) fn len(&self) -> usize {
        self.frames.len() + self.leaving.len()
    }

    /// Whether something leaves that was sealed.
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) {
        if !self.closed {
            push_frame(&mut self.frames, kind, stream_id, payload);
        }
    }

    /// Adds a WebSocket control frame (ping, pong).
    pub(super) fn push_websocket_control(&mut self, opcode: OpCode, payload: &[u8]) {
        if !self.closed {
            self.framing.put(&mut self.leaving, opcode, &[payload]);
        }
    }

    /// Adds a WebSocket close behind everything else (RFC 6455 §5.5.1: nothing may follow it).
    pub(super) fn push_close(&mut self, code: u16, reason: &str) {
        if !self.closed {
            while !self.frames.is_empty() {
                self.seal(&mut Buffer::new());
            }
            self.framing.put_close(&mut self.leaving, code, reason);
            self.closed = true;
        }
    }

    /// The channel queued a close frame.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Makes one message of the frames and of what the channel has to go ahead, at most as many as
    /// a message may hold.
    fn seal(&mut self, windows: &mut Buffer) {
        let (own, count) = whole_frames(self.frames.bytes(), MAX_FRAMES);
        let (others, _) = whole_frames(windows.bytes(), MAX_FRAMES - count);
        let parts = [own, others];
        self.framing.put(&mut self.leaving, OpCode::Binary, &parts);
        let taken = parts.map(<[u8]>::len);
        self.frames.consume(taken[0]);
        windows.consume(taken[1]);
    }

    /// What to send next of this and of what the channel has to go ahead: datagrams behind the
    /// others.
    pub(super) fn transmit(&mut self, windows: &mut Buffer, datagrams: &mut Buffer) -> &[u8] {
        if self.leaving.is_empty() && !(self.frames.is_empty() && windows.is_empty()) {
            self.seal(windows);
        } else if self.leaving.is_empty() && !(datagrams.is_empty() || self.closed) {
            let (frames, _) = whole_frames(datagrams.bytes(), MAX_FRAMES);
            let taken = frames.len();
            self.framing
                .put(&mut self.leaving, OpCode::Binary, &[frames]);
            datagrams.consume(taken);
        }
        self.leaving.bytes()
    }

    /// The socket took the first `count` bytes of that.
    pub(super) fn transmitted(&mut self, count: usize) {
        self.leaving.consume(count);
    }

    /// Takes over what a channel still had to say: the rest of a message that has begun to leave,
    /// what goes ahead, and the others.
    pub(super) fn inherit(&mut self, begun: &[u8], windows: &mut Buffer, rest: &[u8]) {
        let mut all = Buffer::new();
        all.extend(begun);
        all.extend(self.leaving.bytes());
        self.leaving = all;
        while !(self.frames.is_empty() && windows.is_empty()) {
            self.seal(windows);
        }
        self.leaving.extend(rest);
    }

    /// Gives memory back when nothing waits.
    pub(super) fn release_if_idle(&mut self) {
        self.frames.release_if_idle(0);
        self.leaving.release_if_idle(0);
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.frames.capacity() + self.leaving.capacity()
    }
}
