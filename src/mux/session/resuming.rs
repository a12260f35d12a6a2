//! A lane that waits for its next connection with all its streams (PROTOCOL §9): what `replay.rs`
//! decides for one lane, and what follows for the streams.

use std::time::Duration;

use crate::clock::Instant;
use crate::mux::channel::Channel;
use crate::mux::keys::StreamKey;
use crate::mux::replay::Replay;
use crate::mux::session::{Session, Wake};
use crate::mux::stream::Stream;
use crate::mux::transport::{Span, Transport};
use crate::mux::violation::Violation;
use crate::wire::code::Code;
use crate::wire::frame::FrameType;

impl<T: Copy> Session<T> {
    /// What a lane that begins keeps.
    pub(super) fn new_replay(&self, now: Instant) -> Option<Box<Replay>> {
        let retention = self.terms.replay.as_ref()?;
        Some(Box::new(Replay::new(&self.terms, retention, now)))
    }

    /// Takes the connection of a lane that is to have another one: its streams wait, and so does
    /// what the peer may not have. What the connection was about to say it may still say.
    pub fn suspend(&mut self, index: usize, now: Instant) -> Option<Transport> {
        assert!(self.terms.replay.is_some(), "nothing is kept");
        let channel = self.channels.get_mut(index)?;
        let transport = channel.suspend(now)?;
        self.probe.lost();
        let credit = self.channel(index).out.take_window(0);
        if let Some(credit) = credit {
            // The session's credit may leave on any lane.
            self.channel(index).carried.credit_given -= u64::from(credit);
            self.give_credit(credit);
        }
        Some(transport)
    }

    /// Gives the peer session credit, on a lane that stands if one does.
    pub(super) fn give_credit(&mut self, increment: u32) {
        let lane = self.session_lane();
        let carried = &mut self.channel(usize::from(lane)).carried;
        carried.credit_given += u64::from(increment);
        self.push_window(lane, 0, increment);
    }

    /// Takes the connection of a lane that is not waited for any more, if it stands, and all that
    /// was kept of it: it begins anew when it is joined again. Gives what hung on its streams.
    pub fn give_up(&mut self, index: usize) -> (Option<Transport>, Vec<T>) {
        let credit = self.channel(index).out.take_window(0);
        let lost = self.detach(index);
        self.channel(index).given_up = true;
        if let Some(credit) = credit {
            self.channel(index).carried.credit_given -= u64::from(credit);
            self.give_credit(credit);
        }
        lost
    }

    /// How many BIND_OKs the peer says that it has, where it does.
    pub(in crate::mux) fn bind_oks_known(&self) -> u64 {
        let replay = self.channels.first().and_then(Channel::replay);
        replay.map_or(u64::MAX, Replay::bind_oks)
    }

    /// How many streams are pinned to lane `index`, whether it stands or not.
    pub fn carries(&self, index: usize) -> usize {
        self.channels.get(index).map_or(0, Channel::carries)
    }

    /// The lanes but the primary that have waited for so long that nobody waits any more.
    pub fn overdue_lanes(&self, now: Instant, grace: Duration) -> Vec<usize> {
        let channels = self.channels.iter().enumerate().skip(1);
        channels
            .filter(|(_, it)| it.down_since().is_some_and(|since| now >= since + grace))
            .map(|(index, _)| index)
            .collect()
    }

    /// What was granted, where a lane waits for its next connection.
    pub fn keeps_streams(&self) -> bool {
        self.terms.replay.is_some()
    }

    /// What to say was taken of a lane that is joined: none where nothing can go on.
    pub fn joins_with(&self, index: usize) -> Option<u64> {
        self.terms.replay.as_ref()?;
        let replay = self.channels.get(index).and_then(Channel::replay);
        replay.map_or(self.is_unused(index).then_some(0), |it| Some(it.taken()))
    }

    /// Whether this lane may begin with counts of 0 on both sides: it never carried anything.
    pub fn is_unused(&self, index: usize) -> bool {
        let channel = self.channels.get(index);
        channel.is_none_or(|it| !it.given_up && !it.keeps() && !it.stands())
    }

