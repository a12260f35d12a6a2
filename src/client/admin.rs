//! One request to the kit's HTTP endpoints (PROTOCOL §10), over the way that a session would take.

use std::time::Duration;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::buffer::Buffer;
use crate::client::Error;
use crate::client::config::{Config, Endpoint};
use crate::client::reach::failure::Failure;
use crate::client::reach::route::{Advance, Route, SPEAKS_TLS};
use crate::client::reach::upgrade::USER_AGENT;
use crate::clock::Instant;
use crate::http::{Asked, BodyDecoder, HeadScanner, ResponseHead, Version, speaks_tls};
use crate::limits::CLIENT_REPLY_BYTES;
use crate::machine::{Command, ConnKey, Ended, Event, ListenerKey, Machine};

/// What to ask of a kit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// Is it there, and how is it?
    Health,
    /// Its metrics, as text for Prometheus.
    Metrics,
    /// Sessions with their bindings, and totals.
    Tunnels,
    /// Its sessions.
    Sessions,
    /// Its bindings.
    Bindings,
    /// End a session.
    Kill {
        /// The session's whole id.
        session_id: String,
        /// Milliseconds that its streams get to finish; the kit's own default when `None`.
        grace_ms: Option<u32>,
        /// How long the address that it came from is kept away, from a second to a day, if at all.
        ban: Option<Duration>,
    },
}

/// What a kit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminReply {
    /// The HTTP status; [`AdminReply::is_ok`] is what one wants to know first.
    pub status: u16,
    /// The type of the body.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl AdminReply {
    /// Whether the kit did what was asked.
    ///
    /// ```
    /// use hoody_tunnel::client::AdminReply;
    ///
    /// let reply = AdminReply { status: 404, content_type: String::new(), body: Vec::new() };
    /// assert!(!reply.is_ok());
    /// ```
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The machine of one request.
pub(super) struct Fetch {
    conn: ConnKey,
    route: Route,
    /// The request, until the kit is reached and it is sent.
    request: Buffer,
    out: Buffer,
    reached: bool,
    received: Buffer,
    scanner: HeadScanner,
    reply: Option<(AdminReply, BodyDecoder)>,
    until: Instant,
    commands: VecDeque<Command<Result<AdminReply, Error>>>,
    done: bool,
}

impl Fetch {
    pub(super) fn new(
        config: &Config,
        to: &Endpoint,
        request: &AdminRequest,
        until: Instant,
    ) -> Result<Fetch, Error> {
        let (method, path) = line(to, request)?;
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\n\
             Connection: close\r\n",
            to.authority()
        );
        if let Some(token) = &config.token {
            text.push_str(&format!("Authorization: Bearer {}\r\n", token.expose()));
        }
        for (name, value) in &config.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut out = Buffer::new();
        out.extend(text.as_bytes());
        let route = Route::new(to.clone(), false);
        let conn = ConnKey::unpack(1 << 32);
        let target = route.target();
        Ok(Fetch {
            conn,
            route,
            request: out,
            out: Buffer::new(),
            reached: false,
            received: Buffer::new(),
            scanner: HeadScanner::for_answer(),
            reply: None,
            until,
            commands: VecDeque::from([Command::Dial { conn, target }]),
            done: false,
        })
    }

    fn step(&mut self, step: Advance) {
        let conn = self.conn;
        match step {
            Advance::Wait => {}
            Advance::Secure(server_name) => {
                return self
                    .commands
                    .push_back(Command::tls_with_the_kit(conn, server_name));
            }
            Advance::Ready => {
                self.reached = true;
                self.out = std::mem::take(&mut self.request);
            }
        }
        self.commands.push_back(Command::Wake { conn });
    }

    fn finish(&mut self, outcome: Result<AdminReply, Error>) {
        if !std::mem::replace(&mut self.done, true) {
            self.commands.push_back(Command::Notify(outcome));
            self.commands.push_back(Command::Stop);
        }
    }

    /// Reads the answer as far as it has come; `ended` when no more will.
    fn read(&mut self, ended: bool) {
        loop {
            if let Some((reply, body)) = &mut self.reply {
                let Ok(step) = body.decode(self.received.bytes()) else {
                    return self.finish(Err(Failure::NotHttp("Its chunks are malformed.").error()));
                };
                let piece = self.received.bytes().get(step.data).unwrap_or_default();
                reply.body.extend_from_slice(piece);
                self.received.consume(step.consumed);
                if reply.body.len() > CLIENT_REPLY_BYTES {
                    let text = "the kit's answer is larger than any of its answers should be";
                    return self.finish(Err(Error::Protocol(text.into())));
                }
                if step.end || (ended && body.closed().is_ok()) {
                    let reply = reply.clone();
                    return self.finish(Ok(reply));
                }
                if step.consumed == 0 || self.received.is_empty() {
                    break;
                }
                continue;
            }
            match self.read_head() {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) => return self.finish(Err(failure.error())),
            }
        }
        if ended {
            self.finish(Err(self.dropped(Failure::HungUp).error()));
        }
    }

    /// What it means that the connection ended so.
    fn dropped(&self, how: Failure) -> Failure {
        let is_silent = self.reply.is_none() && self.received.is_empty();
        match is_silent && !self.route.endpoint().secure {
            true => Failure::Mute,
            false => how,
        }
    }

    /// Looks for a head; true when there was one.
    fn read_head(&mut self) -> Result<bool, Failure> {
        if speaks_tls(self.received.bytes()) {
            return Err(Failure::NotHttp(SPEAKS_TLS));
        }
        let reject = |reject: crate::http::Reject| Failure::NotHttp(reject.why);
        let Some(length) = self.scanner.scan(self.received.bytes()).map_err(reject)? else {
            return Ok(false);
        };
        let head = self.received.bytes().get(..length).unwrap_or_default();
        let head = ResponseHead::parse(head).map_err(reject)?;
        if !head.is_interim() {
            let kind = head.fields.get("content-type").unwrap_or_default();
            let reply = AdminReply {
                status: head.status,
                content_type: String::from_utf8_lossy(kind).into_owned(),
                body: Vec::new(),
            };
            self.reply = Some((reply, BodyDecoder::for_response(head.body(ASKED))));
        }
        self.received.consume(length);
        self.scanner = HeadScanner::for_answer();
        Ok(true)
    }
}

