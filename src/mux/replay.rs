//! What a lane needs so that nothing is lost with its connection (PROTOCOL §9).
//!
//! Frames that count are numbered as they leave, and kept until the peer says that it has them.
//! When the connection is lost they wait, and leave again, first of all and in order, on the next
//! one. Without *replay* a channel has none of this.
//!
//! | event               | `Sending`          | `Down`             | `Resending`        |
//! | ------------------- | ------------------ | ------------------ | ------------------ |
//! | a frame is added    | queued             | waits behind       | waits behind       |
//! | ... that counts not | queued             | dropped            | goes ahead         |
//! | WINDOW is added     | gathered, leaves   | gathered           | gathered           |
//! | PING, PONG, ACK     | go ahead           | dropped            | go ahead           |
//! | DATA, a stream more | within bounds      | no room            | no room            |
//! | a message has left  | numbered, kept     | -                  | numbered, kept     |
//! | a frame was taken   | counted, ACK       | -                  | counted, ACK       |
//! | ACK of what left    | dropped up to it   | -                  | dropped up to it   |
//! | ACK of the future   | violation          | -                  | violation          |
//! | connection lost     | `Down`             | -                  | `Down`             |
//! | resumed, count met  | -                  | `Resending`        | -                  |
//! | ... cannot be met   | -                  | stays              | -                  |
//! | all has left again  | -                  | -                  | `Sending`          |
//! | index begins anew   | -                  | all 0, `Sending`   | -                  |
//!
//! What a lost connection leaves pending is what was kept, then what waited in the outbox, then
//! what was pending before; behind it come the frames that were added meanwhile.
//!
//! Invariant: `acked <= sent`, and the frames in `kept` are exactly those numbered from `first` to
//! `sent`, where `first <= acked`.

use std::collections::BTreeMap;

use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::limits::{ACK_BYTES, ACK_FRAMES, ACK_WITHIN, MAX_FRAMES};
use crate::mux::framing::{frames_of, push_frame, unframed};
use crate::mux::kept::{Kept, Piece};
use crate::mux::terms::{Retention, Terms};
use crate::wire::frame::{Frame, FrameType, HEADER_LEN};

/// Where a lane is between its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its connection carries what is new.
    Sending,
    /// It has no connection.
    Down,
    /// Its connection carries first what the last one lost.
    Resending,
}

/// The peer cannot have what it says, or lacks what it said it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CannotBe;

/// A lane's counts, and what it keeps.
#[derive(Debug)]
pub(super) struct Replay {
    phase: Phase,
    bounds: Bounds,
    /// The number of the first kept frame.
    first: u64,
    /// How many the peer says that it has taken.
    acked: u64,
    /// Of these, how many were BIND_OK.
    bind_oks: u64,
    /// How many have left.
    sent: u64,
    /// What has left and is not acknowledged.
    kept: Kept,
    /// What the last connection lost.
    pub(super) pending: Kept,
    /// Of the first pending message: how many frames the peer has.
    skip: u64,
    /// Frames that were added since, as they were added.
    pub(super) behind: Buffer,
    /// DATA bytes that the peer has not acknowledged, whether they have left or not.
    data: usize,
    /// Credit for the peer that has not left, by stream.
    gathered: BTreeMap<u32, u32>,
    /// WINDOW frames whose message leaves now, and how many of its bytes have not left.
    leaving: (Vec<u8>, usize),
    taken: Taken,
}

/// How much may be unacknowledged.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Bytes of all kinds.
    bytes: usize,
    /// Bytes of DATA.
    data: usize,
    /// Bytes from the peer after which it wants an ACK.
    ack: usize,
}

/// What came from the peer.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Frames that count.
    count: u64,
    /// Of these, how many the peer was told of, and when.
    told: u64,
    told_at: Instant,
    /// Bytes since.
    bytes: usize,
    /// Whether the peer does something only once it is told.
    awaited: bool,
}

