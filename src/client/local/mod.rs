//! The laptop's side of streams: what hangs on each, and the local connections that serve them.
//!
//! What the room is for: reading what a visitor asked for and giving it to a local server
//! (`request`), passing its answer on (`response`), both within an `exchange`, of which all that is
//! HTTP is in the pure `http` (with `naming`); getting connections
//! to local servers, sharing them among visitors and keeping idle ones (`upstream`, `pool`,
//! `visitor`), and saying so where there is none (`tally`). What it never does: know how the kit
//! is reached, or decide what is bound.
//!
//! Order of calls: [`LocalSide::stream_opened`], then `data`, `remote_eof` and `stream_lost` as
//! they come on the stream, and what the host says of local connections; `sender_may_go_on` when
//! the session has credit or room again. [`LocalSide::spill`] before a lane reads.
//!
//! Invariants (`check_invariants`): a local connection serves one exchange or is idle in the pool;
//! whoever holds a loan is among the borrowers; heads and places are counted.

mod caller;
mod datagrams;
mod exchange;
mod greeting;
pub mod http;
#[cfg(test)]
mod http_tests;
pub mod naming;
mod pool;
mod request;
mod response;
mod tally;
mod upstream;
mod visitor;

use crate::buffer::Buffer;
use crate::client::bindings::Bindings;
use crate::client::context::{Context, Mux, Timer};
use crate::client::keys::{ExchangeKey, ExchangeMark, LANE_CONNS, Origin};
use crate::limits::{
    CLIENT_BEYOND_WINDOWS, CLIENT_HALF_CLOSE, CLIENT_SOCKETS, CLIENT_STREAMS, SWEEP_EVERY,
    UPSTREAMS,
};
use crate::machine::{CloseHow, Conn, ConnKey, Event, Socket};
use crate::outflow::Piece;
use crate::shares::Shares;
use crate::table::Table;

use exchange::{Exchange, Work};
use pool::Pool;
use tally::Tally;
use upstream::Upstream;

/// See the module.
pub(super) struct LocalSide {
    pub(super) exchanges: Table<ExchangeMark, Exchange>,
    /// Exchanges that may hold a loan of a lane's receive buffer.
    pub(super) borrowers: Vec<ExchangeKey>,
    /// Connections to local servers.
    pub(super) conns: Table<Conn, Upstream>,
    pub(super) pool: Pool<ExchangeKey>,
    /// Sockets for local services that take datagrams, one for each stream.
    pub(super) sockets: Table<Socket, ExchangeKey>,
    /// Bytes of requests' heads that are kept, by the visitor's address.
    pub(super) heads: Shares<Origin>,
    /// Visitors for whom there was no room.
    refusals: Tally,
    /// Buffers of requests that are over, for the next ones.
    spare: Vec<Buffer>,
    /// Room for a response's head on its way.
    json: Vec<u8>,
    /// Room for bytes that an idle connection should not send.
    scratch: [u8; 64],
}

/// What a part has around it while something is told to it: what is common, the session that
/// carries its streams while there is one, and what is bound.
pub(super) struct Around<'a> {
    pub cx: &'a mut Context,
    pub mux: Option<&'a mut Mux>,
    pub bindings: &'a Bindings,
}

impl LocalSide {
    /// Without streams and connections.
    pub(super) fn new() -> LocalSide {
        LocalSide {
            exchanges: Table::new(CLIENT_STREAMS),
            borrowers: Vec::new(),
            conns: Table::numbered_from(LANE_CONNS, UPSTREAMS),
            pool: Pool::new(),
            sockets: Table::new(CLIENT_SOCKETS),
            heads: Shares::new(),
            refusals: Tally::default(),
            spare: Vec::new(),
            json: Vec::new(),
            scratch: [0; 64],
        }
    }

    /// Makes do with so many descriptors.
    pub(super) fn fit(&mut self, descriptors: usize) {
        self.pool.fit(descriptors);
    }

    /// Whether no stream is left.
    pub(super) fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Whether no connection is left.
    pub(super) fn is_gone(&self) -> bool {
        self.conns.is_empty()
    }

