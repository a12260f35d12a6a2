//! What a visitor sends: heads, bodies, raw bytes after an upgrade.

use std::net::SocketAddr;

use crate::clock::Instant;
use crate::http::forward::{Forwarded, request_fields};
use crate::http::trail::Origin;
use crate::http::write::Reply;
use crate::http::{Asked, BodyDecoder, HeadScanner, Reject, RequestBody, RequestHead};
use crate::kit::Kit;
use crate::kit::guard::host_is_ours;
use crate::kit::heads::Waiting;
use crate::kit::listeners::Purpose;
use crate::kit::metrics::{SessionEnd, StreamOutcome, StreamRefusal};
use crate::kit::session::{KitSession, SessionKey, StreamName};
use crate::kit::throttle::place;
use crate::limits::{BULK_PAYLOAD, MAX_HTTP_HEAD, VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT};
use crate::machine::{CloseHow, ConnKey};
use crate::mux::CannotOpen;
use crate::shares::{is_plenty, may_hold};
use crate::wire::code::Code;
use crate::wire::open::{BodyKind, OpenHttpParts, write_open_http};

use super::{Exchange, Response, State, Visitor};

/// What a parsed head asks for, without its borrowed parts.
struct Request {
    asked: Asked,
    body: RequestBody,
    head_len: usize,
    /// STREAM_OPEN was written to `Kit::text`; it may not fit a frame.
    fits: bool,
    /// Its body may wait for a `100` of the upstream.
    expects: bool,
    /// Who sent it, as far as it is known.
    from: SocketAddr,
}

impl Kit {
    pub(in crate::kit) fn visitor_space(&mut self, conn: ConnKey) -> &mut [u8] {
        let Some(visitor) = self.visitor(conn) else {
            return &mut [];
        };
        let ahead = visitor.inbound.len();
        let (name, wanted) = match &visitor.state {
            State::Raw(_) if ahead > 0 => return &mut [],
            State::Raw(name) => (*name, BULK_PAYLOAD as u64),
            // A whole head must fit, or one that is too large could never be told so.
            State::Waiting if ahead < MAX_HTTP_HEAD => return self.space_ahead(0),
            State::Waiting => return &mut [],
            State::Exchange(exchange) if exchange.upload_done => {
                return self.space_ahead(ahead);
            }
            // What came already has not found credit: nothing more is read until it has.
            State::Exchange(_) if ahead > 0 => return &mut [],
            State::Exchange(exchange) => match (exchange.stream, exchange.upload.certain_data()) {
                (Some(name), certain @ 1..) => (name, certain.min(BULK_PAYLOAD as u64)),
                _ => return self.space_ahead(0),
            },
        };
        match self.sessions.mux_mut(name.session) {
            Some(mux) => mux.data_space(name.stream, wanted as usize),
            None => &mut [],
        }
    }

    /// Room for what is not known to go straight to a stream, of which `ahead` bytes wait already.
    /// What comes behind a head may have to wait here, so where much of others does, little is
    /// read.
    fn space_ahead(&mut self, ahead: usize) -> &mut [u8] {
        let most = self.conns.heads().piece(self.cx.plan.heads);
        &mut self.cx.scratch_space()[..most.saturating_sub(ahead)]
    }

