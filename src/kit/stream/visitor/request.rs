//! What a visitor sends: heads, bodies, raw bytes after an upgrade.

use std::net::SocketAddr;

use crate::clock::Instant;
use crate::http::forward::{Forwarded, request_fields};
use crate::http::trail::Origin;
use crate::http::{Asked, BodyError, Refusal, Reject, RequestBody, RequestHead, trailers};
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::guard::host_is_ours;
use crate::kit::front::throttle::place;
use crate::kit::metrics::{StreamOutcome, StreamRefusal};
use crate::kit::port::Binding;
use crate::kit::session::Sessions;
use crate::kit::stream::arrivals::may_serve_one_more;
use crate::kit::stream::waiting::Held;
use crate::kit::stream::{Below, StreamName};
use crate::limits::{VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT};
use crate::machine::{CloseHow, ConnKey};
use crate::mux::{CannotOpen, Terms, Wanted};
use crate::pipe::Flow;
use crate::wire::open::{BodyKind, NameCase, OpenHttpParts, write_open_http, write_trailers};
use crate::wire::parts::write_parts;

use super::exchange::{AtFin, Outgoing, Owed, Room, Turn, Upload};
use super::{LIVED, Visitor, Visitors};

/// What a parsed head asks for, without its borrowed parts.
struct Request {
    asked: Asked,
    body: RequestBody,
    /// STREAM_OPEN was written to `Context::text`, and what does not fit it to these; none where
    /// it cannot be passed on.
    parts: Option<Vec<Vec<u8>>>,
    /// Its body may wait for a `100` of the upstream.
    expects: bool,
    /// Trailers travel; whether the visitor takes them, too.
    trailers: Option<bool>,
    /// Who sent it, as far as it is known.
    from: SocketAddr,
    /// It goes no further: the kit answers.
    own: Option<Refusal>,
}

impl Visitor {
    /// Where its next bytes go.
    fn space<'a>(
        &self,
        cx: &'a mut Context,
        conns: &Conns,
        sessions: &'a mut Sessions,
    ) -> &'a mut [u8] {
        match self.http.room() {
            // Who waits for a laptop is read when it is served.
            _ if self.held.is_some() => &mut [],
            Room::Nowhere => &mut [],
            // What comes behind a head may have to wait here, so where much of others does, little
            // is read.
            Room::Here { ahead } => {
                let most = conns.heads().piece(cx.plan.heads);
                &mut cx.scratch_space()[..most.saturating_sub(ahead)]
            }
            Room::Stream(most) => {
                let name = self.stream();
                let mux = name.and_then(|name| Some((name.mux(sessions)?, name.stream)));
                mux.map_or(&mut [], |(mux, stream)| mux.data_space(stream, most))
            }
        }
    }
}

