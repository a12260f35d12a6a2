//! One message: 1 to 64 frames, read whole or refused whole (PROTOCOL §1.1, §1.2).
//!
//! What refuses a message, and what does not: everything that makes the frames behind it
//! unreadable (lengths, counts, unknown types), everything that no stream can pay for (a stream
//! frame on id 0, a session frame on a stream, the fixed payloads of PING, PONG, ACK, and WINDOW on
//! stream 0) is a [`DecodeError`]. A bad payload of EOF, RESET or a stream's WINDOW costs only its
//! stream: the frame is yielded, and [`Frame::eof`], [`Frame::reset`] and
//! [`Frame::window_increment`] say what is wrong with it. JSON payloads are not looked at here.

use std::fmt;

use super::code::Code;
use super::frame::{Frame, FrameHeader, FrameType, HEADER_LEN, StreamRule};
use crate::limits::{MAX_FRAME_PAYLOAD, MAX_FRAMES, MAX_MESSAGE};

/// Unknown types that an older receiver skips (PROTOCOL §1.2).
const EXTENSIONS: std::ops::RangeInclusive<u8> = 0x40..=0x7F;

/// Types that *replay* counts, also where a receiver does not know them (PROTOCOL §9).
const COUNTED_EXTENSIONS: [u8; 1] = [0x44];

/// The frames of one message. [`FrameDecoder::new`] judges the whole message; the iterator that it
/// gives cannot fail, allocates nothing, and skips extension frames.
#[derive(Clone)]
pub struct FrameDecoder<'a> {
    rest: &'a [u8],
}

impl<'a> FrameDecoder<'a> {
    /// Judges a message by its headers.
    pub fn new(message: &'a [u8]) -> Result<Self, DecodeError> {
        if message.is_empty() {
            return Err(DecodeError::Empty);
        }
        if message.len() > MAX_MESSAGE {
            return Err(DecodeError::TooLarge { len: message.len() });
        }
        let mut rest = message;
        let mut count = 0;
        while !rest.is_empty() {
            if count == MAX_FRAMES {
                return Err(DecodeError::TooManyFrames);
            }
            count += 1;
            let (header, payload, after) = split(rest)?;
            judge(header, payload)?;
            rest = after;
        }
        Ok(FrameDecoder { rest: message })
    }
}

impl<'a> Iterator for FrameDecoder<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let (frame, rest) = next_frame(self.rest)?;
        self.rest = rest;
        Some(frame)
    }
}

impl std::iter::FusedIterator for FrameDecoder<'_> {}

/// The next known frame and what follows it, in a message (or the rest of one) that
/// [`FrameDecoder::new`] took: for an owner that cannot hold the iterator's borrow from one frame
/// to the next.
#[inline]
pub fn next_frame(rest: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let mut rest = rest;
    loop {
        // The message was walked before, so this ends only where the message does.
        let (header, payload, after) = split(rest).ok()?;
        if let Some(kind) = FrameType::from_u8(header.kind) {
            return Some((
                Frame {
                    kind,
                    stream_id: header.stream_id,
                    payload,
                },
                after,
            ));
        }
        rest = after;
    }
}

/// What follows the frames of unknown types at the front of a message (or the rest of one) that
/// [`FrameDecoder::new`] took, and how many of those *replay* counts all the same (PROTOCOL §9).
#[inline]
pub fn skip_unknown(message: &[u8]) -> (u64, &[u8]) {
    let (mut counted, mut rest) = (0, message);
    while let Some(kind) = rest.first().copied()
        && EXTENSIONS.contains(&kind)
        && FrameType::from_u8(kind).is_none()
        && let Ok((_, _, after)) = split(rest)
    {
        counted += u64::from(COUNTED_EXTENSIONS.contains(&kind));
        rest = after;
    }
    (counted, rest)
}

/// Cuts the first frame off.
#[inline]
fn split(bytes: &[u8]) -> Result<(FrameHeader, &[u8], &[u8]), DecodeError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::HeaderCutShort { have: bytes.len() });
    };
    let header = FrameHeader::parse(header);
    let len = header.len as usize;
    if len > MAX_FRAME_PAYLOAD {
        return Err(DecodeError::PayloadTooLong {
            kind: header.kind,
            len: header.len,
        });
    }
    match rest.split_at_checked(len) {
        Some((payload, after)) => Ok((header, payload, after)),
        None => Err(DecodeError::PayloadCutShort {
            kind: header.kind,
            len: header.len,
            have: rest.len(),
        }),
    }
}

