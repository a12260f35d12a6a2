//! The payloads of STREAM_OPEN and STREAM_RESPONSE_HEAD (PROTOCOL §4, §8): one of each for every
//! request, so they are written by hand and read without a tree of values.
//!
//! Header octets are octets here, on both sides; on the wire 0x80 to 0xFF are the code points of
//! the same number. Whether a field's name or value may stand in an HTTP head is judged in `http`.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::canonical;
use super::heads::TYPICAL_FIELDS;
use super::json::{self, Octets, Text, push_octets, push_text};
use crate::digits::{push_addr, push_number};
use crate::limits::{MAX_FRAME_PAYLOAD, MAX_PASSED_FIELDS, MOST_PASSED_FIELDS};

pub use super::heads::{
    BodyKind, Header, OpenForward, OpenHttp, OpenTcp, ResponseHead, StreamOpen, header,
};
pub use super::json::ControlError;

/// What an http STREAM_OPEN says, beside the header fields.
#[derive(Clone, Copy, Debug)]
pub struct OpenHttpParts<'a> {
    /// How names of fields travel.
    pub names: NameCase,
    /// The binding that the visitor came to.
    pub bind_id: u64,
    /// The port that the visitor came to.
    pub container_port: u16,
    /// The method, as sent.
    pub method: &'a str,
    /// The request target in origin form.
    pub target: &'a [u8],
    /// Whether this asks for a WebSocket.
    pub is_upgrade: bool,
    /// How the body is framed.
    pub body: BodyKind,
    /// The visitor.
    pub remote_addr: SocketAddr,
    /// The visitor's connection, by a number that no other one of this kit has.
    pub connection_id: Option<u32>,
}

/// The payload would not fit a frame: nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head is too long for a frame")
    }
}

impl std::error::Error for TooLong {}

/// How names of fields travel (PROTOCOL §4): they mean the same in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameCase {
    /// As they were written, where both ends said `header-case`: some programs look them up so.
    AsWritten,
    /// In lower case, as peers that did not say so expect them.
    Lower,
}

impl NameCase {
    /// What follows from whether `header-case` was granted.
    pub fn granted(header_case: bool) -> NameCase {
        match header_case {
            true => NameCase::AsWritten,
            false => NameCase::Lower,
        }
    }
}

