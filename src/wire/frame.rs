//! One frame: its nine-byte header, and the payloads that are not JSON (PROTOCOL §1.2).
//!
//! A frame that came out of a decoder has a legal header. Payloads that concern the whole session
//! (PING, PONG, ACK, WINDOW on stream 0) were judged with the message. Payloads that concern one
//! stream (EOF, RESET, WINDOW on a stream) are judged here, by the reader that the stream's owner
//! calls, because a bad one may cost no more than its stream (PROTOCOL §1.4).

use std::fmt;

use super::code::Code;
use crate::limits;

/// Bytes in front of every payload.
pub const HEADER_LEN: usize = limits::FRAME_HEADER;

/// The types of PROTOCOL §1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // The table in PROTOCOL §1.2 says what each one is; the names are the same.
pub enum FrameType {
    Hello = 0x01,
    HelloOk = 0x02,
    Bind = 0x03,
    BindOk = 0x04,
    BindErr = 0x05,
    Unbind = 0x06,
    UnbindOk = 0x07,
    UnbindErr = 0x08,
    Join = 0x09,
    JoinOk = 0x0A,
    JoinErr = 0x0B,
    ShardMap = 0x0C,
    ReissueJoinTickets = 0x0D,
    StreamOpen = 0x10,
    Data = 0x12,
    Eof = 0x13,
    Reset = 0x14,
    Window = 0x15,
    StreamResponseHead = 0x16,
    Ping = 0x20,
    Pong = 0x21,
    GoAway = 0x30,
    BindRevoked = 0x40,
    Ack = 0x41,
    StreamTrailers = 0x42,
    Datagram = 0x43,
    StreamConnected = 0x44,
    HeadPart = 0x45,
}

/// Which stream ids a type may travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRule {
    /// The session's: id 0 only.
    Zero,
    /// A stream's: any id but 0.
    NonZero,
    /// WINDOW, which serves both.
    Any,
}

/// The types by their numbers: one look-up for each frame.
const BY_NUMBER: [Option<FrameType>; 0x80] = {
    let mut types = [None; 0x80];
    let mut at = 0;
    while at < FrameType::ALL.len() {
        types[FrameType::ALL[at] as usize] = Some(FrameType::ALL[at]);
        at += 1;
    }
    types
};

impl FrameType {
    /// Every type, in the order of its number.
    pub const ALL: [FrameType; 28] = [
        FrameType::Hello,
        FrameType::HelloOk,
        FrameType::Bind,
        FrameType::BindOk,
        FrameType::BindErr,
        FrameType::Unbind,
        FrameType::UnbindOk,
        FrameType::UnbindErr,
        FrameType::Join,
        FrameType::JoinOk,
        FrameType::JoinErr,
        FrameType::ShardMap,
        FrameType::ReissueJoinTickets,
        FrameType::StreamOpen,
        FrameType::Data,
        FrameType::Eof,
        FrameType::Reset,
        FrameType::Window,
        FrameType::StreamResponseHead,
        FrameType::Ping,
        FrameType::Pong,
        FrameType::GoAway,
        FrameType::BindRevoked,
        FrameType::Ack,
        FrameType::StreamTrailers,
        FrameType::Datagram,
        FrameType::StreamConnected,
        FrameType::HeadPart,
    ];

    /// The type with this number, if the protocol knows it.
    #[inline]
    pub fn from_u8(number: u8) -> Option<FrameType> {
        BY_NUMBER.get(usize::from(number)).copied().flatten()
    }

    /// The number on the wire.
    #[inline]
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// Which stream ids this type may travel on.
    #[inline]
    pub fn stream_rule(self) -> StreamRule {
        match self {
            FrameType::Window => StreamRule::Any,
            FrameType::StreamOpen
            | FrameType::Data
            | FrameType::Eof
            | FrameType::Reset
            | FrameType::StreamResponseHead
            | FrameType::StreamTrailers
            | FrameType::Datagram
            | FrameType::StreamConnected
            | FrameType::HeadPart => StreamRule::NonZero,
            _ => StreamRule::Zero,
        }
    }

    /// Whether *replay* counts this type and sends it again after a drop (PROTOCOL §9).
    #[inline]
    pub fn is_reliable(self) -> bool {
        !matches!(
            self,
            FrameType::Hello
                | FrameType::HelloOk
                | FrameType::Join
                | FrameType::JoinOk
                | FrameType::JoinErr
                | FrameType::ShardMap
                | FrameType::ReissueJoinTickets
                | FrameType::Ping
                | FrameType::Pong
                | FrameType::GoAway
                | FrameType::Ack
                | FrameType::Datagram
        )
    }

