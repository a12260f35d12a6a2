//! The peer broke the protocol: whose cost it is, and what to tell the peer (PROTOCOL §1.4).

use std::borrow::Cow;
use std::fmt;

use crate::wire::code::Code;

/// What a violation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Its stream only: RESET with the code.
    Stream(u32),
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
    /// The code for RESET or GOAWAY.
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

    /// A violation that costs one stream.
    pub fn stream(id: u32, code: Code, why: impl Into<Cow<'static, str>>) -> Violation {
        Violation {
            scope: Scope::Stream(id),
            code,
            why: why.into(),
        }
    }

    /// The WebSocket close code that follows it.
    pub fn close_code(&self) -> u16 {
        match self.scope {
            Scope::WebSocket(code) => code,
            _ => CLOSE_PROTOCOL_ERROR,
        }
    }
}

/// RFC 6455 §7.4.1: the endpoint is terminating the connection due to a protocol error.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// RFC 6455 §7.4.1: a type of data that cannot be accepted (here: text).
pub const CLOSE_UNSUPPORTED: u16 = 1003;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Stream(id) => write!(f, "stream {id}: {} ({})", self.why, self.code.name()),
            _ => write!(f, "{} ({})", self.why, self.code.name()),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_stream_where_it_costs_only_that() {
        let stream = Violation::stream(7, Code::FlowControlError, "too much");
        assert_eq!(
            stream.to_string(),
            "stream 7: too much (FLOW_CONTROL_ERROR)"
        );
        let session = Violation::session(Code::ProtocolError, "nonsense");
        assert_eq!(session.to_string(), "nonsense (PROTOCOL_ERROR)");
    }
}
