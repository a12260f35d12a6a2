//! One session, seen from either end: lanes, streams, and the credit that ties them.
//!
//! This file has the session's shape, its lanes and its streams' lives. DATA that goes out is in
//! `sending.rs`, what comes in in `incoming.rs`, credit that goes back in `relief.rs`, what only
//! time does in `sweep.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{FLUSH_AT_ONCE, MAX_LANES, MAX_SESSION_WINDOW, MAX_STREAM_WINDOW};
use crate::machine::ConnKey;
use crate::mux::credit::{RecvCredit, SendCredit};
use crate::mux::flood::Flood;
use crate::mux::grow::Probe;
use crate::mux::ids::PeerIds;
use crate::mux::lane::{Lane, Liveness, Span, Told};
use crate::mux::losses::Losses;
use crate::mux::relief::Relief;
use crate::mux::room::{RoomLine, Turns};
use crate::mux::share::Line;
use crate::mux::still::Pace;
use crate::mux::stream::{Stream, StreamKey, StreamMark, StreamRecord, Waits};
use crate::outflow::Loan;
use crate::shares::{Shares, may_hold};
use crate::table::Table;
use crate::wire::code::Code;
use crate::wire::frame::{FrameType, Reset};

/// Which end of the session this is; decides the parity of stream ids (PROTOCOL §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens even streams, from 2.
    Kit,
    /// Opens odd streams, from 1.
    Client,
}

/// What both ends agreed on in the handshake, and our own bounds.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Which end we are.
    pub side: Side,
    /// Each stream's window in both directions, in bytes.
    pub stream_window: u32,
    /// The session's window in both directions, in bytes.
    pub session_window: u32,
    /// Streams at once, at most.
    pub max_streams: usize,
    /// Both said `grow-windows` (PROTOCOL §5).
    pub grow_windows: bool,
    /// Bytes that may wait in a lane before no further stream is opened on it.
    pub queue_opens: usize,
}

/// A session's lanes and streams. `T` is what the owner hangs on a stream.
#[derive(Debug)]
pub struct Session<T> {
    pub(super) terms: Terms,
    pub(super) lanes: Vec<Option<LaneSlot>>,
    pub(super) streams: Table<StreamMark, Stream<T>>,
    /// Whose they are, where that is counted.
    holders: Shares<u128>,
    pub(super) by_id: BTreeMap<u32, StreamKey>,
    pub(super) next_id: u32,
    pub(super) peer_ids: PeerIds,
    pub(super) send: SendCredit,
    pub(super) recv: RecvCredit,
    /// Streams whose senders wait for their share of the session's credit.
    pub(super) line: Line,
    pub(super) relief: Relief,
    pub(super) wakes: VecDeque<Wake<T>>,
    /// DATA frames sent, as a clock for taking turns.
    pub(super) turns: u64,
    pub(super) probe: Probe,
    pub(super) flood: Flood,
    pub(super) losses: Losses,
    pub(super) traffic: Traffic,
}

/// A lane and the line of senders that wait for room in it.
#[derive(Debug)]
pub(super) struct LaneSlot {
    pub(super) lane: Lane,
    pub(super) line: RoomLine,
    /// How many streams it carries.
    carries: usize,
}

/// Who may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake<T> {
    /// This lane's connection has something to transmit, or room to read again.
    Lane(ConnKey),
    /// The same, for little that may wait until everybody who is ready was served: what they add
    /// then leaves with it.
    LaneLast(ConnKey),
    /// This stream's sender found no room or no credit, and may try again.
    Sender(T),
}

/// Frames and DATA bytes, both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Frames from the peer.
    pub frames_in: u64,
    /// Frames to the peer.
    pub frames_out: u64,
    /// DATA bytes from the peer.
    pub data_in: u64,
    /// DATA bytes to the peer.
    pub data_out: u64,
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotOpen {
    /// As many streams as agreed are open.
    AtCap,
    /// Few are left, and its holder has many.
    OverShare,
    /// No lane is attached.
    NoLane,
    /// So much waits on every lane that nothing more should be asked of the peer.
    Congested,
    /// Others hold all the memory that there is for what the peer would answer.
    Dry,
    /// All stream ids of this side were used: the session must end (PROTOCOL §4).
    IdsUsedUp,
}

