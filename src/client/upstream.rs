//! Local connections: getting one for an exchange, handing it on, and saying so when there is none.
//!
//! What is decided by numbers is decided in `pool.rs`; this file obeys it.

use crate::client::bindings::Local;
use crate::client::event::Shortage;
use crate::client::exchange::{ExchangeKey, Work};
use crate::client::machine::{Client, Entry, Timer};
use crate::client::pool::{Lot, Waiter};
use crate::client::visitor::Origin;
use crate::limits::{POOL_IDLE_FOR, SLOT_WAIT};
use crate::machine::{CloseHow, Command, ConnKey, Ended};
use crate::wire::code::Code;

/// A connection to a local server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub lot: Lot,
    pub exchange: Option<ExchangeKey>,
    /// The address whose slot it takes while it has an exchange.
    pub origin: Origin,
    pub connected: bool,
    /// It served another request before.
    pub reused: bool,
    /// It carried a login that holds for the connection, or was asked for one.
    pub is_personal: bool,
}

impl Client {
    /// Gives an exchange a connection: an idle one, a new one, or a place in the line.
    pub(super) fn assign(&mut self, key: ExchangeKey, fresh: bool) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        self.pool.recover(self.now);
        let repeatable = exchange.is_repeatable();
        let is_http = matches!(exchange.work, Work::Http(_));
        let (origin, visitor) = (exchange.origin, exchange.visitor);
        let Some(lot) = self.lot(exchange.binding) else {
            return self.dial_failed(key, "it was unbound");
        };
        if is_http && !fresh && visitor.is_some() {
            let lot = Lot { visitor, ..lot };
            if let Some(conn) = self.pool.take(lot, repeatable, self.now) {
                return self.reuse(conn, key);
            }
        }
        if !self.pool.may_serve(origin) {
            return self.stand_in_line(key, lot, self.now + SLOT_WAIT);
        }
        if is_http
            && !fresh
            && let Some(conn) = self.pool.take(lot, repeatable, self.now)
        {
            return self.reuse(conn, key);
        }
        while !self.pool.has_room()
            && let Some(conn) = self.pool.sacrifice()
        {
            self.close_upstream(conn, CloseHow::Clean);
        }
        match self.pool.has_room() {
            true => self.dial_upstream(key),
            false => self.stand_in_line(key, lot, self.now + SLOT_WAIT),
        }
    }

    fn stand_in_line(&mut self, key: ExchangeKey, lot: Lot, until: crate::clock::Instant) {
        if let Some(exchange) = self.exchanges.get(key) {
            self.pool.wait(Waiter {
                who: key,
                lot,
                origin: exchange.origin,
                until,
            });
            self.watch_line();
        }
    }

    fn watch_line(&mut self) {
        match self.pool.look_at() {
            Some(at) => self.effects.timers.arm(Timer::Line, at),
            None => self.effects.timers.disarm(Timer::Line),
        }
    }

    /// Nobody stands in the line for ever.
    pub(super) fn look_at_line(&mut self) {
        self.pool.recover(self.now);
        self.serve_waiting();
        while let Some(key) = self.pool.overdue(self.now) {
            let why = match self.pool.is_short() {
                true => Shortage::Descriptors,
                false => Shortage::Connections,
            };
            self.turn_away(key, why);
        }
        self.watch_line();
    }

    /// There is no room for an exchange, and there was none for as long as it may wait.
    fn turn_away(&mut self, key: ExchangeKey, why: Shortage) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        let raw = exchange.is_raw();
        self.count_refusal(why);
        if raw {
            return self.abandon(key, Code::RefusedStream, why.sentence());
        }
        let text = format!("The tunnel is busy: {}. Try again.\n", why.sentence());
        self.answer(key, 503, &text);
    }

    fn lot(&self, binding: u64) -> Option<Lot> {
        self.bindings.get(binding)?;
        Some(Lot {
            binding,
            visitor: None,
        })
    }

    /// Gives an exchange a connection that served another before.
    fn reuse(&mut self, conn: ConnKey, key: ExchangeKey) {
        let entry = self.conns.get_mut(conn);
        let (Some(Entry::Upstream(upstream)), Some(exchange)) =
            (entry, self.exchanges.get_mut(key))
        else {
            return;
        };
        upstream.exchange = Some(key);
        upstream.origin = exchange.origin;
        upstream.reused = true;
        upstream.is_personal |= exchange.logs_in;
        exchange.conn = Some(conn);
        self.pool.serves(exchange.origin);
        self.introduce(conn);
        self.effects.wake(conn);
    }

    /// A handler of this process shares its threads by whom it works for.
    fn introduce(&mut self, conn: ConnKey) {
        let Some(Entry::Upstream(upstream)) = self.conns.get(conn) else {
            return;
        };
        let visitor = upstream.origin;
        let bound = self.bindings.get(upstream.lot.binding);
        if bound.is_some_and(|bound| matches!(bound.spec.local, Local::Handler(_))) {
            let command = Command::Introduce { conn, visitor };
            self.effects.ask(command);
        }
    }

    fn dial_upstream(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let binding = exchange.binding;
        let bound = self.bindings.get(binding);
        let target = bound.map(|bound| bound.spec.local.dial());
        let (Some(target), Some(lot)) = (target, self.lot(binding)) else {
            return self.dial_failed(key, "it was unbound");
        };
        let exchange = self.exchanges.resolve_mut(key);
        let entry = Entry::Upstream(Upstream {
            lot,
            exchange: Some(key),
            origin: exchange.origin,
            connected: false,
            reused: false,
            is_personal: exchange.logs_in,
        });
        let Ok(conn) = self.conns.insert(entry) else {
            return self.dial_failed(key, "too many connections");
        };
        exchange.conn = Some(conn);
        if let Some(http) = exchange.http() {
            // Only a connection that may have been closing is worth a second try.
            http.head = Vec::new();
        }
        self.pool.serves(exchange.origin);
        self.pool.opened();
        self.effects.ask(Command::Dial { conn, target });
        self.introduce(conn);
    }

    /// Those who wait for a connection get one as far as there are any.
    pub(super) fn serve_waiting(&mut self) {
        while let Some(key) = self.pool.next_waiting() {
            self.dial_upstream(key);
        }
    }

    /// Closes a local connection and forgets it.
    pub(super) fn close_upstream(&mut self, conn: ConnKey, how: CloseHow) {
        if matches!(self.conns.get(conn), Some(Entry::Upstream(_))) {
            self.effects.close(conn, how);
            self.upstream_gone(conn);
        }
    }

    /// A local connection is no more, and its place is free.
    fn upstream_gone(&mut self, conn: ConnKey) {
        self.forget_upstream(conn);
        self.serve_waiting();
    }

    fn forget_upstream(&mut self, conn: ConnKey) {
        let Some(Entry::Upstream(upstream)) = self.conns.remove(conn) else {
            return;
        };
        self.pool.forget(upstream.lot, conn);
        self.pool.closed();
        if let Some(key) = upstream.exchange {
            self.pool.served(upstream.origin);
            self.exchanges.resolve_mut(key).conn = None;
        }
    }

    /// Takes the connection from an exchange whose response is complete, for others to use.
    pub(super) fn release_upstream(&mut self, key: ExchangeKey, reusable: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(conn) = exchange.conn else { return };
        let known = self.bindings.get(exchange.binding).is_some();
        let Entry::Upstream(upstream) = self.conns.resolve_mut(conn) else {
            return;
        };
        let nobodys = upstream.is_personal && exchange.visitor.is_none();
        if !reusable || !known || nobodys || !exchange.out.is_empty() {
            return self.close_upstream(conn, CloseHow::Clean);
        }
        exchange.conn = None;
        upstream.exchange = None;
        if upstream.is_personal {
            upstream.lot.visitor = exchange.visitor;
        }
        let (lot, origin) = (upstream.lot, upstream.origin);
        self.pool.served(origin);
        // Whoever waits comes before those that are still to come.
        while let Some(next) = self.pool.next_waiting_for(lot) {
            if self.exchanges.get(next).is_some() {
                return self.reuse(conn, next);
            }
        }
        let surplus = self.pool.keep(lot, conn, self.now);
        // Room for somebody who waits for another server is worth more than an idle connection.
        let wanted = self.pool.is_waited_for() && !self.pool.has_room();
        if let Some(closed) = surplus.or(wanted.then_some(conn)) {
            self.close_upstream(closed, CloseHow::Clean);
        }
        self.effects
            .timers
            .arm_if_unset(Timer::Pool, self.now + POOL_IDLE_FOR);
        // It may have been left without space to read into; an idle one is watched for its end.
        self.effects.wake(conn);
    }

    /// Closes idle connections that were kept long enough.
    pub(super) fn sweep_pool(&mut self) {
        let bindings = &self.bindings;
        let gone = |binding| bindings.get(binding).is_none();
        for conn in self.pool.expired(self.now, gone) {
            self.close_upstream(conn, CloseHow::Clean);
        }
        if self.pool.idle_count() == 0 {
            self.spare = Vec::new();
            return;
        }
        self.effects
            .timers
            .arm_if_unset(Timer::Pool, self.now + POOL_IDLE_FOR / 4);
    }

    pub(super) fn upstream_connected(&mut self, conn: ConnKey) {
        if let Some(Entry::Upstream(upstream)) = self.conns.get_mut(conn) {
            upstream.connected = true;
            self.effects.wake(conn);
            self.finish_if_drained(conn);
        }
    }

    pub(super) fn upstream_ended(&mut self, conn: ConnKey, how: Ended) {
        let Some(Entry::Upstream(upstream)) = self.conns.get(conn) else {
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
                self.pool.ran_short(self.now);
                self.no_descriptor(key);
            }
            Some(key) if !connected => {
                self.upstream_gone(conn);
                self.dial_failed(key, &why);
            }
            Some(key) => {
                self.upstream_gone(conn);
                self.upstream_broke(key, reused, &why);
            }
            None => self.upstream_gone(conn),
        }
    }

    /// The system had no descriptor for a connection to the kit: local ones make room.
    pub(super) fn lane_found_no_descriptor(&mut self) {
        self.pool.ran_short(self.now);
        self.close_idle();
    }

    /// The system had no descriptor for an exchange, which may wait for one as all others do.
    fn no_descriptor(&mut self, key: ExchangeKey) {
        self.close_idle();
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        let until = exchange.started + SLOT_WAIT;
        match self.lot(exchange.binding) {
            Some(lot) => self.stand_in_line(key, lot, until),
            None => self.dial_failed(key, "it was unbound"),
        }
    }

    fn close_idle(&mut self) {
        for conn in self.pool.all_idle() {
            self.close_upstream(conn, CloseHow::Clean);
        }
    }

    fn dial_failed(&mut self, key: ExchangeKey, why: &str) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        if exchange.is_raw() {
            return self.abandon(key, Code::Cancel, why);
        }
        let bound = self.bindings.get(exchange.binding);
        let name = match bound.map(|bound| &bound.spec.local) {
            Some(Local::Target(target)) => format!("http://{target}"),
            _ => "the handler".to_owned(),
        };
        let text = format!(
            "The tunnel works, but the local server does not answer.\n\n\
             Tried {name}: {why}\n\nIs it running? The next request tries again.\n"
        );
        self.answer(key, 502, &text);
    }
}
