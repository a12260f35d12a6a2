//! Heads that arrive as JSON and leave as HTTP text.
//!
//! A peer may be of another make or hostile, so its words are checked as strictly as a visitor's: a
//! plan exists only for a head that can be written safely, and holds what was decided about it.

use super::connection::ConnectionOptions;
use super::date::HttpDate;
use super::fields::{
    Field, is_host, is_name, is_token, is_value, media_type, parse_content_length, tokens,
};
use super::forward::{VIA, end_to_end, upgrade_fields};
use super::head::{
    Asked, RequestBody, ResponseBody, Version, is_bodiless, is_interim, is_trailers,
};
use super::own::OwnField;
use super::rewrite::Names;
use super::{Unwritable, write};
use crate::limits::MOST_PASSED_FIELDS;

/// What STREAM_OPEN says about the body (PROTOCOL §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyHint {
    /// `none`.
    None,
    /// `length`.
    Length,
    /// `chunked`.
    Chunked,
    /// Not said: an older kit. `Content-Length` decides if there is one; else GET and HEAD have no
    /// body and anything else is sent in chunks.
    Unknown,
}

impl From<RequestBody> for BodyHint {
    fn from(body: RequestBody) -> Self {
        match body {
            RequestBody::None => Self::None,
            RequestBody::Length(_) => Self::Length,
            RequestBody::Chunked => Self::Chunked,
        }
    }
}

/// A request for the local server, checked and ready to be written. `I` yields the peer's fields.
#[derive(Debug, Clone)]
pub struct RequestPlan<'a, I> {
    /// How its body is to be framed: raw for a length, in chunks, or not at all.
    pub body: RequestBody,
    /// The host that the visitor asked.
    pub host: Option<&'a [u8]>,
    /// What to remember for the response.
    pub asked: Asked,
    /// Fields that take the place of the peer's; none to begin with.
    pub own: &'a [OwnField],
    method: &'a str,
    target: &'a [u8],
    options: ConnectionOptions<'a>,
    fields: I,
    /// The peer says that trailers are taken.
    takes_trailers: bool,
    /// The local server is told so.
    asks_for_trailers: bool,
}