impl Replay {
    /// Of a lane that carried nothing yet.
    pub(super) fn new(terms: &Terms, retention: &Retention, now: Instant) -> Replay {
        let mut replay = Replay {
            phase: Phase::Sending,
            bounds: Bounds {
                bytes: 0,
                data: 0,
                ack: ACK_BYTES,
            },
            first: 0,
            acked: 0,
            bind_oks: 0,
            sent: 0,
            kept: Kept::default(),
            pending: Kept::default(),
            skip: 0,
            behind: Buffer::new(),
            data: 0,
            gathered: BTreeMap::new(),
            leaving: (Vec::new(), 0),
            taken: Taken {
                count: 0,
                told: 0,
                told_at: now,
                bytes: 0,
                awaited: false,
            },
        };
        replay.fit(terms, retention, terms.session_window);
        replay
    }

    /// The peer's session window has grown to `window` bytes: more may be on its way.
    pub(super) fn fit(&mut self, terms: &Terms, retention: &Retention, window: u32) {
        let peer_waits = terms.unacknowledged_data(retention, terms.session_window);
        let peer_waits = peer_waits.min(retention.peer_keeps as usize);
        self.bounds = Bounds {
            bytes: terms.keeps(retention, window),
            data: terms.unacknowledged_data(retention, window),
            ack: ACK_BYTES.min(peer_waits / 4),
        };
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Frames taken from the peer.
    pub(super) fn taken(&self) -> u64 {
        self.taken.count
    }

    /// Of what the peer says that it has taken, how many were BIND_OK.
    pub(super) fn bind_oks(&self) -> u64 {
        self.bind_oks
    }

    /// How many the peer says that it has taken.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// How many have left.
    #[cfg(test)]
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// A frame that counts came from the peer and was handed on.
    pub(super) fn took(&mut self, payload: usize) {
        self.taken.count += 1;
        self.taken.bytes += HEADER_LEN + payload;
    }

    /// The peer waits for being told of what came last.
    pub(super) fn is_awaited(&mut self) {
        self.taken.awaited = true;
    }

    /// Frames came that are not known here, and count all the same.
    pub(super) fn took_unknown(&mut self, count: u64) {
        self.taken.count += count;
    }

    /// The count to acknowledge now, if it is time.
    pub(super) fn acknowledges(&mut self, now: Instant) -> Option<u64> {
        let taken = &mut self.taken;
        let due = taken.awaited
            || taken.bytes >= self.bounds.ack
            || taken.count - taken.told >= ACK_FRAMES
            || taken.count != taken.told && now >= taken.told_at + ACK_WITHIN;
        due.then(|| self.tells(now))
    }

    /// The peer is told now how many frames were taken.
    pub(super) fn tells(&mut self, now: Instant) -> u64 {
        self.taken.told = self.taken.count;
        self.taken.told_at = now;
        self.taken.bytes = 0;
        self.taken.awaited = false;
        self.taken.count
    }

    /// When the peer is to be told at the latest.
    pub(super) fn acknowledges_at(&self) -> Option<Instant> {
        (self.taken.count != self.taken.told).then(|| self.taken.told_at + ACK_WITHIN)
    }

    /// Bytes of what is neither acknowledged nor in the outbox.
    pub(super) fn retained(&self) -> usize {
        self.kept.len() + self.pending.len() + self.behind.len()
    }

    /// Whether so much is kept that neither DATA nor streams may be added, where `queued` bytes
    /// wait in the outbox.
    pub(super) fn is_full(&self, queued: usize) -> bool {
        self.retained() + queued >= self.bounds.bytes
    }

    /// How many bytes of DATA may be added where `queued` bytes wait in the outbox. It leaves room
    /// for streams: whoever comes while others send much finds some.
    pub(super) fn room(&self, queued: usize) -> usize {
        let for_streams = self.bounds.bytes / 8;
        if self.phase != Phase::Sending || self.is_full(queued + for_streams) {
            return 0;
        }
        self.bounds.data.saturating_sub(self.data)
    }

    /// Whether there is room worth a piece of DATA, or for a stream more.
    pub(super) fn has_room(&self, queued: usize) -> bool {
        self.room(queued) >= self.bounds.data / 8
    }

    /// `count` bytes of DATA are to leave.
    pub(super) fn adds_data(&mut self, count: usize) {
        self.data += count;
    }

    /// Adds credit for the peer to what has not left.
    pub(super) fn gather(&mut self, stream_id: u32, increment: u32) {
        let sum = self.gathered.entry(stream_id).or_default();
        *sum = sum.saturating_add(increment);
    }

    /// Takes back credit for a stream that has not left.
    pub(super) fn take_gathered(&mut self, stream_id: u32) -> Option<u32> {
        self.gathered.remove(&stream_id)
    }

    /// Bytes of WINDOW frames that wait.
    pub(super) fn gathered(&self) -> usize {
        self.gathered.len() * WINDOW_LEN
    }

    /// Moves credit that may leave into `windows`, where `queued` bytes wait in the outbox.
    pub(super) fn offer_windows(&mut self, windows: &mut Buffer, queued: usize) {
        if self.phase != Phase::Sending || self.is_full(queued) || !self.leaving.0.is_empty() {
            return;
        }
        while windows.len() < MAX_FRAMES * WINDOW_LEN
            && let Some((id, increment)) = self.gathered.pop_first()
        {
            push_frame(windows, FrameType::Window, id, &increment.to_be_bytes());
        }
    }

    /// A message of `len` bytes with these WINDOW frames is on its way out.
    pub(super) fn windows_leave(&mut self, frames: Vec<u8>, len: usize) {
        if !frames.is_empty() {
            self.leaving = (frames, len);
        }
    }

    /// `count` more bytes of what goes ahead have left, which it was the first of.
    pub(super) fn windows_left(&mut self, count: usize) {
        let (windows, rest) = &mut self.leaving;
        *rest = rest.saturating_sub(count);
        if *rest == 0 && !windows.is_empty() {
            let windows = std::mem::take(windows);
            self.left(Piece {
                frames: (windows.len() / WINDOW_LEN) as u64,
                windows,
                ..Piece::default()
            });
        }
    }

    /// A message has left.
    pub(super) fn left(&mut self, piece: Piece) {
        self.sent += piece.frames;
        self.kept.push(piece);
    }

    /// A block has left whole: gives one for what comes next.
    pub(super) fn exchange(&mut self, block: &mut Buffer) {
        self.kept.exchange(block);
    }

    /// The outbox is empty: if nothing is to be sent again, new frames may follow.
    pub(super) fn caught_up(&mut self) -> bool {
        let nothing = self.pending.is_empty() && self.behind.is_empty();
        let all = self.phase == Phase::Resending && nothing;
        if all {
            self.phase = Phase::Sending;
        }
        all
    }

    /// Whether the next connection's peer can have taken so many frames.
    pub(super) fn meets(&self, received: u64) -> bool {
        (self.acked..=self.sent).contains(&received)
    }

    /// The peer has taken so many frames. Gives how many bytes at the head of the outbox nobody
    /// needs any more.
    pub(super) fn acknowledged(&mut self, count: u64) -> Result<usize, CannotBe> {
        if count > self.sent {
            return Err(CannotBe);
        }
        self.acked = self.acked.max(count);
        Ok(self.drop_taken())
    }

    /// Drops the messages at the head whose frames the peer has, or of which none counts: no ACK
    /// would ever come for these alone. Gives how many of their bytes are in the outbox.
    pub(super) fn drop_taken(&mut self) -> usize {
        let mut elsewhere = 0;
        while let Some(piece) = self.kept.pieces.front()
            && self.first + piece.frames <= self.acked
        {
            self.first += piece.frames;
            self.bind_oks += piece.bind_oks;
            self.data -= piece.data;
            elsewhere += self.kept.drop_first().map_or(0, |(_, bytes)| bytes);
        }
        elsewhere
    }

    /// The connection is lost. `unsent` is what waited in the outbox, in `block` behind what is
    /// kept there; `windows` are those that were to leave next.
    pub(super) fn suspend(
        &mut self,
        unsent: impl Iterator<Item = Piece>,
        block: Buffer,
        windows: &Buffer,
    ) {
        self.windows_left(usize::MAX);
        for frame in frames_of(windows.bytes()) {
            if let Ok(increment) = frame.window_increment() {
                self.gather(frame.stream_id, increment);
            }
        }
        let mut lost = std::mem::take(&mut self.kept);
        unsent.for_each(|piece| lost.push(piece));
        lost.blocks.extend((!block.is_empty()).then_some(block));
        lost.release_spare();
        self.pending = lost.before(std::mem::take(&mut self.pending));
        self.phase = Phase::Down;
    }

    /// A connection carries the lane again, whose peer has taken so many frames.
    pub(super) fn resume(&mut self, received: u64) {
        assert_eq!(self.phase, Phase::Down, "its connection is not gone");
        assert!(self.meets(received), "the count cannot be met");
        self.sent = received;
        self.acked = received;
        let mut base = self.first - self.skip;
        while let Some(piece) = self.pending.pieces.front()
            && base + piece.frames <= received
        {
            base += piece.frames;
            self.bind_oks += piece.bind_oks;
            self.data -= piece.data;
            self.pending.drop_first();
        }
        self.skip = received - base;
        self.first = received;
        self.phase = Phase::Resending;
        self.caught_up();
    }

    /// Has the frames of the next pending message looked at that the peer does not have.
    pub(super) fn send_again(&mut self, mut add: impl FnMut(FrameType, u32, &[u8])) {
        let skip = std::mem::take(&mut self.skip);
        let (data, bind_oks) = (&mut self.data, &mut self.bind_oks);
        self.pending.take_first(|piece, bytes| {
            *data -= piece.data;
            let mut add = |frame: Frame<'_>| {
                if frame.kind == FrameType::Data {
                    *data += frame.payload.len();
                }
                add(frame.kind, frame.stream_id, frame.payload);
            };
            let frames = match piece.windows.is_empty() {
                true => unframed(bytes),
                false => &piece.windows,
            };
            let counted = frames_of(frames).filter(|frame| frame.kind.is_reliable());
            for (number, frame) in (0..).zip(counted) {
                match number < skip {
                    true => *bind_oks += u64::from(frame.kind == FrameType::BindOk),
                    false => add(frame),
                }
            }
        });
    }

