//! A connection that carries a session's WebSocket, from its first byte after the upgrade.
//!
//! A transport turns received bytes into frames, one at a time, and has what it sends ahead of its
//! channel (`channel.rs`), or alone before there is one. Payloads are named by a [`Span`] of its
//! receive buffer, which stays where it is until the next [`Transport::read_space`]: so a payload
//! can be lent to another connection without a copy.

use std::ops::Range;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::{
    LANE_QUEUE_MAX, LANE_READ_MAX, LANE_READ_MIN, LANE_SILENT_AFTER, LANE_URGENT_MAX,
};
use crate::machine::ConnKey;
use crate::mux::ahead::Ahead;
use crate::mux::framing::Framing;
use crate::mux::violation::{CLOSE_UNSUPPORTED, Scope, Violation};
use crate::outflow::{Lender, Loan};
use crate::wire::code::Code;
use crate::wire::control::{self, ControlPayload};
use crate::wire::frame::FrameType;
use crate::wire::message::{FrameDecoder, next_frame, skip_unknown};
use crate::ws::{OpCode, Role, WsDecoder, WsEvent, WsStep};

/// Where a payload lies in its transport's receive buffer.
pub type Span = Range<usize>;

/// One WebSocket of a session, or of one to be.
#[derive(Debug)]
pub struct Transport {
    conn: ConnKey,
    decoder: WsDecoder,
    received: Buffer,
    /// Bytes at the head of `received` whose frames were handed out.
    parsed: usize,
    /// The frames of the current message that were not handed out yet.
    frames: Range<usize>,
    /// How many more bytes the decoder wants at least.
    wanted: usize,
    /// What leaves ahead of the channel's frames.
    pub(super) ahead: Ahead,
    /// Of the received bytes.
    lender: Lender,
    /// Whether reading stopped because the peer does not read our answers.
    choked: bool,
    last_heard: Instant,
    /// Since when it was never silent for long.
    heard_since: Instant,
    pinged: Option<Instant>,
    /// The last PING, and since when its answer is awaited.
    asked: Option<([u8; 8], Instant)>,
    /// When the last PING was answered.
    answered: Option<Instant>,
    /// How long an answer takes; of late, the longest.
    round_trip: Option<Duration>,
    /// The peer's close frame came: nothing it sends afterwards counts.
    closed: bool,
    /// Frames that were skipped, and that replay counts all the same.
    skipped: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// What a transport hands out.
#[derive(Debug)]
pub enum Item {
    /// A frame; the payload is in the transport's buffer.
    Frame {
        /// Its type.
        kind: FrameType,
        /// The stream, or 0.
        stream_id: u32,
        /// Where its payload is.
        payload: Span,
    },
    /// A WebSocket ping was answered.
    Pinged,
    /// The peer's close frame, answered already. Nothing comes after it.
    Closed {
        /// Its code; none when the frame was empty.
        code: Option<u16>,
    },
}

/// How a transport's peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It was heard lately, or was just pinged; look again then.
    LookAgain(Instant),
    /// Nothing came for the pong timeout after a PING.
    Dead,
}

impl Transport {
    /// A kit's, on `conn`.
    pub fn server(conn: ConnKey, now: Instant) -> Transport {
        Transport::new(conn, Role::Server, None, now)
    }

    /// A client's, on `conn`, with a source of masks.
    pub fn client(conn: ConnKey, masks: Entropy, now: Instant) -> Transport {
        Transport::new(conn, Role::Client, Some(masks), now)
    }

