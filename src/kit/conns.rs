//! The kit's connections: what each one is for, and what happens when its last bytes have left.
//!
//! [`Conns`] owns their sockets' side: what is to be sent, the permits, the memory of what waits,
//! who may yet prove itself and who only lingers. What a connection means to the part that it is
//! for, that part keeps under the same key; whose that was and is no more is in
//! [`Conns::next_left`], which the dispatcher asks after everything told.
//!
//! Invariants: a permit goes home when its entry does; whoever holds a loan is listed.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::kit::budget::{Class, FdBudget, FdPermit};
use crate::kit::context::Context;
use crate::kit::front::admission::{Admission, Room, Standing};
use crate::kit::front::throttle::place;
use crate::kit::heads::{Heads, Waiting};
use crate::kit::keys::SessionKey;
use crate::kit::leaving::Leaving;
use crate::kit::metrics::StreamOutcome;
use crate::limits::{
    CONN_MEMORY, FEW_CONNS, FREED_GOES_AFTER, FREED_MATTERS, FREED_WHEN_QUIET, MAX_CONNS,
};
use crate::machine::{CloseHow, Conn, ConnKey};
use crate::mux::Span;
use crate::outflow::{Loan, Outflow};
use crate::pipe::Flow;
use crate::table::Table;
use crate::text::said;

use super::Reason;

/// Which lane's receive buffer a loan is in.
pub(super) type LaneName = (SessionKey, usize);

/// Whoever has the lanes, in whose receive buffers payloads lie.
pub(super) trait Lanes {
    /// The payload that a span names; nothing where the lane is gone.
    fn payload(&self, lane: LaneName, span: &Span) -> &[u8];
    /// Lends it, while the lane stands.
    fn lend(&self, lane: LaneName, span: &Span) -> Option<Loan>;
}

/// A connection that the kit serves.
#[derive(Debug)]
pub(super) struct ConnEntry {
    pub(super) role: Role,
    /// What is to be sent, but for lanes only what goes before the WebSocket: the answer to the
    /// upgrade.
    pub(super) out: Outflow<LaneName>,
    /// What is done once `out` is empty.
    pub(super) after: After,
    /// A FIN was sent behind the end of its stream.
    pub(super) is_finished: bool,
    /// The peer sent FIN.
    pub(super) read_closed: bool,
    /// The peer sent FIN, and there are bytes in front of it that nobody has read yet.
    pub(super) fin_ahead: bool,
    /// Who is at the other end of the connection.
    pub(super) peer: SocketAddr,
    /// Who sent its last request, where a trusted proxy tells; else the same.
    pub(super) from: SocketAddr,
    pub(super) since: Instant,
    /// Bytes read from it and written to it.
    pub(super) bytes: (u64, u64),
    /// When the bytes that wait in `out` began to.
    pub(super) waiting_since: Instant,
    /// Memory of what came and waits, as the count of all heads knows it.
    pub(super) head: Waiting,
    /// None only while it makes room and its place was given away.
    pub(super) permit: Option<FdPermit>,
}

impl ConnEntry {
    /// How far the peer has got with its end.
    pub(super) fn fin(&self) -> Fin {
        match (self.read_closed, self.fin_ahead) {
            (true, _) => Fin::Read,
            (_, true) => Fin::Ahead,
            _ => Fin::NotYet,
        }
    }

    /// Notes when the oldest of the bytes in `out` came: called before any are added.
    pub(super) fn starts_waiting(&mut self, now: Instant) {
        if self.out.is_empty() {
            self.waiting_since = now;
        }
    }
}

