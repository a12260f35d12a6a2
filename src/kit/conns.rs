//! The kit's connections: what each one is for, and what happens when its last bytes have left.

use std::net::SocketAddr;

use crate::clock::Instant;
use crate::kit::budget::FdPermit;
use crate::kit::caller::Caller;
use crate::kit::greeter::Greeter;
use crate::kit::heads::Waiting;
use crate::kit::serve::FrontConn;
use crate::kit::session::SessionKey;
use crate::kit::visitor::Visitor;
use crate::limits::{
    CONN_MEMORY, FEW_CONNS, FREED_GOES_AFTER, FREED_MATTERS, FREED_WHEN_QUIET, LEAVING_DRAINS,
    LEAVING_FOR,
};
use crate::machine::{CloseHow, ConnKey};
use crate::outflow::Outflow;
use crate::text::said;

use super::{Kit, KitNotice, Reason};

/// Which lane's receive buffer a loan is in.
pub(super) type LaneName = (SessionKey, usize);

/// A connection that the kit serves.
#[derive(Debug)]
pub(super) struct ConnEntry {
    pub(super) role: Role,
    /// What is to be sent, but for lanes only what goes before the WebSocket: the answer to the
    /// upgrade.
    pub(super) out: Outflow<LaneName>,
    /// What is done once `out` is empty.
    pub(super) after: After,
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
pub(super) enum Fin {
    /// It has not come.
    NotYet,
    /// It came, behind bytes that are not read.
    Ahead,
    /// Everything in front of it was read.
    Read,
}

/// What a connection is for.
#[derive(Debug)]
pub(super) enum Role {
    /// HTTP on the kit's own listener.
    Front(FrontConn),
    /// Upgraded, and it has not said who it is.
    Greeter(Box<Greeter>),
    /// Carries a lane of a session.
    Lane(SessionKey, usize),
    /// Came to an EXPOSE port.
    Visitor(Visitor),
    /// Came to a PULL port.
    Caller(Caller),
    /// Said all it had to say, and reads on so that the peer gets it (a close with unread bytes is
    /// a reset, which may destroy what is on its way).
    Leaving {
        /// Bytes that may still be read and thrown away.
        patience: usize,
    },
}

/// What is done with a connection once everything was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Stay,
    /// Half-close, and stay.
    Finish,
    /// It was half-closed.
    Finished,
    /// Half-close and leave: read until the peer closes, for a while.
    Leave,
}

impl Kit {
    /// One line when something that lives long ends: a caller's or an upgraded visitor's stream.
    /// Plain requests are told at debug level.
    pub(super) fn log_conn_end(&self, conn: ConnKey, what: &str, why: &str) {
        let Some(entry) = self.conns.get(conn) else {
            return;
        };
        let (read, written) = entry.bytes;
        let lasted = self.cx.now.since(entry.since);
        log::info!(
            "{what} from {} ended after {lasted:?}: {}; {read} bytes in, {written} out",
            entry.from.ip(),
            said(why)
        );
    }

    /// Closes a connection and forgets all about it but what its session must do.
    pub(super) fn close_conn(&mut self, conn: ConnKey, how: CloseHow) {
        if self.drop_conn(conn) {
            self.cx.effects.close(conn, how);
        }
    }

    /// Takes the entry out and its permit home. The host has closed the connection or will.
    pub(super) fn drop_conn(&mut self, conn: ConnKey) -> bool {
        let Some(entry) = self.conns.remove(conn) else {
            return false;
        };
        if matches!(entry.role, Role::Front(_) | Role::Greeter(_)) {
            self.pre_auth -= 1;
        }
        self.doorstep.set(conn, None);
        self.cx.effects.timers.disarm(Reason::Conn(conn));
        self.heads.change(conn, entry.head, Waiting::Head(0));
        self.freed(CONN_MEMORY + entry.out.capacity() + entry.head.bytes());
        if let Some(permit) = entry.permit {
            self.budget.give_back(permit);
        }
        self.resume_accepting();
        true
    }

