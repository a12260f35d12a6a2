//! The lanes of a session (PROTOCOL §7): what is said goes out on one of them.
//!
//! Owns the channels, with what they carried and keep, and the list of connections that the host is
//! to look at. Knows nothing of streams but which lane a frame is for.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{MAX_DATAGRAM, MAX_LANES, UNSEEN_WAIT_FOR};
use crate::machine::ConnKey;
use crate::mux::channel::{Channel, Told};
use crate::mux::losses::CannotBe;
use crate::mux::replay::Replay;
use crate::mux::session::CannotOpen;
use crate::mux::terms::Terms;
use crate::mux::transport::{Liveness, Span, Transport};
use crate::mux::violation::Violation;
use crate::outflow::Loan;
use crate::wire::code::Code;
use crate::wire::control::{self, ControlPayload, Secret};
use crate::wire::frame::{FrameType, Reset};

/// A session's lanes, whether they stand or not.
#[derive(Debug)]
pub struct Lanes {
    pub(super) terms: Terms,
    /// By the index of the lane.
    pub(super) channels: Vec<Channel>,
    /// Connections that have something to transmit, or room to read again, and how urgently.
    woken: VecDeque<(ConnKey, Told)>,
    /// Frames to the peer.
    frames_out: u64,
    /// Datagrams for which no lane had room, or that were lost with one, since that was asked last.
    datagrams_lost: u64,
}

/// Handshake, connections, and what they carry.
impl Lanes {
    pub(super) fn new(terms: Terms) -> Lanes {
        Lanes {
            terms,
            channels: Vec::new(),
            woken: VecDeque::new(),
            frames_out: 0,
            datagrams_lost: 0,
        }
    }

    /// Begins anew; see [`Channel::forget`]. No lane stands by now.
    pub(super) fn restart(&mut self, terms: Terms) {
        self.terms = terms;
        self.woken.clear();
        self.channels.iter_mut().for_each(Channel::forget);
    }

    /// Has a connection carry lane `index`, which goes on with nothing of before.
    pub(super) fn attach(&mut self, index: usize, transport: Transport) {
        let (conn, waits) = (transport.conn(), !transport.is_flushed());
        let heard = transport.last_heard();
        let retention = self.terms.replay.as_ref();
        let replay = retention.map(|it| Box::new(Replay::new(&self.terms, it, heard)));
        self.channel(index).attach(transport, replay);
        if waits {
            self.woken.push_back((conn, Told::Now));
        }
    }

    /// Takes the connection of a lane, whose streams are over.
    pub(super) fn detach(&mut self, index: usize) -> Option<Transport> {
        self.channels.get_mut(index).and_then(Channel::detach)
    }

    /// Takes the connection of a lane that is to have another one.
    pub(super) fn suspend(&mut self, index: usize, now: Instant) -> Option<Transport> {
        assert!(self.keeps_streams(), "nothing is kept");
        let (transport, lost) = self.channels.get_mut(index)?.suspend(now)?;
        self.datagrams_lost += lost;
        let credit = self.channel(index).out.take_window(0);
        self.regive(index, credit);
        Some(transport)
    }

    /// Has a connection carry a lane on from where the last one was lost, whose peer has taken so
    /// many frames. Says how long the lane was down.
    pub(super) fn resume(
        &mut self,
        index: usize,
        transport: Transport,
        received: u64,
        now: Instant,
    ) -> Duration {
        let conn = transport.conn();
        let channel = self.channel(index);
        let stood_still = channel.resume(transport, received, now);
        if let Some(replay) = channel.out.replay.as_mut() {
            replay.tells(now);
        }
        self.woken.push_back((conn, Told::Now));
        stood_still
    }

    /// Nobody waits for a lane any more, and nothing is kept of it: it begins anew when it is
    /// joined again. Its streams are over.
    pub(super) fn give_up(&mut self, index: usize) -> Option<Transport> {
        let credit = self.channel(index).out.take_window(0);
        let transport = self.detach(index);
        self.channel(index).given_up = true;
        self.regive(index, credit);
        transport
    }

