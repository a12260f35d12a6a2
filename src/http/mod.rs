//! HTTP/1.1 without sockets.
//!
//! What the room is for: turning bytes into heads and bodies, deciding what may be passed on to the
//! other side, and turning that into bytes again. The kit's gateway, the kit's own front, the
//! client's local side and the client's small server all stand on it.
//!
//! What it never does: I/O, timing, buffering (slices in, slices out), allocation while parsing,
//! following a peer's number without a bound, or guessing. A message whose framing two parsers
//! could read in two ways is refused, never repaired: that is how request smuggling starts.
//!
//! Order of calls, for one exchange at a gateway:
//!
//! 1. [`HeadScanner::scan`] over the growing buffer until it knows where the head ends; each octet
//!    is looked at once, so a head that dribbles in costs no more than one that comes whole.
//! 2. [`RequestHead::parse`] on exactly that head ([`parse_request`] does both steps at once).
//! 3. [`forward::request_fields`] gives what goes into STREAM_OPEN; [`RequestHead::asked`] is kept
//!    until the response has come back.
//! 4. [`BodyDecoder::for_request`], fed until it says `end`. The octets after that are the next
//!    request.
//! 5. [`ResponsePlan::new`] checks a head that came as JSON and decides the framing towards the
//!    visitor; [`ResponsePlan::write`] writes it; [`ResponseBody`] says how the body goes.
//!
//! The client's side is the mirror: [`RequestPlan`], then [`ResponseHead`] and
//! [`BodyDecoder::for_response`], then [`forward::response_fields`].
//!
//! Invariants:
//!
//! - A head that was accepted has one framing: `Content-Length` at most once, digits only, fitting
//!   64 bits; or `Transfer-Encoding: chunked` alone, in HTTP/1.1 only; never both.
//! - `Content-Length`, `Transfer-Encoding`, `Connection` and `Upgrade` are written from what was
//!   decided, never copied from what was received.
//! - Whatever is written was checked for octets that end a line.
//! - Decoders give the same result however their input is cut into pieces.
//!
//! PROTOCOL §4 (streams), §10 and §11 (what visitors get).

mod body;
mod connection;
mod date;
mod fields;
pub mod forward;
mod head;
mod own;
pub mod prefix;
mod refusal;
mod relay;
pub mod rewrite;
mod scan;
pub mod trail;
pub mod trailers;
pub mod write;

pub use body::{BodyDecoder, BodyError, ChunkedDecoder, Decoded, LengthBody};
pub use connection::ConnectionOptions;
pub use date::HttpDate;
pub use fields::{
    Field, Fields, is_host, is_name, is_token, is_value, parse_content_length, tokens,
    trim_whitespace,
};
pub use head::{
    Asked, RequestBody, RequestHead, ResponseBody, ResponseHead, Version, parse_request,
    parse_response,
};
pub use own::OwnField;
pub use refusal::{Refusal, begins_head};
pub use relay::{Added, BodyHint, RequestPlan, ResponsePlan};
pub use scan::{HeadLimits, HeadScanner};

/// Whether what came instead of a head begins like an alert of TLS, or a handshake (RFC 8446 §5.1).
pub fn speaks_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// Why a head was not accepted, and the status that says so.
///
/// The connection is closed after it: where the next message would start is no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// The status for the visitor: 400, 405, 431 or 505. For a response's head always 502.
    pub status: u16,
    /// One sentence, fit for the body of the answer and for a log.
    pub why: &'static str,
}

impl Reject {
    /// A malformed or ambiguous message.
    pub(crate) const fn bad(why: &'static str) -> Self {
        Self { status: 400, why }
    }
}

/// Why a head from the peer is not written, in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritable(pub &'static str);

#[cfg(test)]
mod tests;