    /// `bytes` of memory were freed: what adds up is given back to the system before long.
    pub(super) fn freed(&mut self, bytes: usize) {
        self.freed += bytes;
        // The last of a crowd free little, but with them goes what held pages of all the others.
        let quiet = self.conns.len() < FEW_CONNS && self.freed >= FREED_WHEN_QUIET;
        if quiet || self.freed >= FREED_MATTERS {
            let at = self.cx.now + FREED_GOES_AFTER;
            self.cx.effects.timers.arm_if_unset(Reason::Freed, at);
        }
    }

    /// Tells the program that memory can be given back.
    pub(super) fn give_memory_back(&mut self) {
        self.freed = 0;
        self.spill_loans();
        for key in self.sessions.keys() {
            if let Some(mux) = self.sessions.mux_mut(key) {
                mux.release_idle();
            }
        }
        self.conns.shrink();
        self.cx.effects.notify(KitNotice::MemoryFreed);
    }

    /// Sends `bytes` and then leaves politely.
    pub(super) fn say_and_leave(&mut self, conn: ConnKey, bytes: &[u8], now: Instant) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if matches!(entry.role, Role::Front(_) | Role::Greeter(_)) {
            self.pre_auth -= 1;
        }
        self.doorstep.set(conn, None);
        let before = std::mem::replace(&mut entry.head, Waiting::Head(0));
        self.heads.change(conn, before, Waiting::Head(0));
        entry.out.push(bytes);
        entry.after = After::Leave;
        entry.role = Role::Leaving {
            patience: LEAVING_DRAINS,
        };
        self.cx
            .effects
            .timers
            .arm(Reason::Conn(conn), now + LEAVING_FOR);
        self.cx.effects.wake(conn);
        self.lingers(conn);
        self.after_sending(conn);
    }

    /// Does what was to be done once everything was sent, if everything was.
    pub(super) fn after_sending(&mut self, conn: ConnKey) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if !entry.out.is_empty() {
            return;
        }
        match entry.after {
            After::Stay | After::Finished => {}
            After::Finish | After::Leave => {
                let leaving = entry.after == After::Leave;
                entry.after = After::Finished;
                let read_closed = entry.read_closed;
                if leaving && read_closed {
                    self.close_conn(conn, CloseHow::Clean);
                } else {
                    self.cx.effects.finish(conn);
                    self.cx.effects.wake(conn);
                }
            }
        }
    }

    /// Reads of a leaving connection: thrown away, up to a bound.
    pub(super) fn leaving_received(&mut self, conn: ConnKey, count: usize) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let Role::Leaving { patience } = &mut entry.role else {
            return;
        };
        *patience = patience.saturating_sub(count);
        if *patience == 0 {
            self.close_conn(conn, CloseHow::Clean);
        } else if count == 0 {
            entry.read_closed = true;
            if entry.out.is_empty() {
                self.close_conn(conn, CloseHow::Clean);
            }
        }
    }

    /// Ends all loans: whoever borrowed copies what is left.
    pub(super) fn spill_loans(&mut self) {
        for conn in std::mem::take(&mut self.borrowers) {
            let Some(entry) = self.conns.get_mut(conn) else {
                continue;
            };
            let sessions = &self.sessions;
            entry.out.spill(|(session, lane), span| {
                let mux = sessions.mux(*session);
                mux.map_or(&[], |mux| mux.payload(*lane, span))
            });
        }
    }

    /// Hands a piece of the lane's receive buffer to a connection, lent if that is worth it.
    pub(super) fn pass_payload(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        span: std::ops::Range<usize>,
    ) {
        let now = self.cx.now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(mux) = self.sessions.mux(lane.0) else {
            return;
        };
        entry.starts_waiting(now);
        if entry.out.may_borrow(span.len()) {
            entry.out.borrow(lane, mux.lend(lane.1, &span));
            self.borrowers.push(conn);
        } else {
            entry.out.push_payload(mux.payload(lane.1, &span));
        }
        self.cx.effects.wake(conn);
    }
}
