//! What is asked on the kit's own listener, and what may be answered (PROTOCOL §1, §10).
//!
//! [`AskReader`] takes the bytes of one connection and gives one [`Ask`] for each request in it; it
//! answers nothing and changes nothing. Whoever owns the connection acts on the [`Wanted`]:
//!
//! 1. While `Throttle::delay` is not zero and [`Ask::shows_token`], the ask waits.
//! 2. [`Credential::Wrong`] is told to the throttle. On `Connect` HELLO may still prove it.
//! 3. [`Refusal::write`] writes what is refused, [`write_answer`] what is answered.
//!
//! Order of the guards: name (403), path (404), method (405), origin (403), token (401), parameters
//! (400). So a page that got here by DNS rebinding learns nothing at all.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::http::trail::Origin;
use crate::http::write::Reply;
use crate::http::{
    Asked, HeadScanner, HttpDate, Refusal, Reject, RequestBody, RequestHead, Version, begins_head,
};
use crate::kit::config::Config;
use crate::kit::front::guard::{Credential, host_is_ours, origin_is_fine};
use crate::kit::metrics::RefusalReason;
use crate::limits::{DEFAULT_KILL_GRACE_MS, MAX_BAN, MAX_KILL_GRACE_MS};
use crate::text::said;
use crate::units::{parse_duration, show_duration};
use crate::wire::control::SessionId;
use crate::ws::{ClientOffer, HandshakeError, Subprotocol, check_request};

/// One connection's incoming HTTP.
#[derive(Debug, Default)]
pub(crate) struct AskReader {
    inbound: Buffer,
    scanner: HeadScanner,
}

/// What the bytes so far amount to.
#[derive(Debug)]
pub(crate) enum Heard {
    /// No whole head yet.
    More,
    /// A request.
    Asked(Ask),
    /// Not a request: say so and close.
    Malformed(Reject),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What for.
    pub wanted: Wanted,
    /// How to answer. `keep_alive` is false also when the request has a body: nothing here wants
    /// one, so it is never read.
    pub asked: Asked,
    /// What it showed as proof.
    pub credential: Credential,
    /// Who asks.
    pub origin: Origin,
}

impl Ask {
    /// Whether it is an attempt at a token, right or wrong, which the throttle may slow. Health is
    /// told to everybody alike, so a token that came with the question is not looked at.
    pub(crate) fn shows_token(&self) -> bool {
        self.wanted != Wanted::Health
            && matches!(self.credential, Credential::Proven | Credential::Wrong)
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A tunnel's WebSocket. It may still have to prove itself in HELLO.
    Connect(Connect),
    /// `GET /api/v1/tunnel/health`
    Health,
    /// `GET /api/v1/tunnel/metrics`
    Metrics,
    /// `GET /api/v1/tunnel/sessions`
    Sessions,
    /// `GET /api/v1/tunnel/bindings`
    Bindings,
    /// `GET /api/v1/tunnel/tunnels`
    Tunnels,
    /// `GET /api/v1/tunnel/openapi.json`
    OpenApi,
    /// `DELETE /api/v1/tunnel/sessions/{id}`
    Kill {
        /// The session, which may not exist.
        session: SessionId,
        /// How long its streams may take to end.
        grace: Duration,
        /// How long its address is kept away then, if at all.
        ban: Option<Duration>,
    },
    /// Nothing that is given.
    Refuse(Denial),
}

/// The answer to an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    /// What was picked.
    pub subprotocol: Subprotocol,
    accept: String,
}