    /// The name as the protocol spells it.
    pub fn name(self) -> &'static str {
        match self {
            FrameType::Hello => "HELLO",
            FrameType::HelloOk => "HELLO_OK",
            FrameType::Bind => "BIND",
            FrameType::BindOk => "BIND_OK",
            FrameType::BindErr => "BIND_ERR",
            FrameType::Unbind => "UNBIND",
            FrameType::UnbindOk => "UNBIND_OK",
            FrameType::UnbindErr => "UNBIND_ERR",
            FrameType::Join => "JOIN",
            FrameType::JoinOk => "JOIN_OK",
            FrameType::JoinErr => "JOIN_ERR",
            FrameType::ShardMap => "SHARD_MAP",
            FrameType::ReissueJoinTickets => "REISSUE_JOIN_TICKETS",
            FrameType::StreamOpen => "STREAM_OPEN",
            FrameType::Data => "DATA",
            FrameType::Eof => "EOF",
            FrameType::Reset => "RESET",
            FrameType::Window => "WINDOW",
            FrameType::StreamResponseHead => "STREAM_RESPONSE_HEAD",
            FrameType::Ping => "PING",
            FrameType::Pong => "PONG",
            FrameType::GoAway => "GOAWAY",
            FrameType::BindRevoked => "BIND_REVOKED",
            FrameType::Ack => "ACK",
            FrameType::StreamTrailers => "STREAM_TRAILERS",
            FrameType::Datagram => "DATAGRAM",
            FrameType::StreamConnected => "STREAM_CONNECTED",
            FrameType::HeadPart => "HEAD_PART",
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's nine bytes, read but not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The type's number: it may be one that we do not know.
    pub kind: u8,
    /// The stream, or 0 for the session.
    pub stream_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl FrameHeader {
    /// Reads a header.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> FrameHeader {
        let [kind, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        FrameHeader {
            kind,
            stream_id: u32::from_be_bytes([s0, s1, s2, s3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

/// Writes a header in place: the hot path, where the payload already lies behind it.
///
/// The caller answers for a message that stays legal.
#[inline]
pub fn encode_header(out: &mut [u8; HEADER_LEN], kind: FrameType, stream_id: u32, len: usize) {
    debug_assert!(
        len <= limits::MAX_FRAME_PAYLOAD,
        "a frame's payload is at most 65536 bytes"
    );
    let [s0, s1, s2, s3] = stream_id.to_be_bytes();
    let [l0, l1, l2, l3] = (len as u32).to_be_bytes();
    *out = [kind.as_u8(), s0, s1, s2, s3, l0, l1, l2, l3];
}

/// One frame, its payload borrowed from the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: FrameType,
    /// The stream, or 0 for the session.
    pub stream_id: u32,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// EOF carries nothing.
    pub fn eof(&self) -> Result<(), PayloadFault> {
        match self.payload {
            [] => Ok(()),
            _ => Err(PayloadFault::EofNotEmpty),
        }
    }

    /// RESET carries a code and a reason. A RESET that is too short still ends its stream: the
    /// caller must not answer it with a RESET (PROTOCOL §4).
    pub fn reset(&self) -> Result<Reset<'a>, PayloadFault> {
        match self.payload {
            [high, low, reason @ ..] => Ok(Reset {
                number: u16::from_be_bytes([*high, *low]),
                reason,
            }),
            _ => Err(PayloadFault::ResetTooShort),
        }
    }

    /// WINDOW carries an increment, which is not 0. Never fails on stream 0: the decoder judged it.
    pub fn window_increment(&self) -> Result<u32, PayloadFault> {
        match <[u8; 4]>::try_from(self.payload).map(u32::from_be_bytes) {
            Ok(0) => Err(PayloadFault::ZeroIncrement),
            Ok(increment) => Ok(increment),
            Err(_) => Err(PayloadFault::WindowSize),
        }
    }

    /// The eight bytes of a PING or a PONG, or an ACK's count. `None` on other types, never on a
    /// decoded frame of these.
    pub fn eight_bytes(&self) -> Option<[u8; 8]> {
        self.payload.try_into().ok()
    }
}

impl fmt::Debug for Frame<'_> {
    /// The payload's length only: payloads carry tokens and other people's data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({}, {} bytes)",
            self.kind,
            self.stream_id,
            self.payload.len()
        )
    }
}

/// What RESET carries (PROTOCOL §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset<'a> {
    /// The code as sent, also when we do not know it.
    pub number: u16,
    /// UTF-8, by the peer's word only.
    pub reason: &'a [u8],
}

impl Reset<'_> {
    /// The code, by [`Code::from_peer`].
    pub fn code(&self) -> Code {
        Code::from_peer(self.number)
    }

