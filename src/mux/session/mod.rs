//! One session, seen from either end: a dispatcher over the parts that own what it is made of.
//!
//! [`Lanes`] own the channels and say what goes out on them, [`Streams`] own the streams, `Sending`
//! and `Receiving` the credit of both directions and who waits for it. Here stands what needs
//! several of them: a stream's life (this file), what comes in (`incoming`), what only time does
//! (`sweeping`).

mod incoming;
mod sweeping;

pub use incoming::Incoming;
pub use sweeping::{Account, Swept};

use crate::clock::Instant;
#[cfg(test)]
use crate::limits::BULK_PAYLOAD;
use crate::machine::ConnKey;
use crate::mux::channel::{Channel, Told};
use crate::mux::flood::Flood;
use crate::mux::keys::StreamKey;
use crate::mux::lanes::Lanes;
use crate::mux::losses::CannotBe;
use crate::mux::parts::Parts;
use crate::mux::receiving::Receiving;
use crate::mux::sending::Sending;
use crate::mux::streams::Streams;
use crate::mux::terms::Terms;
use crate::mux::transport::{Span, Transport};
use crate::outflow::Loan;
use crate::wire::code::Code;
use crate::wire::control::ControlPayload;
use crate::wire::frame::FrameType;
use crate::wire::parts::HeadParts;

/// A session's lanes and streams. `T` is what the owner hangs on a stream.
#[derive(Debug)]
pub struct Session<T> {
    terms: Terms,
    pub(super) lanes: Lanes,
    pub(super) streams: Streams<T>,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    parts: Parts,
    flood: Flood,
    /// What was counted before the session [began anew](Session::restart), and frames that came.
    counted: Traffic,
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
            lanes: Lanes::new(terms),
            streams: Streams::new(terms),
            sending: Sending::new(&terms, now),
            receiving: Receiving::new(&terms),
            parts: Parts::new(terms.head_parts),
            flood: Flood::new(now),
            counted: Traffic::default(),
        }
    }

    /// Begins anew: windows are whole and ids start over (PROTOCOL §6). What lasts are the
    /// channels, with their tickets, and what was counted. No lane stands by now.
    pub fn restart(&mut self, terms: Terms, now: Instant) {
        self.counted.data_in += self.receiving.bytes();
        self.counted.data_out += self.sending.bytes();
        self.terms = terms;
        self.lanes.restart(terms);
        self.streams = Streams::new(terms);
        self.sending = Sending::new(&terms, now);
        self.receiving = Receiving::new(&terms);
        self.parts = Parts::new(terms.head_parts);
        self.flood = Flood::new(now);
    }

    /// The agreed terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Its lanes.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The same, to use.
    pub fn lanes_mut(&mut self) -> &mut Lanes {
        &mut self.lanes
    }

    /// Its streams.
    pub fn streams(&self) -> &Streams<T> {
        &self.streams
    }

    /// The same, to tell what their local sides do.
    pub fn streams_mut(&mut self) -> &mut Streams<T> {
        &mut self.streams
    }

    /// Frames and bytes so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            frames_in: self.counted.frames_in,
            frames_out: self.lanes.frames_out(),
            data_in: self.counted.data_in + self.receiving.bytes(),
            data_out: self.counted.data_out + self.sending.bytes(),
        }
    }

    /// Who may go on; asked until silent after everything that was told.
    pub fn poll_wake(&mut self) -> Option<Wake<T>> {
        if let Some(tag) = self.streams.poll_woken() {
            return Some(Wake::Sender(tag));
        }
        let (conn, told) = self.lanes.poll_woken()?;
        Some(match told {
            Told::Last => Wake::LaneLast(conn),
            Told::Now | Told::No => Wake::Lane(conn),
        })
    }

    /// Gives memory back that is not needed now. Never while spans are lent.
    pub fn release_idle(&mut self) {
        self.lanes.release_idle();
        self.streams.shrink();
    }
}

/// Its connections.
impl<T: Copy> Session<T> {
    /// Has a connection carry lane `index`, 0 being the primary. One that did before is gone first.
    /// It goes on with nothing of before: what is kept for replay begins with it (PROTOCOL §9).
    pub fn attach(&mut self, index: usize, transport: Transport) {
        self.lanes.attach(index, transport);
    }

    /// Takes the connection of a lane; its streams are over, and come out with it.
    pub fn detach(&mut self, index: usize) -> (Option<Transport>, Vec<T>) {
        let transport = self.lanes.detach(index);
        (transport, self.forget_all_of(index))
    }

