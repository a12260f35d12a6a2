//! One session, seen from either end: lanes, streams, and the credit that ties them.
//!
//! The session owns the streams and the channels, and its files say what becomes of them: their
//! lives (here), DATA that goes out (`sending`), what comes in (`incoming`), credit that goes back
//! (`relieving`), what only time does (`sweeping`), what went down with a lane (`settling`), what
//! waits for a lane's next connection (`resuming`). What can be decided without the session's
//! tables is decided in the pure rooms beside: `credit`, `share`, `room`, `relief`, `grow`,
//! `still`, `flood`, `ids`, `losses`, `replay`.

mod incoming;
mod relieving;
mod resuming;
mod sending;
mod settling;
mod sweeping;

pub use incoming::Incoming;
pub use sweeping::{Account, Swept};

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::MAX_LANES;
use crate::machine::ConnKey;
use crate::mux::channel::{Channel, Told};
use crate::mux::credit::{RecvCredit, SendCredit};
use crate::mux::flood::Flood;
use crate::mux::grow::Probe;
use crate::mux::ids::PeerIds;
use crate::mux::keys::{StreamKey, StreamMark};
use crate::mux::relief::Relief;
use crate::mux::room::Turns;
use crate::mux::share::Line;
use crate::mux::still::Pace;
use crate::mux::stream::{State, Stream, Waits};
use crate::mux::terms::Terms;
use crate::mux::transport::{Liveness, Span, Transport};
use crate::outflow::Loan;
use crate::shares::{Shares, may_hold};
use crate::table::Table;
use crate::wire::code::Code;
use crate::wire::control::{self, ControlPayload, Secret};
use crate::wire::frame::{FrameType, Reset};

