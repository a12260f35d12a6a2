//! What of a lane outlives its connection.
//!
//! A channel is known by its index (PROTOCOL §7). It has what must not get lost with a connection:
//! the outgoing frames of streams and of the session, the streams that are pinned to it and the
//! line of their senders, what it has carried, the ticket that it was joined with. While the lane
//! stands, its connection is the channel's [`Transport`], with PING and PONG.
//!
//! Without replay (PROTOCOL §9) nothing is kept for the next connection: the streams end with this
//! one, which takes along what waits. With it the outbox keeps frames until they are acknowledged,
//! and the streams wait for the next connection.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::FLUSH_AT_ONCE;
use crate::machine::ConnKey;
use crate::mux::losses::Carried;
use crate::mux::outbox::Outbox;
use crate::mux::room::RoomLine;
use crate::mux::transport::{Liveness, Transport};
use crate::wire::control::Secret;
use crate::wire::frame::FrameType;

/// One lane of a session, whether it stands or not.
#[derive(Debug, Default)]
pub struct Channel {
    /// Outgoing frames.
    pub(super) out: Outbox,
    /// The senders that wait for room there.
    pub(super) line: RoomLine,
    /// How many streams are pinned to it.
    pub(super) carries: usize,
    /// What it carried, over all its connections since windows were whole.
    pub(super) carried: Carried,
    /// The ticket that it was joined with last, or tries to; the primary has none.
    pub(super) ticket: Option<Secret>,
    /// Bytes from the peer and to it over connections that are gone.
    past: (u64, u64),
    /// Whether the host was told that there is something to transmit.
    told: Told,
    transport: Option<Transport>,
}

/// What the host was told about a lane's bytes since it last took them all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    /// Nothing.
    #[default]
    No,
    /// To take them after everybody else's turn.
    Last,
    /// To take them at once.
    Now,
}

impl Channel {
    /// Has a connection carry it. One that did before is gone first.
    pub(super) fn attach(&mut self, mut transport: Transport) {
        self.out = Outbox::new(transport.ahead.fork_framing());
        self.line = RoomLine::default();
        self.told = Told::No;
        self.transport = Some(transport);
    }

    /// Takes its connection, with all that still waits to leave on it.
    pub(super) fn detach(&mut self) -> Option<Transport> {
        let mut transport = self.transport.take()?;
        assert!(!transport.is_owed(), "its bytes are still lent");
        std::mem::take(&mut self.out).leave_to(&mut transport.ahead);
        let (bytes_in, bytes_out) = transport.traffic();
        self.past = (self.past.0 + bytes_in, self.past.1 + bytes_out);
        self.carried.lost();
        Some(transport)
    }

    /// Its connection, while it has one.
    pub fn transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// The same, to use.
    pub(super) fn transport_mut(&mut self) -> Option<&mut Transport> {
        self.transport.as_mut()
    }

    /// Whether a connection carries it.
    pub fn stands(&self) -> bool {
        self.transport.is_some()
    }

    /// The connection that carries it.
    pub fn conn(&self) -> Option<ConnKey> {
        self.transport.as_ref().map(Transport::conn)
    }

    /// Where the next bytes from the peer go; see [`Transport::read_space`].
    pub fn read_space(&mut self) -> &mut [u8] {
        let Some(transport) = &mut self.transport else {
            return &mut [];
        };
        let urgent = transport.ahead.len() + self.out.windows.len();
        transport.space(urgent, transport.ahead.len() + self.out.len())
    }

    /// `count` bytes were read into the space.
    pub fn received(&mut self, count: usize, now: Instant) {
        if let Some(transport) = &mut self.transport {
            transport.received(count, now);
        }
    }

    /// The peer is there, although it says nothing; see [`Transport::shows_life`].
    pub fn shows_life(&mut self, now: Instant) {
        if let Some(transport) = &mut self.transport {
            transport.shows_life(now);
        }
    }

    /// Adds a frame that must not get lost. False where no connection carries it.
    pub(super) fn push(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) -> bool {
        if self.stands() {
            self.out.push(kind, stream_id, payload);
        }
        self.stands()
    }