    /// Has the next frame looked at that was added meanwhile. False when there is none.
    pub(super) fn send_behind(&mut self, add: impl FnOnce(FrameType, u32, &[u8])) -> bool {
        let Some(frame) = frames_of(self.behind.bytes()).next() else {
            return false;
        };
        add(frame.kind, frame.stream_id, frame.payload);
        let count = HEADER_LEN + frame.payload.len();
        self.behind.consume(count);
        true
    }

    /// Gives memory back that nothing is kept in.
    pub(super) fn release_spare(&mut self) {
        self.kept.release_spare();
        self.behind.release_if_idle(0);
    }

    /// See [`Kept::look_back`].
    pub(super) fn look_back(&mut self) {
        self.kept.look_back();
    }

    /// Memory held, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.kept.capacity() + self.pending.capacity() + self.behind.capacity()
    }

    /// Whether the pieces fit each other, where the outbox has `elsewhere` bytes of what is kept.
    pub(super) fn check(&self, elsewhere: usize) {
        self.kept.check(elsewhere);
        self.pending.check(0);
        let kept: u64 = self.kept.pieces.iter().map(|piece| piece.frames).sum();
        let all = self.first + kept == self.sent || self.phase == Phase::Down;
        assert!(all, "a frame that left is not kept");
        assert!(self.acked <= self.sent, "what never left was acknowledged");
        let nothing = self.pending.is_empty() && self.behind.is_empty();
        assert!(
            nothing || self.phase != Phase::Sending,
            "new frames overtake"
        );
    }
}

/// Bytes of a WINDOW frame.
const WINDOW_LEN: usize = HEADER_LEN + 4;
