//! Streams from the kit: opening them, and their bytes on the way to the local side.

use crate::buffer::Buffer;
use crate::client::bound::Bound;
use crate::client::event::Shortage;
use crate::client::keys::ExchangeKey;
use crate::client::local::exchange::{Exchange, Work};
use crate::client::local::http::{Agreed, HttpExchange, Pass};
use crate::client::local::naming::Naming;
use crate::client::local::visitor::{logs_in, origin, visitor};
use crate::client::local::{Around, LocalSide};
use crate::clock::Instant;
use crate::http::write::{CRLF, chunk_header};
use crate::limits::CLIENT_HEADS;
use crate::mux::{Span, StreamKey};
use crate::outflow::Outflow;
use crate::pipe::RawPipe;
use crate::wire::code::Code;
use crate::wire::control::BindingKind;
use crate::wire::open::{NameCase, OpenHttp, StreamOpen};

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
            None if self.carries_datagrams(key) => self.open_socket(around, key),
            None => self.assign(around, key, false),
            Some(why) => {
                let text = format!("The tunnel did not pass this request on: {why}\n");
                self.answer(around, key, 400, &text);
            }
        }
    }

    /// Reads a STREAM_OPEN and makes of it what can be made without a stream.
    fn judge_open(&mut self, around: &mut Around<'_>, index: usize, payload: &Span) -> Opened {
        let parts = around.mux.as_deref_mut().map(|mux| mux.take_parts());
        let parts = parts.unwrap_or_default();
        let session = around.mux.as_deref();
        let terms = session.map(|session| session.terms());
        let agreed = Agreed {
            names: NameCase::granted(terms.is_some_and(|terms| terms.header_case)),
            trailers: terms.is_some_and(|terms| terms.trailers),
            long_heads: terms.is_some_and(|terms| terms.head_parts > 0),
            answers: around.cx.config.answer_heads,
        };
        let payload = session.map_or(&[][..], |session| session.payload(index, payload));
        let mut open = StreamOpen::parse(payload).map_err(|_| MALFORMED)?;
        if let StreamOpen::Http(open) = &mut open {
            let rest = std::mem::take(&mut open.headers);
            open.headers = parts.before(rest).map_err(|_| MALFORMED)?;
        }
        let bytes = payload.len() + parts.bytes();
        let (kind, bind_id, port) = match &open {
            StreamOpen::Http(open) => (BindingKind::Http, open.bind_id, open.container_port),
            StreamOpen::Tcp(open) => (BindingKind::Tcp, open.bind_id, open.container_port),
            StreamOpen::Udp(open) => (BindingKind::Udp, open.bind_id, open.container_port),
            StreamOpen::Forward(_) => return Err(NOT_FROM_A_KIT),
        };
        let bound = around.bindings.for_stream(kind, bind_id, port);
        let bound = bound.ok_or((Code::BindError, "no such binding"))?;
        let remote = match &open {
            StreamOpen::Http(open) => open.remote_addr.as_deref(),
            StreamOpen::Tcp(open) | StreamOpen::Udp(open) => open.remote_addr.as_deref(),
            StreamOpen::Forward(_) => None,
        };
        if !self.heads.may_take(origin(remote), bytes, CLIENT_HEADS) {
            return Err(NO_ROOM);
        }
        let (mut exchange, unfit) = match open {
            StreamOpen::Http(open) => {
                let received = self.spare.pop().unwrap_or_default();
                LocalSide::judge_request(bound, &open, received, agreed, around.cx.now)
            }
            StreamOpen::Tcp(open) => {
                let remote = open.remote_addr.as_deref();
                (Exchange::new(bound, Work::Raw, remote, around.cx.now), None)
            }
            StreamOpen::Udp(open) => {
                let remote = open.remote_addr.as_deref();
                let work = Work::Datagrams(None);
                (Exchange::new(bound, work, remote, around.cx.now), None)
            }
            StreamOpen::Forward(_) => return Err(NOT_FROM_A_KIT),
        };
        exchange.head_bytes = bytes;
        Ok((exchange, unfit))
    }

    fn judge_request(
        bound: &Bound,
        open: &OpenHttp<'_>,
        received: Buffer,
        agreed: Agreed,
        now: Instant,
    ) -> (Exchange, Option<&'static str>) {
        let naming = Naming {
            authority: &bound.authority,
            scheme: bound.spec.local.scheme(),
            prefix: bound.spec.local.prefix(),
            host_header: &bound.spec.host_header,
            own: &bound.spec.headers,
            public_url: bound
                .binding
                .as_ref()
                .and_then(|it| it.public_url.as_deref()),
        };
        let (http, unfit) = HttpExchange::open(open, received, naming, agreed);
        let mut out = Outflow::new();
        if unfit.is_none() {
            out.push(http.head());
        }
        let remote = open.remote_addr.as_deref();
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
        if matches!(exchange.work, Work::Datagrams(_)) {
            let why = "DATA on a stream of datagrams";
            return self.abandon(around, key, Code::ProtocolError, why);
        }
        exchange.bytes_in += count as u64;
        let pass = match exchange
            .http()
            .map_or(Ok(Pass::Plain), |http| http.data(count))
        {
            Ok(pass) => pass,
            Err(why) => return self.abandon(around, key, Code::ProtocolError, why),
        };
        let (stream, conn) = (exchange.stream, exchange.conn);
        let Some(session) = around.mux.as_deref_mut() else {
            return;
        };
        if pass == Pass::Unwanted {
            return session.passed_on(stream, count, around.cx.now);
        }
        let framing = pass == Pass::Chunk;
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

    /// Trailers from the kit.
    pub(in crate::client) fn trailers(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        index: usize,
        span: Span,
    ) {
        let (Some(exchange), Some(session)) =
            (self.exchanges.get_mut(key), around.mux.as_deref_mut())
        else {
            return;
        };
        let Work::Http(http) = &mut exchange.work else {
            return;
        };
        self.json.clear();
        match http.trailers(session.payload(index, &span), &mut self.json) {
            // They leave with their end.
            Ok(true) => exchange.out.push(&self.json),
            Ok(false) => {}
            Err(why) => self.abandon(around, key, Code::ProtocolError, why),
        }
    }

    /// The kit sends nothing more on this stream.
    pub(in crate::client) fn remote_eof(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        if self.carries_datagrams(key) {
            return self.datagrams_end(around, key);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        match exchange.http().map_or(Ok(&[][..]), HttpExchange::eof) {
            Ok([]) => {}
            Ok(rest) => exchange.out.push(rest),
            Err(why) => return self.abandon(around, key, Code::ProtocolError, why),
        }
        // What it has left is looked at with the connection.
        let _ = exchange.pipe.stream_ended(false);
        let (conn, local_done, raw) = (
            exchange.conn,
            exchange.pipe.conn_has_ended(),
            exchange.is_raw(),
        );
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
            pipe: RawPipe::new(),
            started: now,
            bytes_in: 0,
            bytes_out: 0,
            remote_addr: remote.map(crate::client::reach::failure::plain),
            told: false,
        }
    }
}

const MALFORMED: (Code, &str) = (Code::ProtocolError, "malformed STREAM_OPEN");
/// A kit has no business in connecting to whatever it likes from here.
const NOT_FROM_A_KIT: (Code, &str) = (Code::RefusedStream, "not from a kit");
/// Their heads would be more than is kept.
const NO_ROOM: (Code, &str) = (Code::RefusedStream, "too many requests wait");