impl Visitors {
    pub(in crate::kit) fn space<'a>(
        &self,
        conn: ConnKey,
        cx: &'a mut Context,
        conns: &Conns,
        sessions: &'a mut Sessions,
    ) -> &'a mut [u8] {
        match self.all.get(conn) {
            Some(visitor) => visitor.space(cx, conns, sessions),
            None => &mut [],
        }
    }

    pub(in crate::kit) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        if count == 0 {
            return self.ended(conn, below);
        }
        let now = below.cx.now;
        if let Some(visitor) = self.all.get_mut(conn) {
            match visitor.http.room() {
                Room::Stream(_) => {
                    visitor.http.read_straight(count, now);
                    if let Some(name) = visitor.stream()
                        && let Some(mux) = name.mux(below.sessions)
                    {
                        mux.data_commit(name.stream, count, now);
                    }
                }
                Room::Here { .. } | Room::Nowhere => {
                    visitor.http.feed(&below.cx.scratch[..count], now);
                }
            }
        }
        self.go_on(conn, below);
    }

    /// Does whatever the bytes at hand allow: parses a head, or sends more of a body.
    pub(in crate::kit) fn go_on(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let (Some(entry), Some(visitor)) = (below.conns.get(conn), self.all.get_mut(conn)) else {
            return;
        };
        match visitor.http.turn(entry.out.is_empty(), below.cx.now) {
            _ if visitor.held.is_some() => {}
            Turn::Rest => {}
            Turn::Head => self.next_head(conn, None, below),
            Turn::Body => self.upload(conn, below),
        }
        self.weigh(conn, below);
    }

    /// Reckons the memory of what came of a visitor and waits.
    pub(super) fn weigh(&self, conn: ConnKey, below: &mut Below<'_>) {
        if let Some(visitor) = self.all.get(conn) {
            below.conns.weigh(conn, visitor.waiting());
        }
    }

    /// Reads the head that is at hand, if it is whole, and has it served. `was`: it has waited for
    /// that.
    pub(super) fn next_head(&mut self, conn: ConnKey, was: Option<Held>, below: &mut Below<'_>) {
        let Below {
            cx,
            conns,
            sessions,
            ports,
        } = below;
        let (Some(entry), Some(visitor)) = (conns.get(conn), self.all.get_mut(conn)) else {
            return;
        };
        let listener = visitor.listener;
        let head = match visitor.http.next_head() {
            Ok(Some(head)) => head,
            // All that came before the FIN was answered.
            Ok(None) if entry.read_closed => return conns.close(conn, CloseHow::Clean, cx),
            Ok(None) => return,
            Err(reject) => return self.reject(conn, &reject.into(), below),
        };
        if cx.stopping.opens_nothing() {
            return match RequestHead::parse(head).map(|head| head.asked()) {
                Ok(asked) => self.turn_away(conn, asked, below),
                Err(reject) => self.reject(conn, &reject.into(), below),
            };
        }
        let Some(owner) = ports.bound(listener) else {
            // Unbound while the visitor kept its connection.
            return conns.close(conn, CloseHow::Clean, cx);
        };
        let mux = sessions.mux(owner.owner);
        let terms = mux.map(|mux| mux.terms());
        let request = Request::read(head, (entry.peer, conn.generation()), owner, terms, cx);
        let length = head.len();
        match request {
            Ok(request) => self.begin(conn, &request, length, was, below),
            Err(reject) => self.reject(conn, &reject.into(), below),
        }
    }

    /// The kit drains, and nothing new is opened.
    fn turn_away(&mut self, conn: ConnKey, asked: Asked, below: &mut Below<'_>) {
        let owed = Owed {
            asked,
            whole: false,
        };
        self.busy(conn, owed, StreamRefusal::Draining, below);
    }

    /// Begins what a head of so many bytes asks for, or has it wait, or says why not.
    fn begin(
        &mut self,
        conn: ConnKey,
        request: &Request,
        length: usize,
        was: Option<Held>,
        below: &mut Below<'_>,
    ) {
        if let Some(entry) = below.conns.get_mut(conn) {
            entry.from = request.from;
        }
        if let Some(answer) = &request.own {
            if let Some(visitor) = self.all.get_mut(conn) {
                visitor.http.head_read(length);
            }
            let (asked, whole) = (request.asked, whole(request.body));
            return self.answer(conn, Owed { asked, whole }, answer, below);
        }
        let Some(parts) = &request.parts else {
            let refusal = Refusal::text(431, "the head does not fit a frame of the tunnel");
            return self.reject(conn, &refusal, below);
        };
        let opened = self.open(conn, request, parts, below);
        if let Err(why) = opened
            && self.hold(conn, why, was, below)
        {
            return;
        }
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        visitor.http.head_read(length);
        let (asked, body, now) = (request.asked, request.body, below.cx.now);
        let name = match opened {
            Ok(name) => name,
            Err(why) => {
                let whole = whole(body) && !visitor.no_descriptors;
                return self.busy(conn, Owed { asked, whole }, why, below);
            }
        };
        visitor.last = Some(name);
        visitor.http.begin(asked, body, request.expects, now);
        if let Some(taken) = request.trailers {
            visitor.http.trailers_travel(taken);
        }
        if self.keeps_none {
            visitor.http.answer_is_last();
        }
        if let Some(binding) = below.ports.bound_mut(visitor.listener) {
            binding.served += 1;
        }
        self.upload(conn, below);
        self.look_soon(conn, below);
    }

    /// Opens a stream of whoever owns the port now; what it says lies in `Context::text`.
    fn open(
        &mut self,
        conn: ConnKey,
        request: &Request,
        parts: &[Vec<u8>],
        below: &mut Below<'_>,
    ) -> Result<StreamName, StreamRefusal> {
        let Below {
            cx,
            conns,
            sessions,
            ports,
        } = below;
        let visitor = self.all.get(conn).ok_or(StreamRefusal::Away)?;
        if visitor.no_descriptors {
            return Err(StreamRefusal::Descriptors);
        }
        let binding = ports.bound(visitor.listener).ok_or(StreamRefusal::Away)?;
        let session = binding.owner;
        let holder = place(request.from.ip());
        if !may_serve_one_more(holder, conns, sessions) {
            return Err(StreamRefusal::Share);
        }
        let owner = sessions.get(session).filter(|it| it.is_open());
        let wanted = Wanted {
            holder: Some(holder),
            bind_ok: owner
                .ok_or(StreamRefusal::Away)?
                .bind_ok_of(binding.bind_id),
        };
        let mux = sessions.mux_mut(session).ok_or(StreamRefusal::Away)?;
        let stream = mux.open_for(wanted, conn, (parts, &cx.text), cx.now);
        let stream = stream.inspect_err(|why| {
            if *why == CannotOpen::IdsUsedUp {
                self.spent.push(session);
            }
        })?;
        Ok(StreamName { session, stream })
    }

    /// Sends what is at hand, as far as credit goes.
    pub(super) fn upload(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (Some(entry), Some(visitor)) = (conns.get(conn), self.all.get_mut(conn)) else {
            return;
        };
        let now = cx.now;
        if let Err(error) = visitor.send(sessions, now) {
            return self.bad_body(conn, &error, below);
        }
        match visitor.http.upload(entry.fin()) {
            Upload::Goes => {}
            Upload::MayBeGone => cx.arm_conn(conn, now + VISITOR_GONE_AFTER),
            Upload::CutOff => {
                let why = "the visitor's body was cut off";
                self.cut(conn, StreamOutcome::ResetByPeer, why, below);
            }
        }
    }

    /// Has the exchange looked at often enough for the shortest of its clocks, which may begin to
    /// run any time. The one that its connection began with is enough for most.
    fn look_soon(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let soon = below.cx.config.visitor_look();
        if soon < VISITOR_HEAD_TIMEOUT || self.body_due(conn, below).is_some() {
            below.cx.arm_conn_by(conn, below.cx.now + soon);
        }
    }

    /// When the visitor's silence ends its request, if more of a body is wanted of it. While the
    /// kit does not read for want of credit, the silence is its own.
    pub(super) fn body_due(&mut self, conn: ConnKey, below: &mut Below<'_>) -> Option<Instant> {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (entry, visitor) = (conns.get(conn)?, self.all.get_mut(conn)?);
        let (flushed, timeout) = (entry.out.is_empty(), cx.config.body_timeout);
        let due = visitor.http.body_due(flushed, timeout)?;
        if cx.now < due || !visitor.space(cx, conns, sessions).is_empty() {
            return Some(due);
        }
        visitor.http.body_held(cx.now);
        visitor.http.body_due(flushed, timeout)
    }

    /// The rest of a request's body does not come.
    pub(super) fn body_stopped(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let (outcome, why) = (StreamOutcome::TimedOut, "the body of the request stopped");
        if self.has_answer(conn) {
            return self.cut(conn, outcome, why, below);
        }
        self.abandon(conn, outcome, why, below);
        let refusal = Refusal::text(408, "the body of the request took too long");
        self.reject(conn, &refusal, below);
    }

    fn bad_body(&mut self, conn: ConnKey, error: &BodyError, below: &mut Below<'_>) {
        let (outcome, why) = (
            StreamOutcome::ResetByPeer,
            "the visitor's body is malformed",
        );
        match error {
            BodyError::Malformed(said) if !self.has_answer(conn) => {
                self.abandon(conn, outcome, why, below);
                self.reject(conn, &Refusal::text(400, *said), below);
            }
            _ => self.cut(conn, outcome, why, below),
        }
    }

    fn has_answer(&self, conn: ConnKey) -> bool {
        let visitor = self.all.get(conn);
        visitor.is_some_and(|visitor| visitor.http.has_answer())
    }

    /// The visitor sends nothing more.
    fn ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (Some(entry), Some(visitor)) = (conns.get_mut(conn), self.all.get_mut(conn)) else {
            return;
        };
        entry.read_closed = true;
        match visitor.http.visitor_ended(cx.now) {
            AtFin::GoOn => self.go_on(conn, below),
            AtFin::Watch => cx.arm_conn(conn, cx.now + VISITOR_GONE_AFTER),
            AtFin::Upload => self.upload(conn, below),
            AtFin::Raw { first } => {
                if first
                    && let Some(name) = visitor.stream()
                    && let Some(mux) = name.mux(sessions)
                {
                    mux.send_eof(name.stream, cx.now);
                }
                if visitor.http.is_over() {
                    conns.flows(conn, Flow::Over, LIVED, cx);
                }
            }
        }
    }
}

