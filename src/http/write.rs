//! Writing heads, whole small responses and chunk framing.
//!
//! The functions here append to a buffer. What is handed in must have been checked: [`put_field`]
//! checks, the others are for what this room has decided or parsed itself.

use super::Unwritable;
use super::date::HttpDate;
use super::fields::{is_name, is_value};
use super::head::{Asked, Version};
use crate::digits::push_number;

/// Ends a line, and a chunk's data.
pub const CRLF: &[u8] = b"\r\n";
/// Ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line before a chunk's data: at most 16 digits and CR LF.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHeader {
    octets: [u8; 18],
    start: u8,
}

impl AsRef<[u8]> for ChunkHeader {
    fn as_ref(&self) -> &[u8] {
        self.octets
            .get(usize::from(self.start)..)
            .unwrap_or_default()
    }
}

/// The line that announces a chunk of `length` octets; [`CRLF`] follows the data.
///
/// # Panics
///
/// When `length` is 0: that would end the body.
pub fn chunk_header(length: usize) -> ChunkHeader {
    assert!(length > 0, "an empty chunk would end the body");
    let mut header = ChunkHeader {
        octets: [0; 18],
        start: 16,
    };
    header.octets[16..].copy_from_slice(CRLF);
    let mut left = length as u64;
    for (place, octet) in header.octets[..16].iter_mut().enumerate().rev() {
        *octet = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
        header.start = place as u8;
        if left == 0 {
            break;
        }
    }
    header
}

/// Appends a request's first line, in HTTP/1.1.
pub(super) fn put_request_line(out: &mut Vec<u8>, method: &str, target: &[u8]) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Appends a response's first line. It always says HTTP/1.1: that is the version we can speak.
pub fn put_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(CRLF);
}

/// Appends a field, unless it could end the line or the head.
pub fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), Unwritable> {
    if !is_name(name) {
        return Err(Unwritable("A field name is malformed."));
    }
    if !is_value(value) {
        return Err(Unwritable("A field value contains a control character."));
    }
    put_checked_field(out, name, value);
    Ok(())
}

/// Appends a field that was checked before.
pub(super) fn put_checked_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(
        is_name(name) && is_value(value),
        "an unchecked field reached the writer"
    );
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

/// Appends `Content-Length`.
pub fn put_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    push_number(out, length);
    out.extend_from_slice(CRLF);
}

/// Appends `Date`, if it is known.
pub(super) fn put_date(out: &mut Vec<u8>, date: Option<HttpDate>) {
    if let Some(date) = date {
        put_checked_field(out, b"date", date.as_bytes());
    }
}

/// Appends `Connection` where the version does not say it already.
pub(super) fn put_persistence(out: &mut Vec<u8>, keep_alive: bool, version: Version) {
    match (keep_alive, version) {
        (true, Version::Http11) => {}
        (true, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, _) => out.extend_from_slice(b"connection: close\r\n"),
    }
}

/// A small response of our own, whole.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// The type of the body.
    pub content_type: &'a str,
    /// More fields, such as `Retry-After`. They are our own words; one that could end the line is
    /// left out.
    pub fields: &'a [(&'a str, &'a str)],
    /// When it is said; whoever has no clock does not say it (RFC 9110 §6.6.1).
    pub date: Option<HttpDate>,
    /// The body.
    pub body: &'a [u8],
}

impl Reply<'_> {
    /// Appends the response to the request that `asked`; the connection stays if it can.
    pub fn write(&self, out: &mut Vec<u8>, asked: Asked) {
        put_status_line(out, self.status);
        put_date(out, self.date);
        if !super::head::is_bodiless(self.status) {
            let _ = put_field(out, b"content-type", self.content_type.as_bytes());
            put_content_length(out, self.body.len() as u64);
        }
        for (name, value) in self.fields {
            let _ = put_field(out, name.as_bytes(), value.as_bytes());
        }
        put_persistence(out, asked.keep_alive, asked.version);
        out.extend_from_slice(CRLF);
        if !asked.head && !super::head::is_bodiless(self.status) {
            out.extend_from_slice(self.body);
        }
    }
}

/// The customary words for a status, or none.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