    /// Session credit that waited on a lane which lost its connection may leave on any.
    fn regive(&mut self, index: usize, credit: Option<u32>) {
        if let Some(credit) = credit {
            self.channel(index).carried.credit_given -= u64::from(credit);
            self.give_credit(credit);
        }
    }

    /// The channel under `index`, whether its lane stands or not.
    pub(super) fn channel(&mut self, index: usize) -> &mut Channel {
        assert!(index < MAX_LANES, "a session has at most 16 lanes");
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, Channel::default);
        }
        &mut self.channels[index]
    }

    /// The lane that a stream of ours is pinned to: there is one.
    pub(super) fn of_stream(&mut self, lane: u8) -> &mut Channel {
        &mut self.channels[usize::from(lane)]
    }

    /// The lane under `index`, if it stands.
    pub fn get(&self, index: usize) -> Option<&Channel> {
        self.channels.get(index).filter(|channel| channel.stands())
    }

    /// The same, to read into or to write from.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Channel> {
        let channel = self.channels.get_mut(index);
        channel.filter(|channel| channel.stands())
    }

    /// Whether the lane under `index` does.
    pub fn stands(&self, index: usize) -> bool {
        self.get(index).is_some()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether nothing waits to leave on any.
    pub fn are_flushed(&self) -> bool {
        self.iter().all(|(_, lane)| lane.is_flushed())
    }

    /// Whether all that was said on those but the primary has left, and is acknowledged where that
    /// is told: what is said on the primary then overtakes nothing.
    pub fn others_have_arrived(&self) -> bool {
        let others = self.channels.iter().skip(1);
        let kept = |channel: &Channel| channel.replay().map_or(0, Replay::retained);
        others
            .filter(|channel| channel.stands() || kept(channel) > 0)
            .all(|channel| channel.is_flushed() && kept(channel) == 0)
    }

    /// All that stand, with their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Channel)> {
        let channels = self.channels.iter().enumerate();
        channels.filter(|(_, channel)| channel.stands())
    }

    /// The connection of lane `index`, if it stands.
    pub fn transport(&self, index: usize) -> Option<&Transport> {
        self.channels.get(index)?.transport()
    }

    /// The same, to use.
    pub(super) fn transport_mut(&mut self, index: usize) -> Option<&mut Transport> {
        self.channels.get_mut(index)?.transport_mut()
    }

    /// The one to open a stream on, that with the least waiting and among equals with the fewest
    /// streams, and how much waits there. The peer has to know of so many BIND_OKs, or to hear of
    /// them first.
    pub(super) fn to_open_on(&self, bind_ok: u64) -> Result<(u8, usize), CannotOpen> {
        let is_told = self.bind_oks_known() >= bind_ok;
        let may_carry = |index: usize| is_told || index == 0;
        let able = self.iter().filter(|(index, _)| may_carry(*index));
        let open = able.filter(|(_, lane)| lane.may_open());
        let (index, lane) = open
            .min_by_key(|(_, lane)| (lane.waiting(), lane.carries))
            .ok_or(match self.iter().any(|(index, _)| may_carry(index)) {
                true if self.keeps_streams() => CannotOpen::Congested,
                _ => CannotOpen::NoLane,
            })?;
        Ok((index as u8, lane.waiting()))
    }

    /// How many BIND_OKs the peer says that it has, where it does.
    pub(super) fn bind_oks_known(&self) -> u64 {
        self.replay(0).map_or(u64::MAX, Replay::bind_oks)
    }

    /// The ticket that lane `index` was joined with last, or is to be.
    pub fn ticket(&self, index: usize) -> Option<&Secret> {
        self.channels.get(index)?.ticket.as_ref()
    }

    /// Lane `index` is joined with a ticket.
    pub fn set_ticket(&mut self, index: usize, ticket: Secret) {
        self.channel(index).ticket = Some(ticket);
    }

    /// Bytes from the peer and to it over all connections so far, headers included.
    pub fn bytes(&self) -> (u64, u64) {
        let add = |sum: (u64, u64), more: (u64, u64)| (sum.0 + more.0, sum.1 + more.1);
        self.channels.iter().map(Channel::traffic).fold((0, 0), add)
    }

    /// Frames to the peer so far.
    pub(super) fn frames_out(&self) -> u64 {
        self.frames_out
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

    /// Gives memory back that is not needed now. Never while spans are lent.
    pub(super) fn release_idle(&mut self) {
        self.channels.iter_mut().for_each(Channel::release_if_idle);
    }
}

