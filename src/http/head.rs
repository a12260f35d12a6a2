//! Heads of requests and responses: parsed, judged, and their framing decided.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use super::Reject;
use super::connection::ConnectionOptions;
use super::fields::{Fields, is_host, parse_content_length, tokens, trim_whitespace};
use super::scan::HeadScanner;
use crate::limits::{LONGEST_HEAD, MAX_HEADER_FIELDS, MOST_FIELDS};

/// The versions we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no 1xx, closes unless asked to stay.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// No body was declared.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// How a response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// There is none, whatever the fields say: HEAD, 1xx, 204, 304.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Everything until the sender closes.
    UntilClose,
}

/// What must be remembered of a request to understand or write its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The method was HEAD.
    pub head: bool,
    /// The version of the side that asked.
    pub version: Version,
    /// The side that asked can keep the connection.
    pub keep_alive: bool,
    /// It was a WebSocket upgrade, so 101 is an answer.
    pub upgrade: bool,
}

/// A request's head that obeys every rule of PROTOCOL §11.
#[derive(Debug, Clone)]
pub struct RequestHead<'a> {
    /// The method, a token; never `CONNECT`.
    pub method: &'a str,
    /// The target in origin-form, or `*` for OPTIONS. Borrowed but for absolute-form without path.
    pub target: Cow<'a, [u8]>,
    /// The version.
    pub version: Version,
    /// The host that was asked: of an absolute-form target, else of the one `Host` field. Always
    /// there in HTTP/1.1, perhaps empty.
    pub host: Option<&'a [u8]>,
    /// All fields as they came, `Host` included.
    pub fields: Fields<'a>,
    /// How the body is delimited.
    pub body: RequestBody,
    /// The connection may serve another request after this one.
    pub keep_alive: bool,
    /// The sender waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// A WebSocket upgrade: GET, HTTP/1.1, no body, `Upgrade: websocket` and nothing else.
    pub upgrade: bool,
    /// What the `Connection` fields said.
    pub(super) options: ConnectionOptions<'a>,
    /// That its sender takes trailers goes on.
    pub(super) asks_for_trailers: bool,
}

/// A response's head with one reading.
#[derive(Debug, Clone)]
pub struct ResponseHead<'a> {
    /// The status, 100 to 999.
    pub status: u16,
    /// The version.
    pub version: Version,
    /// All fields as they came.
    pub fields: Fields<'a>,
    /// The sender would keep the connection; see also [`ResponseHead::reusable`].
    pub keep_alive: bool,
    /// What `Content-Length` and `Transfer-Encoding` declare, before method and status count.
    declared: RequestBody,
    /// What the `Connection` fields said.
    pub(super) options: ConnectionOptions<'a>,
}