    pub(in crate::kit) fn visitor_received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        if count == 0 {
            return self.visitor_fin(conn, now);
        }
        let scratch = std::mem::take(&mut self.cx.scratch);
        if let Some(visitor) = self.visitor(conn) {
            match visitor.reads_directly() {
                Some(name) => {
                    if let State::Exchange(exchange) = &mut visitor.state {
                        exchange.upload.skip_data(count as u64);
                        exchange.waiting_since = now;
                        exchange.holds_back = false;
                    }
                    if let Some(mux) = self.sessions.mux_mut(name.session) {
                        mux.data_commit(name.stream, count, now);
                    }
                }
                None => {
                    if let State::Exchange(exchange) = &mut visitor.state {
                        exchange.holds_back = false;
                    }
                    if visitor.inbound.is_empty() && matches!(visitor.state, State::Waiting) {
                        visitor.since = now;
                    }
                    visitor.inbound.extend(&scratch[..count]);
                }
            }
        }
        self.cx.scratch = scratch;
        self.visitor_goes_on(conn, now);
    }

    /// Does whatever the bytes at hand allow: parses a head, or sends more of a body.
    pub(in crate::kit) fn visitor_goes_on(&mut self, conn: ConnKey, now: Instant) {
        self.go_on(conn, now);
        if let Some(visitor) = self.visitors.get(conn) {
            self.conns.weigh(conn, visitor.waiting());
        }
    }

    fn go_on(&mut self, conn: ConnKey, now: Instant) {
        let (Some(entry), Some(visitor)) = (self.conns.get_mut(conn), self.visitors.get_mut(conn))
        else {
            return;
        };
        let flushed = entry.out.is_empty();
        match &mut visitor.state {
            State::Waiting if flushed => self.next_head(conn, now),
            State::Waiting => {}
            State::Exchange(exchange) if exchange.upload_done => {}
            State::Exchange(exchange) => {
                // Bytes came, or credit after a want of it: the visitor's silence begins anew.
                exchange.body_at = now;
                self.upload(conn, now);
            }
            State::Raw(name) => {
                let name = *name;
                self.send_ahead(conn, name, now);
            }
        }
    }

    fn next_head(&mut self, conn: ConnKey, now: Instant) {
        let (Some(entry), Some(visitor)) = (self.conns.get(conn), self.visitors.get_mut(conn))
        else {
            return;
        };
        let (peer, read_closed) = (entry.peer, entry.read_closed);
        let scanned = match visitor.inbound.is_empty() {
            true => Ok(None),
            false => visitor.scanner.scan(visitor.inbound.bytes()),
        };
        let length = match scanned {
            Ok(Some(length)) => length,
            // All that came before the FIN was answered.
            Ok(None) if read_closed => {
                return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
            }
            Ok(None) => return,
            Err(Reject { status, why }) => return self.reject(conn, status, why),
        };
        visitor.scanner = HeadScanner::new();
        let listener = visitor.listener;
        let Some(owner) = self.listeners.get(listener) else {
            // Unbound while the visitor kept its connection.
            return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        };
        let Purpose::Bound {
            session,
            bind_id,
            port,
            ..
        } = owner.purpose
        else {
            return;
        };
        // Taken out so that the head may borrow it while the kit goes on.
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        let mut inbound = std::mem::take(&mut visitor.inbound);
        let head = inbound.bytes().get(..length).unwrap_or_default();
        let request = self.read_request(head, peer, conn.generation(), bind_id, port);
        inbound.consume(length);
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        visitor.inbound = inbound;
        match request {
            Ok(request) => self.begin(conn, request, session, bind_id, now),
            Err(Reject { status, why }) => self.reject(conn, status, why),
        }
    }

    /// Parses a head and writes its STREAM_OPEN to `self.cx.text`.
    fn read_request(
        &mut self,
        head: &[u8],
        peer: SocketAddr,
        connection: u32,
        bind_id: u64,
        port: u16,
    ) -> Result<Request, Reject> {
        let parsed = RequestHead::parse(head)?;
        if self.cx.config.expose_host.to_canonical().is_loopback()
            && !host_is_ours(&parsed, &self.cx.config)
        {
            return Err(Reject {
                status: 421,
                why: "this Host is not one of this kit's names (--allow-host)\n",
            });
        }
        let origin = Origin::of(&parsed, peer, &self.cx.config.trusted_proxies);
        let forwarded = Forwarded::new(&parsed, peer.ip(), origin.by_proxy, "http");
        let parts = OpenHttpParts {
            bind_id,
            container_port: port,
            method: parsed.method,
            target: &parsed.target,
            is_upgrade: parsed.upgrade,
            body: match parsed.body {
                RequestBody::None => BodyKind::None,
                RequestBody::Length(_) => BodyKind::Length,
                RequestBody::Chunked => BodyKind::Chunked,
            },
            remote_addr: origin.peer,
            connection_id: Some(connection),
        };
        self.cx.text.clear();
        let fields = request_fields(&parsed, &forwarded);
        let fits = write_open_http(&mut self.cx.text, &parts, fields).is_ok();
        Ok(Request {
            asked: parsed.asked(),
            body: parsed.body,
            head_len: head.len(),
            fits,
            expects: parsed.expects_continue,
            from: origin.peer,
        })
    }

    fn begin(
        &mut self,
        conn: ConnKey,
        request: Request,
        session: SessionKey,
        bind_id: u64,
        now: Instant,
    ) {
        let Request {
            asked, body, fits, ..
        } = request;
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.from = request.from;
        }
        debug_assert!(request.head_len > 0, "a head without octets");
        let bodiless = matches!(body, RequestBody::None | RequestBody::Length(0));
        if !fits {
            return self.reject(conn, 431, "the head does not fit a frame of the tunnel\n");
        }
        if self
            .visitor(conn)
            .is_some_and(|visitor| visitor.no_descriptors)
        {
            return self.busy(conn, asked, false, StreamRefusal::Descriptors);
        }
        let holder = place(request.from.ip());
        if !self.may_serve_one_more(holder) {
            return self.busy(conn, asked, bodiless, StreamRefusal::Share);
        }
        let open = std::mem::take(&mut self.cx.text);
        let is_open = self.sessions.get(session).is_some_and(KitSession::is_open);
        let opened = self
            .sessions
            .mux_mut(session)
            .filter(|_| is_open)
            .map(|mux| mux.open_for(Some(holder), conn, &open, now));
        self.cx.text = open;
        let stream = match opened {
            Some(Ok(stream)) => stream,
            Some(Err(CannotOpen::IdsUsedUp)) => {
                let why = "all stream ids were used";
                self.expel(session, SessionEnd::Killed, Code::NoError, 1000, why);
                return self.busy(conn, asked, bodiless, StreamRefusal::Away);
            }
            None => return self.busy(conn, asked, bodiless, StreamRefusal::Away),
            Some(Err(full)) => return self.busy(conn, asked, bodiless, full.into()),
        };
        if let Some(session) = self.sessions.get_mut(session)
            && let Some(binding) = session.bindings.iter_mut().find(|it| it.bind_id == bind_id)
        {
            binding.served += 1;
        }
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        let name = StreamName { session, stream };
        visitor.state = State::Exchange(Exchange::new(name, &request, now));
        self.upload(conn, now);
        self.look_soon(conn, now);
    }

    /// Whether descriptors suffice for one more request of `holder`, with what it has. Who only
    /// keeps a connection has nothing by that: its place goes to whoever wants it.
    fn may_serve_one_more(&self, holder: u128) -> bool {
        let most = self.conns.budget.for_visits();
        let left = most.saturating_sub(self.sessions.stream_count() + 1);
        let muxes = || self.sessions.muxes();
        let held = || muxes().map(|mux| mux.held_by(holder)).sum::<usize>();
        is_plenty(left, most) || may_hold(held() + 1, 1, left, most)
    }

    /// There is no stream for the visitor, who may come again.
    pub(super) fn busy(&mut self, conn: ConnKey, asked: Asked, whole: bool, why: StreamRefusal) {
        if let Some(entry) = self.conns.get(conn) {
            self.cx.stream_refused(entry.from.ip(), why);
        }
        let after = match why {
            StreamRefusal::Away => "5",
            _ => "1",
        };
        let fields = [("retry-after", after)];
        let reply = Reply::text(503, why.sentence()).with(&fields);
        self.answer(conn, asked, whole, &reply);
    }

    /// Sends what is at hand of the request's body, as far as credit goes. Where FIN came before
    /// the end of the body (or of the wait for a 101), the request is given up, unless its whole
    /// response is on its way already.
    pub(super) fn upload(&mut self, conn: ConnKey, now: Instant) {
        self.send_body(conn, now);
        let (Some(entry), Some(visitor)) = (self.conns.get(conn), self.visitors.get(conn)) else {
            return;
        };
        let State::Exchange(exchange) = &visitor.state else {
            return;
        };
        if exchange.may_be_gone(entry.fin()) {
            self.cx.arm_conn(conn, now + VISITOR_GONE_AFTER);
        } else if entry.read_closed
            && !exchange.upload_done
            && exchange.response != Response::Done
            && visitor.inbound.is_empty()
        {
            let why = "the visitor's body was cut off";
            self.abandon_stream(conn, StreamOutcome::ResetByPeer, why);
            self.conns.close(conn, CloseHow::Reset, &mut self.cx);
        }
    }

    /// Has the exchange looked at often enough for the shortest of its clocks, which may begin to
    /// run any time. The one that its connection began with is enough for most.
    fn look_soon(&mut self, conn: ConnKey, now: Instant) {
        let soon = self.cx.config.visitor_look();
        if soon < VISITOR_HEAD_TIMEOUT || self.body_due(conn, now).is_some() {
            self.cx.arm_conn_by(conn, now + soon);
        }
    }

    /// When the visitor's silence ends its request, if more of a body is wanted of it. While the
    /// kit does not read for want of credit, the silence is its own.
    pub(super) fn body_due(&mut self, conn: ConnKey, now: Instant) -> Option<Instant> {
        let timeout = self.cx.config.body_timeout;
        let flushed = self.conns.get(conn)?.out.is_empty();
        let due = |visitor: &mut Visitor| match &visitor.state {
            State::Exchange(exchange) => exchange.body_due(flushed, timeout),
            _ => None,
        };
        let first = self.visitor(conn).and_then(due)?;
        if now >= first
            && self.visitor_space(conn).is_empty()
            && let Some(State::Exchange(exchange)) =
                self.visitor(conn).map(|visitor| &mut visitor.state)
        {
            exchange.body_at = now;
        }
        self.visitor(conn).and_then(due)
    }

    /// The rest of a request's body does not come.
    pub(super) fn body_stopped(&mut self, conn: ConnKey) {
        let answered = self.visitor(conn).is_some_and(|visitor| {
            matches!(&visitor.state, State::Exchange(it) if it.response != Response::Awaited)
        });
        let why = "the body of the request stopped";
        self.abandon_stream(conn, StreamOutcome::TimedOut, why);
        match answered {
            true => self.conns.close(conn, CloseHow::Reset, &mut self.cx),
            false => self.reject(conn, 408, "the body of the request took too long\n"),
        }
    }

    fn send_body(&mut self, conn: ConnKey, now: Instant) {
        loop {
            let Some(visitor) = self.visitor(conn) else {
                return;
            };
            let Visitor { inbound, state, .. } = visitor;
            let State::Exchange(exchange) = state else {
                return;
            };
            let Some(name) = exchange.stream else { return };
            if exchange.owed > 0 {
                let (owed, framing) = (exchange.owed, exchange.owed_framing);
                let sent = self.send_from_inbound(conn, name, owed, now);
                let Some(visitor) = self.visitor(conn) else {
                    return;
                };
                let State::Exchange(exchange) = &mut visitor.state else {
                    return;
                };
                exchange.owed -= sent;
                exchange.waiting_since = now;
                if exchange.owed > 0 {
                    return;
                }
                exchange.owed_framing = 0;
                visitor.inbound.consume(framing);
                continue;
            }
            if exchange.upload.is_complete() {
                if exchange.asked.upgrade && exchange.response == Response::Awaited {
                    // After a 101 this direction goes on raw, so it must not end before.
                    return;
                }
                exchange.upload_done = true;
                exchange.waiting_since = now;
                if let Some(mux) = self.sessions.mux_mut(name.session) {
                    mux.send_eof(name.stream, now);
                }
                return;
            }
            if inbound.is_empty() {
                return;
            }
            match exchange.upload.decode(inbound.bytes()) {
                Ok(step) => {
                    exchange.owed = step.data.len();
                    exchange.owed_framing = step.consumed - step.data.end;
                    inbound.consume(step.data.start);
                    if exchange.owed == 0 {
                        inbound.consume(std::mem::take(&mut exchange.owed_framing));
                    }
                }
                Err(error) => return self.bad_body(conn, &error),
            }
        }
    }

    fn bad_body(&mut self, conn: ConnKey, error: &crate::http::BodyError) {
        let why = "the visitor's body is malformed";
        self.abandon_stream(conn, StreamOutcome::ResetByPeer, why);
        let answered = self.visitor(conn).is_some_and(|visitor| {
            matches!(&visitor.state, State::Exchange(it) if it.response != Response::Awaited)
        });
        match error {
            crate::http::BodyError::Malformed(why) if !answered => self.reject(conn, 400, why),
            _ => self.conns.close(conn, CloseHow::Reset, &mut self.cx),
        }
    }

    fn send_from_inbound(
        &mut self,
        conn: ConnKey,
        name: StreamName,
        count: usize,
        now: Instant,
    ) -> usize {
        let Some(visitor) = self.visitor(conn) else {
            return 0;
        };
        let mut inbound = std::mem::take(&mut visitor.inbound);
        let bytes = inbound.bytes().get(..count).unwrap_or_default();
        let sent = self
            .sessions
            .mux_mut(name.session)
            .map_or(0, |mux| mux.send(name.stream, bytes, now));
        inbound.consume(sent);
        if let Some(visitor) = self.visitor(conn) {
            visitor.inbound = inbound;
        }
        sent
    }

    /// Bytes that came before the 101 and are raw now.
    fn send_ahead(&mut self, conn: ConnKey, name: StreamName, now: Instant) {
        let ahead = self
            .visitor(conn)
            .map_or(0, |visitor| visitor.inbound.len());
        if ahead > 0 {
            self.send_from_inbound(conn, name, ahead, now);
        }
    }

    /// The visitor sends nothing more; it may still read (RFC 9112 §9.6 leaves that open, and a
    /// half-closing client deserves its answers, to all that it asked before).
    fn visitor_fin(&mut self, conn: ConnKey, now: Instant) {
        let (Some(entry), Some(visitor)) = (self.conns.get_mut(conn), self.visitors.get_mut(conn))
        else {
            return;
        };
        entry.read_closed = true;
        match &mut visitor.state {
            State::Waiting => self.visitor_goes_on(conn, now),
            State::Exchange(exchange) if exchange.upload_done => {
                if exchange.response == Response::Awaited {
                    exchange.waiting_since = now;
                }
                self.cx.arm_conn(conn, now + VISITOR_GONE_AFTER);
            }
            State::Exchange(_) => self.upload(conn, now),
            State::Raw(name) => {
                let name = *name;
                if let Some(mux) = self.sessions.mux_mut(name.session) {
                    mux.send_eof(name.stream, now);
                }
                self.close_raw_if_over(conn);
            }
        }
    }
}

impl Exchange {
    fn new(stream: StreamName, request: &Request, now: Instant) -> Exchange {
        Exchange {
            stream: Some(stream),
            asked: request.asked,
            upload: BodyDecoder::for_request(request.body),
            upload_done: false,
            owed: 0,
            owed_framing: 0,
            response: Response::Awaited,
            begun: now,
            waiting_since: now,
            body_at: now,
            holds_back: request.expects,
            keep_alive: request.asked.keep_alive,
            status: 0,
        }
    }
}

impl Visitor {
    /// Memory of what came and waits.
    fn waiting(&self) -> Waiting {
        match self.state {
            State::Waiting => Waiting::Head(self.inbound.capacity()),
            _ => Waiting::Behind(self.inbound.capacity()),
        }
    }

    /// Whether the bytes that come next go straight to the stream, as `visitor_space` decided.
    fn reads_directly(&self) -> Option<StreamName> {
        match &self.state {
            State::Raw(name) => Some(*name),
            State::Exchange(exchange)
                if !exchange.upload_done
                    && self.inbound.is_empty()
                    && exchange.upload.certain_data() > 0 =>
            {
                exchange.stream
            }
            _ => None,
        }
    }
}