/// What is said.
impl Lanes {
    /// Says something of the session; see [`Lanes::push_control`].
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
        self.push(lane, kind, 0, payload);
    }

    /// Queues a WebSocket close on every lane.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        for index in 0..self.channels.len() {
            self.channels[index].push_close(code, reason);
            self.wake(index);
        }
    }

    /// Queues a frame on a lane.
    pub(super) fn push(&mut self, lane: u8, kind: FrameType, id: u32, payload: &[u8]) {
        self.push_with(lane, |channel| channel.push(kind, id, payload));
    }

    /// Queues a datagram of the stream whose STREAM_OPEN was the one of this number on its lane.
    pub(super) fn push_datagram(&mut self, lane: u8, id: u32, datagram: &[u8], after: u64) {
        if datagram.len() > MAX_DATAGRAM {
            return;
        }
        let index = usize::from(lane);
        self.datagrams_lost += self.channel(index).push_datagram(id, datagram, after);
        self.frames_out += 1;
        self.wake(index);
    }

    /// How many datagrams were lost since this was asked last.
    pub fn take_datagrams_lost(&mut self) -> u64 {
        std::mem::take(&mut self.datagrams_lost)
    }

    /// Queues RESET.
    pub(super) fn push_reset(&mut self, lane: u8, id: u32, code: Code, reason: &str) {
        let mut payload = Vec::with_capacity(2 + reason.len());
        Reset::write(&mut payload, code, reason);
        self.push(lane, FrameType::Reset, id, &payload);
    }

    /// Queues WINDOW of a stream.
    pub(super) fn push_window(&mut self, lane: u8, id: u32, increment: u32) {
        self.push_with(lane, |channel| channel.push_window(id, increment));
    }

    /// Gives the peer session credit, on a lane that stands if one does.
    pub(super) fn give_credit(&mut self, increment: u32) {
        let lane = self.session_lane();
        let carried = &mut self.channel(usize::from(lane)).carried;
        carried.credit_given += u64::from(increment);
        self.push_window(lane, 0, increment);
    }

    /// Queues PING, PONG or ACK, ahead of what waits.
    pub(super) fn push_sign_of_life(&mut self, lane: u8, kind: FrameType, payload: &[u8]) {
        self.push_with(lane, |channel| channel.push_sign_of_life(kind, payload));
    }

    /// DATA was queued in place; see `Outbox::data_space`.
    pub(super) fn pushed_data(&mut self, lane: u8) {
        self.frames_out += 1;
        self.wake(usize::from(lane));
    }

    /// Adds a frame to a lane, if it stands.
    fn push_with(&mut self, lane: u8, push: impl FnOnce(&mut Channel) -> bool) {
        let lane = usize::from(lane);
        if self.channels.get_mut(lane).is_some_and(push) {
            self.frames_out += 1;
            self.wake(lane);
        }
    }

    /// Has the host look at a lane that got something to transmit, once until it has looked.
    pub(super) fn wake(&mut self, index: usize) {
        let channel = self.channels.get_mut(index);
        if let Some(told) = channel.and_then(Channel::tell) {
            self.woken.push_back(told);
        }
    }

    /// Whom the host is to look at next.
    pub(super) fn poll_woken(&mut self) -> Option<(ConnKey, Told)> {
        self.woken.pop_front()
    }

    /// What lane `index` sends next.
    pub(super) fn transmit(&mut self, index: usize) -> &[u8] {
        let channel = self.channels.get_mut(index);
        channel.map_or(&[], Channel::transmit)
    }

    /// Lane `index`'s socket took `count` bytes.
    pub(super) fn transmitted(&mut self, index: usize, count: usize) {
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        if channel.transmitted(count)
            && let Some(conn) = channel.conn()
        {
            self.woken.push_back((conn, Told::Now));
        }
    }

    /// The lane that session credit and probes use: the primary while it stands.
    pub(super) fn session_lane(&self) -> u8 {
        self.iter().next().map_or(0, |(index, _)| index as u8)
    }

    /// Looks after lane `index`; sends a PING after `quiet` without a byte, and calls it dead when
    /// nothing came for `patience` after the PING (PROTOCOL §6). `None` when it does not stand.
    pub fn check(
        &mut self,
        index: usize,
        now: Instant,
        quiet: Duration,
        patience: Duration,
        ping: [u8; 8],
    ) -> Option<Liveness> {
        let channel = self.channels.get_mut(index)?;
        let health = channel.check(now, quiet, patience, ping)?;
        self.wake(index);
        Some(health)
    }

    /// Sends a PING on lane `index` for the peer's sake, who is promised to hear something of us.
    /// Nobody is judged by its answer.
    pub fn keep_heard(&mut self, index: usize, ping: [u8; 8]) {
        if let Ok(lane) = u8::try_from(index) {
            self.push_sign_of_life(lane, FrameType::Ping, &ping);
        }
    }

    /// The clock jumped: silence until now proves nothing against any lane.
    pub fn forgive_silence(&mut self, now: Instant) {
        for channel in &mut self.channels {
            channel.shows_life(now);
        }
    }
}