    /// Where the next bytes of a local connection go.
    pub(super) fn read_space<'a>(
        &'a mut self,
        mux: Option<&'a mut Mux>,
        conn: ConnKey,
    ) -> &'a mut [u8] {
        match self.conns.get(conn) {
            Some(upstream) => match upstream.exchange {
                // What it says now may still be another protocol's.
                Some(_) if !upstream.connected => &mut [],
                Some(exchange) => self.upstream_space(mux, exchange),
                None => &mut self.scratch,
            },
            None => &mut [],
        }
    }

    /// What a local connection is to be sent.
    pub(super) fn transmit<'a>(&'a self, mux: Option<&'a Mux>, conn: ConnKey) -> &'a [u8] {
        let Some(upstream) = self.conns.get(conn) else {
            return &[];
        };
        if !upstream.connected {
            return upstream.greeting.bytes();
        }
        match upstream
            .exchange
            .map(|key| self.exchanges.resolve(key).out.next())
        {
            Some(Piece::Own(bytes)) => bytes,
            Some(Piece::Loan(lane, span)) => mux.map_or(&[], |mux| mux.payload(*lane, span)),
            Some(Piece::Nothing) | None => &[],
        }
    }

    /// Something happened to a local connection.
    pub(super) fn told(&mut self, around: &mut Around<'_>, event: Event) {
        match event {
            Event::Connected { conn, peer } => self.upstream_connected(around, conn, peer),
            Event::Secured { conn } => self.upstream_stands(around, conn),
            Event::Ended { conn, how } => self.upstream_ended(around, conn, how),
            Event::Holds { conn, bytes } => self.upstream_holds(around, conn, bytes),
            Event::Socket {
                socket,
                outcome: Err(why),
            } => self.socket_failed(around, socket, &why),
            _ => {}
        }
    }

    /// A deadline of this side has come.
    pub(super) fn timeout(&mut self, around: &mut Around<'_>, timer: Timer) {
        match timer {
            Timer::Sweep => self.sweep(around),
            Timer::Pool => self.sweep_pool(around),
            Timer::Line => self.look_at_line(around),
            Timer::Refusals => self.tell_refusals(around),
            _ => {}
        }
    }

    /// Looks over the streams: which stand still, and which have done so for too long.
    fn sweep(&mut self, around: &mut Around<'_>) {
        let Some(mux) = around.mux.as_deref_mut() else {
            return;
        };
        let now = around.cx.now;
        for key in mux.streams_mut().who_looks_still(now) {
            if let Some(conn) = self.exchanges.resolve(key).conn {
                around.cx.effects.probe(conn);
            }
        }
        for swept in mux.sweep(now, CLIENT_HALF_CLOSE, CLIENT_BEYOND_WINDOWS) {
            self.stream_lost(around, swept.tag, swept.reason);
        }
        around.arm_sweep();
    }

    /// Copies what is lent from lanes' buffers, because one of them is about to be read into.
    pub(super) fn spill(&mut self, mux: Option<&Mux>) {
        let Some(mux) = mux else {
            return self.borrowers.clear();
        };
        for key in self.borrowers.drain(..) {
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.out.spill(|lane, span| mux.payload(*lane, span));
            }
        }
    }

    /// The session is lost, and all streams with it.
    pub(super) fn session_lost(&mut self, around: &mut Around<'_>, why: &str) {
        self.pool.forget_waiting();
        self.borrowers.clear();
        let keys: Vec<ExchangeKey> = self.exchanges.keys().collect();
        for key in keys {
            self.stream_lost(around, key, why);
        }
    }

    /// Nothing follows: closes what is left.
    pub(super) fn close_all(&mut self, around: &mut Around<'_>) {
        let left: Vec<ConnKey> = self.conns.keys().collect();
        for conn in left {
            self.close_upstream(around, conn, CloseHow::Clean);
        }
    }

    /// A binding is gone: nobody needs its idle connections any more.
    pub(super) fn binding_gone(&self, cx: &mut Context) {
        if self.pool.idle_count() > 0 {
            cx.effects.timers.arm(Timer::Pool, cx.now);
        }
    }

    /// Whether the pieces fit each other, and the session's streams.
    pub(super) fn check_invariants(&self, mux: Option<&Mux>) {
        for key in mux.into_iter().flat_map(|mux| mux.streams().tags()) {
            assert!(
                self.exchanges.get(key).is_some(),
                "a stream without an exchange"
            );
        }
        for (key, of) in self.sockets.iter() {
            let named = self.exchanges.get(*of).map(|exchange| &exchange.work);
            let is_its = matches!(named, Some(Work::Datagrams(Some(socket))) if *socket == key);
            assert!(is_its, "a socket of nobody's");
        }
        for (key, exchange) in self.exchanges.iter() {
            assert!(mux.is_some(), "an exchange outlived its session");
            assert!(
                !exchange.out.is_lent() || self.borrowers.contains(&key),
                "a loan that nobody will end"
            );
            let Some(conn) = exchange.conn else { continue };
            let served = self.conns.get(conn).map(|upstream| upstream.exchange);
            assert_eq!(served, Some(Some(key)), "a connection serves a stranger");
        }
        let heads = self
            .exchanges
            .iter()
            .map(|(_, exchange)| exchange.head_bytes);
        assert_eq!(
            self.heads.total(),
            heads.sum::<usize>(),
            "heads were miscounted"
        );
        let open = self.conns.len();
        let idle = self
            .conns
            .iter()
            .filter(|(_, it)| it.exchange.is_none())
            .count();
        assert_eq!(self.pool.open(), open, "local connections were miscounted");
        assert_eq!(
            self.pool.idle_count(),
            idle,
            "idle connections were miscounted"
        );
        assert_eq!(self.pool.busy(), open - idle, "slots were miscounted");
    }
}

impl Around<'_> {
    /// Streams are looked over only while there are any.
    pub(super) fn arm_sweep(&mut self) {
        if self
            .mux
            .as_ref()
            .is_some_and(|mux| !mux.streams().is_empty())
        {
            let at = self.cx.now + SWEEP_EVERY;
            self.cx.effects.timers.arm_if_unset(Timer::Sweep, at);
        }
    }
}