impl Machine for Fetch {
    type Order = ();
    type Notice = Result<AdminReply, Error>;

    fn handle(&mut self, event: Event, _: Instant) {
        match event {
            Event::Connected { .. } => {
                let step = self.route.connected();
                self.step(step);
            }
            Event::Secured { .. } => match self.route.secured() {
                Ok(step) => self.step(step),
                Err(failure) => self.finish(Err(failure.error())),
            },
            Event::Ended { how, .. } => {
                let failure = match how {
                    _ if self.reached => self.dropped(Failure::Dropped(Ended::Reset)),
                    Ended::Failed(failure) => self.route.failed(failure),
                    how => Failure::Dropped(how),
                };
                self.finish(Err(failure.error()));
            }
            Event::Resolved { .. } => {}
            Event::Timeout => {
                let doing = match self.reached {
                    true => "waiting for the kit's answer",
                    false => self.route.doing(),
                };
                self.finish(Err(Failure::Slow(doing).error()));
            }
            Event::Shutdown => self.finish(Err(Error::Closed("interrupted".into()))),
            Event::PeerFinished { .. }
            | Event::Listening { .. }
            | Event::AcceptFailed { .. }
            | Event::Holds { .. }
            | Event::Socket { .. }
            | Event::Unsent { .. }
            | Event::Upgrade
            | Event::Disturbed => {}
        }
    }

    fn accepted(&mut self, _: ListenerKey, _: SocketAddr, _: Instant) -> Option<ConnKey> {
        None
    }

    fn order(&mut self, (): (), _: Instant) {}

    fn read_space(&mut self, _: ConnKey) -> &mut [u8] {
        match self.reached {
            true => self.received.space(READ_SPACE),
            false => self.route.read_space(),
        }
    }

    fn received(&mut self, _: ConnKey, count: usize, _: Instant) {
        if self.reached {
            self.received.commit(count);
            return self.read(count == 0);
        }
        match self.route.received(count) {
            Ok(step) => self.step(step),
            Err(failure) => self.finish(Err(failure.error())),
        }
    }

    fn transmit(&mut self, _: ConnKey, _: Instant) -> &[u8] {
        match self.reached {
            true => self.out.bytes(),
            false => self.route.out.bytes(),
        }
    }

    fn transmitted(&mut self, _: ConnKey, count: usize, _: Instant) {
        match self.reached {
            true => self.out.consume(count),
            false => self.route.out.consume(count),
        }
    }