/// What is kept until it is acknowledged, and what went down (PROTOCOL §7, §9).
impl Lanes {
    /// Whether replay was granted: a lane's streams wait for its next connection.
    pub fn keeps_streams(&self) -> bool {
        self.terms.replay.is_some()
    }

    /// How many streams are pinned to lane `index`, whether it stands or not.
    pub fn carries(&self, index: usize) -> usize {
        self.channels.get(index).map_or(0, Channel::carries)
    }

    /// Whether streams may wait for lane `index`, which is down: those that we know of, and for a
    /// while those that the peer opened on it and that did not come.
    pub fn is_awaited(&self, index: usize, now: Instant) -> bool {
        let down_since = self.channels.get(index).and_then(Channel::down_since);
        let lately = down_since.is_some_and(|since| now < since + UNSEEN_WAIT_FOR);
        self.keeps_streams() && (self.carries(index) > 0 || lately)
    }

    /// The lanes but the primary that have waited for so long that nobody waits any more.
    pub fn overdue(&self, now: Instant, grace: Duration) -> Vec<usize> {
        let channels = self.channels.iter().enumerate().skip(1);
        channels
            .filter(|(_, it)| it.down_since().is_some_and(|since| now >= since + grace))
            .map(|(index, _)| index)
            .collect()
    }

    /// What to say was taken of a lane that is joined: none where nothing can go on.
    pub fn joins_with(&self, index: usize) -> Option<u64> {
        self.terms.replay.as_ref()?;
        match self.replay(index) {
            Some(replay) => Some(replay.taken()),
            None => self.is_unused(index).then_some(0),
        }
    }

    /// Whether this lane may begin with counts of 0 on both sides: it never carried anything.
    pub fn is_unused(&self, index: usize) -> bool {
        let channel = self.channels.get(index);
        channel.is_none_or(|it| !it.given_up && !it.keeps() && !it.stands())
    }

    /// How many frames were taken on a lane: to be told where it is resumed. What an older
    /// connection of it brings from now on is not taken.
    pub fn received(&self, index: usize) -> u64 {
        self.replay(index).map_or(0, Replay::taken)
    }

    /// Whether a lane can go on where its peer has taken so many frames.
    pub fn can_resume(&self, index: usize, received: u64) -> bool {
        let replay = self.replay(index);
        replay.is_some_and(|replay| replay.meets(received))
    }

    fn replay(&self, index: usize) -> Option<&Replay> {
        self.channels.get(index).and_then(Channel::replay)
    }

