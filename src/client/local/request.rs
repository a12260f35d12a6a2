//! Streams from the kit: opening them, and their bytes on the way to the local side.

use crate::buffer::Buffer;
use crate::client::bound::Bound;
use crate::client::context::Around;
use crate::client::event::Shortage;
use crate::client::local::LocalSide;
use crate::client::local::exchange::{Download, Exchange, ExchangeKey, Http, Upload, Work};
use crate::client::local::visitor::{logs_in, origin, visitor};
use crate::client::options::HostHeader;
use crate::clock::Instant;
use crate::http::write::{CRLF, LAST_CHUNK, chunk_header};
use crate::http::{BodyHint, HeadScanner, RequestBody, RequestPlan};
use crate::limits::CLIENT_HEADS;
use crate::mux::{Span, StreamKey};
use crate::outflow::Outflow;
use crate::wire::code::Code;
use crate::wire::control::BindMode;
use crate::wire::open::{BodyKind, OpenHttp, StreamOpen, header};

/// What a STREAM_OPEN came to: an exchange to be, and why the local server must not see it if it
/// must not; or why the stream is refused.
type Opened = Result<(Exchange, Option<&'static str>), (Code, &'static str)>;

impl LocalSide {
    /// The kit opened stream `id` on lane `index`.
    pub(in crate::client) fn stream_opened(
        &mut self,
        around: &mut Around<'_>,
        index: usize,
        id: u32,
        payload: &Span,
    ) {
        let opened = self.judge_open(around, index, payload);
        let now = around.cx.now;
        let Some(session) = around.mux.as_deref_mut() else {
            return;
        };
        let (exchange, unfit) = match opened {
            Ok(opened) => opened,
            Err((code, why)) => {
                session.refuse(index, id, code, why);
                if (code, why) == NO_ROOM {
                    self.count_refusal(around, Shortage::Heads);
                }
                return;
            }
        };
        let (origin, head_bytes) = (exchange.origin, exchange.head_bytes);
        let Ok(key) = self.exchanges.insert(exchange) else {
            return session.refuse(index, id, Code::RefusedStream, "max streams exceeded");
        };
        let Some(stream) = session.accept(index, id, key, now) else {
            self.exchanges.remove(key);
            return;
        };
        self.heads.take(origin, head_bytes);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.stream = stream;
        }
        around.arm_sweep();
        match unfit {
            None => self.assign(around, key, false),
            Some(why) => {
                let text = format!("The tunnel did not pass this request on: {why}\n");
                self.answer(around, key, 400, &text);
            }
        }
    }

    /// Reads a STREAM_OPEN and makes of it what can be made without a stream.
    fn judge_open(&mut self, around: &mut Around<'_>, index: usize, payload: &Span) -> Opened {
        let session = around.mux.as_deref();
        let payload = session.map_or(&[][..], |session| session.payload(index, payload));
        let open = StreamOpen::parse(payload)
            .map_err(|_| (Code::ProtocolError, "malformed STREAM_OPEN"))?;
        let (mode, bind_id, port) = match &open {
            StreamOpen::Http(open) => (BindMode::Expose, open.bind_id, open.container_port),
            StreamOpen::Tcp(open) => (BindMode::Pull, open.bind_id, open.container_port),
            StreamOpen::Forward(_) => return Err(NOT_FROM_A_KIT),
        };
        let bound = around.bindings.for_stream(mode, bind_id, port);
        let bound = bound.ok_or((Code::BindError, "no such binding"))?;
        let remote = match &open {
            StreamOpen::Http(open) => open.remote_addr.as_deref(),
            StreamOpen::Tcp(open) => open.remote_addr.as_deref(),
            StreamOpen::Forward(_) => None,
        };
        if !self
            .heads
            .may_take(origin(remote), payload.len(), CLIENT_HEADS)
        {
            return Err(NO_ROOM);
        }
        let (mut exchange, unfit) = match open {
            StreamOpen::Http(open) => {
                let received = self.spare.pop().unwrap_or_default();
                LocalSide::judge_request(bound, &open, received, around.cx.now)
            }
            StreamOpen::Tcp(open) => {
                let remote = open.remote_addr.as_deref();
                (Exchange::new(bound, Work::Raw, remote, around.cx.now), None)
            }
            StreamOpen::Forward(_) => return Err(NOT_FROM_A_KIT),
        };
        exchange.head_bytes = payload.len();
        Ok((exchange, unfit))
    }

    fn judge_request(
        bound: &Bound,
        open: &OpenHttp<'_>,
        received: Buffer,
        now: Instant,
    ) -> (Exchange, Option<&'static str>) {
        let remote = open.remote_addr.as_deref();
        let fields = open
            .headers
            .iter()
            .map(|field| (field.name.as_ref(), field.value.as_ref()));
        let hint = match open.declared_body {
            None => BodyHint::Unknown,
            Some(BodyKind::None) => BodyHint::None,
            Some(BodyKind::Length) => BodyHint::Length,
            Some(BodyKind::Chunked) => BodyHint::Chunked,
        };
        let mut http = Http::new(open.method.as_ref(), &open.target, received);
        let plan = RequestPlan::new(&open.method, &open.target, fields, hint, open.is_upgrade);
        let written = plan.and_then(|plan| {
            http.asked = plan.asked;
            http.upload = match plan.body {
                RequestBody::None | RequestBody::Length(0) => Upload::Complete,
                RequestBody::Length(length) => Upload::Length(length),
                RequestBody::Chunked => Upload::Chunked,
            };
            let origin = header(&open.headers, "origin");
            let (host, origin) = host_and_origin(bound, plan.host, origin, open.is_upgrade);
            plan.write(&mut http.head, host, origin.as_deref())
        });
        let unfit = written.err().map(|refused| refused.0);
        let mut out = Outflow::new();
        match unfit {
            None => out.push(&http.head),
            Some(_) => http.upload = Upload::Unwanted,
        }
        let mut exchange = Exchange::new(bound, Work::Http(Box::new(http)), remote, now);
        exchange.out = out;
        exchange.visitor = visitor(open);
        let mut fields = open.headers.iter();
        exchange.logs_in = fields.any(|field| logs_in(field.name.as_ref(), field.value.as_ref()));
        (exchange, unfit)
    }

    /// DATA from the kit.
    pub(in crate::client) fn data(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        index: usize,
        span: Span,
    ) {
        let count = span.len();
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        exchange.bytes_in += count as u64;
        let mut framing = false;
        let mut wanted = true;
        if let Some(http) = exchange.http() {
            match &mut http.upload {
                Upload::Raw => {}
                Upload::Chunked => framing = true,
                Upload::Unwanted => wanted = false,
                Upload::Length(left) if count as u64 <= *left => *left -= count as u64,
                Upload::Complete | Upload::Length(_) => {
                    let why = "more body than was announced";
                    return self.abandon(around, key, Code::ProtocolError, why);
                }
            }
            http.body_began = true;
        }
        let (stream, conn) = (exchange.stream, exchange.conn);
        let Some(session) = around.mux.as_deref_mut() else {
            return;
        };
        if !wanted {
            return session.passed_on(stream, count, around.cx.now);
        }
        let connected = conn.and_then(|conn| match self.conns.get(conn) {
            Some(upstream) if upstream.connected => Some(conn),
            _ => None,
        });
        if connected.is_some() && exchange.out.may_borrow(count) {
            if framing {
                exchange.out.push(chunk_header(count).as_ref());
            }
            exchange.out.borrow(index, session.lend(index, &span));
            if framing {
                exchange.out.push(CRLF);
            }
            self.borrowers.push(key);
        } else if framing {
            exchange.out.push_chunk(session.payload(index, &span));
        } else {
            exchange.out.push_payload(session.payload(index, &span));
        }
        if let Some(conn) = connected {
            around.cx.effects.wake(conn);
        }
    }

    /// The kit sends nothing more on this stream.
    pub(in crate::client) fn remote_eof(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        exchange.remote_done = true;
        let (conn, local_done, raw) = (exchange.conn, exchange.local_done, exchange.is_raw());
        if let Some(http) = exchange.http() {
            match http.upload {
                Upload::Length(left) if left > 0 => {
                    let why = "the body ended before its announced length";
                    return self.abandon(around, key, Code::ProtocolError, why);
                }
                Upload::Chunked => {
                    http.upload = Upload::Complete;
                    http.body_began = true;
                    exchange.out.push(LAST_CHUNK);
                }
                Upload::Length(_) => http.upload = Upload::Complete,
                Upload::Complete | Upload::Raw | Upload::Unwanted => {}
            }
        }
        match conn {
            Some(conn) if raw => self.finish_if_drained(around, conn),
            Some(conn) => around.cx.effects.wake(conn),
            // Its response is complete and its connection gone: that was all.
            None if local_done => self.drop_exchange(around, key, None),
            None => {}
        }
    }
}

