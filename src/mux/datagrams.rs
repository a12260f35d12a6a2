//! Datagrams that wait for a lane (PROTOCOL §8.1).
//!
//! They leave ahead of what was queued before them, and are neither kept nor counted. None leaves
//! ahead of its stream's STREAM_OPEN: until that has left it waits by itself, with the number of
//! the STREAM_OPEN on its lane. Where the queue is full the oldest go.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::limits::DATAGRAM_QUEUE;
use crate::mux::framing::{frame_len, push_frame};
use crate::wire::frame::{FrameType, HEADER_LEN};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// Whole frames that may leave.
    ready: Buffer,
    /// Whole frames that may not yet.
    early: Buffer,
    /// For each of those, after how many STREAM_OPENs it may.
    after: VecDeque<u64>,
}

impl Datagrams {
    /// Adds one, which may leave once so many STREAM_OPENs have, and says how many others went for
    /// it. `opened` have left.
    pub(super) fn push(&mut self, id: u32, datagram: &[u8], after: u64, opened: u64) -> u64 {
        let mut lost = 0;
        while self.len() + HEADER_LEN + datagram.len() > DATAGRAM_QUEUE {
            self.drop_oldest();
            lost += 1;
        }
        if after <= opened {
            push_frame(&mut self.ready, FrameType::Datagram, id, datagram);
        } else {
            push_frame(&mut self.early, FrameType::Datagram, id, datagram);
            self.after.push_back(after);
        }
        lost
    }

    fn drop_oldest(&mut self) {
        let fewer = self.ready.len() < self.early.len();
        let queue = match fewer {
            true => &mut self.early,
            false => &mut self.ready,
        };
        let Some(length) = frame_len(queue.bytes()) else {
            return;
        };
        queue.consume(length);
        if fewer {
            self.after.pop_front();
        }
    }

    /// So many STREAM_OPENs have left.
    pub(super) fn opened(&mut self, count: u64) {
        while self.after.front().is_some_and(|after| *after <= count)
            && let Some(length) = frame_len(self.early.bytes())
        {
            self.ready.extend(&self.early.bytes()[..length]);
            self.early.consume(length);
            self.after.pop_front();
        }
    }

    /// Those that may leave.
    pub(super) fn ready(&mut self) -> &mut Buffer {
        &mut self.ready
    }

    /// Drops all, and says how many there were.
    pub(super) fn clear(&mut self) -> u64 {
        let mut lost = 0;
        while self.len() > 0 {
            self.drop_oldest();
            lost += 1;
        }
        *self = Datagrams::default();
        lost
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.early.len()
    }

    /// Bytes that wait for nothing but the lane.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Gives memory back when none waits.
    pub(super) fn release_if_idle(&mut self) {
        self.ready.release_if_idle(0);
        self.early.release_if_idle(0);
        if self.after.is_empty() {
            self.after = VecDeque::new();
        }
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        let numbers = self.after.capacity() * size_of::<u64>();
        self.ready.capacity() + self.early.capacity() + numbers
    }
}