    /// How many frames were taken on a lane: to be told where it is resumed. What an older
    /// connection of it brings from now on is not taken.
    pub fn received(&self, index: usize) -> u64 {
        let replay = self.channels.get(index).and_then(Channel::replay);
        replay.map_or(0, Replay::taken)
    }

    /// Whether a lane can go on where its peer has taken so many frames.
    pub fn can_resume(&self, index: usize, received: u64) -> bool {
        let replay = self.channels.get(index).and_then(Channel::replay);
        replay.is_some_and(|replay| replay.meets(received))
    }

    /// Has a connection carry a lane on from where the last one was lost, whose peer has taken so
    /// many frames. Time stood still for its streams meanwhile.
    ///
    /// # Panics
    ///
    /// When it [cannot be](Session::can_resume).
    pub fn resume(&mut self, index: usize, transport: Transport, received: u64, now: Instant) {
        let conn = transport.conn();
        let stood_still = self.channel(index).resume(transport, received, now);
        if let Some(replay) = self.channel(index).out.replay.as_mut() {
            replay.tells(now);
        }
        for (_, stream) in self.streams.iter_mut() {
            if usize::from(stream.lane) == index {
                stream.last_moved = stream.last_moved + stood_still;
                stream.last_taken = stream.last_taken + stood_still;
                stream.unsaid_since = None;
            }
        }
        self.wakes.push_back(Wake::Lane(conn));
        self.call_for_room(index);
    }

    /// The lane that session credit and probes use: the primary while it stands.
    pub(super) fn session_lane(&self) -> u8 {
        self.lanes().next().map_or(0, |(index, _)| index as u8)
    }

    /// A frame was handed on that came on a lane.
    pub(super) fn took(&mut self, index: usize, kind: FrameType, payload: usize) {
        if let Some(channel) = self.channels.get_mut(index) {
            channel.took(kind, payload);
        }
    }

    /// Tells the peer what was taken on a lane, if it is time.
    pub(super) fn acknowledge(&mut self, index: usize, now: Instant) {
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        let count = channel.acknowledges(now);
        if let Some(count) = count {
            self.push_sign_of_life(index as u8, FrameType::Ack, &count.to_be_bytes());
        }
    }

    /// When a peer is to be told at the latest what was taken.
    pub fn acknowledges_at(&self) -> Option<Instant> {
        let standing = self.lanes().filter_map(|(_, lane)| lane.replay());
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
        })?;
        self.call_for_room(index);
        self.wake_lane(index);
        Ok(())
    }

    /// The peer's session window may have grown: so may what is unacknowledged.
    pub(super) fn fit_replay(&mut self) {
        let (Some(retention), true) = (&self.terms.replay, self.terms.grow_windows) else {
            return;
        };
        let window = self.send.window();
        for channel in &mut self.channels {
            if let Some(replay) = &mut channel.out.replay {
                replay.fit(&self.terms, retention, window);
            }
        }
    }

    /// Whether a lane sends what its last connection lost.
    pub fn sends_again(&self, index: usize) -> bool {
        let lane = self.lane(index);
        lane.is_some_and(Channel::is_resending)
    }

    /// Whether no timer may judge this stream now: it waits for its lane.
    pub fn stands_still(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(key);
        stream.is_some_and(|stream| self.is_down(stream))
    }

    /// From when on the clocks of this stream may run: since then its lane stands, and was never
    /// silent for long.
    pub fn clocks_run_since(&self, key: StreamKey, now: Instant) -> Instant {
        let stream = self.streams.get(key);
        let lane = stream.and_then(|stream| self.lane(usize::from(stream.lane)));
        let transport = lane.and_then(Channel::transport);
        transport.map_or(now, |it| it.heard_since(now))
    }

    /// Whether a stream waits for its lane: no timer that judges it goes on meanwhile.
    pub(super) fn is_down(&self, stream: &Stream<T>) -> bool {
        let lane = self.channels.get(usize::from(stream.lane));
        lane.is_some_and(Channel::is_down)
    }
}
