//! The codes that RESET and GOAWAY carry (PROTOCOL §1.3).

use std::fmt;

/// Why a stream or a session ended (PROTOCOL §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Code {
    /// An ordinary end.
    NoError = 0,
    /// The peer broke the protocol.
    ProtocolError = 1,
    /// Our own fault.
    InternalError = 2,
    /// More was sent than there was credit for, or a window was raised too far.
    FlowControlError = 3,
    /// A frame for a stream that cannot take it any more.
    StreamClosed = 4,
    /// A payload of the wrong length.
    FrameSizeError = 5,
    /// The stream was refused before anything was done for it.
    RefusedStream = 6,
    /// The stream is not wanted any more.
    Cancel = 7,
    /// The peer asks for more than it may.
    EnhanceYourCalm = 8,
    /// The binding a stream named is not there.
    BindError = 9,
    /// Nothing happened for too long.
    IdleTimeout = 10,
    /// The token was missing or wrong.
    AuthError = 11,
    /// The version in HELLO is not the negotiated one.
    VersionMismatch = 12,
    /// Another session took the binding over.
    BindTakeover = 13,
    /// A cap of the kit was reached.
    ResourceExhausted = 14,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Code; 15] = [
        Code::NoError,
        Code::ProtocolError,
        Code::InternalError,
        Code::FlowControlError,
        Code::StreamClosed,
        Code::FrameSizeError,
        Code::RefusedStream,
        Code::Cancel,
        Code::EnhanceYourCalm,
        Code::BindError,
        Code::IdleTimeout,
        Code::AuthError,
        Code::VersionMismatch,
        Code::BindTakeover,
        Code::ResourceExhausted,
    ];

    /// The code with this number, if the protocol knows it.
    pub fn from_u16(number: u16) -> Option<Code> {
        Code::ALL.get(usize::from(number)).copied()
    }

    /// The code a peer sent. A number that we do not know is no error of the peer, it is newer than
    /// we are: it reads as [`Code::InternalError`], the only code that promises nothing.
    pub fn from_peer(number: u16) -> Code {
        Code::from_u16(number).unwrap_or(Code::InternalError)
    }

    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        self as u16
    }

    /// The name as the protocol spells it.
    pub fn name(self) -> &'static str {
        match self {
            Code::NoError => "NO_ERROR",
            Code::ProtocolError => "PROTOCOL_ERROR",
            Code::InternalError => "INTERNAL_ERROR",
            Code::FlowControlError => "FLOW_CONTROL_ERROR",
            Code::StreamClosed => "STREAM_CLOSED",
            Code::FrameSizeError => "FRAME_SIZE_ERROR",
            Code::RefusedStream => "REFUSED_STREAM",
            Code::Cancel => "CANCEL",
            Code::EnhanceYourCalm => "ENHANCE_YOUR_CALM",
            Code::BindError => "BIND_ERROR",
            Code::IdleTimeout => "IDLE_TIMEOUT",
            Code::AuthError => "AUTH_ERROR",
            Code::VersionMismatch => "VERSION_MISMATCH",
            Code::BindTakeover => "BIND_TAKEOVER",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_number() {
        for (number, code) in (0u16..).zip(Code::ALL) {
            assert_eq!(code.as_u16(), number);
            assert_eq!(Code::from_u16(number), Some(code));
            assert_eq!(Code::from_peer(number), code);
            assert_eq!(code.to_string(), code.name());
        }
    }

    #[test]
    fn a_number_from_a_newer_peer_is_no_error() {
        assert_eq!(Code::from_u16(15), None);
        assert_eq!(Code::from_peer(15), Code::InternalError);
        assert_eq!(Code::from_peer(u16::MAX), Code::InternalError);
    }
}
