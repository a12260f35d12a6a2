//! What comes, and the credit that goes back for it to the peer (PROTOCOL §5).
//!
//! What it decides about one window is in `credit`, about a session whose streams hold much of its
//! window in `relief`, about windows that grow in `grow`; this part has the streams follow.

use crate::clock::Instant;
use crate::limits::{DRY_BELOW, MAX_STREAM_WINDOW, PROGRESS_AT_ONCE, PROGRESS_UNSAID};
use crate::mux::credit::{CreditExceeded, RecvCredit};
use crate::mux::grow::Probe;
use crate::mux::keys::StreamKey;
use crate::mux::lanes::Lanes;
use crate::mux::relief::Relief;
use crate::mux::stream::Stream;
use crate::mux::streams::Streams;
use crate::mux::terms::Terms;
use crate::wire::frame::FrameType;

/// What the peer may send to a session, and what of that lies here.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) credit: RecvCredit,
    relief: Relief,
    probe: Probe,
    /// DATA bytes from the peer.
    bytes: u64,
    first_window: u32,
    /// What the window may grow to, where windows grow.
    top: Option<u32>,
}

impl Receiving {
    /// With a full window.
    pub(super) fn new(terms: &Terms) -> Receiving {
        let (_, top) = terms.ceilings();
        Receiving {
            credit: RecvCredit::new(terms.session_window),
            relief: Relief::new(terms.session_window),
            probe: Probe::default(),
            bytes: 0,
            first_window: terms.session_window,
            top: terms.grow_windows.then_some(top),
        }
    }

    /// DATA bytes from the peer so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of the peer's may lie here beyond the first window.
    pub(super) fn set_budget(&mut self, bytes: u32) {
        self.relief.budget = bytes;
    }

    /// How many of those do, or may.
    pub(super) fn beyond_window(&self) -> u32 {
        self.credit.early() + (self.credit.window() - self.first_window)
    }

    /// What is missing of that which the peer is to find left.
    fn missing(&self) -> u32 {
        self.relief.keep.saturating_sub(self.credit.left())
    }

    /// What is left of the budget.
    pub(super) fn spare(&self) -> u32 {
        self.relief.spare(self.beyond_window())
    }

    /// Whether a newcomer is to be refused, since others hold all there is and what it is sent
    /// would not arrive.
    pub(super) fn refuses_newcomers(&mut self, now: Instant) -> bool {
        self.relief.refuses(now)
    }

    /// Whether others are short of what the streams hold: there are some that have nothing to pass
    /// on, or would be, had they not been refused.
    pub(super) fn somebody_is_short<T: Copy>(&self, streams: &Streams<T>) -> bool {
        self.relief.has_refused() || streams.some_are_empty()
    }

    /// `count` bytes of DATA came.
    pub(super) fn came(&mut self, count: u32) -> Result<(), CreditExceeded> {
        self.credit.receive(count)?;
        self.bytes += u64::from(count);
        Ok(())
    }