    fn poll_command(&mut self) -> Option<Command<Self::Notice>> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (!self.done).then_some(self.until)
    }
}

/// Method and target of a request.
fn line(to: &Endpoint, request: &AdminRequest) -> Result<(&'static str, String), Error> {
    let name = match request {
        AdminRequest::Health => "health",
        AdminRequest::Metrics => "metrics",
        AdminRequest::Tunnels => "tunnels",
        AdminRequest::Sessions => "sessions",
        AdminRequest::Bindings => "bindings",
        AdminRequest::Kill {
            session_id,
            grace_ms,
            ban,
        } => {
            let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
            if session_id.is_empty() || !session_id.bytes().all(is_plain) {
                let text = "That is not the id of a session; it looks like S-… .";
                return Err(Error::Options(text.into()));
            }
            let path = to.beside(&format!("sessions/{session_id}"));
            let grace = grace_ms.map(|millis| format!("grace_ms={millis}"));
            let ban = ban.map(|span| format!("ban={}ms", span.as_millis()));
            let query: Vec<String> = grace.into_iter().chain(ban).collect();
            let path = match query.is_empty() {
                true => path,
                false => format!("{path}?{}", query.join("&")),
            };
            return Ok(("DELETE", path));
        }
    };
    Ok(("GET", to.beside(name)))
}

/// What is remembered of the request to read its answer.
const ASKED: Asked = Asked {
    head: false,
    version: Version::Http11,
    keep_alive: false,
    upgrade: false,
};
/// Room for one read, in bytes.
const READ_SPACE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::TunnelOptions;

    fn config(url: &str) -> Config {
        Config::with_env(&TunnelOptions::new(url).token("t0"), |_| None).unwrap()
    }

    fn fetching(request: &AdminRequest) -> Fetch {
        let config = config("ws://127.0.0.1:50");
        let mut fetch = Fetch::new(&config, &config.endpoints[0], request, Instant::ZERO).unwrap();
        let peer = "127.0.0.1:50".parse().unwrap();
        let conn = fetch.conn;
        fetch.handle(Event::Connected { conn, peer }, Instant::ZERO);
        fetch
    }

    fn answer(fetch: &mut Fetch, text: &str) -> Option<Result<AdminReply, Error>> {
        let conn = fetch.conn;
        for octet in text.bytes() {
            fetch.read_space(conn)[0] = octet;
            fetch.received(conn, 1, Instant::ZERO);
        }
        fetch.received(conn, 0, Instant::ZERO);
        std::iter::from_fn(|| fetch.poll_command()).find_map(|command| match command {
            Command::Notify(outcome) => Some(outcome),
            _ => None,
        })
    }

    #[test]
    fn a_kill_names_the_session_and_the_grace() {
        let session_id = "S-466ab70d".to_owned();
        let mut fetch = fetching(&AdminRequest::Kill {
            session_id,
            grace_ms: Some(50),
            ban: Some(Duration::from_secs(60)),
        });
        let conn = fetch.conn;
        let text = String::from_utf8(fetch.transmit(conn, Instant::ZERO).to_vec()).unwrap();
        assert!(text.starts_with(
            "DELETE /api/v1/tunnel/sessions/S-466ab70d?grace_ms=50&ban=60000ms HTTP/1.1"
        ));
        assert!(text.contains("\r\nAuthorization: Bearer t0\r\n"));
        let session_id = "../health".to_owned();
        let grace_ms = None;
        let odd = AdminRequest::Kill {
            session_id,
            grace_ms,
            ban: None,
        };
        assert!(line(&config("ws://k").endpoints[0], &odd).is_err());
    }

    #[test]
    fn an_answer_is_read_whole_or_it_is_an_error() {
        let whole = "HTTP/1.1 202 Accepted\r\ncontent-type: a/b\r\ncontent-length: 2\r\n\r\nok";
        let reply = answer(&mut fetching(&AdminRequest::Health), whole)
            .unwrap()
            .unwrap();
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (202, b"ok".as_slice())
        );
        assert!(reply.is_ok() && reply.content_type == "a/b");
        let chunked = "HTTP/1.1 401 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n";
        let reply = answer(&mut fetching(&AdminRequest::Health), chunked)
            .unwrap()
            .unwrap();
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (401, b"no".as_slice())
        );
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok";
        assert!(
            answer(&mut fetching(&AdminRequest::Health), cut)
                .unwrap()
                .is_err()
        );
    }
}