impl Connect {
    /// Appends the 101.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n",
        );
        for (name, value) in [
            ("sec-websocket-accept", self.accept.as_str()),
            ("sec-websocket-protocol", self.subprotocol.name()),
        ] {
            let line = [name, ": ", value, "\r\n"].concat();
            out.extend_from_slice(line.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A refusal, and what the metrics call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What is said.
    pub refusal: Refusal,
    /// For the metrics, when it was a handshake or a guard that refused.
    pub reason: Option<RefusalReason>,
}

impl Denial {
    /// What an upgrade gets where too many wait that have proven nothing.
    pub(crate) fn no_place() -> Denial {
        let why = "as many connections wait that have proven nothing as there may be";
        let refusal = Refusal::text(503, why).with(&[("retry-after", "1")]);
        refusal.because(RefusalReason::PreAuthLimit)
    }

    /// An endpoint's error, which no metric has a name for.
    pub(crate) fn json(status: u16, why: impl Into<Cow<'static, str>>) -> Denial {
        Denial {
            refusal: Refusal::json(status, why),
            reason: None,
        }
    }
}

impl Refusal {
    fn because(self, reason: RefusalReason) -> Denial {
        Denial {
            refusal: self,
            reason: Some(reason),
        }
    }
}

/// Appends an answer that is not a refusal. Nothing here may be kept by a cache or guessed at.
pub(crate) fn write_answer(
    out: &mut Vec<u8>,
    (asked, date): (Asked, Option<HttpDate>),
    status: u16,
    content_type: &str,
    body: &[u8],
) {
    let fields = &[
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];
    Reply {
        status,
        content_type,
        fields,
        date,
        body,
    }
    .write(out, asked);
}

impl AskReader {
    /// Takes bytes as they come.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
    }

    /// Whether no request has begun: the connection can be closed without a word.
    pub(crate) fn is_idle(&self) -> bool {
        self.scanner.is_untouched(self.inbound.bytes())
    }

    /// Whether the next request is a HEAD, as far as it can be seen.
    pub(crate) fn asks_head(&self) -> bool {
        begins_head(self.inbound.bytes())
    }

    /// Bytes of memory under those that wait.
    pub(crate) fn capacity(&self) -> usize {
        self.inbound.capacity()
    }

    /// Bytes that wait, bounded by the largest head and one `feed` when every ask is taken at once.
    pub(crate) fn waiting(&self) -> usize {
        self.inbound.len()
    }

    /// The next request in the bytes so far. After [`Heard::Malformed`] there is none.
    pub(crate) fn next(&mut self, config: &Config, peer: SocketAddr) -> Heard {
        let length = match self.scanner.scan(self.inbound.bytes()) {
            Ok(Some(length)) => length,
            Ok(None) => return Heard::More,
            Err(reject) => return Heard::Malformed(reject),
        };
        let bytes = self.inbound.bytes().get(..length).unwrap_or_default();
        let step = match RequestHead::parse(bytes) {
            Ok(head) => Heard::Asked(ask(&head, config, peer)),
            // It stays, so that the refusal can be of its kind.
            Err(reject) => return Heard::Malformed(reject),
        };
        self.inbound.consume(length);
        self.scanner = HeadScanner::new();
        step
    }

    /// What came behind the last request: after an upgrade it belongs to the WebSocket.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let rest = self.inbound.bytes().to_vec();
        self.inbound.consume(rest.len());
        self.inbound.release();
        rest
    }
}

fn ask(head: &RequestHead<'_>, config: &Config, peer: SocketAddr) -> Ask {
    let credential = Credential::of(head, config);
    let mut asked = head.asked();
    if !matches!(head.body, RequestBody::None | RequestBody::Length(0)) {
        asked.keep_alive = false;
    }
    let wanted = wanted(head, config, credential).unwrap_or_else(Wanted::Refuse);
    Ask {
        wanted,
        asked,
        credential,
        origin: Origin::of(head, peer, &config.trusted_proxies),
    }
}

/// Decides what one request is for, and whether it may be that.
fn wanted(
    head: &RequestHead<'_>,
    config: &Config,
    credential: Credential,
) -> Result<Wanted, Denial> {
    let target = head.target.as_ref();
    let cut = target
        .iter()
        .position(|octet| *octet == b'?')
        .unwrap_or(target.len());
    let (path, query) = target.split_at(cut);
    let below = path.strip_prefix(PREFIX).unwrap_or_default();
    if below == b"connect" {
        return connect(head, config).map(Wanted::Connect);
    }
    if config.token.is_none() && !host_is_ours(head, config) {
        let why = "this Host is not one of this kit's names (--allow-host)";
        return Err(Refusal::json(403, why).because(RefusalReason::Host));
    }
    let getting = match below {
        b"health" => Wanted::Health,
        b"metrics" => Wanted::Metrics,
        b"sessions" => Wanted::Sessions,
        b"bindings" => Wanted::Bindings,
        b"tunnels" => Wanted::Tunnels,
        b"openapi.json" => Wanted::OpenApi,
        _ => return kill(below, query, head, config, credential),
    };
    if !matches!(head.method, "GET" | "HEAD") {
        return Err(wrong_method(&[("allow", "GET, HEAD")]));
    }
    if getting != Wanted::Health {
        authorize(credential)?;
    }
    Ok(getting)
}

