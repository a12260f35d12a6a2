//! Local connections: getting one for an exchange, handing it on, and saying so when there is none.
//!
//! What is decided by numbers is decided in `pool.rs`; this file obeys it.

use std::net::SocketAddr;

use crate::buffer::Buffer;
use crate::client::bound::Answerer;
use crate::client::context::Timer;
use crate::client::event::Shortage;
use crate::client::keys::ExchangeKey;
use crate::client::keys::Origin;
use crate::client::local::exchange::Work;
use crate::client::local::greeting::greeting;
use crate::client::local::pool::{PoolKey, Reuse, Waiter};
use crate::client::local::{Around, LocalSide};
use crate::limits::{POOL_IDLE_FOR, SLOT_WAIT};
use crate::machine::{CloseHow, Command, ConnKey, Ended, NO_TLS, Trust};
use crate::wire::code::Code;

/// A connection to a local server.
#[derive(Debug)]
pub(in crate::client) struct Upstream {
    pub pool_key: PoolKey,
    pub exchange: Option<ExchangeKey>,
    /// The address whose slot it takes while it has an exchange.
    pub origin: Origin,
    /// What it is told before anything else, as far as it was not sent.
    pub greeting: Buffer,
    /// Where it ends, once the host knows.
    pub peer: Option<SocketAddr>,
    /// Bytes of exchanges may pass.
    pub connected: bool,
    /// It served another request before.
    pub reused: bool,
    /// It carried a login that holds for the connection, or was asked for one, or it was told who
    /// its visitor is.
    pub is_personal: bool,
}

