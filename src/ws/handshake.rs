//! The opening handshake (RFC 6455 §4), on heads that someone else parsed.

use std::fmt;

use tungstenite::handshake::derive_accept_key;

/// The tunnel's subprotocols (PROTOCOL §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subprotocol {
    /// One lane in a session.
    V1,
    /// Several lanes in a session.
    V2,
}

impl Subprotocol {
    /// The name in Sec-WebSocket-Protocol and in HELLO.
    pub fn name(self) -> &'static str {
        match self {
            Subprotocol::V1 => "hoody-tunnel.v1",
            Subprotocol::V2 => "hoody-tunnel.v2",
        }
    }

    /// The subprotocol with this name.
    pub fn from_name(name: &str) -> Option<Subprotocol> {
        [Subprotocol::V1, Subprotocol::V2]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

/// What a client asked for, when it asked well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOffer {
    /// What to answer in Sec-WebSocket-Accept.
    pub accept: String,
    /// The best of what was offered, to answer in Sec-WebSocket-Protocol.
    pub subprotocol: Subprotocol,
}

/// Why a handshake was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not GET.
    Method,
    /// Not HTTP/1.1.
    HttpVersion,
    /// No `Upgrade: websocket`, or Connection does not name it.
    NoUpgrade,
    /// Not version 13.
    WebSocketVersion,
    /// Sec-WebSocket-Key is missing, twice there, or not 16 bytes of Base64.
    Key,
    /// Neither subprotocol was offered.
    NoSubprotocol,
    /// The server did not answer 101.
    Status(u16),
    /// Sec-WebSocket-Accept does not belong to our key.
    Accept,
    /// The server picked what was not offered.
    Subprotocol,
    /// The server picked an extension; none was offered.
    Extension,
}

impl HandshakeError {
    /// The status that a server answers with. With 426 belongs `Sec-WebSocket-Version: 13`, with 405
    /// `Allow: GET`.
    pub fn status(self) -> u16 {
        match self {
            HandshakeError::Method => 405,
            HandshakeError::NoUpgrade | HandshakeError::WebSocketVersion => 426,
            HandshakeError::HttpVersion => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Method => f.write_str("a WebSocket is opened with GET"),
            HandshakeError::HttpVersion => f.write_str("a WebSocket is opened in HTTP/1.1"),
            HandshakeError::NoUpgrade => f.write_str("not a WebSocket upgrade"),
            HandshakeError::WebSocketVersion => f.write_str("only WebSocket version 13 is spoken"),
            HandshakeError::Key => f.write_str("Sec-WebSocket-Key is not 16 bytes of Base64"),
            HandshakeError::NoSubprotocol => write!(
                f,
                "Sec-WebSocket-Protocol must offer {} or {}",
                Subprotocol::V1.name(),
                Subprotocol::V2.name()
            ),
            HandshakeError::Status(status) => write!(f, "the server answered {status}"),
            HandshakeError::Accept => f.write_str("Sec-WebSocket-Accept does not fit our key"),
            HandshakeError::Subprotocol => {
                f.write_str("the server picked a subprotocol that was not offered")
            }
            HandshakeError::Extension => {
                f.write_str("the server picked an extension that was not offered")
            }
        }
    }
}

impl std::error::Error for HandshakeError {}

/// The answer to a key (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// Judges a client's request. `minor_version` is 1 for HTTP/1.1, as httparse has it.
pub fn check_request<'h>(
    method: &str,
    minor_version: u8,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone,
) -> Result<ClientOffer, HandshakeError> {
    if method != "GET" {
        return Err(HandshakeError::Method);
    }
    if minor_version != 1 {
        return Err(HandshakeError::HttpVersion);
    }
    if !is_upgrade(headers.clone()) {
        return Err(HandshakeError::NoUpgrade);
    }
    if only(headers.clone(), "sec-websocket-version") != Some(b"13") {
        return Err(HandshakeError::WebSocketVersion);
    }
    let key = only(headers.clone(), "sec-websocket-key")
        .filter(|key| is_key(key))
        .and_then(|key| std::str::from_utf8(key).ok())
        .ok_or(HandshakeError::Key)?;
    let subprotocol = tokens(headers, "sec-websocket-protocol")
        .filter_map(|token| Subprotocol::from_name(std::str::from_utf8(token).ok()?))
        .max()
        .ok_or(HandshakeError::NoSubprotocol)?;
    Ok(ClientOffer {
        accept: accept_key(key),
        subprotocol,
    })
}

/// Judges a server's answer to `key` and to an offer of `offered`.
pub fn check_response<'h>(
    status: u16,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone,
    key: &str,
    offered: &[Subprotocol],
) -> Result<Subprotocol, HandshakeError> {
    if status != 101 {
        return Err(HandshakeError::Status(status));
    }
    if !is_upgrade(headers.clone()) {
        return Err(HandshakeError::NoUpgrade);
    }
    if only(headers.clone(), "sec-websocket-accept") != Some(accept_key(key).as_bytes()) {
        return Err(HandshakeError::Accept);
    }
    if tokens(headers.clone(), "sec-websocket-extensions")
        .next()
        .is_some()
    {
        return Err(HandshakeError::Extension);
    }
    only(headers, "sec-websocket-protocol")
        .and_then(|name| Subprotocol::from_name(std::str::from_utf8(name).ok()?))
        .filter(|picked| offered.contains(picked))
        .ok_or(HandshakeError::Subprotocol)
}

/// Whether Upgrade says `websocket` and Connection names Upgrade.
fn is_upgrade<'h>(headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone) -> bool {
    tokens(headers.clone(), "upgrade").any(|token| token.eq_ignore_ascii_case(b"websocket"))
        && tokens(headers, "connection").any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// The value of a field that is there exactly once.
fn only<'h>(
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    name: &'static str,
) -> Option<&'h [u8]> {
    let mut values = values(headers, name);
    let value = values.next()?;
    match values.next() {
        None => Some(value.trim_ascii()),
        Some(_) => None,
    }
}

/// The members of a comma-separated field, over all its lines.
fn tokens<'h>(
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    name: &'static str,
) -> impl Iterator<Item = &'h [u8]> {
    values(headers, name)
        .flat_map(|value| value.split(|octet| *octet == b','))
        .map(|token| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

fn values<'h>(
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    name: &'static str,
) -> impl Iterator<Item = &'h [u8]> {
    headers
        .filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value)
}

/// Sixteen bytes are 22 characters of Base64, of which the last has four bits to spare, and two of
/// padding.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/');
    match key {
        [digits @ .., b'=', b'='] => digits.len() == 22 && digits.iter().all(is_base64),
        _ => false,
    }
}
