//! What STREAM_OPEN and STREAM_RESPONSE_HEAD say, once they are read (PROTOCOL §4, §8).
//!
//! They borrow from the payload wherever that has the octets as they are.

use std::borrow::Cow;
use std::fmt;

/// How a request's body is framed on its way to the kit (`body`, **ours**).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is none.
    None,
    /// Content-Length says how long it is.
    Length,
    /// It came in chunks: its length is known when it ends.
    Chunked,
}

impl BodyKind {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            BodyKind::None => "none",
            BodyKind::Length => "length",
            BodyKind::Chunked => "chunked",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<BodyKind> {
        [BodyKind::None, BodyKind::Length, BodyKind::Chunked]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A header field as octets.
#[derive(Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, as sent.
    pub name: Cow<'a, [u8]>,
    /// The value, as sent.
    pub value: Cow<'a, [u8]>,
}

impl fmt::Debug for Header<'_> {
    /// The name only: values carry cookies and credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: ({} bytes)",
            self.name.escape_ascii(),
            self.value.len()
        )
    }
}

/// The value of the first field called `name`, in any case.
pub fn header<'h>(headers: &'h [Header<'_>], name: &str) -> Option<&'h [u8]> {
    headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
        .map(|field| field.value.as_ref())
}

/// A STREAM_OPEN, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOpen<'a> {
    /// A visitor's request.
    Http(OpenHttp<'a>),
    /// A caller's connection.
    Tcp(OpenTcp<'a>),
    /// A peer address of a port of datagrams (PROTOCOL §8.1).
    Udp(OpenTcp<'a>),
    /// A client asks the kit to connect (PROTOCOL §8).
    Forward(OpenForward<'a>),
}

/// A visitor's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHttp<'a> {
    /// The binding; an older kit does not say.
    pub bind_id: Option<u64>,
    /// The port; an older kit does not say.
    pub container_port: Option<u16>,
    /// The method.
    pub method: Cow<'a, str>,
    /// The request target.
    pub target: Cow<'a, [u8]>,
    /// The fields in their order.
    pub headers: Vec<Header<'a>>,
    /// Whether this asks for a WebSocket.
    pub is_upgrade: bool,
    /// How the body is framed; an older kit does not say, see [`OpenHttp::body`].
    pub declared_body: Option<BodyKind>,
    /// The visitor; an older kit does not say.
    pub remote_addr: Option<Cow<'a, str>>,
    /// The visitor's connection; an older kit does not say, and then only `remote_addr` tells them
    /// apart, which another one may soon have again.
    pub connection_id: Option<u64>,
}

impl OpenHttp<'_> {
    /// How the body is framed: as declared, else inferred (PROTOCOL §4).
    pub fn body(&self) -> BodyKind {
        if let Some(declared) = self.declared_body {
            return declared;
        }
        if self.is_upgrade || matches!(self.method.as_ref(), "GET" | "HEAD") {
            return BodyKind::None;
        }
        match header(&self.headers, "content-length") {
            Some(_) => BodyKind::Length,
            None => BodyKind::Chunked,
        }
    }
}

/// A caller's connection, or who sends datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTcp<'a> {
    /// The binding; an older kit does not say.
    pub bind_id: Option<u64>,
    /// The port; an older kit does not say.
    pub container_port: Option<u16>,
    /// The caller; an older kit does not say.
    pub remote_addr: Option<Cow<'a, str>>,
}

/// Whom a client asks the kit to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenForward<'a> {
    /// A TCP port.
    Port {
        /// A name or an IP literal, without brackets.
        host: Cow<'a, str>,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket, by its path.
    Unix(Cow<'a, str>),
}

/// A STREAM_RESPONSE_HEAD, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// The status, 100 to 999.
    pub status: u16,
    /// The fields in their order.
    pub headers: Vec<Header<'a>>,
    /// Whether the body follows; else another head does.
    pub is_final: bool,
}

/// Fields that most requests stay below, so that one allocation is enough.
pub(super) const TYPICAL_FIELDS: usize = 16;