impl<'a, I: Iterator<Item = Field<'a>> + Clone> RequestPlan<'a, I> {
    /// Checks what STREAM_OPEN said. Values are octets: the JSON's Latin-1 is undone before.
    ///
    /// The target must be in origin-form (or `*` for OPTIONS), so that a peer cannot make the local
    /// server, which may be a proxy, fetch something else.
    pub fn new(
        method: &'a str,
        target: &'a [u8],
        fields: I,
        hint: BodyHint,
        upgrade: bool,
    ) -> Result<Self, Unwritable> {
        if !is_token(method.as_bytes()) || method.eq_ignore_ascii_case("CONNECT") {
            return Err(Unwritable("The method is malformed."));
        }
        let is_origin = target.first() == Some(&b'/') || (target == b"*" && method == "OPTIONS");
        let is_bad = |octet: &u8| *octet <= b' ' || matches!(octet, 0x7F | b'#');
        if !is_origin || target.iter().any(is_bad) {
            return Err(Unwritable("The request target is malformed."));
        }
        let checked = Checked::new(fields.clone())?;
        let body = match (hint, checked.length) {
            (BodyHint::None, None | Some(0)) => RequestBody::None,
            (BodyHint::Length | BodyHint::Unknown, Some(length)) => RequestBody::Length(length),
            (BodyHint::Chunked, None) => RequestBody::Chunked,
            (BodyHint::Unknown, None) if matches!(method, "GET" | "HEAD") => RequestBody::None,
            (BodyHint::Unknown, None) => RequestBody::Chunked,
            _ => return Err(Unwritable("Content-Length does not fit the kind of body.")),
        };
        if upgrade
            && (method != "GET" || !matches!(body, RequestBody::None | RequestBody::Length(0)))
        {
            return Err(Unwritable("An upgrade is a GET without a body."));
        }
        let (version, keep_alive, head) = (Version::Http11, true, method == "HEAD");
        let asked = Asked {
            head,
            version,
            keep_alive,
            upgrade,
        };
        let Checked {
            host,
            options,
            takes_trailers,
            ..
        } = checked;
        Ok(Self {
            body,
            host,
            asked,
            method,
            target,
            options,
            fields,
            takes_trailers,
            asks_for_trailers: false,
            own: &[],
        })
    }

    /// Trailers travel: the local server is told where they are announced, and where they are taken
    /// (RFC 9110 §10.1.4).
    pub fn pass_trailers(&mut self) {
        self.options.passes_trailer = self.body == RequestBody::Chunked;
        self.asks_for_trailers = self.takes_trailers && !self.asked.upgrade;
    }

    /// The peer's fields that go on, without `Host`, lengths and what ends at this hop.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + Clone {
        let is = |name: &[u8], other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        end_to_end(self.fields.clone(), &self.options)
            .filter(move |(name, _)| !is(name, "host") && !is(name, "content-length"))
    }

    /// Appends the head. `host`, which is the user's configuration and is checked, is written as
    /// `Host`; where that is another than was asked, `names` have the other fields follow.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        host: &[u8],
        names: Option<&Names<'_>>,
    ) -> Result<(), Unwritable> {
        if !is_value(host) {
            return Err(Unwritable("The host contains a control character."));
        }
        let target = names.map(|names| names.target(self.target).ok_or(LEADS_OUT));
        let target = target.transpose()?;
        let target = target.as_deref().unwrap_or(self.target);
        write::put_request_line(out, self.method, target);
        write::put_checked_field(out, b"host", host);
        for (name, value) in self.fields() {
            if self.own.iter().any(|own| own.is_named(name)) {
                continue;
            }
            if names.is_some_and(|names| names.leads_out(name, value)) {
                return Err(LEADS_OUT);
            }
            let rewritten = names.and_then(|names| names.inwards(name, value));
            write::put_checked_field(out, name, rewritten.as_deref().unwrap_or(value));
        }
        // A TRACE is echoed to whoever asks, and these may be secrets (RFC 9110 §9.3.8).
        let echoed = self.method.eq_ignore_ascii_case("TRACE");
        for own in self.own.iter().filter(|_| !echoed) {
            write::put_checked_field(out, own.name(), own.value());
        }
        match self.body {
            RequestBody::None => {}
            RequestBody::Length(length) => write::put_content_length(out, length),
            RequestBody::Chunked => out.extend_from_slice(CHUNKED),
        }
        for (name, value) in upgrade_fields(self.asked.upgrade) {
            write::put_checked_field(out, name, value);
        }
        if self.asks_for_trailers {
            out.extend_from_slice(TAKES_TRAILERS);
        }
        out.extend_from_slice(write::CRLF);
        Ok(())
    }
}

/// What a gateway says on an answer that it passes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added {
    /// `Date` where the answer has none, from whoever has a clock.
    pub date: Option<HttpDate>,
    /// `Via` (RFC 9110 §7.6.3).
    pub via: bool,
}

/// A response for a visitor, checked and ready to be written. `I` yields the peer's fields.
#[derive(Debug, Clone)]
pub struct ResponsePlan<'a, I> {
    /// How the body is to be framed. `None` also where the peer sends data for a HEAD: drop it.
    pub body: ResponseBody,
    /// The connection stays after this response. May be set to false before writing.
    pub keep_alive: bool,
    /// What is said beside what the peer sent. May be set before writing.
    pub added: Added,
    status: u16,
    version: Version,
    /// The `Content-Length` to write: it may be there without a body (HEAD, 304).
    length: Option<u64>,
    options: ConnectionOptions<'a>,
    fields: I,
}