/// Where the peer's FIN is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    /// It has not come.
    NotYet,
    /// It came, behind bytes that are not read.
    Ahead,
    /// Everything in front of it was read.
    Read,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// HTTP on the kit's own listener.
    Front,
    /// Upgraded, and it has not said who it is.
    Greeter,
    /// Carries a lane of a session.
    Lane(SessionKey, usize),
    /// Came to an EXPOSE port.
    Visitor,
    /// Came to a PULL port.
    Caller,
    /// Goes to whom a client wants to reach.
    Forward,
    /// Said all it had to say, and reads on so that the peer gets it (a close with unread bytes is
    /// a reset, which may destroy what is on its way).
    Leaving {
        /// Bytes that may still be read and thrown away, before a pause or for good.
        patience: usize,
        /// How long it may go on sending, with pauses; or how long a reset waits for what precedes
        /// it.
        until: Instant,
        /// How long it may take nothing of what waits for it.
        stalls: Duration,
        /// Bytes that its system holds, when last looked.
        held: usize,
    },
}

impl Role {
    /// Whether it has not proven who it is.
    fn is_pre_auth(self) -> bool {
        matches!(self, Role::Front | Role::Greeter)
    }

    /// Whether it serves a stream.
    pub(super) fn has_stream(self) -> bool {
        matches!(self, Role::Visitor | Role::Caller | Role::Forward)
    }

    /// Whether what waits to be sent is a visitor's, a caller's, or the last that anybody hears.
    pub(super) fn is_served(self) -> bool {
        self.has_stream() || matches!(self, Role::Leaving { .. })
    }
}

/// What is done with a connection once everything was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Stay,
    /// Half-close and leave: read until the peer closes, for a while.
    Leave,
    /// It was half-closed, and leaves.
    Finished,
    /// A reset, once the system has passed everything on.
    Break,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Conns {
    pub(super) table: Table<Conn, ConnEntry>,
    pub(super) budget: FdBudget,
    /// Where those stand who have not shown a token.
    pub(super) admission: Admission,
    /// Connections that only linger.
    pub(super) leaving: Leaving,
    /// What was sent and waits: heads that are not whole, mostly.
    heads: Heads,
    /// Connections that may hold a loan from a lane's buffer.
    borrowers: Vec<ConnKey>,
    /// Connections that have not proven who they are.
    pre_auth: usize,
    /// Bytes of memory that were freed and not given back to the system yet.
    freed: usize,
    /// Connections that are gone or only linger now, and whose they were.
    left: Vec<(ConnKey, Role)>,
}

impl Conns {
    pub(super) fn new(budget: FdBudget, admission: Admission) -> Conns {
        Conns {
            table: Table::new(MAX_CONNS),
            budget,
            admission,
            leaving: Leaving::default(),
            heads: Heads::default(),
            borrowers: Vec::new(),
            pre_auth: 0,
            freed: 0,
            left: Vec::new(),
        }
    }

    pub(super) fn get(&self, conn: ConnKey) -> Option<&ConnEntry> {
        self.table.get(conn)
    }

    pub(super) fn get_mut(&mut self, conn: ConnKey) -> Option<&mut ConnEntry> {
        self.table.get_mut(conn)
    }

    /// What a connection is for, while there is one.
    pub(super) fn role(&self, conn: ConnKey) -> Option<Role> {
        self.table.get(conn).map(|entry| entry.role)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnKey, &ConnEntry)> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Connections that have not proven who they are.
    pub(super) fn pre_auth(&self) -> usize {
        self.pre_auth
    }

    /// What was sent and waits.
    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// A connection that was accepted. Where there is no room for it, its permit goes home.
    pub(super) fn add(
        &mut self,
        role: Role,
        peer: SocketAddr,
        permit: FdPermit,
        now: Instant,
    ) -> Option<ConnKey> {
        let entry = ConnEntry {
            role,
            out: Outflow::new(),
            after: After::Stay,
            is_finished: false,
            read_closed: false,
            fin_ahead: false,
            peer,
            from: peer,
            since: now,
            bytes: (0, 0),
            waiting_since: now,
            head: Waiting::Head(0),
            permit: Some(permit),
        };
        match self.table.insert(entry) {
            Ok(key) => {
                self.pre_auth += usize::from(role.is_pre_auth());
                Some(key)
            }
            Err(entry) => {
                entry
                    .permit
                    .into_iter()
                    .for_each(|it| self.budget.give_back(it));
                None
            }
        }
    }