impl<T: Copy> Session<T> {
    /// A session with full windows and no lanes.
    pub fn new(terms: Terms, now: Instant) -> Session<T> {
        let (stream_top, session_top) = terms.ceilings();
        debug_assert!(terms.stream_window <= stream_top && terms.session_window <= session_top);
        Session {
            terms,
            lanes: Vec::new(),
            streams: Table::new(terms.max_streams),
            holders: Shares::new(),
            by_id: BTreeMap::new(),
            next_id: terms.side.first_id(),
            peer_ids: PeerIds::new(terms.side.other().first_id()),
            send: SendCredit::new(terms.session_window, session_top),
            recv: RecvCredit::new(terms.session_window),
            line: Line::default(),
            relief: Relief::new(terms.session_window),
            wakes: VecDeque::new(),
            turns: 0,
            probe: Probe::default(),
            flood: Flood::new(now),
            losses: Losses::new(now),
            traffic: Traffic::default(),
        }
    }

    /// Adds a lane under `index`, 0 being the primary. A lane that was there before is gone first.
    pub fn attach(&mut self, index: usize, lane: Lane) {
        assert!(index < MAX_LANES, "a session has at most 16 lanes");
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, || None);
        }
        let conn = lane.conn();
        let waits = !lane.is_flushed();
        self.lanes[index] = Some(LaneSlot {
            lane,
            line: RoomLine::default(),
            carries: 0,
        });
        if waits {
            self.wakes.push_back(Wake::Lane(conn));
        }
    }

    /// Takes a lane out; its streams are over, and come out with it.
    pub fn detach(&mut self, index: usize) -> (Option<Lane>, Vec<T>) {
        let slot = self.lanes.get_mut(index).and_then(Option::take);
        if let Some(slot) = &slot {
            assert!(!slot.lane.is_owed(), "its bytes are still lent");
            self.losses.lane_lost(index);
        }
        let lost: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| usize::from(stream.lane) == index)
            .map(|(key, _)| key)
            .collect();
        let tags = lost
            .into_iter()
            .filter_map(|key| self.forget(key))
            .collect();
        (slot.map(|slot| slot.lane), tags)
    }

    /// The lane under `index`, if one is attached.
    pub fn lane(&self, index: usize) -> Option<&Lane> {
        Some(&self.lanes.get(index)?.as_ref()?.lane)
    }

    /// The lane under `index`, to use.
    pub fn lane_mut(&mut self, index: usize) -> Option<&mut Lane> {
        Some(&mut self.lanes.get_mut(index)?.as_mut()?.lane)
    }

    /// All attached lanes with their indexes.
    pub fn lanes(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((index, &slot.as_ref()?.lane)))
    }

    /// Queues a session frame with a JSON payload on the primary lane.
    pub fn push_control(&mut self, kind: FrameType, payload: &[u8]) {
        if let Some(slot) = self.lanes.get_mut(0).and_then(Option::as_mut) {
            slot.lane.push_control(kind, payload);
            self.traffic.frames_out += 1;
            self.wake_lane(0);
        }
    }

    /// Queues a WebSocket close on every lane.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        for index in 0..self.lanes.len() {
            if let Some(lane) = self.lane_mut(index) {
                lane.push_close(code, reason);
                self.wake_lane(index);
            }
        }
    }

    /// Opens a stream on the lane with the least waiting (PROTOCOL §7), and among equals on the one
    /// with the fewest streams: for a download nothing ever waits on this side. `open` is the JSON
    /// of STREAM_OPEN, at most one frame's payload.
    pub fn open(&mut self, tag: T, open: &[u8], now: Instant) -> Result<StreamKey, CannotOpen> {
        self.open_for(None, tag, open, now)
    }

    /// The same for `holder`, who cannot have more than its share while others are short.
    pub fn open_for(
        &mut self,
        holder: Option<u128>,
        tag: T,
        open: &[u8],
        now: Instant,
    ) -> Result<StreamKey, CannotOpen> {
        let (lane, waiting) = self
            .lanes
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
            .filter(|(_, slot)| !slot.lane.is_closed())
            .min_by_key(|(_, slot)| (slot.lane.waiting(), slot.carries))
            .map(|(index, slot)| (index, slot.lane.waiting()))
            .ok_or(CannotOpen::NoLane)?;
        if self.streams.is_full() {
            return Err(CannotOpen::AtCap);
        }
        if holder.is_some_and(|holder| !self.may_have_one_more(holder)) {
            return Err(CannotOpen::OverShare);
        }
        if waiting + open.len() > self.terms.queue_opens {
            return Err(CannotOpen::Congested);
        }
        if self.refuses_newcomers(now) {
            return Err(CannotOpen::Dry);
        }
        let id = self.next_id;
        self.next_id = id.checked_add(2).ok_or(CannotOpen::IdsUsedUp)?;
        let key = self
            .insert(id, lane as u8, tag, now)
            .ok_or(CannotOpen::AtCap)?;
        if let Some(stream) = self.streams.get_mut(key) {
            stream.holder = holder;
            holder
                .into_iter()
                .for_each(|holder| self.holders.take(holder, 1));
        }
        self.flood.opened_stream();
        self.push_on(lane as u8, FrameType::StreamOpen, id, open);
        Ok(key)
    }

    pub(super) fn insert(&mut self, id: u32, lane: u8, tag: T, now: Instant) -> Option<StreamKey> {
        let (stream_top, _) = self.terms.ceilings();
        let stream = Stream {
            id,
            tag,
            holder: None,
            lane,
            send: SendCredit::new(self.terms.stream_window, stream_top),
            recv: RecvCredit::new(self.terms.stream_window),
            local_done: false,
            local_finishes: false,
            remote_done: false,
            waits: Waits::No,
            room: None,
            called: None,
            turns: Turns::new(),
            last_turn: 0,
            place: None,
            promised: 0,
            early: 0,
            since_probe: 0,
            last_taken: now,
            pace: Pace::new(now),
            last_moved: now,
            unsaid_since: None,
            opened: now,
            bytes_in: 0,
            bytes_out: 0,
        };
        let key = self.streams.insert(stream).ok()?;
        self.by_id.insert(id, key);
        if let Some(Some(slot)) = self.lanes.get_mut(usize::from(lane)) {
            slot.carries += 1;
        }
        Some(key)
    }

    /// Hangs another tag on a stream.
    pub fn set_tag(&mut self, key: StreamKey, tag: T) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.tag = tag;
        }
    }

    /// Sends a response head (PROTOCOL §4), JSON of at most one frame's payload.
    pub fn send_head(&mut self, key: StreamKey, head: &[u8], now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.local_done {
            return;
        }
        stream.last_moved = now;
        let (id, lane) = (stream.id, stream.lane);
        self.push_on(lane, FrameType::StreamResponseHead, id, head);
    }

    /// Half-closes: nothing more will be sent. What came already is still to be passed on.
    pub fn send_eof(&mut self, key: StreamKey, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.local_done {
            return;
        }
        stream.local_done = true;
        stream.last_moved = now;
        let (id, lane) = (stream.id, stream.lane);
        self.push_on(lane, FrameType::Eof, id, &[]);
        self.leave_lines(key);
        self.drop_if_spent(key);
    }

    /// Ends the stream in both directions at once; harmless on one that is over. Bytes that were
    /// not passed on give their session credit back.
    pub fn reset(&mut self, key: StreamKey, code: Code, reason: &str) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let (id, lane, over) = (stream.id, stream.lane, stream.is_over());
        if !over {
            self.push_reset(lane, id, code, reason);
        }
        self.forget(key);
    }

    pub(super) fn push_reset(&mut self, lane: u8, id: u32, code: Code, reason: &str) {
        let mut payload = Vec::with_capacity(2 + reason.len());
        Reset::write(&mut payload, code, reason);
        self.push_on(lane, FrameType::Reset, id, &payload);
    }

    pub(super) fn push_window(&mut self, lane: u8, id: u32, increment: u32) {
        if let Some(lane) = self.lane_mut(usize::from(lane)) {
            lane.out
                .push_urgent(FrameType::Window, id, &increment.to_be_bytes());
            self.traffic.frames_out += 1;
        }
        self.wake_lane(usize::from(lane));
    }

    pub(super) fn push_on(&mut self, lane: u8, kind: FrameType, id: u32, payload: &[u8]) {
        if let Some(slot) = self
            .lanes
            .get_mut(usize::from(lane))
            .and_then(Option::as_mut)
        {
            slot.lane.out.push(kind, id, payload);
            self.traffic.frames_out += 1;
        }
        self.wake_lane(usize::from(lane));
    }

    /// Has the host look at a lane that got something to transmit, once until it has looked.
    pub(super) fn wake_lane(&mut self, index: usize) {
        if let Some(lane) = self.lane_mut(index)
            && !lane.is_flushed()
        {
            let told = match lane.waiting() < FLUSH_AT_ONCE {
                true => Told::Last,
                false => Told::Now,
            };
            if lane.told < told {
                lane.told = told;
                let conn = lane.conn();
                self.wakes.push_back(match told {
                    Told::Now => Wake::Lane(conn),
                    _ => Wake::LaneLast(conn),
                });
            }
        }
    }

    /// What lane `index` sends next.
    pub fn transmit(&mut self, index: usize) -> &[u8] {
        self.lane_mut(index).map_or(&[], Lane::transmit)
    }

    /// Lane `index`'s socket took `count` bytes.
    pub fn transmitted(&mut self, index: usize, count: usize) {
        let Some(slot) = self.lanes.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if slot.lane.transmitted(count) {
            self.wakes.push_back(Wake::Lane(slot.lane.conn()));
        }
        self.call_for_room(index);
    }

    /// Looks after lane `index`; see [`Lane::check`]. `None` when there is no such lane.
    pub fn check_lane(
        &mut self,
        index: usize,
        now: Instant,
        quiet: Duration,
        patience: Duration,
        ping: [u8; 8],
    ) -> Option<Liveness> {
        let health = self.lane_mut(index)?.check(now, quiet, patience, ping);
        self.wake_lane(index);
        Some(health)
    }

    /// Gives memory back that its lanes do not need now. Never while spans are lent.
    pub fn release_idle(&mut self) {
        for slot in self.lanes.iter_mut().flatten() {
            slot.lane.release_if_idle();
        }
        self.streams.shrink();
    }

    /// The clock jumped: silence until now proves nothing against any lane.
    pub fn forgive_silence(&mut self, now: Instant) {
        for slot in self.lanes.iter_mut().flatten() {
            slot.lane.forgive_silence(now);
        }
    }

    /// Who may go on; asked until silent after everything that was told.
    pub fn poll_wake(&mut self) -> Option<Wake<T>> {
        self.wakes.pop_front()
    }

    /// The payload that a span names, in the buffer of lane `index`.
    pub fn payload(&self, index: usize, span: &Span) -> &[u8] {
        self.lane(index).map_or(&[], |lane| lane.payload(span))
    }

    /// Lends the payload that a span names, in the buffer of lane `index`, which is attached.
    ///
    /// # Panics
    ///
    /// When no such lane is attached: then there is no span of it either.
    pub fn lend(&self, index: usize, span: &Span) -> Loan {
        self.lane(index).expect("a span of its lane").lend(span)
    }

    /// Removes a stream that is over and whose bytes are all passed on.
    pub(super) fn drop_if_spent(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get(key)
            && stream.is_over()
            && stream.recv.buffered() == 0
        {
            self.forget(key);
        }
    }

    /// Removes a stream and gives the session credit of its unread bytes back.
    pub(super) fn forget(&mut self, key: StreamKey) -> Option<T> {
        self.leave_lines(key);
        let stream = self.streams.remove(key)?;
        let holder = stream.holder.into_iter();
        holder.for_each(|holder| self.holders.give_back(holder, 1));
        self.by_id.remove(&stream.id);
        if let Some(Some(slot)) = self.lanes.get_mut(usize::from(stream.lane)) {
            slot.carries -= 1;
        }
        let buffered = stream.recv.buffered();
        if buffered > 0 {
            self.recv.pass_on(buffered, stream.early);
            self.give_session_credit();
        }
        Some(stream.tag)
    }

    /// Whether the share of streams that `holder` has allows for one more.
    fn may_have_one_more(&self, holder: u128) -> bool {
        let most = self.terms.max_streams;
        let left = most.saturating_sub(self.streams.len() + 1);
        may_hold(self.held_by(holder) + 1, 1, left, most)
    }

    /// Streams of one holder.
    pub fn held_by(&self, holder: u128) -> usize {
        self.holders.of(holder)
    }

    /// Streams that are not spent.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// What hangs on each stream.
    pub fn tags(&self) -> impl Iterator<Item = T> {
        self.streams.iter().map(|(_, stream)| stream.tag)
    }

    /// What a stream carried so far.
    pub fn record(&self, key: StreamKey) -> Option<StreamRecord> {
        let stream = self.streams.get(key)?;
        Some(StreamRecord {
            id: stream.id,
            bytes_in: stream.bytes_in,
            bytes_out: stream.bytes_out,
            opened: stream.opened,
        })
    }

    /// Whether bytes that were sent on the stream lie with the peer, as far as it has told.
    pub fn is_held_by_peer(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(key);
        stream.is_some_and(|stream| stream.send.outstanding() > 0)
    }

    /// DATA bytes that came and that no local side has taken.
    pub fn buffered(&self) -> usize {
        self.recv.buffered() as usize
    }

    /// Frames and bytes so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The agreed terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }
}

impl Side {
    /// The first stream id that this side gives.
    pub fn first_id(self) -> u32 {
        match self {
            Side::Kit => 2,
            Side::Client => 1,
        }
    }

    /// The other end.
    pub fn other(self) -> Side {
        match self {
            Side::Kit => Side::Client,
            Side::Client => Side::Kit,
        }
    }
}

impl Terms {
    /// The most credit that a stream and the session may ever have.
    pub(super) fn ceilings(&self) -> (u32, u32) {
        match self.grow_windows {
            true => (
                self.stream_window.max(MAX_STREAM_WINDOW),
                self.session_window.max(MAX_SESSION_WINDOW),
            ),
            false => (self.stream_window, self.session_window),
        }
    }
}