    fn new(conn: ConnKey, role: Role, masks: Option<Entropy>, now: Instant) -> Transport {
        Transport {
            conn,
            decoder: WsDecoder::new(role),
            received: Buffer::new(),
            parsed: 0,
            frames: 0..0,
            wanted: 0,
            ahead: Ahead::new(Framing::new(role, masks)),
            lender: Lender::default(),
            choked: false,
            last_heard: now,
            heard_since: now,
            pinged: None,
            asked: None,
            answered: None,
            round_trip: None,
            closed: false,
            skipped: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The connection it runs on.
    pub fn conn(&self) -> ConnKey {
        self.conn
    }

    /// Where the next bytes go, while there is no channel. By then no span is lent any more. Empty
    /// while the peer does not read what we answer, so that a peer which only asks cannot fill our
    /// memory.
    ///
    /// # Panics
    ///
    /// When a span is lent: what its borrower sends would be overwritten.
    pub fn read_space(&mut self) -> &mut [u8] {
        self.space(self.ahead.len(), self.ahead.len())
    }

    /// The same where so many bytes wait that answer the peer, and so many altogether.
    pub(super) fn space(&mut self, urgent: usize, all: usize) -> &mut [u8] {
        assert!(!self.lender.is_owed(), "its bytes are still lent");
        self.received.consume(self.parsed);
        self.parsed = 0;
        self.frames = 0..0;
        self.choked = urgent > LANE_URGENT_MAX || all > LANE_QUEUE_MAX;
        if self.choked {
            return &mut [];
        }
        let room = (self.wanted + WS_AND_FRAME_HEADER).clamp(LANE_READ_MIN, LANE_READ_MAX);
        self.received.space(room)
    }

    /// `count` bytes were read into the space.
    pub fn received(&mut self, count: usize, now: Instant) {
        self.received.commit(count);
        self.heard(count, now);
    }

    /// Takes in bytes that came before it was made (behind an HTTP upgrade).
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        self.received.extend(bytes);
        self.heard(bytes.len(), now);
    }

    /// Any byte counts as life, so it answers a PING too.
    fn heard(&mut self, count: usize, now: Instant) {
        self.bytes_in += count as u64;
        self.shows_life(now);
    }

    /// The next frame, if a whole one is there. After an error it is of no use.
    pub fn poll(&mut self) -> Result<Option<Item>, Violation> {
        loop {
            if let Some(item) = self.next_frame() {
                return Ok(Some(item));
            }
            if self.closed {
                return Ok(None);
            }
            let waiting = &mut self.received.bytes_mut()[self.parsed..];
            // Whatever a WebSocket endpoint would say of it, to a tunnel it is a protocol error,
            // with GOAWAY and close 1002 (PROTOCOL §1.4).
            let step = self.decoder.next(waiting).map_err(|error| {
                let too_big = error.close_code == CLOSE_TOO_BIG;
                let code = if too_big {
                    Code::FrameSizeError
                } else {
                    Code::ProtocolError
                };
                Violation::session(code, error.reason)
            })?;
            let (consumed, event) = match step {
                WsStep::Need(count) => {
                    self.wanted = count;
                    return Ok(None);
                }
                WsStep::Item { consumed, event } => (consumed, event),
            };
            let start = self.parsed;
            self.parsed += consumed;
            match event {
                WsEvent::Message(range) => self.open_message(start, range)?,
                WsEvent::Text => return Err(text_is_not_spoken()),
                WsEvent::Ping(range) => {
                    let echoed = self.received.bytes()[start..][range].to_vec();
                    self.ahead.push_websocket_control(OpCode::Pong, &echoed);
                    return Ok(Some(Item::Pinged));
                }
                WsEvent::Pong(_) => {}
                WsEvent::Close { code, .. } => {
                    self.closed = true;
                    return Ok(Some(Item::Closed { code }));
                }
            }
        }
    }

    fn open_message(&mut self, start: usize, range: Range<usize>) -> Result<(), Violation> {
        let message = &self.received.bytes()[start..][range.clone()];
        FrameDecoder::new(message)
            .map_err(|error| Violation::session(error.code(), error.to_string()))?;
        self.frames = start + range.start..start + range.end;
        Ok(())
    }

    /// The next known frame of the current message, whose lengths were all checked when it opened.
    fn next_frame(&mut self) -> Option<Item> {
        let message = &self.received.bytes()[self.frames.clone()];
        let (skipped, known) = skip_unknown(message);
        self.skipped += skipped;
        self.frames.start = self.frames.end - known.len();
        let (frame, rest) = next_frame(known)?;
        let (kind, stream_id) = (frame.kind, frame.stream_id);
        let end = self.frames.end - rest.len();
        let payload = end - frame.payload.len()..end;
        self.frames.start = end;
        if kind == FrameType::Pong {
            self.echoed(&payload);
        }
        Some(Item::Frame {
            kind,
            stream_id,
            payload,
        })
    }

    /// PONG came: the answer to what was asked last tells how long the way is.
    fn echoed(&mut self, payload: &Span) {
        if let Some((asked, at)) = self.asked
            && self.payload(payload) == asked
        {
            self.asked = None;
            self.answered = Some(self.last_heard);
            self.measured(self.last_heard.since(at));
        }
    }

    /// An answer took so long.
    pub fn measured(&mut self, took: Duration) {
        let before = self.round_trip.unwrap_or_default();
        self.round_trip = Some(took.max(before - before / 8));
    }

    /// How long an answer takes: the longest of late, as far as any came.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Since when a sign of life is awaited that was asked for, if one is.
    pub fn pinged(&self) -> Option<Instant> {
        self.pinged
    }

    /// How many frames were skipped since this was asked last that replay counts (PROTOCOL §9).
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// The bytes of a span that it handed out since the last [`Transport::read_space`].
    pub fn payload(&self, span: &Span) -> &[u8] {
        &self.received.bytes()[span.clone()]
    }

    /// Lends the payload that a span names.
    pub fn lend(&self, span: &Span) -> Loan {
        self.lender.lend(span.clone())
    }

    /// Whether a payload of its buffer is lent.
    pub fn is_owed(&self) -> bool {
        self.lender.is_owed()
    }

    /// Says something of the session, before a channel has it.
    pub fn say<P: ControlPayload>(&mut self, payload: &P) {
        let mut json = Vec::new();
        control::write(payload, &mut json);
        self.push_control(P::KIND, &json);
    }

    /// Queues a frame (stream 0) with a JSON payload, ahead of what a channel sends.
    pub fn push_control(&mut self, kind: FrameType, payload: &[u8]) {
        self.ahead.push(kind, 0, payload);
    }

    /// Queues a close frame behind everything else, where there is no channel.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        self.ahead.push_close(code, reason);
    }