fn kill(
    below: &[u8],
    query: &[u8],
    head: &RequestHead<'_>,
    config: &Config,
    credential: Credential,
) -> Result<Wanted, Denial> {
    let unknown = || Denial::json(404, "there is nothing at this path");
    let id = below.strip_prefix(b"sessions/").ok_or_else(unknown)?;
    let is_id = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
    let id = std::str::from_utf8(id).map_err(|_| unknown())?;
    if id.is_empty() || !id.bytes().all(|octet| is_id(&octet)) {
        return Err(unknown());
    }
    if head.method != "DELETE" {
        return Err(wrong_method(&[("allow", "DELETE")]));
    }
    if !origin_is_fine(head, config) {
        let why = "a page of this Origin may not end sessions (--allow-origin)";
        return Err(Refusal::json(403, why).because(RefusalReason::Origin));
    }
    authorize(credential)?;
    if let Some(odd) = names(query).find(|name| !KILL_PARAMETERS.contains(name)) {
        let odd = said(&String::from_utf8_lossy(odd));
        let why = format!("no parameter is called `{odd}`; grace_ms and ban are allowed");
        return Err(Denial::json(400, why));
    }
    let grace = grace(query).ok_or_else(|| {
        Denial::json(
            400,
            format!("grace_ms must be a number from 0 to {MAX_KILL_GRACE_MS}"),
        )
    })?;
    let ban = ban(query).ok_or_else(|| {
        let most = show_duration(MAX_BAN);
        let why = format!("ban must be a duration from 1s to {most}, such as 90s, 10m or 2h");
        Denial::json(400, why)
    })?;
    Ok(Wanted::Kill {
        session: SessionId::new(id),
        grace,
        ban,
    })
}

/// What may be said of the end of a session.
const KILL_PARAMETERS: [&[u8]; 2] = [b"grace_ms", b"ban"];

/// `grace_ms` in a query, once at most.
fn grace(query: &[u8]) -> Option<Duration> {
    let mut values = values(query, b"grace_ms");
    let Some(value) = values.next() else {
        return Some(Duration::from_millis(DEFAULT_KILL_GRACE_MS));
    };
    let millis = crate::http::parse_content_length(value)?;
    (values.next().is_none() && millis <= MAX_KILL_GRACE_MS).then(|| Duration::from_millis(millis))
}

/// The same for `ban`, which may be left out.
fn ban(query: &[u8]) -> Option<Option<Duration>> {
    let mut values = values(query, b"ban");
    let Some(value) = values.next() else {
        return Some(None);
    };
    let span = parse_duration(std::str::from_utf8(value).ok()?).ok()?;
    let fits = (Duration::from_secs(1)..=MAX_BAN).contains(&span);
    (values.next().is_none() && fits).then_some(Some(span))
}

/// The names of a query's parameters.
fn names(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    let query = query.strip_prefix(b"?").unwrap_or_default();
    let pairs = query.split(|octet| *octet == b'&');
    let pairs = pairs.filter(|pair| !pair.is_empty());
    pairs.filter_map(|pair| pair.split(|octet| *octet == b'=').next())
}

/// What a query says under `name`, each time; nothing where there is no `=`.
fn values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let query = query.strip_prefix(b"?").unwrap_or_default();
    let pairs = query.split(|octet| *octet == b'&');
    pairs.filter_map(move |pair| match pair.strip_prefix(name)? {
        [] => Some([].as_slice()),
        [b'=', value @ ..] => Some(value),
        _ => None,
    })
}

fn authorize(credential: Credential) -> Result<(), Denial> {
    if credential.suffices() {
        return Ok(());
    }
    let why = if credential == Credential::Missing {
        "a bearer token is required"
    } else {
        "the bearer token is wrong"
    };
    let refusal = Refusal::json(401, why).with(&[("www-authenticate", "Bearer")]);
    Err(refusal.because(RefusalReason::Auth))
}

fn wrong_method(allow: &'static [(&'static str, &'static str)]) -> Denial {
    Denial {
        refusal: Refusal::json(405, "this path does not have that method").with(allow),
        reason: None,
    }
}

fn connect(head: &RequestHead<'_>, config: &Config) -> Result<Connect, Denial> {
    if !origin_is_fine(head, config) {
        let why = "a page of this Origin may not open a tunnel here (--allow-origin)";
        return Err(Refusal::text(403, why).because(RefusalReason::Origin));
    }
    if !matches!(head.body, RequestBody::None | RequestBody::Length(0)) {
        let why = "an upgrade has no body";
        return Err(Refusal::text(400, why).because(RefusalReason::Upgrade));
    }
    let minor = match head.version {
        Version::Http10 => 0,
        Version::Http11 => 1,
    };
    let ClientOffer {
        accept,
        subprotocol,
    } = check_request(head.method, minor, head.fields.iter()).map_err(refuse_handshake)?;
    Ok(Connect {
        subprotocol,
        accept,
    })
}

fn refuse_handshake(error: HandshakeError) -> Denial {
    let reason = match error {
        HandshakeError::NoSubprotocol => RefusalReason::Subprotocol,
        _ => RefusalReason::Upgrade,
    };
    let refusal = Refusal::text(error.status(), error.to_string());
    let refusal = match error.status() {
        405 => refusal.with(&[("allow", "GET")]),
        426 => refusal.with(&[("upgrade", "websocket"), ("sec-websocket-version", "13")]),
        _ => refusal,
    };
    refusal.because(reason)
}

/// What every path of ours starts with.
const PREFIX: &[u8] = b"/api/v1/tunnel/";

#[cfg(test)]
#[path = "asks_tests.rs"]
mod tests;
