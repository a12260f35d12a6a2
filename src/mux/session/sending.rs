//! DATA that goes out: room and credit are found, or the sender gets in line.

use std::collections::VecDeque;

use crate::clock::Instant;
use crate::limits::{BULK_PAYLOAD, LANE_QUEUE_SOFT, MIN_WINDOW, SHARE_WORTH};
use crate::mux::keys::{StreamKey, StreamMark};
use crate::mux::session::{Session, Wake};
use crate::mux::share::share;
use crate::mux::stream::{Stream, Waits};
use crate::table::Table;

impl<T: Copy> Session<T> {
    /// Room for the stream's next DATA, at most `wanted` bytes of it, to be filled in place and
    /// taken in by [`Session::data_commit`]. Empty when there is no credit or no room: then a
    /// [`Wake::Sender`] comes when it is worth trying again.
    pub fn data_space(&mut self, key: StreamKey, wanted: usize) -> &mut [u8] {
        let Some(room) = self.may_send(key, wanted) else {
            return &mut [];
        };
        let Some(stream) = self.streams.get(key) else {
            return &mut [];
        };
        let lane = usize::from(stream.lane);
        self.channels[lane].out.data_space(room)
    }

    /// Sends the first `count` bytes of the last [`Session::data_space`] as DATA of the stream.
    pub fn data_commit(&mut self, key: StreamKey, count: usize, now: Instant) {
        if count == 0 {
            return;
        }
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.send.spend(count as u32);
        stream.bytes_out += count as u64;
        stream.last_moved = now;
        self.turns += 1;
        stream.last_turn = self.turns;
        let promised = std::mem::take(&mut stream.promised);
        self.send.spend(count as u32);
        let (id, lane) = (stream.id, usize::from(stream.lane));
        let channel = &mut self.channels[lane];
        channel.out.data_commit(id, count);
        channel.line.sent(&mut stream.turns, count as u32);
        channel.carried.sent += count as u64;
        self.credit_moved = now;
        self.call_for_room(lane);
        self.traffic.data_out += count as u64;
        self.traffic.frames_out += 1;
        self.flood.sent_data();
        self.wake_lane(lane);
        self.take_back(promised);
    }

    /// Sends as much of `bytes` as credit and room allow, by copying it, and says how much that
    /// was. When it was not all, a [`Wake::Sender`] comes when it is worth trying again.
    pub fn send(&mut self, key: StreamKey, bytes: &[u8], now: Instant) -> usize {
        let mut sent = 0;
        loop {
            let space = self.data_space(key, bytes.len() - sent);
            let count = space.len();
            if count == 0 {
                return sent;
            }
            space.copy_from_slice(&bytes[sent..sent + count]);
            self.data_commit(key, count, now);
            sent += count;
        }
    }

    /// How many bytes the stream may send now, at most `wanted`; otherwise its sender gets in line.
    fn may_send(&mut self, key: StreamKey, wanted: usize) -> Option<usize> {
        let stream = self.streams.get_mut(key)?;
        if stream.local_done() || wanted == 0 {
            return None;
        }
        let channel = &mut self.channels[usize::from(stream.lane)];
        let by_stream = stream.send.available();
        let (left, own) = (self.send.available(), stream.send.outstanding());
        let share = share(left, self.send.window(), own);
        let by_session = share.saturating_sub(own).min(left);
        let called = stream.called.take();
        channel.line.settle(called);
        let its_turn = channel.line.is_turn_of(&mut stream.turns, called, wanted);
        let room = channel.room();
        if by_stream > 0 && by_session > 0 && its_turn && room > 0 {
            let credit = by_stream.min(by_session) as usize;
            return Some(credit.min(wanted).min(room).min(BULK_PAYLOAD));
        }
        if stream.waits == Waits::No {
            let promised = std::mem::take(&mut stream.promised);
            let lane = usize::from(stream.lane);
            stream.waits = if by_stream == 0 {
                Waits::StreamCredit
            } else if by_session == 0 {
                let place = (own, stream.last_turn, key);
                stream.place = Some(place);
                self.line.join(place);
                Waits::SessionCredit
            } else {
                stream.room = Some(channel.line.join(key, &stream.turns, called, wanted));
                Waits::Room
            };
            self.call_for_room(lane);
            self.take_back(promised);
        }
        None
    }

    /// Has those try again who wait for room in the lane's queue, as many as there is room for,
    /// once half of it is free.
    pub(in crate::mux) fn call_for_room(&mut self, lane: usize) {
        let channel = &mut self.channels[lane];
        if channel.line.is_empty() || channel.room() == 0 {
            return;
        }
        let mut ahead = channel.out.queued() + channel.line.expected();
        if ahead > LANE_QUEUE_SOFT / 2 {
            return;
        }
        while ahead < LANE_QUEUE_SOFT
            && let Some(key) = channel.line.next()
        {
            let stream = self.streams.get_mut(key);
            let stream = stream.expect("who stands in the line is alive: forget() takes it out");
            let place = stream.room.take();
            let place = place.expect("who stands in the line knows where");
            let own = stream.send.outstanding();
            let share = share(self.send.available(), self.send.window(), own);
            let may = stream.send.available().min(share.saturating_sub(own));
            let (called, expected) = channel.line.call(place, may);
            stream.called = Some(called);
            ahead += expected;
            wake_sender(&mut self.streams, &mut self.wakes, key);
        }
    }

