//! Connections that were told all they will be told, and linger so that they hear it.
//!
//! A close with unread bytes is a reset, which may destroy the last words on their way; so whoever
//! was answered for good stays until it closes, or a few seconds; a visitor who is still sending
//! stays longer, and is slowed down. It is owed nothing more: the
//! class has a cap, at which the oldest goes, and whoever wants a descriptor gets theirs first.

use std::collections::VecDeque;
use std::time::Duration;

use crate::kit::conns::{After, ConnEntry, Conns, Role};
use crate::kit::context::Context;
use crate::kit::heads::Waiting;
use crate::limits::{
    BREAK_LOOKS, CUT_STALLED_AFTER, LEAVING_DRAINS, LEAVING_FOR, LEAVING_PAUSE, LEAVING_UPLOADS,
};
use crate::machine::{CloseHow, ConnKey};

/// Connections that began to leave, oldest first, and some that are gone by now.
#[derive(Debug, Default)]
pub(super) struct Leaving(VecDeque<ConnKey>);

impl Leaving {
    pub(super) fn add(&mut self, conn: ConnKey) {
        self.0.push_back(conn);
    }

    /// The oldest of those that `stands` says are still there. Those before it are forgotten.
    pub(super) fn oldest(&mut self, stands: impl Fn(ConnKey) -> bool) -> Option<ConnKey> {
        while let Some(conn) = self.0.front().copied() {
            if stands(conn) {
                return Some(conn);
            }
            self.0.pop_front();
        }
        None
    }

    /// Forgets those that are gone once they are many against the `standing`.
    pub(super) fn tidy(&mut self, standing: usize, stands: impl Fn(ConnKey) -> bool) {
        if self.0.len() > 2 * standing + 64 {
            self.0.retain(|conn| stands(*conn));
        }
    }
}

impl Conns {
    /// Sends `bytes` and then leaves politely.
    pub(super) fn say_and_leave(&mut self, conn: ConnKey, bytes: &[u8], cx: &mut Context) {
        self.leave(conn, bytes, After::Leave, cx);
    }