    /// The local side took `count` bytes of the stream's DATA: their credit goes back.
    pub(super) fn passed_on<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
        count: u32,
        now: Instant,
    ) {
        let Some(stream) = streams.get_mut(key) else {
            return;
        };
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
            lanes.push_window(lane, id, increment);
        }
        self.give_back(lanes, count, early);
    }

    /// Nobody holds so many bytes any more, of which so many were given back before.
    pub(super) fn give_back(&mut self, lanes: &mut Lanes, count: u32, early: u32) {
        self.credit.pass_on(count, early);
        self.give_session_credit(lanes);
    }

    fn give_session_credit(&mut self, lanes: &mut Lanes) {
        if let Some(increment) = self.credit.claim_of_session() {
            lanes.give_credit(increment);
        }
        if self.credit.left() >= DRY_BELOW {
            self.relief.is_wet();
        }
        if self.relief.contended {
            self.relief.contended = self.credit.is_contended(true);
        }
    }

    /// DATA of a stream was booked: sees to it that the peer has some left for the others.
    #[inline]
    pub(super) fn relieve<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
        now: Instant,
    ) {
        if !self.relief.contended && self.credit.is_contended(false) {
            self.relief.contended = true;
            give(streams, lanes, |stream| stream.recv.claim_withheld());
        }
        if !self.relief.contended || self.missing() == 0 {
            return;
        }
        self.give_early(streams, lanes, key);
        // Looking over all of them is worth it only for much.
        let much = self.relief.keep / 4;
        if self.missing() > much && self.spare() > much {
            self.relieve_all(streams, lanes);
        }
        if self.credit.left() < DRY_BELOW {
            self.relief.runs_dry(now);
        }
    }

    /// Gives session credit back for what the stream holds, as much as is missing and the budget
    /// has.
    fn give_early<T: Copy>(&mut self, streams: &mut Streams<T>, lanes: &mut Lanes, key: StreamKey) {
        let most = self.missing().min(self.spare());
        let Some(stream) = streams.get_mut(key) else {
            return;
        };
        let held = stream.recv.buffered() - stream.early;
        let count = held.min(most);
        if count != 0 {
            stream.early += count;
            self.credit.give_early(count);
            self.give_session_credit(lanes);
        }
    }

    /// Has those streams that hold most make good what is missing. Says whether the budget
    /// sufficed.
    pub(super) fn relieve_all<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
    ) -> bool {
        if self.missing() == 0 {
            return true;
        }
        let held = |stream: &Stream<T>| stream.recv.buffered() - stream.early;
        let mut holders: Vec<(u32, StreamKey)> = streams
            .iter()
            .filter(|(_, stream)| held(stream) != 0)
            .map(|(key, stream)| (held(stream), key))
            .collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in holders {
            if self.missing() == 0 || self.spare() == 0 {
                break;
            }
            self.give_early(streams, lanes, key);
        }
        self.missing() == 0
    }

    /// `count` bytes of DATA came for a stream: how much does the link carry in a round trip?
    pub(super) fn measure<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        key: StreamKey,
        count: u32,
        now: Instant,
    ) {
        if self.top.is_none() {
            return;
        }
        if let Some(stream) = streams.get_mut(key) {
            stream.since_probe += u64::from(count);
        }
        let Some(marker) = self.probe.came(count, now) else {
            return;
        };
        for (_, stream) in streams.iter_mut() {
            stream.since_probe = 0;
        }
        let lane = lanes.session_lane();
        lanes.push_sign_of_life(lane, FrameType::Ping, &marker);
    }

    /// A lane was lost, maybe with the probe.
    pub(super) fn lost_a_lane(&mut self) {
        self.probe.lost();
    }

    /// A PONG came; if it is the probe's, one round trip is over.
    pub(super) fn measured<T: Copy>(
        &mut self,
        streams: &mut Streams<T>,
        lanes: &mut Lanes,
        payload: [u8; 8],
    ) {
        let (Some(came), Some(top)) = (self.probe.returned(payload), self.top) else {
            return;
        };
        // What a window grows by may all come to lie here, so it is paid for like what goes back
        // early.
        let top = top.min(self.credit.window().saturating_add(self.spare()));
        if let Some(extra) = self.credit.growth(came, top) {
            self.credit.grow(extra);
            self.relief.window_grew(self.credit.window());
            self.give_session_credit(lanes);
        }
        // The others keep a quarter of the session's window, and one stream alone can still use up
        // the half of it that makes the session's window grow.
        let top = MAX_STREAM_WINDOW.min(self.credit.window() / 4 * 3);
        give(streams, lanes, |stream| {
            let extra = stream.recv.growth(stream.since_probe, top)?;
            stream.recv.grow(extra);
            stream.recv.claim(false)
        });
    }

    /// Whether what the streams hold is what the session holds; for tests, fuzzing and debug
    /// builds.
    pub(super) fn check_invariants<T: Copy>(&self, streams: &Streams<T>) {
        let sum = |of: fn(&Stream<T>) -> u32| -> u64 {
            streams
                .iter()
                .map(|(_, stream)| u64::from(of(stream)))
                .sum()
        };
        let buffered = sum(|stream| stream.recv.buffered());
        let ours = u64::from(self.credit.buffered());
        assert_eq!(buffered, ours, "streams and session disagree");
        let early = sum(|stream| stream.early);
        let ours = u64::from(self.credit.early());
        assert_eq!(early, ours, "early credit was lost or made up");
    }
}

/// Gives the peers of all streams what `claim` takes of their credit.
fn give<T: Copy>(
    streams: &mut Streams<T>,
    lanes: &mut Lanes,
    claim: impl Fn(&mut Stream<T>) -> Option<u32>,
) {
    for (_, stream) in streams.iter_mut().filter(|(_, it)| !it.remote_done()) {
        if let Some(increment) = claim(stream) {
            lanes.push_window(stream.lane, stream.id, increment);
        }
    }
}

/// Gives credit back that was withheld for a while. Gathered up to a quarter of a window it can
/// take minutes where the local side is slow, and behind the peer's EOF nothing goes back at all;
/// but the peer has clocks, and they should run only while nothing moves.
pub(super) fn tell_progress<T: Copy>(streams: &mut Streams<T>, lanes: &mut Lanes, now: Instant) {
    let mut unsaid = Vec::new();
    for (key, stream) in streams.iter_mut() {
        if stream.is_over() || !stream.recv.withholds() {
            stream.unsaid_since = None;
            continue;
        }
        let since = *stream.unsaid_since.get_or_insert(now);
        if now >= since + PROGRESS_UNSAID {
            unsaid.push((since, key));
        }
    }
    unsaid.sort_unstable();
    unsaid.truncate(PROGRESS_AT_ONCE);
    for (_, key) in unsaid {
        let stream = streams.resolve_mut(key);
        stream.unsaid_since = None;
        let increment = stream.recv.claim_all();
        lanes.push_window(stream.lane, stream.id, increment);
    }
}