/// Scans and parses at once: for callers that have the head whole, most of the time.
///
/// `None` means that the head is not complete; the number is the head's length. A caller that gets
/// a head in many pieces keeps a [`HeadScanner`] instead, or it would scan from the start each
/// time.
pub fn parse_request(buffer: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, Reject> {
    let Some(length) = HeadScanner::new().scan(buffer)? else {
        return Ok(None);
    };
    let head = RequestHead::parse(buffer.get(..length).unwrap_or_default())?;
    Ok(Some((head, length)))
}

/// As [`parse_request`], for a response.
pub fn parse_response(buffer: &[u8]) -> Result<Option<(ResponseHead<'_>, usize)>, Reject> {
    let Some(length) = HeadScanner::for_answer()
        .scan(buffer)
        .map_err(from_upstream)?
    else {
        return Ok(None);
    };
    let head = ResponseHead::parse(buffer.get(..length).unwrap_or_default())?;
    Ok(Some((head, length)))
}

impl<'a> RequestHead<'a> {
    /// Parses a whole head, whose end a [`HeadScanner`] found: `head` ends with the empty line.
    pub fn parse(head: &'a [u8]) -> Result<Self, Reject> {
        let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADER_FIELDS];
        let (mut request, mut more) = (httparse::Request::new(&mut []), Vec::new());
        let config = httparse::ParserConfig::default();
        let mut parsed = config.parse_request_with_uninit_headers(&mut request, head, &mut storage);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            more.resize_with(MOST_FIELDS, MaybeUninit::uninit);
            request = httparse::Request::new(&mut []);
            parsed = config.parse_request_with_uninit_headers(&mut request, head, &mut more);
        }
        check_whole(parsed, head)?;
        let method = request.method.unwrap_or_default();
        if method.eq_ignore_ascii_case("CONNECT") {
            return Err(Reject {
                status: 405,
                why: "CONNECT is not served here.",
            });
        }
        let version = version_of(request.version);
        let fields = Fields::locate(head, request.headers);
        let options = ConnectionOptions::gather(fields.iter()).ok_or(TOO_MANY_NAMES)?;
        let body = declared_body(&fields, version)?;
        let (target, authority) = read_target(method, request.path.unwrap_or_default())?;
        let host = read_host(&fields, version)?;
        let upgrade = asks_for_websocket(method, version, body, &options, &fields);
        let expects_continue = version == Version::Http11
            && fields
                .all("expect")
                .any(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Ok(Self {
            method,
            target,
            version,
            host: authority.or(host),
            fields,
            body,
            keep_alive: keeps_alive(version, &options),
            expects_continue,
            upgrade,
            options,
            asks_for_trailers: false,
        })
    }

    /// Whether the sender takes trailers (RFC 9110 §10.1.4): with HTTP/1.0 none could reach it.
    pub fn takes_trailers(&self) -> bool {
        self.version == Version::Http11 && self.fields.all("te").flat_map(tokens).any(is_trailers)
    }

    /// Trailers travel: what announces them, and whether they are taken, goes on.
    pub fn pass_trailers(&mut self) {
        self.options.passes_trailer = self.body == RequestBody::Chunked;
        self.asks_for_trailers = !self.upgrade && self.takes_trailers();
    }

    /// How many more hops an OPTIONS or TRACE may take, if it says so. At none whoever reads it
    /// answers it (RFC 9110 §7.6.2).
    pub fn max_forwards(&self) -> Result<Option<u64>, Reject> {
        if !is_of_hops(self.method) {
            return Ok(None);
        }
        let mut values = self.fields.all("max-forwards");
        let Some(value) = values.next() else {
            return Ok(None);
        };
        match (parse_content_length(value), values.next()) {
            (Some(hops), None) => Ok(Some(hops)),
            _ => Err(Reject::bad("Max-Forwards is malformed.")),
        }
    }

    /// What must be remembered of this request for its response.
    pub fn asked(&self) -> Asked {
        Asked {
            head: self.method == "HEAD",
            version: self.version,
            keep_alive: self.keep_alive,
            upgrade: self.upgrade,
        }
    }
}

/// Whether requests of this kind count their hops.
pub(super) fn is_of_hops(method: &str) -> bool {
    matches!(method, "OPTIONS" | "TRACE")
}

impl<'a> ResponseHead<'a> {
    /// Parses a whole head, whose end a [`HeadScanner`] found: `head` ends with the empty line.
    pub fn parse(head: &'a [u8]) -> Result<Self, Reject> {
        Self::parse_strictly(head).map_err(from_upstream)
    }

    fn parse_strictly(head: &'a [u8]) -> Result<Self, Reject> {
        if matches!(head, [b'\r' | b'\n', ..]) {
            return Err(Reject::bad("The response starts with an empty line."));
        }
        let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADER_FIELDS];
        let (mut response, mut more) = (httparse::Response::new(&mut []), Vec::new());
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let mut parsed =
            config.parse_response_with_uninit_headers(&mut response, head, &mut storage);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            more.resize_with(MOST_FIELDS, MaybeUninit::uninit);
            response = httparse::Response::new(&mut []);
            parsed = config.parse_response_with_uninit_headers(&mut response, head, &mut more);
        }
        check_whole(parsed, head)?;
        let status = response.code.unwrap_or_default();
        if status < 100 {
            return Err(Reject::bad("The response has a status below 100."));
        }
        let version = version_of(response.version);
        let fields = Fields::locate(head, response.headers);
        let options = ConnectionOptions::gather(fields.iter()).ok_or(TOO_MANY_NAMES)?;
        let (declared, ambiguous) = answers_body(&fields, version)?;
        let keep_alive = keeps_alive(version, &options) && !ambiguous;
        Ok(Self {
            status,
            version,
            fields,
            keep_alive,
            declared,
            options,
        })
    }

    /// Trailers travel: what announces them goes on.
    pub fn pass_trailers(&mut self) {
        self.options.passes_trailer = self.declared == RequestBody::Chunked;
    }

    /// Whether this is a head before the final one: 1xx, but not 101.
    pub fn is_interim(&self) -> bool {
        is_interim(self.status)
    }

    /// Whether this is a 101 that switches to WebSocket, as the request asked for. A 101 that
    /// does not is to be treated as a broken upstream.
    pub fn accepts_upgrade(&self, asked: Asked) -> bool {
        self.status == 101
            && asked.upgrade
            && self.options.upgrade
            && upgrades_to_websocket(&self.fields)
    }

    /// The length that the head tells, also of a body that does not come (RFC 9110 §8.6): one
    /// value, however often it was said, and none beside chunks.
    pub fn length(&self) -> Option<&'a [u8]> {
        match self.declared {
            RequestBody::Length(_) => list(self.fields.get("content-length")?).next(),
            RequestBody::None | RequestBody::Chunked => None,
        }
    }

    /// How the body is delimited, given the request (RFC 9112 §6.3).
    pub fn body(&self, asked: Asked) -> ResponseBody {
        if asked.head || is_bodiless(self.status) {
            return ResponseBody::None;
        }
        match self.declared {
            RequestBody::None => ResponseBody::UntilClose,
            RequestBody::Length(length) => ResponseBody::Length(length),
            RequestBody::Chunked => ResponseBody::Chunked,
        }
    }

    /// Whether the connection can carry another request after this response.
    ///
    /// Some servers send the body that they declared with a 204 although there is none; we would
    /// read it as the next response, so such a connection is not used again.
    pub fn reusable(&self, asked: Asked) -> bool {
        let hides_body = self.status == 204
            && !matches!(self.declared, RequestBody::None | RequestBody::Length(0));
        let ends_by_close = self.body(asked) == ResponseBody::UntilClose;
        self.keep_alive && !hides_body && !ends_by_close && self.status != 101
    }

    /// Whether it answers a HEAD and declares a body, which some servers then send although nobody
    /// asked for it. When that comes, the next response is expected, whoever's it is by then.
    pub fn tempts_to_send_more(&self, asked: Asked) -> bool {
        asked.head && !matches!(self.declared, RequestBody::None | RequestBody::Length(0))
    }
}

