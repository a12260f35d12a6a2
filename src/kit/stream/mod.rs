//! What visitors and callers ask for: one stream of a session each.
//!
//! `Visitors` speak HTTP on EXPOSE ports, `Callers` raw TCP on PULL ports. Both keep what they
//! know of a connection under its key; the mux names a stream by that key too. They are told what
//! came from either side and act on the rooms below: connections, sessions, ports.
//!
//! The room never looks for a session that something might go to: it asks who owns the port now.
//!
//! | file | part |
//! | --- | --- |
//! | `visitor` | EXPOSE (PROTOCOL §4, §11); `visitor/exchange` is the HTTP of one, without tables |
//! | `caller` | PULL |
//! | `arrivals` | who comes for a stream, and whose place it gets |
//! | `refusals` | what is said where there is no stream |

mod arrivals;
pub(super) mod caller;
mod refusals;
pub mod visitor;

use crate::clock::Instant;
use crate::kit::conns::{Conns, LaneName, Role};
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::StreamOutcome;
use crate::kit::port::Ports;
use crate::kit::session::{Arrived, End, Mux, Sessions};
use crate::machine::{ConnKey, Ended};
use crate::mux::{Span, StreamKey};
use crate::wire::code::Code;

use caller::Callers;
use visitor::Visitors;

/// A stream and its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamName {
    pub(super) session: SessionKey,
    pub(super) stream: StreamKey,
}

impl StreamName {
    /// Its session's mux, while that is attached.
    fn mux(self, sessions: &mut Sessions) -> Option<&mut Mux> {
        sessions.mux_mut(self.session)
    }

    /// The local side took so many bytes of its DATA: their credit goes back.
    fn passed_on(self, count: usize, sessions: &mut Sessions, now: Instant) {
        if count > 0
            && let Some(mux) = self.mux(sessions)
        {
            mux.passed_on(self.stream, count, now);
        }
    }
}

/// The rooms below the streams.
#[derive(Debug)]
pub(super) struct Below<'a> {
    pub(super) cx: &'a mut Context,
    pub(super) conns: &'a mut Conns,
    pub(super) sessions: &'a mut Sessions,
    pub(super) ports: &'a mut Ports,
}

/// All that have a stream, or want one.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) visitors: Visitors,
    pub(super) callers: Callers,
}

impl Streams {
    /// The stream of a connection, if it has one.
    pub(super) fn name(&self, conn: ConnKey, role: Role) -> Option<StreamName> {
        match role {
            Role::Visitor => self.visitors.stream(conn),
            Role::Caller => self.callers.stream(conn),
            _ => None,
        }
    }

    /// A frame came on a lane for one of them.
    pub(super) fn arrived(&mut self, frame: Arrived, lane: LaneName, below: &mut Below<'_>) {
        match frame {
            Arrived::Head(conn, payload) => self.visitors.head(conn, lane, &payload, below),
            Arrived::Trailers(conn, payload) => {
                self.visitors.trailers(conn, lane, &payload, below);
            }
            Arrived::Data(conn, payload) => self.data(conn, lane, payload, below),
            Arrived::Eof(conn) => self.eof(conn, below),
            Arrived::Reset {
                conn,
                code,
                reason,
                violation,
            } => {
                let outcome = match code {
                    _ if violation => StreamOutcome::Violated,
                    Code::RefusedStream => StreamOutcome::Refused,
                    _ => StreamOutcome::ResetByClient,
                };
                if violation {
                    below.cx.metrics.violation(code);
                }
                let why = &reason;
                self.lost(conn, End { outcome, code, why }, below);
            }
            // These are about ports.
            Arrived::Bind(_) | Arrived::Unbind(_) => {}
        }
    }

    /// DATA came for a connection.
    fn data(&mut self, conn: ConnKey, lane: LaneName, span: Span, below: &mut Below<'_>) {
        match below.conns.role(conn) {
            Some(Role::Visitor) => self.visitors.data(conn, lane, span, below),
            Some(Role::Caller) => {
                let Below {
                    cx,
                    conns,
                    sessions,
                    ..
                } = below;
                conns.pass_payload(conn, lane, span, &**sessions, cx);
            }
            _ => {}
        }
    }

    /// EOF came for a connection.
    fn eof(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        match below.conns.role(conn) {
            Some(Role::Visitor) => self.visitors.stream_ended(conn, below),
            Some(Role::Caller) => self.callers.stream_ended(conn, below),
            _ => {}
        }
    }

    /// A stream is over in both directions; what it belonged to is broken or answered.
    pub(super) fn lost(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        match below.conns.role(conn) {
            Some(Role::Visitor) => self.visitors.broken(conn, end, below),
            Some(Role::Caller) => self.callers.broken(conn, end, below),
            _ => {}
        }
    }

    /// A stream took less than was at hand, and may take more now.
    pub(super) fn may_go_on(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if below.conns.role(conn) == Some(Role::Visitor) {
            self.visitors.go_on(conn, below);
        }
        below.cx.effects.wake(conn);
    }

    /// The system holds so many bytes for a connection that looked still.
    pub(super) fn system_holds(
        &mut self,
        conn: ConnKey,
        bytes: usize,
        now: Instant,
        below: &mut Below<'_>,
    ) {
        let role = below.conns.role(conn);
        let Some(name) = role.and_then(|role| self.name(conn, role)) else {
            return;
        };
        let mux = name.mux(below.sessions);
        if mux.is_some_and(|mux| mux.streams_mut().system_holds(name.stream, bytes, now)) {
            self.visitors.moved(conn, now);
        }
    }

    /// Of what a connection was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(super) fn transmitted(
        &mut self,
        conn: ConnKey,
        role: Role,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        match role {
            Role::Visitor => self.visitors.transmitted(conn, passed, drained, below),
            Role::Caller => self.callers.transmitted(conn, passed, drained, below),
            _ => {}
        }
    }

    /// The world ended a connection; its entry is dropped by the caller.
    pub(super) fn gone(&mut self, conn: ConnKey, role: Role, how: &Ended, below: &mut Below<'_>) {
        match role {
            Role::Visitor => self.visitors.gone(conn, how, below),
            Role::Caller => self.callers.gone(conn, how, below),
            _ => {}
        }
    }

    /// A connection is not of this room any more.
    pub(super) fn forget(&mut self, conn: ConnKey, role: Role) {
        match role {
            Role::Visitor => self.visitors.forget(conn),
            Role::Caller => self.callers.forget(conn),
            _ => {}
        }
    }

    /// How many connections are known here.
    pub(super) fn len(&self) -> usize {
        self.visitors.len() + self.callers.len()
    }

    /// Whether a connection is known here.
    pub(super) fn knows(&self, conn: ConnKey, role: Role) -> bool {
        match role {
            Role::Visitor => self.visitors.get(conn).is_some(),
            Role::Caller => self.callers.knows(conn),
            _ => false,
        }
    }

    /// Gives memory back that is not needed.
    pub(super) fn shrink(&mut self) {
        self.visitors.shrink();
        self.callers.shrink();
    }
}