    /// What to send next, where there is no channel.
    pub fn transmit(&mut self) -> &[u8] {
        self.ahead.transmit(&mut Buffer::new(), &mut Buffer::new())
    }

    /// The socket took `count` bytes of it.
    pub fn transmitted(&mut self, count: usize) {
        self.ahead.transmitted(count);
        self.count_out(count);
    }

    /// The socket took `count` bytes, of whatever.
    pub(super) fn count_out(&mut self, count: usize) {
        self.bytes_out += count as u64;
    }

    /// Whether reading may go on that had stopped, now that so many bytes wait.
    pub(super) fn recovers(&self, urgent: usize, all: usize) -> bool {
        self.choked && urgent <= LANE_URGENT_MAX / 2 && all <= LANE_QUEUE_MAX / 2
    }

    /// Whether all that was queued has left, where there is no channel.
    pub fn is_flushed(&self) -> bool {
        self.ahead.len() == 0
    }

    /// Whether the peer sent its close frame.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes from the peer and to it, WebSocket and frame headers included.
    pub fn traffic(&self) -> (u64, u64) {
        (self.bytes_in, self.bytes_out)
    }

    /// The peer is there, although it says nothing: its system acknowledged what we sent.
    pub fn shows_life(&mut self, now: Instant) {
        if self.is_silent(now) {
            self.heard_since = now;
        }
        self.last_heard = now;
        self.pinged = None;
    }

    /// Whether a sign of life came that was not on its way already at that moment: the answer to
    /// what was asked then, or anything so much later.
    pub fn lives_since(&self, then: Instant, later: Duration) -> bool {
        self.answered.is_some_and(|at| at >= then) || self.last_heard >= then + later
    }

    /// When the last byte came.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Since when it was never silent for long: `now` where it is silent.
    pub(super) fn heard_since(&self, now: Instant) -> Instant {
        match self.is_silent(now) {
            true => now,
            false => self.heard_since,
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        now >= self.last_heard + LANE_SILENT_AFTER
    }

    /// How a quiet peer is; `None` when it is to be pinged, for it was not heard for `quiet`.
    pub(super) fn health(
        &self,
        now: Instant,
        quiet: Duration,
        patience: Duration,
    ) -> Option<Liveness> {
        match self.pinged {
            Some(at) if now >= at + patience => Some(Liveness::Dead),
            Some(at) => Some(Liveness::LookAgain(at + patience)),
            None if now < self.last_heard + quiet => {
                Some(Liveness::LookAgain(self.last_heard + quiet))
            }
            None => None,
        }
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self, now: Instant, payload: [u8; 8]) {
        self.ahead.push(FrameType::Ping, 0, &payload);
        self.pinged = Some(now);
        self.asked = Some((payload, now));
    }

    /// Memory held for bytes on their way, in bytes.
    pub fn capacity(&self) -> usize {
        self.received.capacity() + self.ahead.capacity()
    }

    /// Gives memory back that a quiet connection does not need. Never while spans are lent.
    pub fn release_if_idle(&mut self) {
        assert!(!self.lender.is_owed(), "its bytes are still lent");
        if self.parsed == self.received.len() && self.frames.is_empty() {
            self.received.consume(self.parsed);
            self.parsed = 0;
            self.frames = 0..0;
            self.received.release_if_idle(0);
        }
        self.ahead.release_if_idle();
    }
}

/// So that a read of one message also brings the next one's headers, and thereby its length.
const WS_AND_FRAME_HEADER: usize = 32;

/// RFC 6455 §7.4.1: a message too big to process.
const CLOSE_TOO_BIG: u16 = 1009;

fn text_is_not_spoken() -> Violation {
    Violation {
        scope: Scope::WebSocket(CLOSE_UNSUPPORTED),
        code: Code::ProtocolError,
        why: "text message: the tunnel speaks binary messages only".into(),
    }
}