const TOO_MANY_NAMES: Reject = Reject::bad("Connection names too many fields.");

/// Whether an element of `TE` says that trailers are taken.
pub(super) fn is_trailers(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"trailers")
}

/// Whether a status belongs to a head before the final one: 1xx, but not 101.
pub(super) fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

/// Whether a response with this status has no body, whatever its fields say.
pub(super) fn is_bodiless(status: u16) -> bool {
    (100..200).contains(&status) || matches!(status, 204 | 304)
}

/// A visitor cannot help what the local server sent.
fn from_upstream(reject: Reject) -> Reject {
    Reject {
        status: 502,
        ..reject
    }
}

/// Turns the parser's verdict into ours. The head is whole, so "more" is as wrong as an error.
fn check_whole(parsed: httparse::Result<usize>, head: &[u8]) -> Result<(), Reject> {
    if head.len() > LONGEST_HEAD {
        return Err(Reject {
            status: 431,
            why: "The head is too large.",
        });
    }
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => Ok(()),
        Ok(_) => Err(Reject::bad("The head does not end where it should.")),
        Err(httparse::Error::Version) if names_other_version(head) => Err(Reject {
            status: 505,
            why: "Only HTTP/1.0 and HTTP/1.1 are served here.",
        }),
        Err(error) => Err(match error {
            // The scanner has refused too many fields, and octets that no value has.
            httparse::Error::HeaderName => Reject::bad("A field name is malformed."),
            httparse::Error::Version => Reject::bad("The HTTP version is malformed."),
            httparse::Error::Status => Reject::bad("The status code is malformed."),
            _ => Reject::bad("The first line is malformed."),
        }),
    }
}

