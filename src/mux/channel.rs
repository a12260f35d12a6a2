//! What of a lane outlives its connection.
//!
//! A channel is known by its index (PROTOCOL §7). It has what must not get lost with a connection:
//! the outgoing frames of streams and of the session, the streams that are pinned to it and the
//! line of their senders, what it has carried, the ticket that it was joined with. While the lane
//! stands, its connection is the channel's [`Transport`], with PING and PONG.
//!
//! Without replay (PROTOCOL §9) nothing is kept for the next connection: the streams end with this
//! one, which takes along what waits. With it the outbox keeps frames until they are acknowledged
//! (`replay.rs`), and the streams wait for the next connection.

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::FLUSH_AT_ONCE;
use crate::machine::ConnKey;
use crate::mux::losses::Carried;
use crate::mux::outbox::Outbox;
use crate::mux::replay::Replay;
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
    /// Since when it waits for its next connection, with its streams.
    down_since: Option<Instant>,
    /// It carried something that is not kept any more.
    pub(super) given_up: bool,
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
    /// Has a connection carry it that goes on with nothing of before. One that carried it is gone
    /// first, and so are its streams.
    pub(super) fn attach(&mut self, mut transport: Transport, replay: Option<Box<Replay>>) {
        self.out = Outbox::new(transport.ahead.fork_framing(), replay);
        self.line = RoomLine::default();
        self.down_since = None;
        self.given_up = false;
        self.told = Told::No;
        self.transport = Some(transport);
    }

    /// Takes its connection, with all that still waits to leave on it. Nothing is kept.
    pub(super) fn detach(&mut self) -> Option<Transport> {
        // Its peer may not have got all of it, which is settled when it begins anew.
        self.given_up |= self.stands() || self.keeps();
        let out = std::mem::take(&mut self.out);
        self.down_since = None;
        let transport = self.transport.as_mut()?;
        out.leave_to(&mut transport.ahead);
        self.release_transport()
    }

    /// Takes its connection; what it did not carry waits for the next one, if anything is kept.
    /// Datagrams do not wait.
    pub(super) fn suspend(&mut self, now: Instant) -> Option<(Transport, u64)> {
        let transport = self.transport.as_mut()?;
        let lost = self.out.suspend(&mut transport.ahead);
        self.down_since = Some(now);
        Some((self.release_transport()?, lost))
    }

    /// Has another connection carry it, whose peer has taken so many frames: what was lost leaves
    /// first. Says how long it had none.
    pub(super) fn resume(
        &mut self,
        mut transport: Transport,
        received: u64,
        now: Instant,
    ) -> Duration {
        assert!(!self.stands(), "its connection is not gone");
        self.out.resume(transport.ahead.fork_framing(), received);
        self.told = Told::No;
        self.transport = Some(transport);
        let since = self.down_since.take();
        since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Nothing of it goes on but its ticket and what was counted of bytes. It has no connection.
    pub(super) fn forget(&mut self) {
        assert!(!self.stands(), "a lane of before stands");
        self.out = Outbox::default();
        self.line = RoomLine::default();
        self.carries = 0;
        self.carried = Carried::default();
        self.down_since = None;
        self.given_up = false;
    }

    fn release_transport(&mut self) -> Option<Transport> {
        let transport = self.transport.take()?;
        assert!(!transport.is_owed(), "its bytes are still lent");
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

    /// Adds a frame that must not get lost. False where no connection carries it, now or later.
    pub(super) fn push(&mut self, kind: FrameType, stream_id: u32, payload: &[u8]) -> bool {
        match &mut self.transport {
            // It is not sent again, so it need not wait for what is.
            Some(transport) if self.out.is_resending() && !kind.is_reliable() => {
                transport.ahead.push(kind, stream_id, payload);
            }
            None if self.out.replay.is_none() || !kind.is_reliable() => return false,
            _ => self.out.push(kind, stream_id, payload),
        }
        true
    }

    /// Adds a datagram of the stream whose STREAM_OPEN was the one of this number here, and says
    /// how many were lost for it, or with it where no connection carries it.
    pub(super) fn push_datagram(&mut self, id: u32, datagram: &[u8], after: u64) -> u64 {
        match self.stands() {
            true => self.out.push_datagram(id, datagram, after),
            false => 1,
        }
    }

    /// Adds a WINDOW. False where no connection carries it, now or later.
    pub(super) fn push_window(&mut self, stream_id: u32, increment: u32) -> bool {
        let goes = self.stands() || self.keeps();
        if goes {
            self.out.push_window(stream_id, increment);
        }
        goes
    }

    /// Whether what it carries is kept until it is acknowledged.
    pub(super) fn keeps(&self) -> bool {
        self.out.replay.is_some()
    }

    /// How many streams are pinned to it.
    pub fn carries(&self) -> usize {
        self.carries
    }

    /// How many frames its peer says that it has taken, where anything is kept.
    pub fn acknowledged(&self) -> u64 {
        self.replay().map_or(0, Replay::acked)
    }

    /// Whether a stream more may be opened on it, as far as its peer and what is kept go.
    pub(super) fn may_open(&self) -> bool {
        let transport = self.transport.as_ref();
        transport.is_some_and(|it| !it.is_closed()) && self.out.may_open()
    }

    /// How many bytes of DATA may be added to what waits; none while no connection carries it.
    pub(super) fn room(&self) -> usize {
        match self.stands() {
            true => self.out.room(),
            false => 0,
        }
    }

    /// Whether it sends what the last connection lost.
    pub(super) fn is_resending(&self) -> bool {
        self.out.is_resending()
    }

    /// Queues what the last connection lost, as much as may wait. Says whether that is done now.
    pub(super) fn sends_again(&mut self) -> bool {
        self.out.send_again()
    }

    /// What is kept of it, if anything is.
    pub(super) fn replay(&self) -> Option<&Replay> {
        self.out.replay.as_deref()
    }

    /// The count to acknowledge now, if it is time and a connection carries it.
    pub(super) fn acknowledges(&mut self, now: Instant) -> Option<u64> {
        let transport = self.transport.as_mut()?;
        let replay = self.out.replay.as_mut()?;
        replay.took_unknown(transport.take_skipped());
        replay.acknowledges(now)
    }

    /// A frame was handed on: counts it, and those before it that are not known here but count.
    pub(super) fn took(&mut self, kind: FrameType, payload: usize) {
        if let (Some(transport), Some(replay)) = (&mut self.transport, &mut self.out.replay) {
            replay.took_unknown(transport.take_skipped());
            if kind.is_reliable() {
                replay.took(payload);
            }
            if kind == FrameType::BindOk {
                // On other lanes than this its streams come only then.
                replay.is_awaited();
            }
        }
    }

    /// Since when it waits for a connection, if it does.
    pub(super) fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// Whether it has no connection and its streams wait for one.
    pub fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    /// Adds a PING, PONG or ACK. False where no connection carries it.
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
    pub(super) fn transmit(&mut self) -> &[u8] {
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
        let told = match self.waiting() + self.out.datagrams_len() {
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
        self.out.len() + self.out.held_up() + transport.map_or(0, |transport| transport.ahead.len())
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
    /// there is none. Gives memory back that is needed no more.
    pub(super) fn check(
        &mut self,
        now: Instant,
        quiet: Duration,
        patience: Duration,
        ping: [u8; 8],
    ) -> Option<Liveness> {
        self.out.look_back();
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
            self.stands() || self.keeps() || self.out.len() == 0 && self.carries == 0,
            "frames or streams wait for a connection that they do not outlive"
        );
    }
}