/// A session's lanes and streams. `T` is what the owner hangs on a stream.
#[derive(Debug)]
pub struct Session<T> {
    pub(super) terms: Terms,
    /// By the index of the lane.
    pub(super) channels: Vec<Channel>,
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
    /// When session credit last came or went.
    pub(super) credit_moved: Instant,
    pub(super) traffic: Traffic,
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

/// For whom a stream is to be opened, and what the peer has to know before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Who cannot have more than its share while others are short.
    pub holder: Option<u128>,
    /// Which BIND_OK of the counts that run told of what it is for, from 1. On another lane than
    /// that the stream could come first, so the peer has to have acknowledged it (PROTOCOL §9).
    pub bind_ok: u64,
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
            channels: Vec::new(),
            streams: Table::new(terms.max_streams),
            holders: Shares::new(),
            by_id: BTreeMap::new(),
            next_id: terms.side.first_id(),
            peer_ids: PeerIds::new(
                terms.side.other().first_id(),
                terms.replay.map_or(0, |_| terms.max_streams),
            ),
            send: SendCredit::new(terms.session_window, session_top),
            recv: RecvCredit::new(terms.session_window),
            line: Line::default(),
            relief: Relief::new(terms.session_window),
            wakes: VecDeque::new(),
            turns: 0,
            probe: Probe::default(),
            flood: Flood::new(now),
            credit_moved: now,
            traffic: Traffic::default(),
        }
    }

    /// Begins anew: windows are whole and ids start over (PROTOCOL §6). What lasts are the
    /// channels, with their tickets, and what was counted. No lane stands by now.
    pub fn restart(&mut self, terms: Terms, now: Instant) {
        assert!(self.lanes().next().is_none(), "a lane of before stands");
        let mut channels = std::mem::take(&mut self.channels);
        for channel in &mut channels {
            channel.forget();
        }
        *self = Session {
            channels,
            traffic: self.traffic,
            ..Session::new(terms, now)
        };
    }

    /// Has a connection carry lane `index`, 0 being the primary. One that did before is gone first.
    /// It goes on with nothing of before: what is kept for replay begins with it (PROTOCOL §9).
    pub fn attach(&mut self, index: usize, transport: Transport) {
        let conn = transport.conn();
        let waits = !transport.is_flushed();
        let replay = self.new_replay(transport.last_heard());
        self.channel(index).attach(transport, replay);
        if waits {
            self.wakes.push_back(Wake::Lane(conn));
        }
    }

    /// Takes the connection of a lane; its streams are over, and come out with it.
    pub fn detach(&mut self, index: usize) -> (Option<Transport>, Vec<T>) {
        let lost: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| usize::from(stream.lane) == index)
            .map(|(key, _)| key)
            .collect();
        let channel = self.channels.get_mut(index);
        let transport = channel.and_then(Channel::detach);
        let tags = lost
            .into_iter()
            .filter_map(|key| self.forget(key))
            .collect();
        (transport, tags)
    }

    /// The channel under `index`, whether its lane stands or not.
    pub(super) fn channel(&mut self, index: usize) -> &mut Channel {
        assert!(index < MAX_LANES, "a session has at most 16 lanes");
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, Channel::default);
        }
        &mut self.channels[index]
    }

    /// The ticket that lane `index` was joined with last, or is to be.
    pub fn ticket(&self, index: usize) -> Option<&Secret> {
        self.channels.get(index)?.ticket.as_ref()
    }

    /// Lane `index` is joined with a ticket.
    pub fn set_ticket(&mut self, index: usize, ticket: Secret) {
        self.channel(index).ticket = Some(ticket);
    }

    /// The lane under `index`, if it stands.
    pub fn lane(&self, index: usize) -> Option<&Channel> {
        self.channels.get(index).filter(|channel| channel.stands())
    }

    /// The lane under `index`, to read into or to write from.
    pub fn lane_mut(&mut self, index: usize) -> Option<&mut Channel> {
        let channel = self.channels.get_mut(index);
        channel.filter(|channel| channel.stands())
    }

    /// The connection of lane `index`, if it stands.
    pub fn transport(&self, index: usize) -> Option<&Transport> {
        self.channels.get(index)?.transport()
    }

    /// The same, to use.
    pub(super) fn transport_mut(&mut self, index: usize) -> Option<&mut Transport> {
        self.channels.get_mut(index)?.transport_mut()
    }

    /// All lanes that stand, with their indexes.
    pub fn lanes(&self) -> impl Iterator<Item = (usize, &Channel)> {
        let channels = self.channels.iter().enumerate();
        channels.filter(|(_, channel)| channel.stands())
    }

    /// Bytes from the peer and to it over all connections so far, headers included.
    pub fn bytes(&self) -> (u64, u64) {
        let add = |sum: (u64, u64), more: (u64, u64)| (sum.0 + more.0, sum.1 + more.1);
        self.channels.iter().map(Channel::traffic).fold((0, 0), add)
    }

    /// Says something of the session; see [`Session::push_control`].
    pub fn say<P: ControlPayload>(&mut self, payload: &P) {
        let mut json = Vec::new();
        control::write(payload, &mut json);
        self.push_control(P::KIND, &json);
    }

    /// Queues a session frame with a JSON payload on the primary lane: what counts for replay waits
    /// for it where it does not stand (PROTOCOL §9).
    pub fn push_control(&mut self, kind: FrameType, payload: &[u8]) {
        let lane = match kind {
            // It concerns the session, not what was said before it (PROTOCOL §9).
            FrameType::GoAway => self.session_lane(),
            _ => 0,
        };
        self.push_on(lane, kind, 0, payload);
    }

    /// Queues a WebSocket close on every lane.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        for index in 0..self.channels.len() {
            self.channels[index].push_close(code, reason);
            self.wake_lane(index);
        }
    }

    /// [`Session::open_for`] nobody in particular.
    #[cfg(any(test, feature = "testing"))]
    pub fn open(&mut self, tag: T, open: &[u8], now: Instant) -> Result<StreamKey, CannotOpen> {
        self.open_for(Wanted::default(), tag, open, now)
    }

    /// Opens a stream on the lane with the least waiting (PROTOCOL §7), and among equals on the one
    /// with the fewest streams: for a download nothing ever waits on this side. `open` is the JSON
    /// of STREAM_OPEN, at most one frame's payload.
    pub fn open_for(
        &mut self,
        wanted: Wanted,
        tag: T,
        open: &[u8],
        now: Instant,
    ) -> Result<StreamKey, CannotOpen> {
        let holder = wanted.holder;
        let is_told = self.bind_oks_known() >= wanted.bind_ok;
        let may_carry = |index: usize| is_told || index == 0;
        let (lane, waiting) = self
            .lanes()
            .filter(|(index, lane)| may_carry(*index) && lane.may_open())
            .min_by_key(|(_, lane)| (lane.waiting(), lane.carries))
            .map(|(index, lane)| (index, lane.waiting()))
            .ok_or(match self.lanes().any(|(index, _)| may_carry(index)) {
                true if self.terms.replay.is_some() => CannotOpen::Congested,
                _ => CannotOpen::NoLane,
            })?;
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
            state: State::Open,
            local_finishes: false,
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
            bytes_in: 0,
            bytes_out: 0,
        };
        let key = self.streams.insert(stream).ok()?;
        self.by_id.insert(id, key);
        self.channel(usize::from(lane)).carries += 1;
        Some(key)
    }

    /// Sends a response head (PROTOCOL §4), JSON of at most one frame's payload.
    pub fn send_head(&mut self, key: StreamKey, head: &[u8], now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.local_done() {
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
        if !stream.finish_local() {
            return;
        }
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
        self.push_with(lane, |channel| channel.push_window(id, increment));
    }

    pub(super) fn push_on(&mut self, lane: u8, kind: FrameType, id: u32, payload: &[u8]) {
        self.push_with(lane, |channel| channel.push(kind, id, payload));
    }

    pub(super) fn push_sign_of_life(&mut self, lane: u8, kind: FrameType, payload: &[u8]) {
        self.push_with(lane, |channel| channel.push_sign_of_life(kind, payload));
    }

    /// Adds a frame to a lane, if it stands.
    fn push_with(&mut self, lane: u8, push: impl FnOnce(&mut Channel) -> bool) {
        let lane = usize::from(lane);
        if self.channels.get_mut(lane).is_some_and(push) {
            self.traffic.frames_out += 1;
            self.wake_lane(lane);
        }
    }

    /// Has the host look at a lane that got something to transmit, once until it has looked.
    pub(super) fn wake_lane(&mut self, index: usize) {
        if let Some((conn, told)) = self.channels.get_mut(index).and_then(Channel::tell) {
            self.wakes.push_back(match told {
                Told::Now => Wake::Lane(conn),
                _ => Wake::LaneLast(conn),
            });
        }
    }

    /// What lane `index` sends next.
    pub fn transmit(&mut self, index: usize) -> &[u8] {
        if self.lane_mut(index).is_some_and(Channel::sends_again) {
            self.call_for_room(index);
        }
        let channel = self.channels.get_mut(index);
        channel.map_or(&[], Channel::transmit)
    }

    /// Lane `index`'s socket took `count` bytes.
    pub fn transmitted(&mut self, index: usize, count: usize) {
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        if channel.transmitted(count) {
            self.wakes.extend(channel.conn().map(Wake::Lane));
        }
        self.call_for_room(index);
    }

    /// Looks after lane `index`; sends a PING after `quiet` without a byte, and calls it dead when
    /// nothing came for `patience` after the PING (PROTOCOL §6). `None` when it does not stand.
    pub fn check_lane(
        &mut self,
        index: usize,
        now: Instant,
        quiet: Duration,
        patience: Duration,
        ping: [u8; 8],
    ) -> Option<Liveness> {
        let channel = self.channels.get_mut(index)?;
        let health = channel.check(now, quiet, patience, ping)?;
        self.wake_lane(index);
        Some(health)
    }

    /// Sends a PING on lane `index` for the peer's sake, who is promised to hear something of us.
    /// Nobody is judged by its answer.
    pub fn keep_heard(&mut self, index: usize, ping: [u8; 8]) {
        if let Ok(lane) = u8::try_from(index) {
            self.push_sign_of_life(lane, FrameType::Ping, &ping);
        }
    }

    /// Gives memory back that its lanes do not need now. Never while spans are lent.
    pub fn release_idle(&mut self) {
        self.channels.iter_mut().for_each(Channel::release_if_idle);
        self.streams.shrink();
    }

    /// The clock jumped: silence until now proves nothing against any lane.
    pub fn forgive_silence(&mut self, now: Instant) {
        for channel in &mut self.channels {
            channel.shows_life(now);
        }
    }

    /// Who may go on; asked until silent after everything that was told.
    pub fn poll_wake(&mut self) -> Option<Wake<T>> {
        self.wakes.pop_front()
    }

    /// The payload that a span names, in the buffer of lane `index`.
    pub fn payload(&self, index: usize, span: &Span) -> &[u8] {
        self.transport(index).map_or(&[], |it| it.payload(span))
    }

    /// Lends the payload that a span names, in the buffer of lane `index`, which is attached.
    ///
    /// # Panics
    ///
    /// When no such lane is attached: then there is no span of it either.
    pub fn lend(&self, index: usize, span: &Span) -> Loan {
        let transport = self.transport(index);
        transport.expect("a span of its lane").lend(span)
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
        self.channel(usize::from(stream.lane)).carries -= 1;
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