    /// Whether a lane sends what its last connection lost.
    pub fn sends_again(&self, index: usize) -> bool {
        self.get(index).is_some_and(Channel::is_resending)
    }

    /// Whether a lane has no connection, and its streams wait for one.
    pub(super) fn is_down(&self, lane: u8) -> bool {
        let channel = self.channels.get(usize::from(lane));
        channel.is_some_and(Channel::is_down)
    }

    /// A frame was handed on that came on a lane.
    pub(super) fn took(&mut self, index: usize, kind: FrameType, payload: usize) {
        if let Some(channel) = self.channels.get_mut(index) {
            channel.took(kind, payload);
        }
    }

    /// Tells the peer what was taken on a lane, if it is time.
    pub(super) fn acknowledge(&mut self, index: usize, now: Instant) {
        let channel = self.channels.get_mut(index);
        if let Some(count) = channel.and_then(|channel| channel.acknowledges(now)) {
            self.push_sign_of_life(index as u8, FrameType::Ack, &count.to_be_bytes());
        }
    }

    /// When a peer is to be told at the latest what was taken.
    pub fn acknowledges_at(&self) -> Option<Instant> {
        let standing = self.iter().filter_map(|(_, lane)| lane.replay());
        standing.filter_map(Replay::acknowledges_at).min()
    }

    /// Tells peers what was taken, where it is time.
    pub fn acknowledge_all(&mut self, now: Instant) {
        for index in 0..self.channels.len() {
            self.acknowledge(index, now);
        }
    }

    /// ACK came on a lane.
    pub(super) fn acknowledged(&mut self, index: usize, payload: &Span) -> Result<(), Violation> {
        let octets = self.payload(index, payload).try_into();
        let count = octets.map_or(u64::MAX, u64::from_be_bytes);
        let acknowledged = self.channel(index).out.acknowledged(count);
        acknowledged.map_err(|_| {
            let why = "ACK of frames that were never sent";
            Violation::session(Code::ProtocolError, why)
        })
    }

    /// The peer's session window is `window` now: what is unacknowledged may have grown with it.
    pub(super) fn fit_replay(&mut self, window: u32) {
        let (Some(retention), true) = (&self.terms.replay, self.terms.grow_windows) else {
            return;
        };
        for channel in &mut self.channels {
            if let Some(replay) = &mut channel.out.replay {
                replay.fit(&self.terms, retention, window);
            }
        }
    }

    /// Bytes of DATA that have come on this lane index so far, to be told with its next JOIN.
    pub fn data_received(&self, index: usize) -> u64 {
        let channel = self.channels.get(index);
        channel.map_or(0, |channel| channel.carried.received)
    }

    /// The sum of WINDOW(0) that was taken on this lane index so far, to be told likewise.
    pub fn credit_received(&self, index: usize) -> Option<u64> {
        self.terms.replay.as_ref()?;
        let channel = self.channels.get(index);
        Some(channel.map_or(0, |channel| channel.carried.credit_taken))
    }

    /// The peer joins this lane index again and tells how much session credit it has taken on it:
    /// what was lost is given again.
    pub(super) fn settle_credit(&mut self, index: usize, taken: u64) -> Result<(), CannotBe> {
        if !self.keeps_streams() {
            return Ok(());
        }
        let carried = &mut self.channel(index).carried;
        let lost = carried.credit_given.checked_sub(taken).ok_or(CannotBe)?;
        let lost = u32::try_from(lost).map_err(|_| CannotBe)?;
        carried.credit_given = taken;
        if lost > 0 {
            self.give_credit(lost);
        }
        Ok(())
    }

    /// Bytes that are kept until the peer says that it has them.
    pub(super) fn retained(&self) -> usize {
        let replays = self.channels.iter().filter_map(Channel::replay);
        replays.map(Replay::retained).sum()
    }

    /// Whether some lane was lost whose peer has not told what it received.
    pub(super) fn has_unsettled(&self) -> bool {
        self.channels.iter().any(|it| it.carried.unsettled)
    }

    /// Whether the channels' pieces fit each other; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants(&self) {
        self.channels.iter().for_each(Channel::check_invariants);
    }
}
