//! Trailers: fields behind a chunked body (RFC 9110 §6.5, RFC 9112 §7.1.2).
//!
//! Whoever receives them may merge them into the head, which was judged without them. So what
//! frames, routes, authenticates or modifies a message never passes here, in either direction, and
//! is left out without a word: a message means the same without it.

use super::Unwritable;
use super::fields::{Field, is_name, is_value, trim_whitespace};
use super::trail::is_forwarding;
use super::write::put_checked_field;
use crate::limits::{MAX_PASSED_FIELDS, MAX_TRAILERS};

/// Lines of trailers as [`BodyDecoder::take_trailers`](super::BodyDecoder::take_trailers) gives
/// them, as the fields that pass. What is no field is left out.
pub fn fields(lines: &[u8]) -> impl Iterator<Item = Field<'_>> + Clone {
    lines
        .split(|&octet| octet == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|&octet| octet == b':')?;
            let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
            Some((name, trim_whitespace(value)))
        })
        .filter(|(name, value)| is_name(name) && is_value(value) && may_trail(name))
}

/// Appends the last chunk and a peer's trailers behind it, but for the empty line that ends them.
/// Nothing where none of them may pass; false then.
pub fn write<'a>(
    out: &mut Vec<u8>,
    trailers: impl Iterator<Item = Field<'a>>,
) -> Result<bool, Unwritable> {
    let start = out.len();
    out.extend_from_slice(LAST_SIZE);
    let written = put_all(out, trailers);
    if written != Ok(true) {
        out.truncate(start);
    }
    written
}

fn put_all<'a>(
    out: &mut Vec<u8>,
    trailers: impl Iterator<Item = Field<'a>>,
) -> Result<bool, Unwritable> {
    let (mut any, mut octets) = (false, 0);
    for (index, (name, value)) in trailers.enumerate() {
        octets += name.len() + value.len();
        if index >= MAX_PASSED_FIELDS || octets > MAX_TRAILERS {
            return Err(Unwritable("The trailers are too long."));
        }
        if !is_name(name) || !is_value(value) {
            return Err(Unwritable("A trailer is malformed."));
        }
        if may_trail(name) {
            put_checked_field(out, name, value);
            any = true;
        }
    }
    Ok(any)
}

/// Whether a field of this name means behind a body what it says, and no more.
fn may_trail(name: &[u8]) -> bool {
    let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
    let begins = |start: &str| {
        let own = name.get(..start.len());
        own.is_some_and(|own| own.eq_ignore_ascii_case(start.as_bytes()))
    };
    // Many programs read `Content_Length` as if it were `Content-Length`.
    let is_disguised = name.contains(&b'_');
    let is_of_a_kind = begins("if-") || begins("proxy-") || begins("sec-") || begins("access-");
    let is_blunt = NEVER.iter().any(is);
    !(is_disguised || is_of_a_kind || is_blunt || is_forwarding(name))
}

/// What RFC 9110 §6.5.1 forbids: framing, routing, modifiers, authentication, control of answers,
/// and what tells how the body is to be read.
const NEVER: [&str; 48] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "authentication-info",
    "authorization",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "destination",
    "expect",
    "expires",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "last-modified",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
];

/// The size of the last chunk, and the end of its line.
const LAST_SIZE: &[u8] = b"0\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(lines: &[u8]) -> Vec<(String, String)> {
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        fields(lines).map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn only_fields_pass_that_mean_nothing_more_than_they_say() {
        let plain = b"grpc-status:  0 \ngrpc-message:\nServer-Timing: a;dur=1\nDigest: x:y\n";
        let names: Vec<String> = passing(plain).into_iter().map(|it| it.0).collect();
        assert_eq!(
            names,
            ["grpc-status", "grpc-message", "Server-Timing", "Digest"]
        );
        assert_eq!(passing(plain)[0].1, "0");
        assert_eq!(passing(plain)[3].1, "x:y");
        for name in NEVER {
            let lines = format!("{}: 1\n{name}: 1\n", name.to_uppercase());
            assert_eq!(passing(lines.as_bytes()), [], "{name}");
        }
        for line in [
            "Content_Length: 1",
            "If-Match: 1",
            "Proxy-X: 1",
            "X-Forwarded-For: 1",
            "X-Real-IP: 1",
            "Sec-WebSocket-Key: 1",
            "Name : 1",
            ": 1",
            "no field",
            "",
        ] {
            assert_eq!(passing(line.as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn a_peers_trailers_are_written_whole_or_not_at_all() {
        let put = |trailers: &[Field<'_>]| {
            let mut out = b"before".to_vec();
            let written = write(&mut out, trailers.iter().copied());
            (written.map_err(|it| it.0), out)
        };
        let (good, host): (Field<'_>, Field<'_>) = ((b"X-Sum", b"1"), (b"Host", b"a"));
        let wanted = b"before0\r\nX-Sum: 1\r\n".to_vec();
        assert_eq!(put(&[host, good]), (Ok(true), wanted));
        assert_eq!(put(&[host]), (Ok(false), b"before".to_vec()));
        assert_eq!(put(&[]), (Ok(false), b"before".to_vec()));
        for bad in [
            (&b"a b"[..], &b""[..]),
            (b"", b"1"),
            (b"a", b"1\r\nb: 2"),
            (b"a", b"\0"),
        ] {
            let said = (Err("A trailer is malformed."), b"before".to_vec());
            assert_eq!(put(&[good, bad]), said, "{bad:?}");
        }
        let too_long = (Err("The trailers are too long."), b"before".to_vec());
        assert_eq!(put(&[(b"a", &[b'x'; MAX_TRAILERS])]), too_long);
        assert_eq!(put(&[good; MAX_PASSED_FIELDS + 1]), too_long);
        assert_eq!(put(&[(b"a", &[b'x'; MAX_TRAILERS - 1])]).0, Ok(true));
        assert_eq!(put(&[good; MAX_PASSED_FIELDS]).0, Ok(true));
    }
}