impl Exchange {
    fn new(bound: &Bound, work: Work, remote: Option<&str>, now: Instant) -> Exchange {
        Exchange {
            stream: StreamKey::unpack(0),
            binding: bound.reference,
            container_port: bound.spec.container_port,
            conn: None,
            origin: origin(remote),
            visitor: None,
            logs_in: false,
            head_bytes: 0,
            out: Outflow::new(),
            work,
            remote_done: false,
            local_done: false,
            reads_direct: false,
            started: now,
            bytes_in: 0,
            bytes_out: 0,
            remote_addr: remote.map(crate::client::setback::plain),
            told: false,
        }
    }
}

impl Http {
    fn new(method: &str, target: &[u8], received: Buffer) -> Http {
        use crate::http::{Asked, Version};
        Http {
            method: method.to_owned(),
            target: String::from_utf8_lossy(target).into_owned(),
            asked: Asked {
                head: method == "HEAD",
                version: Version::Http11,
                keep_alive: true,
                upgrade: false,
            },
            head: Vec::with_capacity(TYPICAL_HEAD),
            upload: Upload::Complete,
            body_began: false,
            retried: false,
            download: Download::Head,
            received,
            scanner: HeadScanner::new(),
            interim: 0,
            status: None,
            reusable: false,
        }
    }
}

