//! What visitors and callers ask for: one stream of a session each.
//!
//! `Visitors` speak HTTP on EXPOSE ports, `Callers` raw TCP on EXPOSE and PULL ports. Both keep
//! what they know of a connection under its key; the mux names a stream by that key too. They are
//! told what came from either side and act on the rooms below: connections, sessions, ports.
//!
//! The room never looks for a session that something might go to: it asks who owns the port now.
//!
//! | file | part |
//! | --- | --- |
//! | `visitor` | EXPOSE (PROTOCOL §4, §11); `visitor/exchange` is the HTTP of one, without tables |
//! | `caller` | raw TCP, EXPOSE and PULL |
//! | `peers` | UDP ports (PROTOCOL §8.1) |
//! | `waiting` | who waits for a laptop that is away |
//! | `arrivals` | who comes for a stream, and whose place it gets |
//! | `forward` | what clients have the kit connect to (PROTOCOL §8) |
//! | `raw` | raw streams that stand |
//! | `refusals` | what is said where there is no stream |

mod arrivals;
pub(super) mod caller;
pub(super) mod forward;
mod peers;
mod raw;
mod refusals;
pub mod visitor;
mod waiting;

use crate::clock::Instant;
use crate::kit::conns::{Conns, LaneName, Role};
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::StreamOutcome;
use crate::kit::port::Ports;
use crate::kit::session::{Arrived, End, Mux, Sessions};
use crate::machine::{ConnKey, Ended, ListenerKey};
use crate::mux::{Span, StreamKey};
use crate::wire::code::Code;
use crate::wire::service::Service;

use caller::Callers;
use forward::Forwards;
use peers::Peers;
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

/// What a takeover of their port does to streams.
const TAKEN_OVER: End<'static> = End {
    outcome: StreamOutcome::TakenOver,
    code: Code::BindTakeover,
    why: "the port was taken over",
};

/// Who has a stream of the owner of a port and is `here`.
fn served_at(
    listener: ListenerKey,
    here: impl Fn(ConnKey) -> bool,
    below: &Below<'_>,
) -> Vec<ConnKey> {
    let owner = below.ports.bound(listener).map(|binding| binding.owner);
    let mux = owner.and_then(|owner| below.sessions.mux(owner));
    let here = |conn: &ConnKey| here(*conn);
    mux.map_or_else(Vec::new, |mux| mux.streams().tags().filter(here).collect())
}

/// All that have a stream, or want one.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) visitors: Visitors,
    pub(super) callers: Callers,
    pub(super) forwards: Forwards,
    pub(super) peers: Peers,
}

impl Streams {
    /// Another session takes a port over, for this service: the streams of those who came to it
    /// are reset. Who wants what was there before is sent away; who only waits stays else.
    pub(super) fn taken_over(
        &mut self,
        listener: ListenerKey,
        service: Option<Service>,
        below: &mut Below<'_>,
    ) {
        self.visitors.taken_over(listener, below);
        self.callers.taken_over(listener, below);
        let before = below.ports.bound(listener).map(|binding| binding.service);
        if before != service {
            self.visitors.turned_away(listener, below);
            self.callers.turned_away(listener, below);
        }
    }

    /// How many wait for a laptop that is away.
    pub(super) fn held(&self) -> usize {
        self.visitors.held() + self.callers.held()
    }

    /// Serves those who waited and can be served, and tells those who wait in vain. Gives whether
    /// anybody waits no longer.
    pub(super) fn serve_held(&mut self, below: &mut Below<'_>) -> bool {
        let visitors = self.visitors.serve_held(below);
        let callers = self.callers.serve_held(below);
        visitors || callers
    }

    /// The stream of a connection, if it has one.
    pub(super) fn name(&self, conn: ConnKey, role: Role) -> Option<StreamName> {
        match role {
            Role::Visitor => self.visitors.stream(conn),
            Role::Caller => self.callers.stream(conn),
            Role::Forward => self.forwards.stream(conn),
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
            Arrived::Opened(opened, payload) => self.opened(opened, lane, &payload, below),
            Arrived::Data(conn, payload) => self.data(conn, lane, payload, below),
            Arrived::Datagram(conn, payload) => self.peers.answered(conn, lane, &payload, below),
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
            Some(Role::Caller | Role::Forward) => {
                let Below {
                    cx,
                    conns,
                    sessions,
                    ..
                } = below;
                conns.pass_payload(conn, lane, span, &**sessions, cx);
            }
            None => self.peers.misused(conn, below),
            _ => {}
        }
    }

    /// EOF came for a connection.
    fn eof(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        match below.conns.role(conn) {
            Some(Role::Visitor) => self.visitors.stream_ended(conn, below),
            Some(Role::Caller) => self.callers.stream_ended(conn, below),
            Some(Role::Forward) => self.forwards.stream_ended(conn, below),
            None => self.peers.stream_ended(conn, below),
            _ => {}
        }
    }

    /// A stream is over in both directions; what it belonged to is broken or answered.
    pub(super) fn lost(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        match below.conns.role(conn) {
            Some(Role::Visitor) => self.visitors.broken(conn, end, below),
            Some(Role::Caller) => self.callers.broken(conn, end, below),
            Some(Role::Forward) => self.forwards.broken(conn, end, below),
            None => self.peers.lost(conn, end, below.cx),
            _ => {}
        }
    }

    /// A stream took less than was at hand, and may take more now.
    pub(super) fn may_go_on(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if below.conns.role(conn) == Some(Role::Visitor) {
            self.visitors.go_on(conn, below);
        }
        if !self.peers.knows(conn) {
            below.cx.effects.wake(conn);
        }
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
            Role::Forward => self.forwards.transmitted(conn, passed, drained, below),
            _ => {}
        }
    }

    /// The world ended a connection; its entry is dropped by the caller.
    pub(super) fn gone(&mut self, conn: ConnKey, role: Role, how: &Ended, below: &mut Below<'_>) {
        match role {
            Role::Visitor => self.visitors.gone(conn, how, below),
            Role::Caller => self.callers.gone(conn, how, below),
            Role::Forward => self.forwards.gone(conn, how, below),
            _ => {}
        }
    }

    /// A connection is not of this room any more.
    pub(super) fn forget(&mut self, conn: ConnKey, role: Role) {
        match role {
            Role::Visitor => self.visitors.forget(conn),
            Role::Caller => self.callers.forget(conn),
            Role::Forward => self.forwards.forget(conn),
            _ => {}
        }
    }

    /// How many connections are known here.
    pub(super) fn len(&self) -> usize {
        self.visitors.len() + self.callers.len() + self.forwards.len()
    }

    /// Whether a connection is known here.
    pub(super) fn knows(&self, conn: ConnKey, role: Role) -> bool {
        match role {
            Role::Visitor => self.visitors.get(conn).is_some(),
            Role::Caller => self.callers.knows(conn),
            Role::Forward => self.forwards.knows(conn),
            _ => false,
        }
    }

    /// Gives memory back that is not needed.
    pub(super) fn shrink(&mut self) {
        self.visitors.shrink();
        self.callers.shrink();
        self.forwards.shrink();
        self.peers.shrink();
    }
}