    /// Takes the connection of a lane that is not waited for any more, if it stands, and all that
    /// was kept of it: it begins anew when it is joined again. Gives what hung on its streams.
    pub fn give_up(&mut self, index: usize) -> (Option<Transport>, Vec<T>) {
        let transport = self.lanes.give_up(index);
        (transport, self.forget_all_of(index))
    }

    /// The lane is gone: what credit comes free leaves on another.
    fn forget_all_of(&mut self, index: usize) -> Vec<T> {
        self.parts.forget_lane(index);
        let lost = self.streams.on_lane(index).into_iter();
        lost.filter_map(|key| self.forget(key)).collect()
    }

    /// Takes the connection of a lane that is to have another one: its streams wait, and so does
    /// what the peer may not have. What the connection was about to say it may still say.
    pub fn suspend(&mut self, index: usize, now: Instant) -> Option<Transport> {
        let transport = self.lanes.suspend(index, now)?;
        self.receiving.lost_a_lane();
        Some(transport)
    }

    /// Has a connection carry a lane on from where the last one was lost, whose peer has taken so
    /// many frames. Time stood still for its streams meanwhile.
    ///
    /// # Panics
    ///
    /// When it [cannot be](Lanes::can_resume).
    pub fn resume(&mut self, index: usize, transport: Transport, received: u64, now: Instant) {
        let how_long = self.lanes.resume(index, transport, received, now);
        self.streams.stood_still(index, how_long);
        self.call_for_room(index);
    }

    /// The peer joins this lane index again and tells what it has received on it, of DATA and of
    /// credit; none when it does not tell. Called while no lane has the index.
    pub fn settle(
        &mut self,
        index: usize,
        received: Option<u64>,
        credit: Option<u64>,
    ) -> Result<(), CannotBe> {
        if let Some(credit) = credit {
            self.lanes.settle_credit(index, credit)?;
        }
        let Some(received) = received else {
            return Ok(());
        };
        let carried = &mut self.lanes.channel(index).carried;
        let lost = carried.missing(received)?;
        let regained = self.sending.never_arrived(&mut self.streams, lost);
        regained.map_err(|_| CannotBe)?;
        carried.settle(received);
        Ok(())
    }

    /// What lane `index` sends next.
    pub fn transmit(&mut self, index: usize) -> &[u8] {
        if self.lanes.get_mut(index).is_some_and(Channel::sends_again) {
            self.call_for_room(index);
        }
        self.lanes.transmit(index)
    }

    /// Lane `index`'s socket took `count` bytes.
    pub fn transmitted(&mut self, index: usize, count: usize) {
        self.lanes.transmitted(index, count);
        self.call_for_room(index);
    }

    fn call_for_room(&mut self, lane: usize) {
        self.sending
            .call_for_room(&mut self.streams, &mut self.lanes, lane);
    }

    /// Says something of the session; see [`Lanes::push_control`].
    pub fn say<P: ControlPayload>(&mut self, payload: &P) {
        self.lanes.say(payload);
    }

    /// The payload that a span names, in the buffer of lane `index`.
    pub fn payload(&self, index: usize, span: &Span) -> &[u8] {
        self.lanes.payload(index, span)
    }

    /// Lends the payload that a span names; see [`Lanes::lend`].
    pub fn lend(&self, index: usize, span: &Span) -> Loan {
        self.lanes.lend(index, span)
    }

    /// Whether streams have waited for session credit for so long that it must have gone down with
    /// a lane whose peer does not tell what it received.
    pub fn has_run_dry(&self, now: Instant) -> bool {
        self.sending.has_run_dry(self.lanes.has_unsettled(), now)
    }
}

/// A stream's life.
impl<T: Copy> Session<T> {
    /// [`Session::open_for`] nobody in particular.
    #[cfg(any(test, feature = "testing"))]
    pub fn open(&mut self, tag: T, open: &[u8], now: Instant) -> Result<StreamKey, CannotOpen> {
        self.open_for(Wanted::default(), tag, (&[], open), now)
    }