impl LocalSide {
    /// Gives an exchange a connection: an idle one, a new one, or a place in the line.
    pub(in crate::client) fn assign(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        fresh: bool,
    ) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        self.pool.recover(around.cx.now);
        let repeatable = exchange.is_repeatable();
        let is_http = matches!(exchange.work, Work::Http(_));
        let (origin, visitor) = (exchange.origin, exchange.visitor);
        let Some(pool_key) = self.pool_key(around, exchange.binding) else {
            return self.dial_failed(around, key, "it was unbound");
        };
        if is_http && !fresh && visitor.is_some() {
            let pool_key = PoolKey {
                visitor,
                ..pool_key
            };
            if let Some(conn) = self.pool.take(pool_key, repeatable, around.cx.now) {
                return self.reuse(around, conn, key);
            }
        }
        if !self.pool.may_serve(origin) {
            return self.stand_in_line(around, key, pool_key, around.cx.now + SLOT_WAIT);
        }
        if is_http
            && !fresh
            && let Some(conn) = self.pool.take(pool_key, repeatable, around.cx.now)
        {
            return self.reuse(around, conn, key);
        }
        while !self.pool.has_room()
            && let Some(conn) = self.pool.sacrifice()
        {
            self.close_upstream(around, conn, CloseHow::Clean);
        }
        match self.pool.has_room() {
            true => self.dial_upstream(around, key),
            false => self.stand_in_line(around, key, pool_key, around.cx.now + SLOT_WAIT),
        }
    }

    fn stand_in_line(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        pool_key: PoolKey,
        until: crate::clock::Instant,
    ) {
        if let Some(exchange) = self.exchanges.get(key) {
            self.pool.wait(Waiter {
                who: key,
                pool_key,
                origin: exchange.origin,
                until,
            });
            self.watch_line(around);
        }
    }

    fn watch_line(&mut self, around: &mut Around<'_>) {
        match self.pool.look_at() {
            Some(at) => around.cx.effects.timers.arm(Timer::Line, at),
            None => around.cx.effects.timers.disarm(Timer::Line),
        }
    }

    /// Nobody stands in the line for ever.
    pub(in crate::client) fn look_at_line(&mut self, around: &mut Around<'_>) {
        self.pool.recover(around.cx.now);
        self.serve_waiting(around);
        while let Some(key) = self.pool.overdue(around.cx.now) {
            let why = match self.pool.is_short() {
                true => Shortage::Descriptors,
                false => Shortage::Connections,
            };
            self.turn_away(around, key, why);
        }
        self.watch_line(around);
    }

    /// There is no room for an exchange, and there was none for as long as it may wait.
    fn turn_away(&mut self, around: &mut Around<'_>, key: ExchangeKey, why: Shortage) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        let raw = exchange.is_raw();
        self.count_refusal(around, why);
        if raw {
            return self.abandon(around, key, Code::RefusedStream, why.sentence());
        }
        let text = format!("The tunnel is busy: {}. Try again.\n", why.sentence());
        self.answer(around, key, 503, &text);
    }

    fn pool_key(&self, around: &mut Around<'_>, binding: u64) -> Option<PoolKey> {
        around.bindings.get(binding)?;
        Some(PoolKey {
            binding,
            visitor: None,
        })
    }

    /// Gives an exchange a connection that served another before.
    fn reuse(&mut self, around: &mut Around<'_>, conn: ConnKey, key: ExchangeKey) {
        let entry = self.conns.get_mut(conn);
        let (Some(upstream), Some(exchange)) = (entry, self.exchanges.get_mut(key)) else {
            return;
        };
        upstream.exchange = Some(key);
        upstream.origin = exchange.origin;
        upstream.reused = true;
        upstream.is_personal |= exchange.logs_in;
        exchange.conn = Some(conn);
        self.pool.serves(exchange.origin);
        self.introduce(around, conn);
        around.cx.effects.wake(conn);
    }

    /// A handler of this process shares its threads by whom it works for.
    fn introduce(&mut self, around: &mut Around<'_>, conn: ConnKey) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        let visitor = upstream.origin;
        let bound = around.bindings.get(upstream.pool_key.binding);
        if bound.is_some_and(|bound| matches!(bound.spec.local, Answerer::Handler(_))) {
            let command = Command::Introduce { conn, visitor };
            around.cx.effects.ask(command);
        }
    }

    fn dial_upstream(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let binding = exchange.binding;
        let bound = around.bindings.get(binding);
        let greets = bound.and_then(|bound| {
            let (version, mode) = (bound.spec.proxy_protocol?, bound.spec.service.mode());
            let remote = exchange.remote_addr.as_deref();
            Some(greeting(version, remote, mode, exchange.container_port))
        });
        let target = bound.map(|bound| bound.spec.local.dial());
        let (Some(target), Some(pool_key)) = (target, self.pool_key(around, binding)) else {
            return self.dial_failed(around, key, "it was unbound");
        };
        let exchange = self.exchanges.resolve_mut(key);
        let mut greeting = Buffer::new();
        greeting.extend(greets.as_deref().unwrap_or_default());
        let entry = Upstream {
            pool_key,
            exchange: Some(key),
            origin: exchange.origin,
            greeting,
            peer: None,
            connected: false,
            reused: false,
            is_personal: exchange.logs_in || greets.is_some(),
        };
        let Ok(conn) = self.conns.insert(entry) else {
            return self.dial_failed(around, key, "too many connections");
        };
        exchange.conn = Some(conn);
        if let Some(http) = exchange.http() {
            // Only a connection that may have been closing is worth a second try.
            http.forget_head();
        }
        self.pool.serves(exchange.origin);
        self.pool.opened();
        around.cx.effects.ask(Command::Dial { conn, target });
        self.introduce(around, conn);
    }

    /// Those who wait for a connection get one as far as there are any.
    pub(in crate::client) fn serve_waiting(&mut self, around: &mut Around<'_>) {
        while let Some(key) = self.pool.next_waiting() {
            self.dial_upstream(around, key);
        }
    }

    /// Closes a local connection and forgets it.
    pub(in crate::client) fn close_upstream(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        how: CloseHow,
    ) {
        if self.conns.get(conn).is_some() {
            around.cx.effects.close(conn, how);
            self.upstream_gone(around, conn);
        }
    }

    /// A local connection is no more, and its place is free.
    fn upstream_gone(&mut self, around: &mut Around<'_>, conn: ConnKey) {
        self.forget_upstream(conn);
        self.serve_waiting(around);
    }

    fn forget_upstream(&mut self, conn: ConnKey) {
        let Some(upstream) = self.conns.remove(conn) else {
            return;
        };
        self.pool.forget(upstream.pool_key, conn);
        self.pool.closed();
        if let Some(key) = upstream.exchange {
            self.pool.served(upstream.origin);
            self.exchanges.resolve_mut(key).conn = None;
        }
    }

    /// Takes the connection from an exchange whose response is complete, for others to use.
    pub(in crate::client) fn release_upstream(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        reuse: Reuse,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(conn) = exchange.conn else { return };
        let known = around.bindings.get(exchange.binding).is_some();
        let upstream = self.conns.resolve_mut(conn);
        let nobodys = upstream.is_personal && exchange.visitor.is_none();
        let reusable = match reuse {
            Reuse::Never => false,
            Reuse::ByTheVisitor => upstream.is_personal,
            Reuse::ByAnybody => true,
        };
        if !reusable || !known || nobodys || !exchange.out.is_empty() {
            return self.close_upstream(around, conn, CloseHow::Clean);
        }
        exchange.conn = None;
        upstream.exchange = None;
        if upstream.is_personal {
            upstream.pool_key.visitor = exchange.visitor;
        }
        let (pool_key, origin) = (upstream.pool_key, upstream.origin);
        self.pool.served(origin);
        // Whoever waits comes before those that are still to come.
        while let Some(next) = self.pool.next_waiting_for(pool_key) {
            if self.exchanges.get(next).is_some() {
                return self.reuse(around, conn, next);
            }
        }
        let surplus = self.pool.keep(pool_key, conn, around.cx.now);
        // Room for somebody who waits for another server is worth more than an idle connection.
        let wanted = self.pool.is_waited_for() && !self.pool.has_room();
        if let Some(closed) = surplus.or(wanted.then_some(conn)) {
            self.close_upstream(around, closed, CloseHow::Clean);
        }
        around
            .cx
            .effects
            .timers
            .arm_if_unset(Timer::Pool, around.cx.now + POOL_IDLE_FOR);
        // It may have been left without space to read into; an idle one is watched for its end.
        around.cx.effects.wake(conn);
    }

    /// Closes idle connections that were kept long enough.
    pub(in crate::client) fn sweep_pool(&mut self, around: &mut Around<'_>) {
        let bindings = around.bindings;
        let gone = |binding| bindings.get(binding).is_none();
        for conn in self.pool.expired(around.cx.now, gone) {
            self.close_upstream(around, conn, CloseHow::Clean);
        }
        if self.pool.idle_count() == 0 {
            self.spare = Vec::new();
            return;
        }
        around
            .cx
            .effects
            .timers
            .arm_if_unset(Timer::Pool, around.cx.now + POOL_IDLE_FOR / 4);
    }

    /// A local connection stands, and the greeting is next where there is one.
    pub(in crate::client) fn upstream_connected(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        peer: SocketAddr,
    ) {
        let Some(upstream) = self.conns.get_mut(conn) else {
            return;
        };
        upstream.peer = Some(peer);
        match upstream.greeting.is_empty() {
            true => self.upstream_greeted(around, conn, peer),
            false => around.cx.effects.wake(conn),
        }
    }

    /// The socket took `count` bytes of the greeting.
    pub(in crate::client) fn greeting_left(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        count: usize,
    ) {
        let Some(upstream) = self.conns.get_mut(conn) else {
            return;
        };
        upstream.greeting.consume(count);
        if let Some(peer) = upstream.peer.filter(|_| upstream.greeting.is_empty()) {
            self.upstream_greeted(around, conn, peer);
        }
    }

    /// A local connection knows who calls, and TLS is next where its server speaks it.
    fn upstream_greeted(&mut self, around: &mut Around<'_>, conn: ConnKey, peer: SocketAddr) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        let spec = around.bindings.get(upstream.pool_key.binding);
        let spec = spec.map(|bound| &bound.spec);
        let name = spec.and_then(|spec| spec.local.server_name());
        let (Some(spec), Some(server_name)) = (spec, name) else {
            return self.upstream_stands(around, conn);
        };
        let trust = match &spec.trust {
            // Nobody is in between: a server on this machine may have a certificate of its own.
            Trust::System if peer.ip().to_canonical().is_loopback() => Trust::Anyone,
            trust => trust.clone(),
        };
        around.cx.effects.ask(Command::StartTls {
            conn,
            server_name,
            trust,
        });
    }

    /// A local connection may be used.
    pub(in crate::client) fn upstream_stands(&mut self, around: &mut Around<'_>, conn: ConnKey) {
        if let Some(upstream) = self.conns.get_mut(conn) {
            upstream.connected = true;
            around.cx.effects.wake(conn);
            self.finish_if_drained(around, conn);
        }
    }

    pub(in crate::client) fn upstream_ended(
        &mut self,
        around: &mut Around<'_>,
        conn: ConnKey,
        how: Ended,
    ) {
        let Some(upstream) = self.conns.get(conn) else {
            return;
        };
        let (exchange, connected, reused) =
            (upstream.exchange, upstream.connected, upstream.reused);
        let (why, scarce) = match &how {
            Ended::Reset => ("connection reset".to_owned(), false),
            Ended::Failed(failure) => (failure.text.clone(), failure.is_shortage()),
        };
        match exchange {
            Some(key) if !connected && scarce => {
                // Others are not served now: there is nothing to serve them with.
                self.forget_upstream(conn);
                self.pool.ran_short(around.cx.now);
                self.no_descriptor(around, key);
            }
            Some(key) if !connected => {
                self.upstream_gone(around, conn);
                self.dial_failed(around, key, &why);
            }
            Some(key) => {
                self.upstream_gone(around, conn);
                self.upstream_broke(around, key, reused, &why);
            }
            None => self.upstream_gone(around, conn),
        }
    }

    /// The system had no descriptor for a connection to the kit: local ones make room.
    pub(in crate::client) fn lane_found_no_descriptor(&mut self, around: &mut Around<'_>) {
        self.pool.ran_short(around.cx.now);
        self.close_idle(around);
    }

    /// The system had no descriptor for an exchange, which may wait for one as all others do.
    fn no_descriptor(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        self.close_idle(around);
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        let until = exchange.started + SLOT_WAIT;
        match self.pool_key(around, exchange.binding) {
            Some(pool_key) => self.stand_in_line(around, key, pool_key, until),
            None => self.dial_failed(around, key, "it was unbound"),
        }
    }

    fn close_idle(&mut self, around: &mut Around<'_>) {
        for conn in self.pool.all_idle() {
            self.close_upstream(around, conn, CloseHow::Clean);
        }
    }

    fn dial_failed(&mut self, around: &mut Around<'_>, key: ExchangeKey, why: &str) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        if exchange.is_raw() {
            return self.abandon(around, key, Code::Cancel, why);
        }
        let bound = around.bindings.get(exchange.binding);
        let name = match bound.map(|bound| &bound.spec.local) {
            Some(Answerer::Target(target)) => target.shown(),
            _ => "the handler".to_owned(),
        };
        let hint = hint(why);
        let text = format!(
            "The tunnel works, but the local server does not answer.\n\n\
             Tried {name}: {why}\n\n{hint} The next request tries again.\n"
        );
        self.answer(around, key, 502, &text);
    }
}

/// What to look at where a local server cannot be reached.
fn hint(why: &str) -> &'static str {
    if !why.starts_with("TLS: ") {
        return "Is it running?";
    }
    if why.contains(NO_TLS) {
        return "This server does not speak TLS: expose it with http:// instead.";
    }
    if why.contains("UnknownIssuer") {
        return "If its certificate is of your own making, give its CA with --upstream-ca.";
    }
    "Is that its name, and does it speak TLS?"
}