    /// Adds a WINDOW. False where no connection carries it.
    pub(super) fn push_window(&mut self, stream_id: u32, increment: u32) -> bool {
        if self.stands() {
            self.out.push_window(stream_id, increment);
        }
        self.stands()
    }

    /// Adds a PING or PONG. False where no connection carries it.
    pub(super) fn push_sign_of_life(&mut self, kind: FrameType, payload: &[u8]) -> bool {
        let transport = self.transport.as_mut();
        transport
            .map(|transport| transport.ahead.push(kind, 0, payload))
            .is_some()
    }

    /// Queues a close frame behind everything else.
    pub(super) fn push_close(&mut self, code: u16, reason: &str) {
        if let Some(transport) = &mut self.transport {
            self.out.push_close(code, reason);
            transport.ahead.close();
        }
    }

    /// What to send next.
    pub fn transmit(&mut self) -> &[u8] {
        let Some(transport) = &mut self.transport else {
            return &[];
        };
        let bytes = self.out.transmit(&mut transport.ahead);
        if bytes.is_empty() {
            self.told = Told::No;
        }
        bytes
    }

    /// The socket took `count` bytes of it. Says whether reading may go on that had stopped.
    pub(super) fn transmitted(&mut self, count: usize) -> bool {
        let Some(transport) = &mut self.transport else {
            return false;
        };
        self.out.transmitted(&mut transport.ahead, count);
        transport.count_out(count);
        let urgent = transport.ahead.len() + self.out.windows.len();
        transport.recovers(urgent, transport.ahead.len() + self.out.len())
    }

    /// Who is to be told, and how urgently, that there is something to transmit; once until it has
    /// been taken.
    pub(super) fn tell(&mut self) -> Option<(ConnKey, Told)> {
        let conn = self.conn()?;
        let told = match self.waiting() {
            0 => return None,
            1..FLUSH_AT_ONCE => Told::Last,
            _ => Told::Now,
        };
        if self.told >= told {
            return None;
        }
        self.told = told;
        Some((conn, told))
    }

    /// Bytes that wait to leave.
    pub fn waiting(&self) -> usize {
        let transport = self.transport.as_ref();
        self.out.len() + transport.map_or(0, |transport| transport.ahead.len())
    }

    /// Whether all that was queued has left.
    pub fn is_flushed(&self) -> bool {
        self.waiting() == 0
    }

    /// Bytes from the peer and to it over all its connections, headers included.
    pub fn traffic(&self) -> (u64, u64) {
        let transport = self.transport.as_ref();
        let (bytes_in, bytes_out) = transport.map_or((0, 0), Transport::traffic);
        (self.past.0 + bytes_in, self.past.1 + bytes_out)
    }

    /// Looks after a quiet peer: sends a PING after `quiet` without a byte, and calls the
    /// connection dead when nothing came for `patience` after the PING (PROTOCOL §6). `None` when
    /// there is none.
    pub(super) fn check(
        &mut self,
        now: Instant,
        quiet: Duration,
        patience: Duration,
        ping: [u8; 8],
    ) -> Option<Liveness> {
        let health = self.transport()?.health(now, quiet, patience);
        if health.is_some() {
            return health;
        }
        self.release_if_idle();
        self.transport_mut()?.ping(now, ping);
        Some(Liveness::LookAgain(now + patience))
    }

    /// Memory held for bytes on their way, in bytes.
    pub fn capacity(&self) -> usize {
        let transport = self.transport.as_ref();
        self.out.capacity() + transport.map_or(0, Transport::capacity)
    }

    /// Gives memory back that a quiet lane does not need. Never while spans are lent.
    pub fn release_if_idle(&mut self) {
        self.out.release_if_idle();
        if let Some(transport) = &mut self.transport {
            transport.release_if_idle();
        }
    }

    /// Whether the pieces fit each other; for tests, fuzzing and debug builds.
    pub(super) fn check_invariants(&self) {
        self.out.check_invariants();
        assert!(
            self.stands() || self.out.len() == 0 && self.carries == 0,
            "frames or streams wait for a connection that they do not outlive"
        );
    }
}
