//! WebSocket without sockets (RFC 6455): frames decoded and encoded in the host's own buffers, and
//! the two halves of the handshake.
//!
//! This room knows neither tunnel frames nor sessions. It never allocates for a message, never
//! answers by itself (the owner sends the PONG), draws no masks and reads no clock.
//!
//! # The decoder's contract
//!
//! The owner keeps one contiguous buffer with all bytes that were received and not yet consumed,
//! and calls [`WsDecoder::next`] with it until it says [`WsStep::Need`]. After each
//! [`WsStep::Item`] it uses the event's ranges (they lie in the buffer it passed), drops `consumed`
//! bytes from the front, and calls again. Bytes at the front that were not consumed belong to the
//! decoder: it has unmasked and moved them.
//!
//! A fragmented message is joined in place. Its payload so far lies at the buffer's front, then
//! comes a *gap* of spent headers, then the bytes not yet looked at; each new fragment is moved
//! down over the gap, so a byte is moved once however many fragments there are. A control frame
//! between fragments becomes part of the gap, and its item consumes 0 bytes. Only when the gap has
//! grown to `WS_GAP` is it closed, by moving the joined bytes up, and such an item consumes the
//! gap. A buffer of `MAX_WS_BUFFERED` bytes holds any legal message with its gap.

mod decoder;
mod encoder;
mod handshake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use decoder::WsDecoder;
#[cfg(any(test, feature = "testing"))]
pub use encoder::push_frame;
pub use encoder::{header_len, write_header};
#[cfg(any(test, feature = "testing"))]
pub use handshake::accept_key;
pub use handshake::{ClientOffer, HandshakeError, Subprotocol, check_request, check_response};

/// Which side of the WebSocket this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes masked frames and sends them unmasked.
    Server,
    /// Takes unmasked frames and sends them masked.
    Client,
}

/// A frame's type (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// Goes on with the message before it.
    Continuation = 0,
    /// Starts a message of text.
    Text = 1,
    /// Starts a message of bytes.
    Binary = 2,
    /// The last frame of a side.
    Close = 8,
    /// Wants a PONG.
    Ping = 9,
    /// Answers a PING.
    Pong = 10,
}

impl OpCode {
    fn from_bits(bits: u8) -> Option<OpCode> {
        Some(match bits {
            0 => OpCode::Continuation,
            1 => OpCode::Text,
            2 => OpCode::Binary,
            8 => OpCode::Close,
            9 => OpCode::Ping,
            10 => OpCode::Pong,
            _ => return None,
        })
    }
}

/// What [`WsDecoder::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsStep {
    /// Nothing whole yet. At least this many more bytes are needed: exactly so many once a frame's
    /// header is there.
    Need(usize),
    /// Something whole.
    Item {
        /// Bytes to drop from the front, once the event was dealt with. May be 0.
        consumed: usize,
        /// What it is.
        event: WsEvent,
    },
}

/// Something whole. Ranges lie in the buffer that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A binary message, joined and unmasked. It may be empty.
    Message(Range<usize>),
    /// A text message begins. The tunnel has none: nothing is decoded behind it.
    Text,
    /// The peer wants a PONG with this payload.
    Ping(Range<usize>),
    /// The peer answers a PING.
    Pong(Range<usize>),
    /// The peer closes. Nothing is decoded behind it.
    Close {
        /// Why, if it said so.
        code: Option<u16>,
        /// UTF-8, checked.
        reason: Range<usize>,
    },
}

/// The peer broke RFC 6455: close with this code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsError {
    /// 1002 (protocol), 1007 (text that is not UTF-8), 1008 (policy) or 1009 (too big).
    pub close_code: u16,
    /// What was wrong.
    pub reason: &'static str,
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.close_code)
    }
}

impl std::error::Error for WsError {}

const fn broken(reason: &'static str) -> WsError {
    WsError {
        close_code: 1002,
        reason,
    }
}

/// Whether a close frame may carry this code (RFC 6455 §7.4, and what IANA registered since).
pub fn is_sendable_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Masks or unmasks in place. `offset` is where in the frame's payload `bytes` begins.
#[inline]
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let [a, b, c, d] = key;
    let key = match offset % 4 {
        0 => [a, b, c, d],
        1 => [b, c, d, a],
        2 => [c, d, a, b],
        _ => [d, a, b, c],
    };
    let wide = [key; WIDE / 4];
    let wide = wide.as_flattened();
    // Whole blocks of a fixed size become vector instructions.
    let (blocks, rest) = bytes.as_chunks_mut::<WIDE>();
    for block in blocks {
        for (octet, key) in block.iter_mut().zip(wide) {
            *octet ^= key;
        }
    }
    for (octet, key) in rest.iter_mut().zip(wide) {
        *octet ^= key;
    }
}

/// Bytes that are masked at once.
const WIDE: usize = 32;
