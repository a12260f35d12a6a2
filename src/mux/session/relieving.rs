//! Credit that goes back to the peer: what a session does by `relief.rs`, and windows that grow by
//! `grow.rs`.

use crate::clock::Instant;
use crate::limits::{DRY_BELOW, MAX_STREAM_WINDOW};
use crate::mux::keys::StreamKey;
use crate::mux::session::Session;
use crate::mux::stream::Stream;
use crate::wire::frame::FrameType;

impl<T: Copy> Session<T> {
    /// How many bytes of the peer's this session may hold beyond its first window.
    pub fn set_budget(&mut self, bytes: u32) {
        self.relief.budget = bytes;
    }

    /// How many of those it uses: what the owner's budgets are reckoned with.
    pub fn beyond_window(&self) -> u32 {
        self.recv.early() + (self.recv.window() - self.terms.session_window)
    }

    /// What is missing of that which the peer is to find left.
    fn missing(&self) -> u32 {
        self.relief.keep.saturating_sub(self.recv.left())
    }

    /// What is left of the budget.
    pub(in crate::mux) fn spare(&self) -> u32 {
        self.relief.spare(self.beyond_window())
    }

    /// Whether a newcomer is to be refused, since others hold all there is and what it is sent
    /// would not arrive.
    pub fn refuses_newcomers(&mut self, now: Instant) -> bool {
        self.relief.refuses(now)
    }

    /// Whether others are short of what the streams hold: there are some that have nothing to pass
    /// on, or would be, had they not been refused.
    pub(in crate::mux) fn somebody_is_short(&self) -> bool {
        let waits = |stream: &Stream<T>| !stream.remote_done() && stream.recv.buffered() == 0;
        self.relief.has_refused() || self.streams.iter().any(|(_, stream)| waits(stream))
    }

    /// The local side took `count` bytes of the stream's DATA: their credit goes back.
    pub fn passed_on(&mut self, key: StreamKey, count: usize, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let count = count as u32;
        let early = stream.early.min(count);
        stream.early -= early;
        stream.recv.pass_on(count, 0);
        stream.last_taken = now;
        stream.last_moved = now;
        let increment = match stream.remote_done() {
            true => None,
            false => stream.recv.claim(self.relief.contended),
        };
        let (id, lane) = (stream.id, stream.lane);
        if let Some(increment) = increment {
            self.push_window(lane, id, increment);
        }
        self.recv.pass_on(count, early);
        self.give_session_credit();
        self.drop_if_spent(key);
    }

    pub(in crate::mux) fn give_session_credit(&mut self) {
        if let Some(increment) = self.recv.claim_of_session() {
            self.give_credit(increment);
        }
        if self.recv.left() >= DRY_BELOW {
            self.relief.is_wet();
        }
        if self.relief.contended {
            self.relief.contended = self.recv.is_contended(true);
        }
    }

    /// DATA of a stream was booked: sees to it that the peer has some left for the others.
    #[inline]
    pub(in crate::mux) fn relieve(&mut self, key: StreamKey, now: Instant) {
        if !self.relief.contended && self.recv.is_contended(false) {
            self.relief.contended = true;
            self.give_withheld();
        }
        if !self.relief.contended || self.missing() == 0 {
            return;
        }
        self.give_early(key);
        // Looking over all of them is worth it only for much.
        let much = self.relief.keep / 4;
        if self.missing() > much && self.spare() > much {
            self.relieve_all();
        }
        if self.recv.left() < DRY_BELOW {
            self.relief.runs_dry(now);
        }
    }

    /// Gives session credit back for what the stream holds, as much as is missing and the budget
    /// has.
    fn give_early(&mut self, key: StreamKey) {
        let most = self.missing().min(self.spare());
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let held = stream.recv.buffered() - stream.early;
        let count = held.min(most);
        if count != 0 {
            stream.early += count;
            self.recv.give_early(count);
            self.give_session_credit();
        }
    }

    /// Gives all streams what they withhold.
    fn give_withheld(&mut self) {
        let mut windows = Vec::new();
        for (_, stream) in self.streams.iter_mut().filter(|(_, it)| !it.remote_done()) {
            let increment = stream.recv.claim_withheld();
            windows.extend(increment.map(|increment| (stream.lane, stream.id, increment)));
        }
        for (lane, id, increment) in windows {
            self.push_window(lane, id, increment);
        }
    }

    /// Has those streams that hold most make good what is missing. Says whether the budget
    /// sufficed.
    pub(in crate::mux) fn relieve_all(&mut self) -> bool {
        if self.missing() == 0 {
            return true;
        }
        let held = |stream: &Stream<T>| stream.recv.buffered() - stream.early;
        let mut holders: Vec<(u32, StreamKey)> = self
            .streams
            .iter()
            .filter(|(_, stream)| held(stream) != 0)
            .map(|(key, stream)| (held(stream), key))
            .collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in holders {
            if self.missing() == 0 || self.spare() == 0 {
                break;
            }
            self.give_early(key);
        }
        self.missing() == 0
    }

    /// `count` bytes of DATA came for a stream.
    pub(in crate::mux) fn measure(&mut self, key: StreamKey, count: u32, now: Instant) {
        if !self.terms.grow_windows {
            return;
        }
        if let Some(stream) = self.streams.get_mut(key) {
            stream.since_probe += u64::from(count);
        }
        let Some(marker) = self.probe.came(count, now) else {
            return;
        };
        for (_, stream) in self.streams.iter_mut() {
            stream.since_probe = 0;
        }
        let lane = self.session_lane();
        self.push_sign_of_life(lane, FrameType::Ping, &marker);
    }

    /// A PONG came; if it is the probe's, one round trip is over.
    pub(in crate::mux) fn measured(&mut self, payload: [u8; 8]) {
        let Some(came) = self.probe.returned(payload) else {
            return;
        };
        let (_, top) = self.terms.ceilings();
        // What a window grows by may all come to lie here, so it is paid for like what goes back
        // early.
        let top = top.min(self.recv.window().saturating_add(self.spare()));
        if let Some(extra) = self.recv.growth(came, top) {
            self.recv.grow(extra);
            self.relief.window_grew(self.recv.window());
            self.give_session_credit();
        }
        // The others keep a quarter of the session's window, and one stream alone can still use up
        // the half of it that makes the session's window grow.
        let top = MAX_STREAM_WINDOW.min(self.recv.window() / 4 * 3);
        let mut windows = Vec::new();
        for (_, stream) in self.streams.iter_mut() {
            if stream.remote_done() {
                continue;
            }
            if let Some(extra) = stream.recv.growth(stream.since_probe, top) {
                stream.recv.grow(extra);
                let increment = stream.recv.claim(false);
                windows.extend(increment.map(|increment| (stream.lane, stream.id, increment)));
            }
        }
        for (lane, id, increment) in windows {
            self.push_window(lane, id, increment);
        }
    }
}