/// Whether the first line ends in a well-formed HTTP version, which is then one we do not speak.
fn names_other_version(head: &[u8]) -> bool {
    let lines = head.split(|&octet| octet == b'\r' || octet == b'\n');
    let first = lines
        .into_iter()
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    let mut words = first.split(|&octet| octet == b' ');
    let last = if first.starts_with(b"HTTP/") {
        words.next()
    } else {
        words.nth(2)
    };
    let is_last = first.starts_with(b"HTTP/") || words.next().is_none();
    match last {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => {
            is_last && major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

fn version_of(minor: Option<u8>) -> Version {
    if minor == Some(1) {
        Version::Http11
    } else {
        Version::Http10
    }
}

fn keeps_alive(version: Version, options: &ConnectionOptions<'_>) -> bool {
    !options.close && (version == Version::Http11 || options.keep_alive)
}

/// What an answer says of its body, and whether that could be read in two ways: then its connection
/// carries nothing more. Lengths that are equal are one, and chunks go before any (RFC 9112 §6.3).
fn answers_body(fields: &Fields<'_>, version: Version) -> Result<(RequestBody, bool), Reject> {
    let mut lengths = fields.all("content-length").flat_map(list);
    let (first, mut more) = (lengths.next(), false);
    for length in lengths {
        if Some(length) != first {
            return Err(Reject::bad("There is more than one Content-Length."));
        }
        more = true;
    }
    let length = first.map(parse_content_length);
    let coded = fields.get("transfer-encoding").is_some();
    if !coded {
        return match length {
            None => Ok((RequestBody::None, false)),
            Some(Some(length)) => Ok((RequestBody::Length(length), more)),
            Some(None) => Err(Reject::bad("Content-Length is malformed.")),
        };
    }
    // A list, of which empty elements are none (RFC 9110 §5.6.1.2).
    let mut codings = fields.all("transfer-encoding").flat_map(tokens);
    let coding = codings.next().unwrap_or_default();
    judge_coding(coding, version)?;
    match codings.next() {
        Some(_) => Err(TWO_LENGTHS),
        None => Ok((RequestBody::Chunked, length.is_some())),
    }
}

/// The elements of a list, empty ones included: `5,` is no length.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    value.split(|&octet| octet == b',').map(trim_whitespace)
}

fn judge_coding(coding: &[u8], version: Version) -> Result<(), Reject> {
    if version == Version::Http10 {
        return Err(Reject::bad("Transfer-Encoding does not exist in HTTP/1.0."));
    }
    if !coding.eq_ignore_ascii_case(b"chunked") {
        let why = "The only Transfer-Encoding served here is chunked.";
        return Err(Reject::bad(why));
    }
    Ok(())
}

const TWO_LENGTHS: Reject = Reject::bad("The length of the body is declared more than once.");

/// The one reading of `Content-Length` and `Transfer-Encoding`, or a refusal (RFC 9112 §6.3).
fn declared_body(fields: &Fields<'_>, version: Version) -> Result<RequestBody, Reject> {
    let mut body = RequestBody::None;
    for (name, value) in fields.iter() {
        let declares = if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse_content_length(value);
            RequestBody::Length(length.ok_or(Reject::bad("Content-Length is malformed."))?)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            judge_coding(value, version)?;
            RequestBody::Chunked
        } else {
            continue;
        };
        if body != RequestBody::None {
            return Err(TWO_LENGTHS);
        }
        body = declares;
    }
    Ok(body)
}

/// The one `Host`: required in HTTP/1.1, never twice, never something that is not a host.
fn read_host<'a>(fields: &Fields<'a>, version: Version) -> Result<Option<&'a [u8]>, Reject> {
    let mut hosts = fields.all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reject::bad("There is more than one Host."));
    }
    if host.is_none() && version == Version::Http11 {
        return Err(Reject::bad("The Host is missing."));
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err(Reject::bad("The Host is malformed."));
    }
    Ok(host)
}

type Target<'a> = (Cow<'a, [u8]>, Option<&'a [u8]>);

/// The target in origin-form, and the authority when it came in absolute-form (RFC 9112 §3.2).
fn read_target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Reject> {
    let octets = target.as_bytes();
    if octets.contains(&b'#') {
        return Err(Reject::bad("The request target has a fragment."));
    }
    match octets {
        [b'/', ..] => return Ok((Cow::Borrowed(octets), None)),
        b"*" if method == "OPTIONS" => return Ok((Cow::Borrowed(octets), None)),
        _ => {}
    }
    let is_scheme = |scheme: &str| {
        let start = octets.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| is_scheme(scheme));
    let after = scheme.and_then(|scheme| octets.get(scheme.len()..));
    let rest = after.ok_or(Reject::bad("The request target is malformed."))?;
    let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?'));
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    // A port alone names no host (RFC 9110 §4.2.1).
    if matches!(authority, [] | [b':', ..]) || !is_host(authority) {
        return Err(Reject::bad("The host in the request target is malformed."));
    }
    let path = match path {
        [] if method == "OPTIONS" => Cow::Borrowed(b"*".as_slice()),
        [] => Cow::Borrowed(b"/".as_slice()),
        [b'/', ..] => Cow::Borrowed(path),
        query => Cow::Owned([b"/", query].concat()),
    };
    Ok((path, Some(authority)))
}

// Nothing but WebSocket switches (PROTOCOL §4): an `Upgrade: h2c` that passed would carry requests
// that no rule of ours has seen.

/// Whether a request asks for WebSocket in a way that we pass on as an upgrade.
///
/// A request with a body is none: two meanings of the octets after its head would compete.
fn asks_for_websocket(
    method: &str,
    version: Version,
    body: RequestBody,
    options: &ConnectionOptions<'_>,
    fields: &Fields<'_>,
) -> bool {
    options.upgrade
        && method == "GET"
        && version == Version::Http11
        && matches!(body, RequestBody::None | RequestBody::Length(0))
        && upgrades_to_websocket(fields)
}

/// Whether there is exactly one `Upgrade`, and it says `websocket` and nothing else.
fn upgrades_to_websocket(fields: &Fields<'_>) -> bool {
    let mut values = fields.all("upgrade");
    let first = values
        .next()
        .is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    first && values.next().is_none()
}