/// A kit has no business in connecting to whatever it likes from here.
const NOT_FROM_A_KIT: (Code, &str) = (Code::RefusedStream, "not from a kit");
/// Their heads would be more than is kept.
const NO_ROOM: (Code, &str) = (Code::RefusedStream, "too many requests wait");

/// Bytes that most heads stay below, so that one allocation is enough.
const TYPICAL_HEAD: usize = 512;

/// What the local server sees as `Host`, and as `Origin` where that is to match it.
///
/// Development servers compare both on a WebSocket, to keep strangers' pages out. A page that came
/// through the tunnel has the public name as its origin; it gets the local one. The origin of
/// any other page stays what it is, so that the server can refuse it.
fn host_and_origin<'a>(
    bound: &'a Bound,
    asked: Option<&'a [u8]>,
    origin: Option<&[u8]>,
    upgrade: bool,
) -> (&'a [u8], Option<Vec<u8>>) {
    let host = match &bound.spec.host_header {
        HostHeader::Rewrite => bound.authority.as_bytes(),
        HostHeader::Name(name) => name.as_bytes(),
        HostHeader::Keep => return (asked.unwrap_or(bound.authority.as_bytes()), None),
    };
    let is_public = |origin: &[u8]| {
        let authority = ["https://", "http://"].iter().find_map(|scheme| {
            let (start, rest) = origin.split_at_checked(scheme.len())?;
            start
                .eq_ignore_ascii_case(scheme.as_bytes())
                .then_some(rest)
        });
        let Some((authority, asked)) = authority.zip(asked) else {
            return false;
        };
        asked.eq_ignore_ascii_case(authority)
    };
    let matches = upgrade && origin.is_some_and(is_public);
    (
        host,
        matches.then(|| [b"http://".as_slice(), host].concat()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::bound::{Answerer, BindSpec};

    fn bound(host_header: HostHeader) -> Bound {
        Bound::new(
            1,
            BindSpec {
                mode: BindMode::Expose,
                container_port: 3000,
                label: None,
                takeover: false,
                host: None,
                host_header,
                local: Answerer::Target("localhost:5173".parse().unwrap()),
            },
        )
    }

    fn text(pair: (&[u8], Option<Vec<u8>>)) -> (String, Option<String>) {
        let text = |octets| String::from_utf8(octets).unwrap();
        (text(pair.0.to_vec()), pair.1.map(text))
    }

    #[test]
    fn the_host_is_rewritten_and_the_origin_only_of_our_own_pages_on_upgrades() {
        let rewrite = bound(HostHeader::Rewrite);
        let public: Option<&[u8]> = Some(b"app-3000.example");
        let local = "localhost:5173".to_owned();
        for (origin, upgrade, wanted) in [
            (
                "https://app-3000.example",
                true,
                Some("http://localhost:5173"),
            ),
            (
                "https://App-3000.Example",
                true,
                Some("http://localhost:5173"),
            ),
            ("https://app-3000.example", false, None),
            ("https://evil.example", true, None),
            ("https://app-3000.example.evil", true, None),
            ("null", true, None),
            ("", true, None),
        ] {
            let got = text(host_and_origin(
                &rewrite,
                public,
                Some(origin.as_bytes()),
                upgrade,
            ));
            assert_eq!(got, (local.clone(), wanted.map(str::to_owned)), "{origin}");
        }
    }

    #[test]
    fn the_host_can_be_kept_or_named() {
        let public: Option<&[u8]> = Some(b"app.example");
        let origin: Option<&[u8]> = Some(b"https://app.example");
        let kept = text(host_and_origin(
            &bound(HostHeader::Keep),
            public,
            origin,
            true,
        ));
        assert_eq!(kept, ("app.example".into(), None));
        let named = bound(HostHeader::Name("web.test".into()));
        let named = text(host_and_origin(&named, public, origin, true));
        assert_eq!(named, ("web.test".into(), Some("http://web.test".into())));
    }
}