    /// The reason as text; what is not UTF-8 is replaced.
    pub fn reason_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.reason)
    }

    /// Appends RESET's payload to `out`.
    pub fn write(out: &mut Vec<u8>, code: Code, reason: &str) {
        out.extend_from_slice(&code.as_u16().to_be_bytes());
        out.extend_from_slice(reason.as_bytes());
    }
}

/// A stream frame whose payload is wrong: it costs only its stream (PROTOCOL §1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFault {
    /// EOF with a payload.
    EofNotEmpty,
    /// RESET without a whole code.
    ResetTooShort,
    /// WINDOW whose payload is not four bytes.
    WindowSize,
    /// WINDOW that gives nothing.
    ZeroIncrement,
}

impl PayloadFault {
    /// The code for the stream's RESET.
    pub fn code(self) -> Code {
        match self {
            PayloadFault::ZeroIncrement => Code::ProtocolError,
            _ => Code::FrameSizeError,
        }
    }
}

impl fmt::Display for PayloadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PayloadFault::EofNotEmpty => "EOF with a payload",
            PayloadFault::ResetTooShort => "RESET without a code",
            PayloadFault::WindowSize => "WINDOW payload is not 4 bytes",
            PayloadFault::ZeroIncrement => "WINDOW increment is 0",
        })
    }
}

impl std::error::Error for PayloadFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_its_number_and_no_other_number_is_a_type() {
        let known: Vec<FrameType> = (0..=u8::MAX).filter_map(FrameType::from_u8).collect();
        assert_eq!(known, FrameType::ALL);
        for kind in known {
            assert_eq!(FrameType::from_u8(kind.as_u8()), Some(kind));
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut bytes = [0; HEADER_LEN];
        encode_header(&mut bytes, FrameType::Data, 0x0102_0304, 0x1_0000);
        assert_eq!(bytes, [0x12, 1, 2, 3, 4, 0, 1, 0, 0]);
        let header = FrameHeader {
            kind: 0x12,
            stream_id: 0x0102_0304,
            len: 0x1_0000,
        };
        assert_eq!(FrameHeader::parse(&bytes), header);
    }

    #[test]
    fn replay_counts_what_changes_something_and_nothing_else() {
        let counted: Vec<&str> = FrameType::ALL
            .iter()
            .filter(|kind| kind.is_reliable())
            .map(|k| k.name())
            .collect();
        let expected = "BIND BIND_OK BIND_ERR UNBIND UNBIND_OK UNBIND_ERR STREAM_OPEN DATA EOF \
            RESET WINDOW STREAM_RESPONSE_HEAD BIND_REVOKED STREAM_TRAILERS STREAM_CONNECTED \
            HEAD_PART";
        assert_eq!(counted.join(" "), expected);
    }

    #[test]
    fn a_reset_is_read_as_it_was_written() {
        let mut payload = Vec::new();
        Reset::write(&mut payload, Code::Cancel, "gone");
        let frame = Frame {
            kind: FrameType::Reset,
            stream_id: 2,
            payload: &payload,
        };
        let reset = frame.reset().expect("a whole reset");
        assert_eq!(
            (reset.code(), reset.reason_text().as_ref()),
            (Code::Cancel, "gone")
        );
    }

    #[test]
    fn every_fault_of_a_payload_has_words_of_its_own() {
        let faults = [
            PayloadFault::EofNotEmpty,
            PayloadFault::ResetTooShort,
            PayloadFault::WindowSize,
            PayloadFault::ZeroIncrement,
        ];
        let words: std::collections::BTreeSet<String> =
            faults.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), faults.len());
        assert!(words.iter().all(|words| !words.is_empty()));
    }

    #[test]
    fn a_frame_does_not_show_what_it_carries() {
        let frame = Frame {
            kind: FrameType::Hello,
            stream_id: 0,
            payload: b"token",
        };
        assert_eq!(format!("{frame:?}"), "HELLO(0, 5 bytes)");
    }
}
