//! Who may send DATA: a session's credit, and those who wait for it or for room in a lane.
//!
//! What it decides about one stream alone is in `credit`, about the shares of many in `share`,
//! about a lane's queue in `room`; this part has them agree.

use crate::clock::Instant;
use crate::limits::{BULK_PAYLOAD, CREDIT_LOST_AFTER, LANE_QUEUE_SOFT, MIN_WINDOW, SHARE_WORTH};
use crate::mux::credit::{CreditOverflow, SendCredit};
use crate::mux::keys::StreamKey;
use crate::mux::lanes::Lanes;
use crate::mux::share::{Line, share};
use crate::mux::stream::Waits;
use crate::mux::streams::Streams;
use crate::mux::terms::Terms;

/// What a session may send, and who waits.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) credit: SendCredit,
    /// Streams whose senders wait for their share of the credit.
    pub(super) line: Line,
    /// DATA frames sent, as a clock for taking turns.
    turns: u64,
    /// When credit last came or went.
    moved: Instant,
    /// DATA bytes to the peer.
    bytes: u64,
    stream_window: u32,
}

impl Sending {
    /// With a full window.
    pub(super) fn new(terms: &Terms, now: Instant) -> Sending {
        let (_, top) = terms.ceilings();
        Sending {
            credit: SendCredit::new(terms.session_window, top),
            line: Line::default(),
            turns: 0,
            moved: now,
            bytes: 0,
            stream_window: terms.stream_window,
        }
    }

