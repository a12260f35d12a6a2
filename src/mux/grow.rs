//! Windows that grow so that one stream can fill a long link (PROTOCOL §5, `grow-windows`).
//!
//! A receiver cannot see from its own books whether a sender waits for credit: what it gave back
//! counts as granted while the WINDOW is still on its way. So it measures the link: a PING, and the
//! bytes that come until its PONG. When they are half a window or more, the window is what limits
//! the sender, for it can never have more than a window under way in one round trip; the window is
//! doubled then, unless the local side is what holds the bytes up.

use crate::clock::Instant;
use crate::limits::{MAX_STREAM_WINDOW, PROBE_EVERY};
use crate::mux::session::Session;
use crate::mux::stream::StreamKey;
use crate::wire::frame::FrameType;

/// The measurement of a session's link.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The payload of the PING that is on its way.
    under_way: Option<[u8; 8]>,
    /// DATA bytes of the session since it left.
    bytes: u64,
    /// PINGs so far.
    count: u64,
    /// When the next one may leave: peers count PINGs.
    not_before: Instant,
}

impl<T: Copy> Session<T> {
    /// `count` bytes of DATA came for a stream.
    pub(super) fn measure(&mut self, key: StreamKey, count: u32, now: Instant) {
        if !self.terms.grow_windows {
            return;
        }
        self.probe.bytes += u64::from(count);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.since_probe += u64::from(count);
        }
        if self.probe.under_way.is_some() || now < self.probe.not_before || count == 0 {
            return;
        }
        self.probe.count += 1;
        let marker = (MARK | self.probe.count & !MARK).to_be_bytes();
        self.probe.under_way = Some(marker);
        self.probe.not_before = now + PROBE_EVERY;
        self.probe.bytes = 0;
        for (_, stream) in self.streams.iter_mut() {
            stream.since_probe = 0;
        }
        self.push_sign_of_life(0, FrameType::Ping, &marker);
    }

    /// A PONG came; if it is the probe's, one round trip is over.
    pub(super) fn measured(&mut self, payload: [u8; 8]) {
        if self.probe.under_way != Some(payload) {
            return;
        }
        self.probe.under_way = None;
        let (_, top) = self.terms.ceilings();
        // What a window grows by may all come to lie here, so it is paid for like what goes back
        // early.
        let top = top.min(self.recv.window().saturating_add(self.spare()));
        if let Some(extra) = self.recv.growth(self.probe.bytes, top) {
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

/// What tells a probe's PING from others: no random or counted payload is likely to begin so.
const MARK: u64 = 0x7072_6F62_0000_0000;