impl<'a, I: Iterator<Item = Field<'a>> + Clone> ResponsePlan<'a, I> {
    /// Checks what STREAM_RESPONSE_HEAD said. Values are octets: the JSON's Latin-1 is undone
    /// before. A 101 is refused unless the visitor asked for an upgrade.
    pub fn new(status: u16, fields: I, asked: Asked) -> Result<Self, Unwritable> {
        if !(100..=999).contains(&status) {
            return Err(Unwritable("The status is not between 100 and 999."));
        }
        if status == 101 && !asked.upgrade {
            return Err(Unwritable("The visitor did not ask to switch protocols."));
        }
        let Checked {
            length, options, ..
        } = Checked::new(fields.clone())?;
        let body = match length {
            _ if asked.head || is_bodiless(status) => ResponseBody::None,
            Some(length) => ResponseBody::Length(length),
            None if asked.version == Version::Http11 => ResponseBody::Chunked,
            None => ResponseBody::UntilClose,
        };
        let keep_alive = asked.keep_alive && body != ResponseBody::UntilClose;
        // RFC 9110 §8.6: no length with 1xx and 204.
        let length = length.filter(|_| status == 304 || !is_bodiless(status));
        let version = asked.version;
        Ok(Self {
            body,
            keep_alive,
            added: Added::default(),
            status,
            version,
            length,
            options,
            fields,
        })
    }

    /// Trailers travel, and the visitor takes them: what announces them goes on.
    pub fn pass_trailers(&mut self) {
        self.options.passes_trailer = self.body == ResponseBody::Chunked;
    }

    /// Whether another head follows: 1xx, but not 101.
    pub fn is_interim(&self) -> bool {
        is_interim(self.status)
    }

    /// Whether both directions become raw octets after this head.
    pub fn switches(&self) -> bool {
        self.status == 101
    }

    /// Appends the head; nothing for an interim one when the visitor speaks HTTP/1.0.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.is_interim() && self.version == Version::Http10 {
            return;
        }
        write::put_status_line(out, self.status);
        let fields = end_to_end(self.fields.clone(), &self.options);
        let (mut events, mut buffering, mut dated) = (false, false, false);
        for (name, value) in
            fields.filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"))
        {
            let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
            events |= is(b"content-type") && media_type(value).eq_ignore_ascii_case(EVENTS);
            buffering |= is(b"x-accel-buffering");
            dated |= is(b"date");
            write::put_checked_field(out, name, value);
        }
        if events && !buffering && !self.is_interim() {
            // Else nginx gathers events until they fill its buffer.
            write::put_checked_field(out, b"x-accel-buffering", b"no");
        }
        if !dated && !is_interim(self.status) && !self.switches() {
            write::put_date(out, self.added.date);
        }
        if self.added.via {
            write::put_checked_field(out, b"via", VIA);
        }
        if let Some(length) = self.length {
            write::put_content_length(out, length);
        }
        if self.body == ResponseBody::Chunked {
            out.extend_from_slice(CHUNKED);
        }
        if self.switches() {
            for (name, value) in upgrade_fields(true) {
                write::put_checked_field(out, name, value);
            }
        } else if !self.is_interim() {
            write::put_persistence(out, self.keep_alive, self.version);
        }
        out.extend_from_slice(write::CRLF);
    }
}

/// The type of server-sent events (HTML, "Server-sent events").
const EVENTS: &[u8] = b"text/event-stream";
const LEADS_OUT: Unwritable =
    Unwritable("Its path has `..`, or is none, and only one path of the local server is exposed.");
const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";
const TAKES_TRAILERS: &[u8] = b"te: trailers\r\nconnection: TE\r\n";

/// What all fields of a peer's head say together, once each of them was found writable.
struct Checked<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    options: ConnectionOptions<'a>,
    takes_trailers: bool,
}

impl<'a> Checked<'a> {
    fn new(fields: impl Iterator<Item = Field<'a>> + Clone) -> Result<Self, Unwritable> {
        let options = ConnectionOptions::gather(fields.clone());
        let options = options.ok_or(Unwritable("Connection names too many fields."))?;
        let mut checked = Self {
            host: None,
            length: None,
            options,
            takes_trailers: false,
        };
        for (index, (name, value)) in fields.enumerate() {
            if index >= MOST_PASSED_FIELDS {
                return Err(Unwritable("There are too many fields."));
            }
            if !is_name(name) {
                return Err(Unwritable("A field name is malformed."));
            }
            if !is_value(value) {
                return Err(Unwritable("A field value contains a control character."));
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                let length = parse_content_length(value);
                let length = length.ok_or(Unwritable("Content-Length is malformed."))?;
                if checked.length.replace(length).is_some() {
                    return Err(Unwritable("There is more than one Content-Length."));
                }
            } else if name.eq_ignore_ascii_case(b"host") {
                if !is_host(value) {
                    return Err(Unwritable("The Host is malformed."));
                }
                if checked.host.replace(value).is_some() {
                    return Err(Unwritable("There is more than one Host."));
                }
            } else if name.eq_ignore_ascii_case(b"te") {
                checked.takes_trailers |= tokens(value).any(is_trailers);
            }
        }
        Ok(checked)
    }
}