    /// DATA bytes to the peer so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes a stream may send now, at most `wanted`; otherwise its sender gets in line.
    pub(super) fn may_send<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
        wanted: usize,
    ) -> Option<(u8, usize)> {
        let stream = streams.get_mut(key)?;
        if stream.local_done() || wanted == 0 {
            return None;
        }
        let lane = stream.lane;
        let channel = lanes.of_stream(lane);
        let by_stream = stream.send.available();
        let (left, own) = (self.credit.available(), stream.send.outstanding());
        let share = share(left, self.credit.window(), own);
        let by_session = share.saturating_sub(own).min(left);
        let called = stream.called.take();
        channel.line.settle(called);
        let its_turn = channel.line.is_turn_of(&mut stream.turns, called, wanted);
        let room = channel.room();
        if by_stream > 0 && by_session > 0 && its_turn && room > 0 {
            let credit = by_stream.min(by_session) as usize;
            return Some((lane, credit.min(wanted).min(room).min(BULK_PAYLOAD)));
        }
        if stream.waits == Waits::No {
            let promised = std::mem::take(&mut stream.promised);
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
            self.call_for_room(streams, lanes, usize::from(lane));
            self.take_back(streams, promised);
        }
        None
    }

    /// A stream's `count` bytes were put into the space that its lane had. False where there is no
    /// such stream.
    pub(super) fn sent<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
        count: usize,
        now: Instant,
    ) -> bool {
        let Some(stream) = streams.get_mut(key) else {
            return false;
        };
        stream.send.spend(count as u32);
        stream.bytes_out += count as u64;
        stream.last_moved = now;
        self.turns += 1;
        stream.last_turn = self.turns;
        let promised = std::mem::take(&mut stream.promised);
        self.credit.spend(count as u32);
        self.bytes += count as u64;
        self.moved = now;
        let (id, lane) = (stream.id, stream.lane);
        let channel = lanes.of_stream(lane);
        channel.out.data_commit(id, count);
        channel.line.sent(&mut stream.turns, count as u32);
        channel.carried.sent += count as u64;
        self.call_for_room(streams, lanes, usize::from(lane));
        lanes.pushed_data(lane);
        self.take_back(streams, promised);
        true
    }

    /// The peer gave session credit back.
    pub(super) fn credited<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        increment: u32,
        now: Instant,
    ) -> Result<(), CreditOverflow> {
        self.credit.add(increment)?;
        self.moved = now;
        self.call_starved(streams);
        Ok(())
    }

    /// So much never reached the peer, which counts it as not sent.
    pub(super) fn never_arrived<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lost: u32,
    ) -> Result<(), CreditOverflow> {
        self.credit.add(lost)?;
        self.call_starved(streams);
        Ok(())
    }

    /// The peer gave a stream credit back.
    pub(super) fn stream_credited<T: Copy>(&mut self, streams: &mut Streams<T>, key: StreamKey) {
        match streams.get(key).map(|stream| stream.waits) {
            Some(Waits::StreamCredit) => streams.wake(key),
            Some(Waits::SessionCredit) => self.move_up(streams, key),
            Some(Waits::No | Waits::Room) | None => {}
        }
    }

    /// Has those try again who wait for room in the lane's queue, as many as there is room for,
    /// once half of it is free.
    pub(super) fn call_for_room<T: Copy>(
        &self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        lane: usize,
    ) {
        let Some(channel) = lanes.channels.get_mut(lane) else {
            return;
        };
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
            let stream = streams.resolve_mut(key);
            let place = stream.room.take();
            let place = place.expect("who stands in the line knows where");
            let own = stream.send.outstanding();
            let share = share(self.credit.available(), self.credit.window(), own);
            let may = stream.send.available().min(share.saturating_sub(own));
            let (called, expected) = channel.line.call(place, may);
            stream.called = Some(called);
            ahead += expected;
            streams.wake(key);
        }
    }

    /// Has those senders try again whose share has grown enough, as many as there is credit for.
    fn call_starved<T: Copy>(&mut self, streams: &mut Streams<T>) {
        let (left, window) = (self.credit.available(), self.credit.window());
        while let Some((key, promise)) = self.line.call(left, window) {
            let stream = streams.resolve_mut(key);
            stream.place = None;
            stream.promised = promise;
            streams.wake(key);
        }
    }

    /// The stream sends nothing more: it waits for nothing, and what was kept for it others get.
    pub(super) fn leave_lines<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
    ) {
        let Some(stream) = streams.get_mut(key) else {
            return;
        };
        stream.waits = Waits::No;
        if let Some(place) = stream.place.take() {
            self.line.leave(place);
        }
        let promised = std::mem::take(&mut stream.promised);
        let (room, called) = (stream.room.take(), stream.called.take());
        let lane = stream.lane;
        let line = &mut lanes.of_stream(lane).line;
        line.settle(called);
        if let Some(place) = room {
            line.leave(place);
        }
        self.take_back(streams, promised);
        self.call_for_room(streams, lanes, usize::from(lane));
    }

    /// A stream did not use what it was called for: others may.
    fn take_back<T: Copy>(&mut self, streams: &mut Streams<T>, promised: u32) {
        if promised != 0 {
            self.line.settle(promised);
            self.call_starved(streams);
        }
    }

    /// A stream that waits for its share got credit of its own back: it may stand further ahead.
    fn move_up<T: Copy>(&mut self, streams: &mut Streams<T>, key: StreamKey) {
        if let Some(stream) = streams.get_mut(key)
            && let Some(place) = stream.place
        {
            self.line.leave(place);
            let place = (stream.send.outstanding(), stream.last_turn, key);
            stream.place = Some(place);
            self.line.join(place);
            self.call_starved(streams);
        }
    }

    /// Takes promises back that were not used, and gives those a piece who wait for credit that an
    /// older receiver withholds: up to a quarter of a stream's window, and of a piece of 64 KiB.
    pub(super) fn call_overdue<T: Copy>(&mut self, streams: &mut Streams<T>, lanes: &mut Lanes) {
        for (_, stream) in streams.iter_mut() {
            self.line.settle(std::mem::take(&mut stream.promised));
            let line = &mut lanes.of_stream(stream.lane).line;
            line.expect_no_more(&mut stream.called);
        }
        self.call_starved(streams);
        for lane in 0..lanes.channels.len() {
            self.call_for_room(streams, lanes, lane);
        }
        let withheld = self.stream_window / 4 + MIN_WINDOW / 4;
        let kept_back = self.credit.window() / 32;
        let mut left = self.credit.available().saturating_sub(kept_back);
        let mut overdue = Vec::new();
        for (outstanding, _, key) in self.line.waiting() {
            if *outstanding >= withheld || left == 0 {
                break;
            }
            left = left.saturating_sub(SHARE_WORTH);
            overdue.push(*key);
        }
        for key in overdue {
            self.let_pass(streams, key);
        }
    }

    /// Has a stream that waits for its share send one piece beyond it.
    fn let_pass<T: Copy>(&mut self, streams: &mut Streams<T>, key: StreamKey) {
        if let Some(stream) = streams.get_mut(key)
            && let Some(place) = stream.place.take()
        {
            self.line.leave(place);
            stream.send.forgive(SHARE_WORTH);
            streams.wake(key);
        }
    }

    /// Whether streams have waited for session credit for so long that it must have gone down with
    /// a lane, where `unsettled` says that a lane did whose peer does not tell what it received.
    pub(super) fn has_run_dry(&self, unsettled: bool, now: Instant) -> bool {
        unsettled && !self.line.is_empty() && now >= self.moved + CREDIT_LOST_AFTER
    }

    /// Whether lines and streams agree; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants<T: Copy>(&self, streams: &Streams<T>, lanes: &Lanes) {
        let promised: u32 = streams.iter().map(|(_, s)| s.promised).sum();
        assert_eq!(promised, self.line.promised(), "a promise was forgotten");
        for place in self.line.waiting() {
            let stream = streams.get(place.2);
            let stands = stream.is_some_and(|stream| stream.place == Some(*place));
            assert!(stands, "a place in the line of a stream that does not wait");
        }
        for (index, channel) in lanes.channels.iter().enumerate() {
            let its = streams.iter();
            let its = its.filter(|(_, stream)| usize::from(stream.lane) == index);
            let theirs = its.map(|(key, stream)| (key, stream.room, stream.called));
            channel.line.check(theirs);
        }
    }
}
