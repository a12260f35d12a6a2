//! The peer broke the protocol in a way that costs the session, and what to tell it (PROTOCOL
//! §1.4). What costs a stream only is a RESET, and no violation here.

use std::borrow::Cow;
use std::fmt;

use crate::wire::code::Code;

/// What a violation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The session: GOAWAY with the code, then close 1002; it is not parked.
    Session,
    /// The WebSocket itself was misused: a close frame with this code, and the session ends too.
    WebSocket(u16),
}

/// The peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it costs.
    pub scope: Scope,
    /// The code for GOAWAY.
    pub code: Code,
    /// What was wrong, for the peer's log and ours.
    pub why: Cow<'static, str>,
}

impl Violation {
    /// A violation that costs the session.
    pub fn session(code: Code, why: impl Into<Cow<'static, str>>) -> Violation {
        Violation {
            scope: Scope::Session,
            code,
            why: why.into(),
        }
    }

    /// The WebSocket close code that follows it.
    pub fn close_code(&self) -> u16 {
        match self.scope {
            Scope::WebSocket(code) => code,
            Scope::Session => CLOSE_PROTOCOL_ERROR,
        }
    }
}

/// RFC 6455 §7.4.1: the endpoint is terminating the connection due to a protocol error.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// RFC 6455 §7.4.1: a type of data that cannot be accepted (here: text).
pub const CLOSE_UNSUPPORTED: u16 = 1003;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.code.name())
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_says_what_was_wrong_and_its_code() {
        let session = Violation::session(Code::ProtocolError, "nonsense");
        assert_eq!(session.to_string(), "nonsense (PROTOCOL_ERROR)");
    }
}
