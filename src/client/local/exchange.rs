//! Streams, and what hangs on them.
//!
//! An *exchange* is what hangs on a stream: for EXPOSE a request and its response, for PULL two
//! directions of bytes, for UDP datagrams. It gets a local connection from the pool or dials one,
//! and may outlive it (a request's body that nobody wants is still received) or wait for it.

use crate::client::event::{RequestRecord, SessionEvent, StreamRecord};
use crate::client::keys::{ExchangeKey, Origin};
use crate::client::local::http::{Broken, HttpExchange};
use crate::client::local::visitor::Visitor;
use crate::client::local::{Around, LocalSide};
use crate::clock::Instant;
use crate::machine::{CloseHow, ConnKey, SocketKey};
use crate::mux::StreamKey;
use crate::outflow::Outflow;
use crate::pipe::{Flow, RawPipe};
use crate::wire::code::Code;

/// See the module.
#[derive(Debug)]
pub(in crate::client) struct Exchange {
    pub stream: StreamKey,
    /// Its binding's reference.
    pub binding: u64,
    pub container_port: u16,
    pub conn: Option<ConnKey>,
    /// The address whose slot it takes.
    pub origin: Origin,
    /// The visitor's connection, if the kit names it.
    pub visitor: Option<Visitor>,
    /// It carries a login that holds for its connection.
    pub logs_in: bool,
    /// Bytes that it counts for among the heads that are kept.
    pub head_bytes: usize,
    /// To the local connection; loans name the lane whose buffer they lie in.
    pub out: Outflow<usize>,
    pub work: Work,
    /// Which ends were said: the kit's EOF, and ours.
    pub pipe: RawPipe,
    pub started: Instant,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub remote_addr: Option<String>,
    /// Its end was told.
    pub told: bool,
}

#[derive(Debug)]
pub(in crate::client) enum Work {
    /// Bytes in both directions.
    Raw,
    /// Datagrams in both directions, by a socket of its own once it has one.
    Datagrams(Option<SocketKey>),
    /// A request.
    Http(Box<HttpExchange>),
}

impl Exchange {
    pub(crate) fn http(&mut self) -> Option<&mut HttpExchange> {
        match &mut self.work {
            Work::Http(http) => Some(http),
            Work::Raw | Work::Datagrams(_) => None,
        }
    }

    /// Whether both directions are plain bytes.
    pub(crate) fn is_raw(&self) -> bool {
        match &self.work {
            Work::Raw | Work::Datagrams(_) => true,
            Work::Http(http) => http.is_raw(),
        }
    }

    /// Whether the request may be sent a second time without doing something twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        match &self.work {
            Work::Raw | Work::Datagrams(_) => false,
            Work::Http(http) => http.is_repeatable(),
        }
    }
}

impl LocalSide {
    /// A standing local connection broke under its exchange.
    pub(in crate::client) fn upstream_broke(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        reused: bool,
        why: &str,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(http) = exchange.http() else {
            return self.abandon(around, key, Code::Cancel, why);
        };
        match http.broke(reused) {
            // Not the server's answer to it.
            Broken::Again(head) => {
                exchange.out = Outflow::new();
                exchange.out.push(&head);
                self.assign(around, key, true);
            }
            Broken::Unanswered => {
                let untouched = http.is_untouched();
                let bound = around.bindings.get(exchange.binding);
                let hint = match bound.map(|bound| &bound.spec) {
                    Some(spec) if untouched => spec.hint_at_silence(),
                    _ => "",
                };
                let text =
                    format!("The local server gave no answer that makes sense: {why}{hint}\n");
                self.answer(around, key, 502, &text);
            }
            Broken::Nothing => {}
            Broken::Cut => {
                self.abandon(around, key, Code::Cancel, &format!("local server: {why}"));
            }
        }
    }