    /// Sends `bytes` behind what waits, and then does what comes after.
    fn leave(&mut self, conn: ConnKey, bytes: &[u8], after: After, cx: &mut Context) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        // Of somebody who came for no stream little is taken, and for him little is waited.
        let (lasts, stalls) = match (after, entry.role.has_stream()) {
            (After::Break, _) => (CUT_STALLED_AFTER, CUT_STALLED_AFTER),
            (_, true) => (LEAVING_UPLOADS, CUT_STALLED_AFTER),
            (_, false) => (Duration::ZERO, LEAVING_FOR),
        };
        let role = Role::Leaving {
            patience: LEAVING_DRAINS,
            until: cx.now + lasts,
            stalls,
            held: usize::MAX,
        };
        let role = std::mem::replace(&mut entry.role, role);
        let head = std::mem::replace(&mut entry.head, Waiting::Head(0));
        entry.out.push(bytes);
        entry.after = match after {
            After::Leave if entry.is_finished => After::Finished,
            after => after,
        };
        self.leaves_part(conn, role, head);
        cx.arm_conn(conn, cx.now + stalls);
        cx.effects.wake(conn);
        self.lingers(conn, cx);
        self.after_sending(conn, cx);
    }

    /// A response or a stream was cut: what came of it is sent, and then its end. That is a FIN
    /// where the framing has `shown` that something is missing, else a reset, which a body without
    /// framing needs so that it does not look whole (PROTOCOL §4).
    pub(super) fn cut(&mut self, conn: ConnKey, shown: bool, cx: &mut Context) {
        let after = if shown { After::Leave } else { After::Break };
        self.leave(conn, b"", after, cx);
    }

    /// Leaves once everything was sent, if that was wanted.
    pub(super) fn after_sending(&mut self, conn: ConnKey, cx: &mut Context) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        if !entry.out.is_empty() {
            return;
        }
        match entry.after {
            After::Stay | After::Finished => {}
            After::Break => {
                cx.effects.probe(conn);
                cx.arm_conn(conn, cx.now + BREAK_LOOKS);
            }
            After::Leave if entry.read_closed => self.close(conn, CloseHow::Clean, cx),
            After::Leave => {
                entry.after = After::Finished;
                cx.arm_conn(conn, cx.now + LEAVING_FOR);
                cx.finish(conn);
            }
        }
    }

    /// One that leaves took some of what waits for it: it is waited for as long as it takes any.
    pub(super) fn leaver_took(&mut self, conn: ConnKey, cx: &mut Context) {
        if let Some(entry) = self.table.get_mut(conn)
            && let Role::Leaving { until, stalls, .. } = &mut entry.role
        {
            *until = (cx.now + *stalls).max(*until);
            cx.arm_conn(conn, cx.now + *stalls);
        }
    }

    /// The system still holds so many bytes for one that leaves.
    pub(super) fn leaver_is_held(&mut self, conn: ConnKey, bytes: usize, cx: &mut Context) {
        let breaks = |entry: &&mut ConnEntry| entry.after == After::Break && entry.out.is_empty();
        let Some(entry) = self.table.get_mut(conn).filter(breaks) else {
            return;
        };
        if bytes == 0 {
            return self.close(conn, CloseHow::Reset, cx);
        }
        if let Role::Leaving {
            until,
            stalls,
            held,
            ..
        } = &mut entry.role
            && bytes < *held
        {
            *held = bytes;
            *until = cx.now + *stalls;
        }
    }

    /// The time of one that leaves has come: it goes, or it is looked after once more.
    pub(super) fn leaver_timeout(&mut self, conn: ConnKey, cx: &mut Context) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        let Role::Leaving {
            patience, until, ..
        } = &mut entry.role
        else {
            return;
        };
        if cx.now >= *until {
            return self.dismiss(conn, cx);
        }
        if entry.after == After::Break && entry.out.is_empty() {
            return self.after_sending(conn, cx);
        }
        if *patience > 0 {
            return self.dismiss(conn, cx);
        }
        *patience = LEAVING_DRAINS;
        cx.arm_conn(conn, cx.now + LEAVING_FOR);
        cx.effects.wake(conn);
    }

    /// Reads of a leaving connection: thrown away. A visitor who is still sending what nobody wants
    /// any more is slowed down, and not reset, for that might take his answer from him: he reads it
    /// and stops, or he has sent it all.
    pub(super) fn leaving_received(&mut self, conn: ConnKey, count: usize, cx: &mut Context) {
        let Some(entry) = self.table.get_mut(conn) else {
            return;
        };
        let Role::Leaving {
            patience, until, ..
        } = &mut entry.role
        else {
            return;
        };
        *patience = patience.saturating_sub(count);
        if count == 0 {
            entry.read_closed = true;
            if entry.out.is_empty() {
                self.dismiss(conn, cx);
            }
        } else if *patience > 0 {
            // Its time counts from its last sign.
            if cx.now < *until && entry.after != After::Break {
                cx.arm_conn(conn, cx.now + LEAVING_FOR);
            }
        } else if cx.now + LEAVING_PAUSE < *until {
            cx.arm_conn(conn, cx.now + LEAVING_PAUSE);
        } else {
            self.dismiss(conn, cx);
        }
    }

    /// Waits no longer for one that leaves. What it did not take must not look whole.
    pub(super) fn dismiss(&mut self, conn: ConnKey, cx: &mut Context) {
        let whole = |entry: &ConnEntry| entry.out.is_empty() && entry.after != After::Break;
        let how = match self.table.get(conn).is_some_and(whole) {
            true => CloseHow::Clean,
            false => CloseHow::Reset,
        };
        self.close(conn, how, cx);
    }
}
