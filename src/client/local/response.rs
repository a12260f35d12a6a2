//! Bytes from the local side on their way to the kit.
//!
//! Where the next bytes are certain to be payload (raw streams, bodies of known length, the inside
//! of a chunk) they are read straight into the outgoing lane. Everything else comes through the
//! exchange's own buffer.

use crate::client::context::{Around, Mux};
use crate::client::local::LocalSide;
use crate::client::local::exchange::{Download, ExchangeKey, Upload, Work};
use crate::client::local::visitor::asks_to_log_in;
use crate::http::{BodyDecoder, HeadScanner, LengthBody, ResponseBody, ResponseHead, forward};
use crate::limits::{BULK_PAYLOAD, INTERIM_HEADS, SPARE_BUFFERS, UPSTREAM_READ};
use crate::machine::{CloseHow, ConnKey};
use crate::wire::code::Code;
use crate::wire::open::write_response_head;

/// What the bytes at the front of an exchange's buffer are.
enum Next {
    /// Nothing is there, or more must come first.
    Wait,
    /// The response is complete.
    End,
    /// A head that is complete: handled.
    Again,
    /// The local server's answer makes no sense.
    Broken(&'static str),
}

impl LocalSide {
    /// Where the next bytes of the exchange's connection go.
    pub(in crate::client) fn upstream_space<'a>(
        &'a mut self,
        mux: Option<&'a mut Mux>,
        key: ExchangeKey,
    ) -> &'a mut [u8] {
        let exchange = self.exchanges.resolve_mut(key);
        let stream = exchange.stream;
        let certain = match &mut exchange.work {
            Work::Raw => u64::MAX,
            Work::Http(http) => {
                let certain = http.download.certain();
                if certain == 0 || matches!(http.download, Download::Complete) {
                    exchange.reads_direct = false;
                    return http.received.space(UPSTREAM_READ);
                }
                if !http.received.is_empty() {
                    // They wait for credit; those behind them wait in the socket.
                    return &mut [];
                }
                certain
            }
        };
        exchange.reads_direct = true;
        let wanted =
            usize::try_from(certain).map_or(BULK_PAYLOAD, |certain| certain.min(BULK_PAYLOAD));
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
        if exchange.reads_direct {
            exchange.bytes_out += count as u64;
            if let Some(session) = around.mux.as_deref_mut() {
                session.data_commit(exchange.stream, count, around.cx.now);
            }
            if let Some(http) = exchange.http()
                && let Download::Body(body) = &mut http.download
            {
                body.skip_data(count as u64);
                if body.is_complete() {
                    self.finish_response(around, key);
                }
            }
            return;
        }
        if let Some(http) = exchange.http() {
            http.received.commit(count);
        }
        self.pump(around, key);
    }

    /// The local side sends nothing more.
    fn upstream_fin(&mut self, around: &mut Around<'_>, key: ExchangeKey, reused: bool) {
        let exchange = self.exchanges.resolve_mut(key);
        if exchange.is_raw() {
            exchange.local_done = true;
            let conn = exchange.conn;
            if let Some(session) = around.mux.as_deref_mut() {
                session.send_eof(exchange.stream, around.cx.now);
            }
            if let Some(conn) = conn {
                self.finish_if_drained(around, conn);
            }
            return;
        }
        let Some(http) = exchange.http() else { return };
        match &http.download {
            Download::Body(body) if body.closed().is_ok() => {
                http.reusable = false;
                self.finish_response(around, key);
            }
            _ => {
                if let Some(conn) = exchange.conn {
                    self.close_upstream(around, conn, CloseHow::Clean);
                }
                self.upstream_broke(around, key, reused, "closed too early");
            }
        }
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
            match self.pump_once(around, key) {
                Next::Wait => return,
                Next::Again => {}
                Next::End => return self.finish_response(around, key),
                Next::Broken(why) => {
                    let conn = self.exchanges.get(key).and_then(|exchange| exchange.conn);
                    if let Some(conn) = conn {
                        self.close_upstream(around, conn, CloseHow::Reset);
                    }
                    return self.upstream_broke(around, key, false, why);
                }
            }
        }
    }

    fn pump_once(&mut self, around: &mut Around<'_>, key: ExchangeKey) -> Next {
        let (Some(exchange), Some(session)) =
            (self.exchanges.get_mut(key), around.mux.as_deref_mut())
        else {
            return Next::Wait;
        };
        let stream = exchange.stream;
        let Some(http) = exchange.http() else {
            return Next::Wait;
        };
        let body = match &mut http.download {
            Download::Head => return self.pump_head(around, key),
            Download::Complete => return Next::Wait,
            Download::Raw => None,
            Download::Body(body) => Some(body),
        };
        let certain = body.as_ref().map_or(u64::MAX, |body| body.certain_data());
        if certain > 0 {
            let count = usize::try_from(certain).map_or(usize::MAX, |certain| certain);
            let count = count.min(http.received.len());
            let sent = session.send(stream, &http.received.bytes()[..count], around.cx.now);
            http.received.consume(sent);
            if let Some(body) = body {
                body.skip_data(sent as u64);
            }
            exchange.bytes_out += sent as u64;
            if sent < count {
                return Next::Wait;
            }
        } else if let Some(body) = body {
            // One octet of framing at a time, so that no data is taken that there is no credit for.
            let piece = &http.received.bytes()[..http.received.len().min(1)];
            match body.decode(piece) {
                Ok(step) => http.received.consume(step.consumed),
                Err(_) => return Next::Broken("its chunks are malformed"),
            }
        }
        let Some(http) = exchange.http() else {
            return Next::Wait;
        };
        match &http.download {
            Download::Body(body) if body.is_complete() => Next::End,
            _ if http.received.is_empty() => Next::Wait,
            _ => Next::Again,
        }
    }

    /// Looks for the head of the response, and passes it on.
    fn pump_head(&mut self, around: &mut Around<'_>, key: ExchangeKey) -> Next {
        let (Some(exchange), Some(session)) =
            (self.exchanges.get_mut(key), around.mux.as_deref_mut())
        else {
            return Next::Wait;
        };
        let stream = exchange.stream;
        let Work::Http(http) = &mut exchange.work else {
            return Next::Wait;
        };
        let length = match http.scanner.scan(http.received.bytes()) {
            Ok(Some(length)) => length,
            Ok(None) => return Next::Wait,
            Err(reject) => return Next::Broken(reject.why),
        };
        let head = http.received.bytes().get(..length).unwrap_or_default();
        let head = match ResponseHead::parse(head) {
            Ok(head) => head,
            Err(reject) => return Next::Broken(reject.why),
        };
        let switches = head.accepts_upgrade(http.asked);
        if head.status == 101 && !switches {
            return Next::Broken("it switched protocols without being asked");
        }
        let interim = head.is_interim();
        if interim {
            http.interim += length;
            if http.interim > INTERIM_HEADS {
                return Next::Broken("its interim heads do not end");
            }
        }
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        let fields = forward::response_fields(&head, switches);
        if write_response_head(&mut json, head.status, fields, !interim).is_err() {
            return Next::Broken("its head is too long");
        }
        session.send_head(stream, &json, around.cx.now);
        self.json = json;
        let asks = |(name, value)| asks_to_log_in(name, value);
        let personal = head.fields.iter().any(asks);
        if interim {
            http.received.consume(length);
            http.scanner = HeadScanner::new();
            return Next::Again;
        }
        http.status = Some(head.status);
        http.reusable = head.reusable(http.asked);
        let body = head.body(http.asked);
        http.received.consume(length);
        http.head = Vec::new();
        if switches {
            http.download = Download::Raw;
            http.upload = Upload::Raw;
        } else {
            http.download = Download::Body(BodyDecoder::for_response(body));
        }
        let half_closed = exchange.remote_done;
        self.head_came(key, personal);
        match body {
            // The visitor has half-closed already.
            _ if switches && half_closed => self.raw_began(around, key),
            _ if switches => Next::Again,
            ResponseBody::None | ResponseBody::Length(0) => Next::End,
            _ => Next::Again,
        }
    }

    /// The response's head was passed on: the request's is not needed any more.
    fn head_came(&mut self, key: ExchangeKey, personal: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        if personal
            && let Some(conn) = exchange.conn
            && let Some(upstream) = self.conns.get_mut(conn)
        {
            upstream.is_personal = true;
        }
        if exchange.out.is_empty() {
            // What is told of it in the end is all that is kept.
            let kept = exchange.http().map_or(0, |http| http.target.len());
            let kept = kept.min(exchange.head_bytes);
            let (origin, freed) = (exchange.origin, exchange.head_bytes - kept);
            exchange.head_bytes = kept;
            self.heads.give_back(origin, freed);
        }
    }

    fn raw_began(&mut self, around: &mut Around<'_>, key: ExchangeKey) -> Next {
        if let Some(conn) = self.exchanges.get(key).and_then(|exchange| exchange.conn) {
            self.finish_if_drained(around, conn);
        }
        Next::Again
    }

    /// The response is complete: EOF, and the connection goes back to the pool.
    fn finish_response(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let (stream, remote_done) = (exchange.stream, exchange.remote_done);
        exchange.local_done = true;
        let drained = exchange.out.is_empty();
        let Some(http) = exchange.http() else { return };
        http.download = Download::Complete;
        let reusable =
            http.reusable && drained && http.upload.is_whole() && http.received.is_empty();
        http.upload = Upload::Unwanted;
        let mut received = std::mem::take(&mut http.received);
        if self.spare.len() < SPARE_BUFFERS && received.capacity() <= UPSTREAM_READ {
            received.truncate(0);
            self.spare.push(received);
        }
        // What it still had to take is not wanted any more.
        let unwanted = exchange.out.discard();
        self.release_upstream(around, key, reusable);
        self.tell_end(around, key, None);
        let now = around.cx.now;
        if let Some(session) = around.mux.as_deref_mut() {
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
        let length = text.len().to_string();
        let fields: [(&[u8], &[u8]); 4] = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"content-length", length.as_bytes()),
            (b"retry-after", b"1"),
        ];
        let count = if status == 503 { 4 } else { 3 };
        let mut json = Vec::new();
        if write_response_head(&mut json, status, fields.into_iter().take(count), true).is_err() {
            return self.abandon(around, key, Code::InternalError, "cannot answer");
        }
        session.send_head(stream, &json, around.cx.now);
        let unwanted = exchange.out.discard();
        session.passed_on(stream, unwanted, around.cx.now);
        let Some(http) = exchange.http() else { return };
        http.status = Some(status);
        http.reusable = false;
        http.upload = Upload::Unwanted;
        http.received.release();
        if http.asked.head {
            return self.finish_response(around, key);
        }
        http.received.extend(text.as_bytes());
        http.download = Download::Body(BodyDecoder::Length(LengthBody::new(text.len() as u64)));
        self.pump(around, key);
    }
}

impl Download {
    /// How many of the next bytes are payload for certain.
    fn certain(&self) -> u64 {
        match self {
            Download::Head | Download::Complete => 0,
            Download::Body(body) => body.certain_data(),
            Download::Raw => u64::MAX,
        }
    }
}