    /// One that has upgraded and has to say who it is.
    pub(super) fn greets(&mut self, conn: ConnKey) {
        self.change_role(conn, Role::Greeter);
    }

    /// One that has proven who it is and carries a lane now.
    pub(super) fn carries(&mut self, conn: ConnKey, (session, index): LaneName) {
        self.change_role(conn, Role::Lane(session, index));
        self.admission.set(conn, None);
    }

    fn change_role(&mut self, conn: ConnKey, role: Role) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        let before = std::mem::replace(&mut entry.role, role);
        self.pre_auth += usize::from(role.is_pre_auth());
        self.pre_auth -= usize::from(before.is_pre_auth());
        self.left.push((conn, before));
    }

    /// One that is not any more what it was for a part: that part forgets it.
    pub(super) fn next_left(&mut self) -> Option<(ConnKey, Role)> {
        self.left.pop()
    }

    /// Notes where a connection stands, if it has proven nothing yet, and what waits of it.
    pub(super) fn stands(&mut self, conn: ConnKey, standing: Option<Standing>, held: Waiting) {
        self.admission.set(conn, standing);
        self.weigh(conn, held);
    }

    /// Counts what came on a connection and waits.
    pub(super) fn weigh(&mut self, conn: ConnKey, held: Waiting) {
        if let Some(entry) = self.table.get_mut(conn)
            && matches!(entry.role, Role::Front | Role::Visitor)
        {
            let before = std::mem::replace(&mut entry.head, held);
            self.heads.change(conn, before, held);
        }
    }

    /// Who has sent most of a head, where all of them take more than `bound`.
    pub(super) fn head_too_much(&self, bound: usize) -> Option<ConnKey> {
        let reads_head = |conn: &ConnKey| {
            let entry = self.table.get(*conn);
            entry.is_some_and(|entry| matches!(entry.head, Waiting::Head(_)))
        };
        self.heads.largest_beyond(bound)?.find(reads_head)
    }

    /// One line when something that lives long ends: a caller's or an upgraded visitor's stream.
    /// Plain requests are told at debug level.
    pub(super) fn log_end(&self, conn: ConnKey, what: &str, why: &str, now: Instant) {
        let Some(entry) = self.table.get(conn) else {
            return;
        };
        let (read, written) = entry.bytes;
        let lasted = now.since(entry.since);
        log::info!(
            "{what} from {} ended after {lasted:?}: {}; {read} bytes in, {written} out",
            entry.from.ip(),
            said(why)
        );
    }

    /// Closes a connection and forgets all about it but what its session must do.
    pub(super) fn close(&mut self, conn: ConnKey, how: CloseHow, cx: &mut Context) {
        if self.drop(conn, cx) {
            cx.effects.close(conn, how);
        }
    }

    /// Takes the entry out and its permit home. The host has closed the connection or will.
    pub(super) fn drop(&mut self, conn: ConnKey, cx: &mut Context) -> bool {
        let Some(entry) = self.table.remove(conn) else {
            return false;
        };
        self.leaves_part(conn, entry.role, entry.head);
        cx.effects.timers.disarm(Reason::Conn(conn));
        self.freed(CONN_MEMORY + entry.out.capacity() + entry.head.bytes(), cx);
        if let Some(permit) = entry.permit {
            self.budget.give_back(permit);
        }
        true
    }

    /// A connection is nobody's any more.
    pub(super) fn leaves_part(&mut self, conn: ConnKey, role: Role, head: Waiting) {
        self.pre_auth -= usize::from(role.is_pre_auth());
        self.admission.set(conn, None);
        self.heads.change(conn, head, Waiting::Head(0));
        self.left.push((conn, role));
    }

    /// `bytes` of memory were freed: what adds up is given back to the system before long.
    fn freed(&mut self, bytes: usize, cx: &mut Context) {
        self.freed += bytes;
        // The last of a crowd free little, but with them goes what held pages of all the others.
        let quiet = self.table.len() < FEW_CONNS && self.freed >= FREED_WHEN_QUIET;
        if quiet || self.freed >= FREED_MATTERS {
            let at = cx.now + FREED_GOES_AFTER;
            cx.effects.timers.arm_if_unset(Reason::Freed, at);
        }
    }

    /// Gives back what the table does not need; the program is told to do the same.
    pub(super) fn shrink(&mut self) {
        self.freed = 0;
        self.table.shrink();
    }

    /// Does to a raw connection what its pipe says. `what` is its name in the log.
    pub(super) fn flows(&mut self, conn: ConnKey, flow: Flow, what: &str, cx: &mut Context) {
        match flow {
            Flow::Goes | Flow::Eof => {}
            Flow::Finish => {
                if let Some(entry) = self.table.get_mut(conn) {
                    entry.is_finished = true;
                }
                cx.finish(conn);
            }
            Flow::Over => {
                self.log_end(conn, what, "finished", cx.now);
                cx.metrics.stream_ended(StreamOutcome::Finished);
                self.close(conn, CloseHow::Clean, cx);
            }
        }
    }

    /// The system took so many of the bytes that are to be sent. Gives how many of them were
    /// payload, and whether nothing is left.
    pub(super) fn taken(&mut self, conn: ConnKey, count: usize, cx: &mut Context) -> (usize, bool) {
        let Some(entry) = self.table.get_mut(conn) else {
            return (0, false);
        };
        entry.bytes.1 += count as u64;
        let passed = entry.out.taken(count);
        let drained = entry.out.is_empty();
        if drained && passed > 0 {
            let waited = cx.now.since(entry.waiting_since);
            cx.metrics.relay_wait.observe(waited);
        }
        (passed, drained)
    }

    /// Ends all loans: whoever borrowed copies what is left.
    pub(super) fn spill(&mut self, lanes: &impl Lanes) {
        for conn in std::mem::take(&mut self.borrowers) {
            let Some(entry) = self.table.get_mut(conn) else {
                continue;
            };
            entry.out.spill(|lane, span| lanes.payload(*lane, span));
        }
    }

    /// Hands a piece of a lane's receive buffer to a connection, lent if that is worth it.
    pub(super) fn pass_payload(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        span: Span,
        lanes: &impl Lanes,
        cx: &mut Context,
    ) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        entry.starts_waiting(cx.now);
        if entry.out.may_borrow(span.len())
            && let Some(loan) = lanes.lend(lane, &span)
        {
            entry.out.borrow(lane, loan);
            self.borrowers.push(conn);
        } else {
            entry.out.push_payload(lanes.payload(lane, &span));
        }
        cx.effects.wake(conn);
    }

    /// Whether the pieces fit each other.
    pub(super) fn check_invariants(&self) {
        self.budget.check_invariants();
        let pre_auth = self.iter().filter(|(_, entry)| entry.role.is_pre_auth());
        let counted = "connections before authentication miscounted";
        assert_eq!(pre_auth.count(), self.pre_auth, "{counted}");
        for (key, entry) in self.iter() {
            assert!(
                !entry.out.is_lent() || self.borrowers.contains(&key),
                "a loan that nobody will end"
            );
            assert!(
                !matches!(entry.role, Role::Lane(..))
                    || entry.permit.as_ref().map(FdPermit::class) == Some(Class::Lane),
                "a lane with another's permit"
            );
        }
        let heads: usize = self.iter().map(|(_, it)| it.head.bytes()).sum();
        assert_eq!(heads, self.heads.total(), "heads were miscounted");
        assert!(self.left.is_empty(), "a part was not told who left it");
    }
}

impl ConnEntry {
    /// Where it stands in a room, for which it `asked` last then.
    pub(in crate::kit) fn stands_in(&self, room: Room, asked: Option<Instant>) -> Standing {
        let since = asked.unwrap_or(self.since);
        (room, place(self.from.ip()), Reverse(since))
    }
}
