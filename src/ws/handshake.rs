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
    /// The status that a server answers with. `Sec-WebSocket-Version: 13` belongs to 426, and
    /// `Allow: GET` to 405.
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    type Fields = Vec<(&'static str, &'static str)>;

    fn request() -> Fields {
        vec![
            ("Host", "h"),
            ("Upgrade", "websocket"),
            ("Connection", "keep-alive, Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Protocol", "hoody-tunnel.v1, hoody-tunnel.v2"),
        ]
    }

    fn response() -> Fields {
        vec![
            ("upgrade", "WebSocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "hoody-tunnel.v2"),
        ]
    }

    fn octets(fields: &Fields) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn check(fields: &Fields) -> Result<Subprotocol, HandshakeError> {
        check_request("GET", 1, octets(fields)).map(|offer| offer.subprotocol)
    }

    fn with(mut fields: Fields, name: &str, value: &'static str) -> Fields {
        for field in &mut fields {
            if field.0.eq_ignore_ascii_case(name) {
                field.1 = value;
            }
        }
        fields
    }

    fn without(mut fields: Fields, name: &str) -> Fields {
        fields.retain(|field| !field.0.eq_ignore_ascii_case(name));
        fields
    }

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        assert_eq!(accept_key(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let offer = check_request("GET", 1, octets(&request())).expect("a good request");
        assert_eq!(offer.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn v2_is_picked_where_it_is_offered() {
        assert_eq!(check(&request()), Ok(Subprotocol::V2));
        let v1 = with(request(), "sec-websocket-protocol", "other,hoody-tunnel.v1");
        assert_eq!(check(&v1), Ok(Subprotocol::V1));
        let mut lines = v1;
        lines.push(("sec-websocket-protocol", "hoody-tunnel.v2"));
        assert_eq!(check(&lines), Ok(Subprotocol::V2));
    }

    #[test]
    fn a_request_that_is_no_handshake_is_refused_for_its_reason() {
        let get = |fields: &Fields| check(fields).expect_err("refused");
        assert_eq!(
            check_request("POST", 1, octets(&request())).err(),
            Some(HandshakeError::Method)
        );
        assert_eq!(
            check_request("GET", 0, octets(&request())).err(),
            Some(HandshakeError::HttpVersion)
        );
        for name in ["upgrade", "connection"] {
            assert_eq!(get(&without(request(), name)), HandshakeError::NoUpgrade);
            assert_eq!(
                get(&with(request(), name, "h2c")),
                HandshakeError::NoUpgrade
            );
        }
        let version = with(request(), "sec-websocket-version", "8");
        assert_eq!(get(&version), HandshakeError::WebSocketVersion);
        let none = with(request(), "sec-websocket-protocol", "hoody-tunnel.v3");
        assert_eq!(get(&none), HandshakeError::NoSubprotocol);
        let absent = without(request(), "sec-websocket-protocol");
        assert_eq!(get(&absent), HandshakeError::NoSubprotocol);
    }

    #[test]
    fn a_key_is_sixteen_bytes_of_base64_and_there_once() {
        let bad = [
            "",
            "AAAA",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ===",
            "dGhl IHNhbXBsZSBub25jZ==",
            "dGhlIHNhbXBsZSBub25jZWQ=",
        ];
        for key in bad {
            let fields = with(request(), "sec-websocket-key", key);
            assert_eq!(check(&fields), Err(HandshakeError::Key), "{key}");
        }
        let mut twice = request();
        twice.push(("sec-websocket-key", KEY));
        assert_eq!(check(&twice), Err(HandshakeError::Key));
    }

    #[test]
    fn every_refusal_has_its_status_and_words_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for (error, status) in [
            (HandshakeError::Method, 405),
            (HandshakeError::NoUpgrade, 426),
            (HandshakeError::WebSocketVersion, 426),
            (HandshakeError::HttpVersion, 505),
            (HandshakeError::Key, 400),
            (HandshakeError::NoSubprotocol, 400),
            (HandshakeError::Status(200), 400),
            (HandshakeError::Accept, 400),
            (HandshakeError::Subprotocol, 400),
            (HandshakeError::Extension, 400),
        ] {
            assert_eq!(error.status(), status, "{error}");
            assert!(seen.insert(error.to_string()), "{error}");
        }
    }

    #[test]
    fn a_response_must_answer_what_was_asked() {
        let both = [Subprotocol::V1, Subprotocol::V2];
        let check = |status, fields: &Fields, offered: &[Subprotocol]| {
            check_response(status, octets(fields), KEY, offered)
        };
        assert_eq!(check(101, &response(), &both), Ok(Subprotocol::V2));
        assert_eq!(
            check(200, &response(), &both),
            Err(HandshakeError::Status(200))
        );
        assert_eq!(
            check(101, &without(response(), "upgrade"), &both),
            Err(HandshakeError::NoUpgrade)
        );
        assert_eq!(
            check(101, &with(response(), "sec-websocket-accept", "x"), &both),
            Err(HandshakeError::Accept)
        );
        assert_eq!(
            check(101, &response(), &[Subprotocol::V1]),
            Err(HandshakeError::Subprotocol)
        );
        assert_eq!(
            check(101, &without(response(), "sec-websocket-protocol"), &both),
            Err(HandshakeError::Subprotocol)
        );
        let mut extended = response();
        extended.push(("sec-websocket-extensions", "permessage-deflate"));
        assert_eq!(check(101, &extended, &both), Err(HandshakeError::Extension));
    }
}
