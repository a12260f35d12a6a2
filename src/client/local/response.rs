//! Bytes from the local side on their way to the kit.
//!
//! Where the next bytes are certain to be payload (raw streams, bodies of known length, the inside
//! of a chunk) they are read straight into the outgoing lane. Everything else comes through the
//! exchange's own buffer.

use crate::client::context::Mux;
use crate::client::keys::ExchangeKey;
use crate::client::local::exchange::Work;
use crate::client::local::http::{Passed, Space, Step};
use crate::client::local::{Around, LocalSide};
use crate::limits::{BULK_PAYLOAD, SPARE_BUFFERS, UPSTREAM_READ};
use crate::machine::{CloseHow, ConnKey};
use crate::pipe::Flow;
use crate::wire::code::Code;

impl LocalSide {
    /// Where the next bytes of the exchange's connection go.
    pub(in crate::client) fn upstream_space<'a>(
        &'a mut self,
        mux: Option<&'a mut Mux>,
        key: ExchangeKey,
    ) -> &'a mut [u8] {
        let exchange = self.exchanges.resolve_mut(key);
        let stream = exchange.stream;
        let wanted = match &mut exchange.work {
            Work::Raw => BULK_PAYLOAD,
            Work::Datagrams(_) => return &mut [],
            Work::Http(http) => match http.space() {
                Space::Own(space) => return space,
                Space::Direct(wanted) => wanted,
                Space::None => return &mut [],
            },
        };
        match mux {
            Some(session) => session.data_space(stream, wanted),
            None => &mut [],
        }
    }

    /// The connection brought `count` bytes; 0 is its FIN.
    pub(in crate::client) fn upstream_received(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        count: usize,
    ) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        let Some(key) = upstream.exchange else {
            // An idle connection has nothing to say but goodbye.
            return self.close_upstream(around, conn, CloseHow::Clean);
        };
        let reused = upstream.reused;
        if count == 0 {
            return self.upstream_fin(around, key, reused);
        }
        let exchange = self.exchanges.resolve_mut(key);
        let (direct, complete) = match exchange.http() {
            Some(http) => (http.reads_direct(), http.came(count)),
            None => (true, false),
        };
        if !direct {
            return self.pump(around, key);
        }
        exchange.bytes_out += count as u64;
        if let Some(session) = around.mux.as_deref_mut() {
            session.data_commit(exchange.stream, count, around.cx.now);
        }
        if complete {
            self.finish_response(around, key);
        }
    }

    /// The local side sends nothing more.
    fn upstream_fin(&mut self, around: &mut Around<'_>, key: ExchangeKey, reused: bool) {
        let exchange = self.exchanges.resolve_mut(key);
        if exchange.is_raw() {
            let conn = exchange.conn;
            if exchange.pipe.conn_ended() == Flow::Eof
                && let Some(session) = around.mux.as_deref_mut()
            {
                session.send_eof(exchange.stream, around.cx.now);
            }
            if let Some(conn) = conn {
                self.finish_if_drained(around, conn);
            }
            return;
        }
        let Some(http) = exchange.http() else { return };
        if http.fin() {
            return self.finish_response(around, key);
        }
        if let Some(conn) = exchange.conn {
            self.close_upstream(around, conn, CloseHow::Clean);
        }
        self.upstream_broke(around, key, reused, "closed too early");
    }

    /// Its sender found no room or no credit before, and may try again.
    pub(in crate::client) fn sender_may_go_on(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
    ) {
        self.pump(around, key);
        if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
            around.cx.effects.wake(conn);
        }
    }

    /// Passes on what lies in the exchange's buffer, as far as credit goes.
    pub(in crate::client) fn pump(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        loop {
            let (Some(exchange), Some(session)) =
                (self.exchanges.get_mut(key), around.mux.as_deref_mut())
            else {
                return;
            };
            let (stream, conn) = (exchange.stream, exchange.conn);
            let Work::Http(http) = &mut exchange.work else {
                return;
            };
            match http.next(&mut self.json) {
                Step::Wait => return,
                Step::Head(passed) => {
                    for part in http.take_parts() {
                        session.send_head_part(stream, &part);
                    }
                    session.send_head(stream, &self.json, around.cx.now);
                    self.head_came(around, key, passed);
                }
                Step::Data(count) => {
                    let sent = session.send(stream, &http.waiting()[..count], around.cx.now);
                    http.sent(sent);
                    exchange.bytes_out += sent as u64;
                    if sent < count {
                        return;
                    }
                }
                Step::End => return self.finish_response(around, key),
                Step::Broken(why) => {
                    if let Some(conn) = conn {
                        self.close_upstream(around, conn, CloseHow::Reset);
                    }
                    return self.upstream_broke(around, key, false, why);
                }
            }
        }
    }

    /// A head was passed on. Behind the last one the request's is not needed any more.
    fn head_came(&mut self, around: &mut Around<'_>, key: ExchangeKey, passed: Passed) {
        let exchange = self.exchanges.resolve_mut(key);
        if passed.interim {
            return;
        }
        if passed.personal
            && let Some(conn) = exchange.conn
        {
            self.conns.resolve_mut(conn).is_personal = true;
        }
        if exchange.out.is_empty() {
            // What is told of it in the end is all that is kept.
            let kept = exchange.http().map_or(0, |http| http.kept());
            let kept = kept.min(exchange.head_bytes);
            let (origin, freed) = (exchange.origin, exchange.head_bytes - kept);
            exchange.head_bytes = kept;
            self.heads.give_back(origin, freed);
        }
        // The visitor may have half-closed already.
        if passed.switches
            && let Some(conn) = self.exchanges.resolve(key).conn
        {
            self.finish_if_drained(around, conn);
        }
    }

    /// The response is complete: EOF, and the connection goes back to the pool.
    fn finish_response(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let (stream, remote_done) = (exchange.stream, exchange.pipe.stream_has_ended());
        let _ = exchange.pipe.conn_ended();
        let drained = exchange.out.is_empty();
        let Some(http) = exchange.http() else { return };
        let trails = http.say_trailers(&mut self.json);
        let (mut received, reuse) = http.finish(drained);
        if self.spare.len() < SPARE_BUFFERS && received.capacity() <= UPSTREAM_READ {
            received.truncate(0);
            self.spare.push(received);
        }
        // What it still had to take is not wanted any more.
        let unwanted = exchange.out.discard();
        self.release_upstream(around, key, reuse);
        self.tell_end(around, key, None);
        let now = around.cx.now;
        if let Some(session) = around.mux.as_deref_mut() {
            if trails {
                session.send_trailers(stream, &self.json, now);
            }
            session.send_eof(stream, now);
            session.passed_on(stream, unwanted, now);
        }
        if remote_done {
            self.drop_exchange(around, key, None);
        }
    }

    /// Answers a request ourselves. Nothing of a final head was sent before.
    pub(in crate::client) fn answer(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        status: u16,
        text: &str,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let stream = exchange.stream;
        if let Some(conn) = exchange.conn {
            self.close_upstream(around, conn, CloseHow::Clean);
        } else {
            self.pool.leave(key);
        }
        let (Some(exchange), Some(session)) =
            (self.exchanges.get_mut(key), around.mux.as_deref_mut())
        else {
            return;
        };
        let Work::Http(http) = &mut exchange.work else {
            return;
        };
        if !http.answer(status, text, &mut self.json) {
            return self.abandon(around, key, Code::InternalError, "cannot answer");
        }
        session.send_head(stream, &self.json, around.cx.now);
        let unwanted = exchange.out.discard();
        session.passed_on(stream, unwanted, around.cx.now);
        self.pump(around, key);
    }
}