/// Judges one frame by itself.
#[inline]
fn judge(header: FrameHeader, payload: &[u8]) -> Result<(), DecodeError> {
    let Some(kind) = FrameType::from_u8(header.kind) else {
        return match EXTENSIONS.contains(&header.kind) {
            true => Ok(()),
            false => Err(DecodeError::UnknownType { kind: header.kind }),
        };
    };
    match (kind.stream_rule(), header.stream_id) {
        (StreamRule::Zero, 1..) => {
            return Err(DecodeError::SessionFrameOnStream {
                kind,
                stream_id: header.stream_id,
            });
        }
        (StreamRule::NonZero, 0) => return Err(DecodeError::StreamFrameOnZero { kind }),
        _ => {}
    }
    let expected = match kind {
        FrameType::Ping | FrameType::Pong | FrameType::Ack => 8,
        FrameType::Window if header.stream_id == 0 => 4,
        _ => return Ok(()),
    };
    if payload.len() != expected {
        return Err(DecodeError::PayloadSize {
            kind,
            len: payload.len(),
            expected,
        });
    }
    if kind == FrameType::Window && payload == [0; 4] {
        return Err(DecodeError::ZeroSessionIncrement);
    }
    Ok(())
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes.
    Empty,
    /// More than 262,144 bytes.
    TooLarge {
        /// Bytes in the message.
        len: usize,
    },
    /// More than 64 frames.
    TooManyFrames,
    /// The message ends inside a header.
    HeaderCutShort {
        /// Bytes of the header that are there.
        have: usize,
    },
    /// A length over 65,536.
    PayloadTooLong {
        /// The type's number.
        kind: u8,
        /// The declared length.
        len: u32,
    },
    /// The message ends inside a payload.
    PayloadCutShort {
        /// The type's number.
        kind: u8,
        /// The declared length.
        len: u32,
        /// Bytes of the payload that are there.
        have: usize,
    },
    /// A type that we do not know and may not skip.
    UnknownType {
        /// The type's number.
        kind: u8,
    },
    /// A session frame with a stream id.
    SessionFrameOnStream {
        /// The frame's type.
        kind: FrameType,
        /// The stream id it came with.
        stream_id: u32,
    },
    /// A stream frame without a stream id.
    StreamFrameOnZero {
        /// The frame's type.
        kind: FrameType,
    },
    /// A session frame whose payload has a fixed size, and not this one.
    PayloadSize {
        /// The frame's type.
        kind: FrameType,
        /// Bytes in its payload.
        len: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// WINDOW on stream 0 that gives nothing.
    ZeroSessionIncrement,
}

impl DecodeError {
    /// The code for GOAWAY: PROTOCOL §1.2 calls a malformed message a protocol error, whatever
    /// part of it is; only a fixed payload of the wrong size has a code of its own.
    pub fn code(self) -> Code {
        match self {
            DecodeError::PayloadSize { .. } => Code::FrameSizeError,
            _ => Code::ProtocolError,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DecodeError::Empty => f.write_str("empty message"),
            DecodeError::TooLarge { len } => {
                write!(
                    f,
                    "message of {len} bytes, at most {MAX_MESSAGE} are allowed"
                )
            }
            DecodeError::TooManyFrames => write!(f, "more than {MAX_FRAMES} frames in a message"),
            DecodeError::HeaderCutShort { have } => {
                write!(f, "frame header cut short: {have} of {HEADER_LEN} bytes")
            }
            DecodeError::PayloadTooLong { kind, len } => write!(
                f,
                "type {kind:#04x} declares {len} bytes, at most {MAX_FRAME_PAYLOAD} are allowed"
            ),
            DecodeError::PayloadCutShort { kind, len, have } => {
                write!(
                    f,
                    "payload of type {kind:#04x} cut short: {have} of {len} bytes"
                )
            }
            DecodeError::UnknownType { kind } => write!(f, "unknown frame type {kind:#04x}"),
            DecodeError::SessionFrameOnStream { kind, stream_id } => {
                write!(f, "{kind} on stream {stream_id}, it belongs to the session")
            }
            DecodeError::StreamFrameOnZero { kind } => write!(f, "{kind} without a stream id"),
            DecodeError::PayloadSize {
                kind,
                len,
                expected,
            } => {
                write!(f, "{kind} payload of {len} bytes instead of {expected}")
            }
            DecodeError::ZeroSessionIncrement => f.write_str("WINDOW increment is 0"),
        }
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_exactly_what_was_wrong() {
        let text = |message: &[u8]| FrameDecoder::new(message).err().map(|e| e.to_string());
        let said = |text: &str| Some(text.to_string());
        assert_eq!(text(b""), said("empty message"));
        assert_eq!(
            text(&[0x12, 0]),
            said("frame header cut short: 2 of 9 bytes")
        );
        assert_eq!(
            text(&[0x12, 0, 0, 0, 2, 0, 0, 0, 3, 1]),
            said("payload of type 0x12 cut short: 1 of 3 bytes")
        );
        assert_eq!(
            text(&[0x99, 0, 0, 0, 0, 0, 0, 0, 0]),
            said("unknown frame type 0x99")
        );
        assert_eq!(
            text(&[0x01, 0, 0, 0, 7, 0, 0, 0, 0]),
            said("HELLO on stream 7, it belongs to the session")
        );
    }

    #[test]
    fn next_frame_walks_like_the_iterator() {
        let mut body = Vec::new();
        for id in 1..5u8 {
            body.extend([FrameType::Data.as_u8(), 0, 0, 0, id, 0, 0, 0, 3, id, id, id]);
        }
        // An extension frame in front.
        body.splice(0..0, [0x50, 0, 0, 0, 0, 0, 0, 0, 1, 9]);
        let (mut rest, mut walked) = (&body[..], Vec::new());
        while let Some((frame, after)) = next_frame(rest) {
            walked.push(frame);
            rest = after;
        }
        assert!(
            FrameDecoder::new(&body)
                .expect("a legal message")
                .eq(walked)
        );
    }
}