    /// Opens a stream on the lane with the least waiting (PROTOCOL §7), and among equals on the one
    /// with the fewest streams: for a download nothing ever waits on this side. `open` is the JSON
    /// of STREAM_OPEN, at most one frame's payload, behind the parts of a long head.
    pub fn open_for(
        &mut self,
        wanted: Wanted,
        tag: T,
        (parts, open): (&[Vec<u8>], &[u8]),
        now: Instant,
    ) -> Result<StreamKey, CannotOpen> {
        let holder = wanted.holder;
        let (lane, waiting) = self.lanes.to_open_on(wanted.bind_ok)?;
        if self.streams.is_full() {
            return Err(CannotOpen::AtCap);
        }
        if holder.is_some_and(|holder| !self.streams.may_hold_one_more(holder)) {
            return Err(CannotOpen::OverShare);
        }
        let long: usize = parts.iter().map(Vec::len).sum();
        if waiting + long + open.len() > self.terms.queue_opens {
            return Err(CannotOpen::Congested);
        }
        if self.receiving.refuses_newcomers(now) {
            return Err(CannotOpen::Dry);
        }
        let id = self.streams.give_id().ok_or(CannotOpen::IdsUsedUp)?;
        let key = self.insert(id, lane, tag, now);
        let key = key.ok_or(CannotOpen::AtCap)?;
        if let Some(holder) = holder {
            self.streams.hold(key, holder);
        }
        self.flood.opened_stream();
        for part in parts {
            self.lanes.push(lane, FrameType::HeadPart, id, part);
        }
        self.lanes.push(lane, FrameType::StreamOpen, id, open);
        self.streams.resolve_mut(key).opened = self.lanes.of_stream(lane).out.opens();
        Ok(key)
    }

    /// Takes a stream that the peer opened on lane `index`. `None` when there are too many, which
    /// the peer was told.
    pub fn accept(&mut self, index: usize, id: u32, tag: T, now: Instant) -> Option<StreamKey> {
        let key = self.insert(id, index as u8, tag, now);
        if key.is_none() {
            self.refuse(index, id, Code::RefusedStream, "max streams exceeded");
        }
        key
    }

    /// Refuses a stream that the peer opened on lane `index`.
    pub fn refuse(&mut self, index: usize, id: u32, code: Code, reason: &str) {
        self.lanes.push_reset(index as u8, id, code, reason);
    }

    pub(super) fn insert(&mut self, id: u32, lane: u8, tag: T, now: Instant) -> Option<StreamKey> {
        let key = self.streams.insert(id, lane, tag, now)?;
        self.lanes.channel(usize::from(lane)).carries += 1;
        Some(key)
    }

    /// Room for the stream's next DATA, at most `wanted` bytes of it, to be filled in place and
    /// taken in by [`Session::data_commit`]. Empty when there is no credit or no room: then a
    /// [`Wake::Sender`] comes when it is worth trying again.
    pub fn data_space(&mut self, key: StreamKey, wanted: usize) -> &mut [u8] {
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        match self.sending.may_send(streams, lanes, key, wanted) {
            Some((lane, room)) => self.lanes.of_stream(lane).out.data_space(room),
            None => &mut [],
        }
    }

    /// Sends the first `count` bytes of the last [`Session::data_space`] as DATA of the stream.
    pub fn data_commit(&mut self, key: StreamKey, count: usize, now: Instant) {
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        if count > 0 && self.sending.sent(streams, lanes, key, count, now) {
            self.flood.sent_data();
        }
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

    /// Sends a datagram of the stream: ahead of what waits, or not at all; see
    /// [`Lanes::take_datagrams_lost`].
    pub fn send_datagram(&mut self, key: StreamKey, datagram: &[u8], now: Instant) {
        let Some(stream) = self.streams.get_mut(key).filter(|it| !it.local_done()) else {
            return;
        };
        stream.last_moved = now;
        let (id, lane, opened) = (stream.id, stream.lane, stream.opened);
        self.lanes.push_datagram(lane, id, datagram, opened);
    }

    /// The local side took `count` bytes of the stream's DATA: their credit goes back.
    pub fn passed_on(&mut self, key: StreamKey, count: usize, now: Instant) {
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        self.receiving
            .passed_on(streams, lanes, key, count as u32, now);
        self.drop_if_spent(key);
    }

    /// Sends a part of the response head that follows. Nothing where they were not agreed on.
    pub fn send_head_part(&mut self, key: StreamKey, part: &[u8]) {
        let stream = self.streams.get(key).filter(|it| !it.local_done());
        if let Some(stream) = stream.filter(|_| self.terms.head_parts > 0) {
            let (id, lane) = (stream.id, stream.lane);
            self.lanes.push(lane, FrameType::HeadPart, id, part);
        }
    }

    /// Parts of the head that [`Session::poll`] gave last.
    pub fn take_parts(&mut self) -> HeadParts {
        self.parts.take()
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
        self.lanes
            .push(lane, FrameType::StreamResponseHead, id, head);
    }

    /// Sends the trailers of a chunked body, which [`Session::send_eof`] follows: JSON of at most
    /// one frame's payload. Nothing where they were not agreed on.
    pub fn send_trailers(&mut self, key: StreamKey, trailers: &[u8], now: Instant) {
        let stream = self.streams.get_mut(key).filter(|it| !it.local_done());
        let Some(stream) = stream.filter(|_| self.terms.trailers) else {
            return;
        };
        stream.last_moved = now;
        let (id, lane) = (stream.id, stream.lane);
        self.lanes
            .push(lane, FrameType::StreamTrailers, id, trailers);
    }

    /// Tells the peer that its stream is connected now: JSON of STREAM_CONNECTED (PROTOCOL §8).
    pub fn send_connected(&mut self, key: StreamKey, connected: &[u8], now: Instant) {
        let stream = self.streams.get_mut(key).filter(|it| !it.local_done());
        let Some(stream) = stream.filter(|_| self.terms.forward) else {
            return;
        };
        stream.last_moved = now;
        let (id, lane) = (stream.id, stream.lane);
        self.lanes
            .push(lane, FrameType::StreamConnected, id, connected);
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
        self.lanes.push(lane, FrameType::Eof, id, &[]);
        self.leave_lines(key);
        self.drop_if_spent(key);
    }

    /// Ends the stream in both directions at once; harmless on one that is over. Bytes that were
    /// not passed on give their session credit back.
    pub fn reset(&mut self, key: StreamKey, code: Code, reason: &str) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if !stream.is_over() {
            self.lanes.push_reset(stream.lane, stream.id, code, reason);
        }
        self.forget(key);
    }