    /// The socket took `count` bytes.
    pub(in crate::client) fn upstream_transmitted(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        count: usize,
    ) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        if !upstream.connected {
            return self.greeting_left(around, conn, count);
        }
        let Some(key) = upstream.exchange else {
            return;
        };
        let exchange = self.exchanges.resolve_mut(key);
        let payload = exchange.out.taken(count);
        let stream = exchange.stream;
        if payload > 0
            && let Some(session) = around.mux.as_deref_mut()
        {
            session.passed_on(stream, payload, around.cx.now);
        }
        self.finish_if_drained(around, conn);
    }

    /// The system holds so many bytes for a local side that looked still.
    pub(in crate::client) fn upstream_holds(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        bytes: usize,
    ) {
        if let Some(upstream) = self.conns.get(conn)
            && let Some(key) = upstream.exchange
            && let Some(session) = around.mux.as_deref_mut()
        {
            session.streams_mut().system_holds(
                self.exchanges.resolve(key).stream,
                bytes,
                around.cx.now,
            );
        }
    }

    /// Passes the kit's FIN on once all before it has left, and ends a raw exchange whose both
    /// directions are closed.
    pub(in crate::client) fn finish_if_drained(&mut self, around: &mut Around<'_>, conn: ConnKey) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        let (Some(key), true) = (upstream.exchange, upstream.connected) else {
            return;
        };
        let exchange = self.exchanges.resolve_mut(key);
        if !exchange.is_raw() || !exchange.out.is_empty() {
            return;
        }
        match exchange.pipe.drained() {
            Flow::Goes | Flow::Eof => {}
            Flow::Finish => around.cx.effects.finish(conn),
            Flow::Over => {
                self.close_upstream(around, conn, CloseHow::Clean);
                self.drop_exchange(around, key, None);
            }
        }
    }

    /// The stream is over by the world's doing: the kit reset it, or its lane is gone.
    pub(in crate::client) fn stream_lost(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        why: &str,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        // What the local side got must not look whole.
        let cut = exchange.is_raw()
            || exchange.http().is_some_and(|http| http.is_cut_short())
            || !exchange.out.is_empty();
        match exchange.conn {
            Some(conn) if cut => self.close_upstream(around, conn, CloseHow::Reset),
            Some(conn) => self.close_upstream(around, conn, CloseHow::Clean),
            None => self.pool.leave(key),
        }
        self.drop_exchange(around, key, Some(why));
    }

    /// We give the stream up.
    pub(in crate::client) fn abandon(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        code: Code,
        why: &str,
    ) {
        if let Some(exchange) = self.exchanges.get(key)
            && let Some(session) = around.mux.as_deref_mut()
        {
            session.reset(exchange.stream, code, why);
        }
        self.stream_lost(around, key, why);
    }

    /// Forgets an exchange, whose stream is over and whose connection is gone, and tells its end.
    pub(in crate::client) fn drop_exchange(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        cut: Option<&str>,
    ) {
        self.tell_end(around, key, cut);
        self.close_socket(around, key);
        if let Some(exchange) = self.exchanges.remove(key) {
            self.heads.give_back(exchange.origin, exchange.head_bytes);
        }
    }

    /// Tells how an exchange ended, once.
    pub(in crate::client) fn tell_end(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        cut: Option<&str>,
    ) {
        let now = around.cx.now;
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut exchange.told, true) {
            return;
        }
        let duration = now.since(exchange.started);
        let cut = cut.map(crate::client::reach::failure::plain);
        let (container_port, remote_addr) = (exchange.container_port, exchange.remote_addr.take());
        let (bytes_in, bytes_out) = (exchange.bytes_in, exchange.bytes_out);
        let event = match &mut exchange.work {
            Work::Raw | Work::Datagrams(_) => SessionEvent::StreamClosed(StreamRecord {
                container_port,
                bytes_in,
                bytes_out,
                duration,
                remote_addr,
                cut,
            }),
            Work::Http(http) => {
                let (method, target, status) = http.take_record();
                SessionEvent::Request(RequestRecord {
                    container_port,
                    method,
                    target,
                    status,
                    bytes_in,
                    bytes_out,
                    duration,
                    remote_addr,
                    cut,
                })
            }
        };
        around.cx.notify(event);
    }
}