impl Visitor {
    /// Sends what is at hand, as far as credit goes.
    fn send(&mut self, sessions: &mut Sessions, now: Instant) -> Result<(), BodyError> {
        let Some(name) = self.stream() else {
            return Ok(());
        };
        let Some(mux) = name.mux(sessions) else {
            return Ok(());
        };
        loop {
            match self.http.outgoing(now)? {
                Outgoing::Nothing => return Ok(()),
                Outgoing::Eof => {
                    if let Some(json) = said_trailers(&self.http.take_trailers(), mux.terms()) {
                        mux.send_trailers(name.stream, &json, now);
                    }
                    mux.send_eof(name.stream, now);
                    return Ok(());
                }
                Outgoing::Data(bytes) => {
                    let sent = mux.send(name.stream, bytes, now);
                    if !self.http.sent(sent, now) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Request {
    /// Parses a head and writes its STREAM_OPEN to `Context::text`.
    fn read(
        head: &[u8],
        (peer, connection): (SocketAddr, u32),
        owner: &Binding,
        terms: Option<&Terms>,
        cx: &mut Context,
    ) -> Result<Request, Reject> {
        let mut parsed = RequestHead::parse(head)?;
        let config = &cx.config;
        if config.expose_host.to_canonical().is_loopback() && !host_is_ours(&parsed, config) {
            return Err(Reject {
                status: 421,
                why: "this Host is not one of this kit's names (--allow-host)\n",
            });
        }
        let origin = Origin::of(&parsed, peer, &config.trusted_proxies);
        let own = (parsed.max_forwards()? == Some(0)).then(|| last_recipient(parsed.method));
        let mut forwarded = Forwarded::new(&parsed, peer.ip(), origin.by_proxy, "http");
        if config.via {
            forwarded = forwarded.with_via(parsed.version);
        }
        let trailers = terms.is_some_and(|terms| terms.trailers);
        if trailers {
            parsed.pass_trailers();
        }
        let parts = OpenHttpParts {
            names: NameCase::granted(terms.is_some_and(|terms| terms.header_case)),
            bind_id: owner.bind_id,
            container_port: owner.port(),
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
        cx.text.clear();
        let fields = request_fields(&parsed, &forwarded);
        let mut long = None;
        if write_open_http(&mut cx.text, &parts, fields.clone()).is_ok() {
            long = Some(Vec::new());
        } else if terms.is_some_and(|terms| terms.head_parts > 0)
            && write_open_http(&mut cx.text, &parts, std::iter::empty()).is_ok()
        {
            long = write_parts(fields, parts.names).ok();
        }
        Ok(Request {
            asked: parsed.asked(),
            body: parsed.body,
            parts: long,
            expects: parsed.expects_continue,
            trailers: trailers.then(|| parsed.takes_trailers()),
            from: origin.peer,
            own,
        })
    }
}

/// The JSON of a request's trailers, if any of them may pass.
fn said_trailers(lines: &[u8], terms: &Terms) -> Option<Vec<u8>> {
    let (mut json, names) = (Vec::new(), NameCase::granted(terms.header_case));
    let written = write_trailers(&mut json, trailers::fields(lines), names);
    (written == Ok(true)).then_some(json)
}

/// What the kit says to a request that may go no further (RFC 9110 §7.6.2).
fn last_recipient(method: &str) -> Refusal {
    if method == "TRACE" {
        let why = "Max-Forwards ended at the tunnel's gateway, which does not trace.";
        return Reject { status: 405, why }.into();
    }
    let allowed = &[("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")];
    Refusal::text(200, "Max-Forwards ended at the tunnel's gateway.").with(allowed)
}

/// Whether nothing follows the head of a request.
pub(super) fn whole(body: RequestBody) -> bool {
    matches!(body, RequestBody::None | RequestBody::Length(0))
}