    fn leave_lines(&mut self, key: StreamKey) {
        self.sending
            .leave_lines(&mut self.streams, &mut self.lanes, key);
    }

    /// Removes a stream that is over and whose bytes are all passed on.
    fn drop_if_spent(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get(key)
            && stream.is_over()
            && stream.recv.buffered() == 0
        {
            self.forget(key);
        }
    }

    /// Removes a stream and gives the session credit of its unread bytes back.
    fn forget(&mut self, key: StreamKey) -> Option<T> {
        self.leave_lines(key);
        self.parts.forget(key);
        let stream = self.streams.remove(key)?;
        self.lanes.of_stream(stream.lane).carries -= 1;
        let buffered = stream.recv.buffered();
        if buffered > 0 {
            self.receiving
                .give_back(&mut self.lanes, buffered, stream.early);
        }
        Some(stream.tag)
    }

    /// Whether no timer may judge this stream now: it waits for its lane.
    pub fn stands_still(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(key);
        stream.is_some_and(|stream| self.lanes.is_down(stream.lane))
    }

    /// From when on the clocks of this stream may run: since then its lane stands, and was never
    /// silent for long.
    pub fn clocks_run_since(&self, key: StreamKey, now: Instant) -> Instant {
        let stream = self.streams.get(key);
        let transport = stream.and_then(|it| self.lanes.transport(usize::from(it.lane)));
        transport.map_or(now, |it| it.heard_since(now))
    }

    /// DATA bytes that came and that no local side has taken.
    pub fn buffered(&self) -> usize {
        self.receiving.credit.buffered() as usize
    }
}

/// What tests of the parts ask for by themselves.
#[cfg(test)]
impl<T: Copy> Session<T> {
    /// Sends as older peers do: whatever credit there is goes to whoever asks first.
    pub(crate) fn send_greedily(&mut self, key: StreamKey, bytes: &[u8], now: Instant) -> usize {
        let mut sent = 0;
        while let Some(stream) = self.streams.get(key) {
            let credit = stream.send.available();
            let credit = credit.min(self.sending.credit.available()) as usize;
            let channel = self.lanes.of_stream(stream.lane);
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

    pub(super) fn call_overdue(&mut self) {
        self.sending
            .call_overdue(&mut self.streams, &mut self.lanes);
    }

    pub(super) fn relieve(&mut self, key: StreamKey, now: Instant) {
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        self.receiving.relieve(streams, lanes, key, now);
    }

    pub(super) fn relieve_all(&mut self) -> bool {
        self.receiving
            .relieve_all(&mut self.streams, &mut self.lanes)
    }

    pub(super) fn somebody_is_short(&self) -> bool {
        self.receiving.somebody_is_short(&self.streams)
    }

    pub(super) fn refuses_newcomers(&mut self, now: Instant) -> bool {
        self.receiving.refuses_newcomers(now)
    }
}