/// Appends the payload of an http STREAM_OPEN.
///
/// A head within [`crate::limits::MAX_HTTP_HEAD`] may still be too long, because an octet outside
/// ASCII takes two bytes here.
pub fn write_open_http<'h>(
    out: &mut Vec<u8>,
    parts: &OpenHttpParts<'_>,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(br#"{"kind":"http","bindId":"#);
    push_number(out, parts.bind_id);
    out.extend_from_slice(br#","containerPort":"#);
    push_number(out, parts.container_port.into());
    out.extend_from_slice(br#","method":"#);
    push_text(out, parts.method);
    out.extend_from_slice(br#","target":"#);
    push_octets(out, parts.target);
    out.extend_from_slice(br#","headers":"#);
    let count = push_headers(out, headers, parts.names);
    out.extend_from_slice(match parts.is_upgrade {
        true => br#","isUpgrade":true,"body":""#,
        false => br#","isUpgrade":false,"body":""#,
    });
    out.extend_from_slice(parts.body.name().as_bytes());
    out.extend_from_slice(br#"","remoteAddr":""#);
    push_addr(out, parts.remote_addr);
    out.push(b'"');
    if let Some(number) = parts.connection_id {
        out.extend_from_slice(br#","connectionId":"#);
        push_number(out, number.into());
    }
    out.push(b'}');
    bounded(out, start, count)
}

/// Appends the payload of a tcp STREAM_OPEN.
pub fn write_open_tcp(
    out: &mut Vec<u8>,
    bind_id: u64,
    container_port: u16,
    remote_addr: SocketAddr,
) {
    write_open_raw(out, "tcp", bind_id, container_port, remote_addr);
}

/// Appends the payload of a udp STREAM_OPEN (PROTOCOL §8.1).
pub fn write_open_udp(
    out: &mut Vec<u8>,
    bind_id: u64,
    container_port: u16,
    remote_addr: SocketAddr,
) {
    write_open_raw(out, "udp", bind_id, container_port, remote_addr);
}

fn write_open_raw(
    out: &mut Vec<u8>,
    kind: &str,
    bind_id: u64,
    container_port: u16,
    remote_addr: SocketAddr,
) {
    out.extend_from_slice(br#"{"kind":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","bindId":"#);
    push_number(out, bind_id);
    out.extend_from_slice(br#","containerPort":"#);
    push_number(out, container_port.into());
    out.extend_from_slice(br#","remoteAddr":""#);
    push_addr(out, remote_addr);
    out.extend_from_slice(br#""}"#);
}

/// Appends the payload of a *forward* STREAM_OPEN (PROTOCOL §8).
pub fn write_open_forward(out: &mut Vec<u8>, whom: &OpenForward<'_>) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(br#"{"kind":"tcp","mode":"forward","#);
    match whom {
        OpenForward::Port { host, port } => {
            out.extend_from_slice(br#""host":"#);
            push_text(out, host);
            out.extend_from_slice(br#","port":"#);
            push_number(out, (*port).into());
        }
        OpenForward::Unix(path) => {
            out.extend_from_slice(br#""unix":"#);
            push_text(out, path);
        }
    }
    out.push(b'}');
    bounded(out, start, 0)
}

/// Appends the payload of a STREAM_CONNECTED: whom the kit reached, an address and a port or
/// `unix:` and a path.
pub fn write_connected(out: &mut Vec<u8>, peer: &str) {
    out.extend_from_slice(br#"{"peer":"#);
    push_text(out, peer);
    out.push(b'}');
}

/// Reads the payload of a STREAM_CONNECTED. A malformed one costs only its stream.
pub fn parse_connected(payload: &[u8]) -> Result<Cow<'_, str>, ControlError> {
    let raw: RawConnected<'_> = json::read_object(CONNECTED, payload)?;
    Ok(raw.peer.map_or_else(Cow::default, |peer| peer.0))
}

/// Appends the payload of a STREAM_RESPONSE_HEAD.
pub fn write_response_head<'h>(
    out: &mut Vec<u8>,
    status: u16,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    is_final: bool,
    names: NameCase,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(br#"{"status":"#);
    push_number(out, status.into());
    out.extend_from_slice(br#","headers":"#);
    let count = push_headers(out, headers, names);
    out.extend_from_slice(match is_final {
        true => br#","final":true}"#,
        false => br#","final":false}"#,
    });
    bounded(out, start, count)
}

/// Appends the payload of a STREAM_TRAILERS; nothing, and false, where there are none.
pub fn write_trailers<'h>(
    out: &mut Vec<u8>,
    trailers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    names: NameCase,
) -> Result<bool, TooLong> {
    let start = out.len();
    let mut trailers = trailers.peekable();
    if trailers.peek().is_none() {
        return Ok(false);
    }
    out.extend_from_slice(br#"{"headers":"#);
    let count = push_headers(out, trailers, names);
    out.push(b'}');
    bounded(out, start, count).map(|()| true)
}

/// Reads the payload of a STREAM_TRAILERS. A malformed one costs only its stream (PROTOCOL §1.4).
pub fn parse_trailers(payload: &[u8]) -> Result<Vec<Header<'_>>, ControlError> {
    let raw: RawTrailers<'_> = json::read_object(TRAILERS, payload)?;
    Ok(raw.headers.unwrap_or_default().0)
}

/// Appends a field's name as JSON.
pub(super) fn push_name(out: &mut Vec<u8>, name: &[u8], names: NameCase) {
    let start = out.len();
    push_octets(out, name);
    if names == NameCase::Lower {
        out[start..].make_ascii_lowercase();
    }
}

/// Appends fields, and says how many there were.
fn push_headers<'h>(
    out: &mut Vec<u8>,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    names: NameCase,
) -> usize {
    let mut count = 0;
    out.push(b'[');
    for (index, (name, value)) in headers.enumerate() {
        count = index + 1;
        out.extend_from_slice(if index == 0 { b"[" } else { b",[" });
        push_name(out, name, names);
        out.push(b',');
        push_octets(out, value);
        out.push(b']');
    }
    out.push(b']');
    count
}

/// Takes what was written since `start` back where it is more than a frame has room for, or its
/// fields are more than a peer takes in one.
fn bounded(out: &mut Vec<u8>, start: usize, fields: usize) -> Result<(), TooLong> {
    if out.len() - start > MAX_FRAME_PAYLOAD || fields > MAX_PASSED_FIELDS {
        out.truncate(start);
        return Err(TooLong);
    }
    Ok(())
}

const OPEN: &str = "STREAM_OPEN";
const RESPONSE_HEAD: &str = "STREAM_RESPONSE_HEAD";
const TRAILERS: &str = "STREAM_TRAILERS";
const CONNECTED: &str = "STREAM_CONNECTED";

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOpen<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    mode: Option<Text<'a>>,
    bind_id: Option<u64>,
    container_port: Option<u16>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    target: Option<Octets<'a>>,
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
    is_upgrade: Option<bool>,
    #[serde(borrow)]
    body: Option<Text<'a>>,
    #[serde(borrow)]
    remote_addr: Option<Text<'a>>,
    /// An addition of ours: in another form it says nothing, and costs nobody a stream.
    connection_id: Option<serde_json::Value>,
    #[serde(borrow)]
    host: Option<Text<'a>>,
    port: Option<u16>,
    #[serde(borrow)]
    unix: Option<Text<'a>>,
}

#[derive(serde::Deserialize)]
struct RawResponseHead<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
    #[serde(rename = "final")]
    is_final: Option<bool>,
}

#[derive(serde::Deserialize)]
struct RawConnected<'a> {
    #[serde(borrow)]
    peer: Option<Text<'a>>,
}

#[derive(serde::Deserialize)]
struct RawTrailers<'a> {
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
}

impl<'a> StreamOpen<'a> {
    /// Reads a payload. A malformed one costs only its stream (PROTOCOL §1.4).
    pub fn parse(payload: &'a [u8]) -> Result<StreamOpen<'a>, ControlError> {
        match canonical::open_http(payload) {
            Some(open) => Ok(StreamOpen::Http(open)),
            None => StreamOpen::parse_any(payload),
        }
    }

    /// Reads a payload in whatever form JSON allows.
    pub fn parse_any(payload: &'a [u8]) -> Result<StreamOpen<'a>, ControlError> {
        let raw: RawOpen<'a> = json::read_object(OPEN, payload)?;
        let lacks = |field: &str| ControlError::new(OPEN, format!("missing field `{field}`"));
        let forward = match raw.mode.as_ref().map(|mode| mode.0.as_ref()) {
            None | Some("expose" | "pull") => false,
            Some("forward") => true,
            Some(_) => return Err(ControlError::new(OPEN, "unknown mode")),
        };
        match raw.kind.0.as_ref() {
            "http" => Ok(StreamOpen::Http(OpenHttp {
                bind_id: raw.bind_id,
                container_port: raw.container_port,
                method: raw.method.ok_or_else(|| lacks("method"))?.0,
                target: raw.target.ok_or_else(|| lacks("target"))?.0,
                headers: raw.headers.unwrap_or_default().0,
                is_upgrade: raw.is_upgrade.unwrap_or(false),
                declared_body: raw.body.and_then(|body| BodyKind::from_name(&body.0)),
                remote_addr: raw.remote_addr.map(|addr| addr.0),
                connection_id: raw.connection_id.and_then(|number| number.as_u64()),
            })),
            "tcp" if forward => {
                let port = raw.port.filter(|port| *port != 0);
                match (raw.host, port, raw.unix) {
                    (None, None, Some(path)) if !path.0.is_empty() => {
                        Ok(StreamOpen::Forward(OpenForward::Unix(path.0)))
                    }
                    (_, _, Some(_)) => Err(ControlError::new(OPEN, "a port and a Unix socket")),
                    (None, ..) => Err(lacks("host")),
                    (_, None, _) => Err(lacks("port")),
                    (Some(host), Some(port), None) => {
                        let host = host.0;
                        Ok(StreamOpen::Forward(OpenForward::Port { host, port }))
                    }
                }
            }
            "tcp" => Ok(StreamOpen::Tcp(OpenTcp {
                bind_id: raw.bind_id,
                container_port: raw.container_port,
                remote_addr: raw.remote_addr.map(|addr| addr.0),
            })),
            "udp" if !forward => Ok(StreamOpen::Udp(OpenTcp {
                bind_id: raw.bind_id,
                container_port: raw.container_port,
                remote_addr: raw.remote_addr.map(|addr| addr.0),
            })),
            _ => Err(ControlError::new(OPEN, "unknown kind")),
        }
    }
}

impl<'a> ResponseHead<'a> {
    /// Reads a payload. A malformed one costs only its stream (PROTOCOL §1.4).
    pub fn parse(payload: &'a [u8]) -> Result<ResponseHead<'a>, ControlError> {
        match canonical::response_head(payload) {
            Some(head) => Ok(head),
            None => ResponseHead::parse_any(payload),
        }
    }

    /// Reads a payload in whatever form JSON allows.
    pub fn parse_any(payload: &'a [u8]) -> Result<ResponseHead<'a>, ControlError> {
        let raw: RawResponseHead<'a> = json::read_object(RESPONSE_HEAD, payload)?;
        if !(100..=999).contains(&raw.status) {
            return Err(ControlError::new(
                RESPONSE_HEAD,
                "status is not three digits",
            ));
        }
        Ok(ResponseHead {
            status: raw.status,
            headers: raw.headers.unwrap_or_default().0,
            is_final: raw.is_final.unwrap_or(true),
        })
    }
}

/// `headers`, counted while they are read.
type Headers<'a> = Counted<'a, MAX_PASSED_FIELDS>;
/// Those of a part of a head.
pub(super) type PartFields<'a> = Counted<'a, MOST_PASSED_FIELDS>;

/// At most so many fields.
#[derive(Default)]
pub(super) struct Counted<'a, const MOST: usize>(pub(super) Vec<Header<'a>>);

impl<'de: 'a, 'a, const MOST: usize> Deserialize<'de> for Counted<'a, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadersVisitor<const MOST: usize>;
        impl<'de, const MOST: usize> Visitor<'de> for HeadersVisitor<MOST> {
            type Value = Counted<'de, MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of [name, value]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(TYPICAL_FIELDS);
                while let Some(Pair(name, value)) = seq.next_element()? {
                    if fields.len() == MOST {
                        return Err(de::Error::custom("too many header fields"));
                    }
                    fields.push(Header { name, value });
                }
                Ok(Counted(fields))
            }
        }
        deserializer.deserialize_seq(HeadersVisitor::<MOST>)
    }
}

struct Pair<'a>(Cow<'a, [u8]>, Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Pair<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;
        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[name, value]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair<'de>, A::Error> {
                let lacks = |index| de::Error::invalid_length(index, &"[name, value]");
                let Octets(name) = seq.next_element()?.ok_or_else(|| lacks(0))?;
                let Octets(value) = seq.next_element()?.ok_or_else(|| lacks(1))?;
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(lacks(3)),
                    None => Ok(Pair(name, value)),
                }
            }
        }
        deserializer.deserialize_seq(PairVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_HTTP_HEAD;

    fn one(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        [(&b"x"[..], value)].into_iter()
    }

    #[test]
    fn a_head_that_does_not_fit_a_frame_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let octets = vec![0xFF; MAX_FRAME_PAYLOAD / 2];
        assert_eq!(
            write_response_head(&mut out, 200, one(&octets), true, NameCase::Lower),
            Err(TooLong)
        );
        assert_eq!(out, b"before");
        assert_eq!(TooLong.to_string(), "the head is too long for a frame");
        let octets = vec![b'a'; MAX_FRAME_PAYLOAD / 2];
        assert_eq!(
            write_response_head(&mut out, 200, one(&octets), true, NameCase::Lower),
            Ok(())
        );
    }

    #[test]
    fn a_head_may_fill_its_frame_to_the_last_byte() {
        let len = |value: &[u8]| {
            let mut out = b"before".to_vec();
            let written = write_response_head(&mut out, 200, one(value), true, NameCase::Lower);
            written.map(|()| out.len() - b"before".len())
        };
        let around = len(b"").expect("it is short");
        let mut value = vec![b'a'; MAX_FRAME_PAYLOAD - around];
        assert_eq!(len(&value), Ok(MAX_FRAME_PAYLOAD));
        value.push(b'a');
        assert_eq!(len(&value), Err(TooLong));
    }

    #[test]
    fn what_are_no_fields_is_told_how_fields_look() {
        let wanted = |json: &str| {
            let read = serde_json::from_str::<Headers<'_>>(json).err();
            read.expect("these are no fields").to_string()
        };
        assert!(wanted("1").contains("expected an array of [name, value]"));
        assert!(wanted("[1]").contains("expected [name, value]"));
    }

    #[test]
    fn the_largest_plain_head_fits_a_frame() {
        let field = vec![b'"'; MAX_HTTP_HEAD / MAX_PASSED_FIELDS - 5];
        let fields = (0..MAX_PASSED_FIELDS).map(|_| (&b"x"[..], &field[..]));
        assert_eq!(
            write_response_head(&mut Vec::new(), 200, fields, true, NameCase::Lower),
            Ok(())
        );
    }

    #[test]
    fn a_plain_head_is_read_without_copying() {
        let payload = br#"{"kind":"http","method":"GET","target":"/","headers":[["host","h"]]}"#;
        let Ok(StreamOpen::Http(http)) = StreamOpen::parse(payload) else {
            panic!("a good open")
        };
        assert!(matches!(http.method, Cow::Borrowed("GET")));
        assert!(matches!(http.target, Cow::Borrowed(b"/")));
        let [field] = http.headers.as_slice() else {
            panic!("one field")
        };
        assert!(matches!(field.name, Cow::Borrowed(b"host")));
        assert_eq!(header(&http.headers, "HOST"), Some(&b"h"[..]));
    }

    #[test]
    fn a_header_does_not_show_its_value() {
        let field = Header {
            name: b"cookie"[..].into(),
            value: b"id=1"[..].into(),
        };
        assert_eq!(format!("{field:?}"), "cookie: (4 bytes)");
    }

    #[test]
    fn names_go_as_they_were_written_or_in_lower_case() {
        let field: (&[u8], &[u8]) = (b"X-Hub-Signature-256", b"A");
        for (names, wanted) in [
            (NameCase::AsWritten, "X-Hub-Signature-256"),
            (NameCase::Lower, "x-hub-signature-256"),
        ] {
            let mut out = Vec::new();
            let fields = [field].into_iter();
            assert!(write_response_head(&mut out, 200, fields, true, names).is_ok());
            let head = ResponseHead::parse(&out).unwrap();
            assert_eq!(head.headers[0].name.as_ref(), wanted.as_bytes());
            assert_eq!(head.headers[0].value.as_ref(), b"A");
        }
    }
}