    /// Has those senders try again whose share has grown enough, as many as there is credit for.
    pub(in crate::mux) fn call_starved(&mut self) {
        while let Some((key, promise)) = self.line.call(self.send.available(), self.send.window()) {
            let stream = self.streams.get_mut(key);
            let stream = stream.expect("who stands in the line is alive: forget() takes it out");
            stream.place = None;
            stream.promised = promise;
            wake_sender(&mut self.streams, &mut self.wakes, key);
        }
    }

    /// The stream sends nothing more: it waits for nothing, and what was kept for it others get.
    pub(in crate::mux) fn leave_lines(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.waits = Waits::No;
        let lane = usize::from(stream.lane);
        if let Some(place) = stream.place.take() {
            self.line.leave(place);
        }
        let promised = std::mem::take(&mut stream.promised);
        let (room, called) = (stream.room.take(), stream.called.take());
        let line = &mut self.channels[lane].line;
        line.settle(called);
        if let Some(place) = room {
            line.leave(place);
        }
        self.take_back(promised);
        self.call_for_room(lane);
    }

    /// A stream did not use what it was called for: others may.
    pub(in crate::mux) fn take_back(&mut self, promised: u32) {
        if promised != 0 {
            self.line.settle(promised);
            self.call_starved();
        }
    }

    /// A stream that waits for its share got credit of its own back: it may stand further ahead.
    pub(in crate::mux) fn move_up(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && let Some(place) = stream.place
        {
            self.line.leave(place);
            let place = (stream.send.outstanding(), stream.last_turn, key);
            stream.place = Some(place);
            self.line.join(place);
            self.call_starved();
        }
    }

    /// Takes promises back that were not used, and gives those a piece who wait for credit that an
    /// older receiver withholds: up to a quarter of a stream's window, and of a piece of 64 KiB.
    pub(in crate::mux) fn call_overdue(&mut self) {
        for (_, stream) in self.streams.iter_mut() {
            self.line.settle(std::mem::take(&mut stream.promised));
            let line = &mut self.channels[usize::from(stream.lane)].line;
            line.expect_no_more(&mut stream.called);
        }
        self.call_starved();
        for lane in 0..self.channels.len() {
            self.call_for_room(lane);
        }
        let withheld = self.terms.stream_window / 4 + MIN_WINDOW / 4;
        let mut left = self
            .send
            .available()
            .saturating_sub(self.send.window() / 32);
        let mut overdue = Vec::new();
        for (outstanding, _, key) in self.line.waiting() {
            if *outstanding >= withheld || left == 0 {
                break;
            }
            left = left.saturating_sub(SHARE_WORTH);
            overdue.push(*key);
        }
        for key in overdue {
            self.let_pass(key);
        }
    }

    /// Has a stream that waits for its share send one piece beyond it.
    fn let_pass(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Some(place) = stream.place.take() {
            self.line.leave(place);
            stream.send.forgive(SHARE_WORTH);
            wake_sender(&mut self.streams, &mut self.wakes, key);
        }
    }
}

#[cfg(test)]
impl<T: Copy> Session<T> {
    /// Sends as older peers do: whatever credit there is goes to whoever asks first.
    pub(crate) fn send_greedily(&mut self, key: StreamKey, bytes: &[u8], now: Instant) -> usize {
        let mut sent = 0;
        while let Some(stream) = self.streams.get_mut(key) {
            let credit = stream.send.available().min(self.send.available()) as usize;
            let lane = usize::from(stream.lane);
            let channel = &mut self.channels[lane];
            let credit = credit.min(channel.room());
            let count = credit.min(bytes.len() - sent).min(BULK_PAYLOAD);
            if count == 0 {
                break;
            }
            let space = channel.out.data_space(count);
            let count = count.min(space.len());
            space[..count].copy_from_slice(&bytes[sent..sent + count]);
            self.data_commit(key, count, now);
            sent += count;
        }
        sent
    }
}

/// Takes a sender out of its wait and has it try again.
pub(in crate::mux) fn wake_sender<T: Copy>(
    streams: &mut Table<StreamMark, Stream<T>>,
    wakes: &mut VecDeque<Wake<T>>,
    key: StreamKey,
) {
    if let Some(stream) = streams.get_mut(key) {
        stream.waits = Waits::No;
        wakes.push_back(Wake::Sender(stream.tag));
    }
}
