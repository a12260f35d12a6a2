//! DATA that goes out: room and credit are found, or the sender gets in line.

use std::collections::VecDeque;

use crate::clock::Instant;
use crate::limits::BULK_PAYLOAD;
use crate::mux::session::{Session, Wake};
use crate::mux::stream::{Stream, StreamKey, Waits};
use crate::table::Table;

impl<T: Copy> Session<T> {
    /// Room for the stream's next DATA, at most `wanted` bytes of it, to be filled in place and
    /// taken in by [`Session::data_commit`]. Empty when there is no credit or no room: then a
    /// [`Wake::Sender`] comes when it is worth trying again.
    pub fn data_space(&mut self, key: StreamKey, wanted: usize) -> &mut [u8] {
        let Some(room) = self.may_send(key, wanted) else {
            return &mut [];
        };
        let Some(stream) = self.streams.get(key.retype()) else {
            return &mut [];
        };
        let lane = usize::from(stream.lane);
        match self.lanes.get_mut(lane).and_then(Option::as_mut) {
            Some(slot) => slot.lane.out.data_space(room),
            None => &mut [],
        }
    }

    /// Sends the first `count` bytes of the last [`Session::data_space`] as DATA of the stream.
    pub fn data_commit(&mut self, key: StreamKey, count: usize, now: Instant) {
        if count == 0 {
            return;
        }
        let Some(stream) = self.streams.get_mut(key.retype()) else {
            return;
        };
        stream.send.spend(count as u32);
        stream.bytes_out += count as u64;
        stream.last_moved = now;
        stream.called = false;
        self.turns += 1;
        stream.last_turn = self.turns;
        self.send.spend(count as u32);
        let (id, lane) = (stream.id, usize::from(stream.lane));
        if let Some(slot) = self.lanes.get_mut(lane).and_then(Option::as_mut) {
            slot.lane.out.data_commit(id, count);
        }
        self.losses.sent(lane, count as u32, now);
        self.traffic.data_out += count as u64;
        self.traffic.frames_out += 1;
        self.flood.sent_data();
        self.wake_lane(lane);
    }

    /// Sends as much of `bytes` as credit and room allow, by copying it, and says how much that
    /// was. When it was not all, a [`Wake::Sender`] comes when it is worth trying again.
    pub fn send(&mut self, key: StreamKey, bytes: &[u8], now: Instant) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let space = self.data_space(key, bytes.len() - sent);
            let count = space.len().min(bytes.len() - sent);
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&bytes[sent..sent + count]);
            self.data_commit(key, count, now);
            sent += count;
        }
        sent
    }

    /// How many bytes the stream may send now, at most `wanted`; otherwise its sender gets in line.
    fn may_send(&mut self, key: StreamKey, wanted: usize) -> Option<usize> {
        let stream = self.streams.get_mut(key.retype())?;
        if stream.local_done || wanted == 0 {
            return None;
        }
        let slot = self.lanes.get_mut(usize::from(stream.lane))?.as_mut()?;
        let (by_stream, by_session) = (stream.send.available(), self.send.available());
        // Who finds others waiting gets in line, even where there is a little room: they wait until
        // half of the queue is free, and would do so for ever behind one that never waits.
        let its_turn = stream.called || slot.line.is_empty();
        if by_stream > 0 && by_session > 0 && its_turn && slot.lane.out.has_room() {
            let credit = by_stream.min(by_session) as usize;
            return Some(credit.min(wanted).min(BULK_PAYLOAD));
        }
        if stream.waits == Waits::No {
            stream.called = false;
            stream.waits = if by_stream == 0 {
                Waits::StreamCredit
            } else if by_session == 0 {
                self.starved.push(key);
                Waits::SessionCredit
            } else {
                slot.line.push(key);
                Waits::Room
            };
            self.forget_the_gone(key);
        }
        None
    }

    /// Streams that ended while they stood in a line are taken out once they are the most of it.
    fn forget_the_gone(&mut self, key: StreamKey) {
        let most = 2 * self.streams.len();
        let Some(stream) = self.streams.get(key.retype()) else {
            return;
        };
        let line = match stream.waits {
            Waits::SessionCredit => &mut self.starved,
            Waits::Room => match self.lanes.get_mut(usize::from(stream.lane)) {
                Some(Some(slot)) => &mut slot.line,
                _ => return,
            },
            Waits::No | Waits::StreamCredit => return,
        };
        if line.len() > most {
            line.retain(|key| self.streams.get(key.retype()).is_some());
        }
    }

    /// Has all senders try again that wait for session credit.
    pub(super) fn call_starved(&mut self) {
        let starved = std::mem::take(&mut self.starved);
        self.call(starved);
    }

    /// Has all senders of a line try again, those first who have not sent for the longest time: the
    /// first ones may take all the room there is.
    pub(super) fn call(&mut self, mut line: Vec<StreamKey>) {
        let streams = &self.streams;
        line.sort_by_key(|key| {
            streams
                .get(key.retype())
                .map_or(0, |stream| stream.last_turn)
        });
        for key in line {
            wake_sender(&mut self.streams, &mut self.wakes, key);
        }
    }
}

/// Takes a sender out of its wait and has it try again.
pub(super) fn wake_sender<T: Copy>(
    streams: &mut Table<Stream<T>>,
    wakes: &mut VecDeque<Wake<T>>,
    key: StreamKey,
) {
    if let Some(stream) = streams.get_mut(key.retype()) {
        stream.called = stream.waits == Waits::Room;
        stream.waits = Waits::No;
        wakes.push_back(Wake::Sender(stream.tag));
    }
}
