//! Sessions: made, resumed, parked and ended (PROTOCOL §2, §6).

use std::net::SocketAddr;
use std::time::Duration;

use log::info;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::kit::front::greeter::{Dismissal, drain_lane};
use crate::kit::keys::BindingKey;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::{RefusalReason, SessionEnd};
use crate::kit::session::KitSession;
use crate::kit::stream::End;
use crate::machine::{CloseHow, ConnKey};
use crate::mux::{Side, Terms, Transport};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::{Capabilities, GoAway, Hello, HelloOk, SessionId};
use crate::ws::Subprotocol;

use super::{Kit, Reason, Stopping};

impl Kit {
    /// A HELLO whose sender has proven itself.
    pub(super) fn hello(
        &mut self,
        conn: ConnKey,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), Dismissal> {
        if self.cx.stopping != Stopping::No {
            return Err(Dismissal {
                reason: RefusalReason::Protocol,
                goaway: Some(Code::NoError),
                close: 1001,
                why: "the kit is shutting down".into(),
            });
        }
        let resumed = hello
            .resume
            .as_ref()
            .and_then(|resume| self.sessions.with_id(resume.session_id.as_str()))
            .filter(|key| {
                self.sessions
                    .get(*key)
                    .is_some_and(|session| !session.closing)
            });
        let grow_windows = hello.capabilities.have(Capabilities::GROW_WINDOWS);
        let terms = Terms {
            side: Side::Kit,
            stream_window: self.cx.plan.stream_window,
            session_window: self.cx.plan.session_window,
            max_streams: self.cx.config.max_streams_per_session,
            grow_windows,
            queue_opens: self.cx.plan.queue_opens,
        };
        let key = match resumed {
            Some(key) => {
                self.place_for_primary(conn, Some(key))?;
                let why = "resumed on another connection";
                self.leave_lanes(key, CLOSE_GOING_AWAY, why, now);
                key
            }
            None => self.new_session(conn, terms, now)?,
        };
        let Some((lane, subprotocol, peer)) = self.take_greeter_lane(conn, key, 0) else {
            return Ok(());
        };
        let granted = self.grant_lanes(hello, subprotocol);
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        session.attach(lane, terms, now);
        session.peer = peer;
        session.subprotocol = subprotocol;
        session.granted = granted;
        session.tickets.clear();
        session.busy_at = now;
        self.cx.effects.timers.disarm(Reason::Grace(key));
        self.cx
            .effects
            .timers
            .arm(Reason::Lanes(key), now + self.cx.config.ping_after);
        self.cx
            .effects
            .timers
            .arm(Reason::Idle(key), now + self.cx.config.idle_timeout);
        self.answer_hello(key, resumed.is_some(), grow_windows, now);
        self.log_attached(key, resumed.is_some());
        self.pump(key, 0, now);
        Ok(())
    }

    fn log_attached(&mut self, key: SessionKey, resumed: bool) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let word = if resumed { "resumed" } else { "opened" };
        info!(
            "session {} {word} from {}",
            session.short_id(),
            session.peer.ip()
        );
        if resumed {
            self.cx.metrics.session_resumed();
        } else {
            self.cx.metrics.session_opened();
        }
    }

    fn new_session(
        &mut self,
        conn: ConnKey,
        terms: Terms,
        now: Instant,
    ) -> Result<SessionKey, Dismissal> {
        let id = session_id(&mut self.cx.entropy);
        let peer = self.conns.get(conn).map(|entry| entry.from);
        let peer = peer.ok_or_else(|| Dismissal::protocol("the connection is gone"))?;
        let session = KitSession::new(id, peer, terms, now);
        if !self.sessions.is_full() {
            self.place_for_primary(conn, None)?;
        }
        match self.sessions.insert(session) {
            Some(key) => Ok(key),
            None => {
                let all = self.cx.config.max_sessions;
                let parked = self
                    .sessions
                    .iter()
                    .filter(|(_, it)| it.is_parked())
                    .count();
                // A parked session keeps its place as it keeps its ports: its laptop was promised
                // both for the grace (PROTOCOL §6).
                let why = format!("session limit of {all} reached, {parked} of them parked");
                Err(Dismissal {
                    reason: RefusalReason::SessionLimit,
                    goaway: Some(Code::ResourceExhausted),
                    close: 1013,
                    why: why.into(),
                })
            }
        }
    }

    /// [`Kit::place_for_lane`] for a primary lane. A session that is resumed while it has one
    /// leaves it anyway.
    fn place_for_primary(
        &mut self,
        conn: ConnKey,
        resumed: Option<SessionKey>,
    ) -> Result<(), Dismissal> {
        let placed = self.conns.place_for_lane(conn, &mut self.cx);
        let session = resumed.and_then(|key| self.sessions.get(key));
        let old = session.and_then(|session| session.mux()?.lane(0)?.conn());
        let placed = match old {
            Some(old) if placed.is_err() => {
                self.conns.spill(&self.sessions);
                self.conns.close(old, CloseHow::Clean, &mut self.cx);
                self.conns.place_for_lane(conn, &mut self.cx)
            }
            _ => placed,
        };
        placed.map_err(|refused| Dismissal {
            goaway: Some(Code::ResourceExhausted),
            ..refused
        })
    }

    /// Makes a greeter's connection carry lane `index` of a session.
    pub(super) fn take_greeter_lane(
        &mut self,
        conn: ConnKey,
        key: SessionKey,
        index: usize,
    ) -> Option<(Transport, Subprotocol, SocketAddr)> {
        let peer = self.conns.get(conn)?.from;
        let greeter = self.front.take_greeter(conn)?;
        self.conns.carries(conn, key, index);
        self.cx.effects.timers.disarm(Reason::Conn(conn));
        Some((greeter.lane, greeter.subprotocol, peer))
    }

    fn grant_lanes(&self, hello: &Hello, subprotocol: Subprotocol) -> usize {
        let asked = hello.max_connections.unwrap_or(1) as usize;
        let able = hello.capabilities.have(Capabilities::MULTI_WS);
        if subprotocol != Subprotocol::V2 || !able {
            return 1;
        }
        asked.clamp(1, self.cx.plan.lanes)
    }

    fn answer_hello(&mut self, key: SessionKey, resumed: bool, grow: bool, now: Instant) {
        let tickets = self.sessions.make_tickets(key, &mut self.cx.entropy, now);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let is_v2 = session.subprotocol == Subprotocol::V2;
        let (ports, config) = (&self.ports, &self.cx.config);
        let as_resumed = |key: &BindingKey| ports.binding(*key).as_resumed(config);
        let resumed_binds = session.bindings.iter().map(as_resumed).collect();
        let capabilities = Capabilities::MULTI_WS.only_if(session.granted > 1)
            | Capabilities::GROW_WINDOWS.only_if(grow);
        let answer = HelloOk {
            session_id: SessionId::new(session.id().to_owned()),
            resumed,
            resumed_binds,
            stream_window: self.cx.plan.stream_window,
            session_window: self.cx.plan.session_window,
            connections_granted: is_v2.then_some(session.granted as u32),
            join_tickets: tickets,
            capabilities,
            max_streams: Some(self.cx.config.max_streams_per_session as u32),
            replay_buffer: None,
            received: Vec::new(),
        };
        self.sessions.say(key, &answer);
    }

    /// The primary lane is gone without a goodbye: the session waits for its client, if it has a
    /// port to keep (PROTOCOL §6).
    pub(super) fn park(&mut self, key: SessionKey, why: &str, now: Instant) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let grace = self.cx.config.takeover_grace;
        if session.bindings.is_empty() || grace.is_zero() || session.closing {
            return self.end_session(key, SessionEnd::Lost, why, None);
        }
        if self.cx.stopping != Stopping::No {
            return self.end_session(key, SessionEnd::Shutdown, why, None);
        }
        let until = now + grace;
        self.leave_lanes(key, CLOSE_GOING_AWAY, why, now);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.park(until);
        info!(
            "session {} parked for {grace:?}: {}",
            session.short_id(),
            said(why)
        );
        session.tickets.clear();
        self.cx.metrics.session_parked();
        self.cx.effects.timers.disarm(Reason::Lanes(key));
        self.cx.effects.timers.disarm(Reason::Sweep(key));
        self.cx.effects.timers.disarm(Reason::Idle(key));
        self.cx.effects.timers.arm(Reason::Grace(key), until);
    }

    /// Closes a session's lanes and breaks what its streams belonged to. It is parked until the
    /// caller has it wait or go on.
    fn leave_lanes(&mut self, key: SessionKey, close: u16, why: &str, now: Instant) {
        self.conns.spill(&self.sessions);
        let Some((lanes, lost)) = self.sessions.leave(key, now) else {
            return;
        };
        for conn in lost {
            self.stream_lost(conn, End::lost(why));
        }
        for mut lane in lanes {
            let conn = lane.conn();
            lane.push_close(close, why);
            let bytes = drain_lane(&mut lane);
            self.conns.say_and_leave(conn, &bytes, &mut self.cx);
        }
    }

    /// Ends a session for good: its ports are free, its visitors told.
    pub(super) fn end_session(
        &mut self,
        key: SessionKey,
        how: SessionEnd,
        why: &str,
        close: Option<u16>,
    ) {
        let now = self.cx.now;
        self.leave_lanes(key, close.unwrap_or(CLOSE_GOING_AWAY), why, now);
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        let (budget, cx) = (&mut self.conns.budget, &mut self.cx);
        self.ports.release_all(key, &session, why, budget, cx);
        for reason in [
            Reason::Lanes(key),
            Reason::Sweep(key),
            Reason::Idle(key),
            Reason::Grace(key),
        ] {
            self.cx.effects.timers.disarm(reason);
        }
        self.cx.metrics.add_traffic(&session.traffic());
        let (bytes_in, bytes_out) = session.bytes();
        info!(
            "session {} ended after {:?}: {}; {bytes_in} bytes in, {bytes_out} out",
            session.short_id(),
            now.since(session.since),
            said(why),
        );
        self.cx.metrics.session_ended(how);
    }

    /// GOAWAY now; the streams may finish until the caller's deadline.
    pub(super) fn say_goodbye(&mut self, key: SessionKey, why: &str, grace: Duration) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.closing = true;
        if session.is_parked() {
            return self.end_session(key, SessionEnd::Killed, why, None);
        }
        let goaway = GoAway {
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
            ..GoAway::new(Code::NoError, why)
        };
        self.sessions.say(key, &goaway);
    }

    /// GOAWAY with a code, then the end (PROTOCOL §1.4, §6).
    pub(super) fn expel(
        &mut self,
        key: SessionKey,
        how: SessionEnd,
        code: Code,
        close: u16,
        why: &str,
    ) {
        self.sessions.say(key, &GoAway::new(code, why));
        self.end_session(key, how, why, Some(close));
    }

    pub(super) fn grace_over(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let (how, why, close) = match session.is_parked() {
            true => (SessionEnd::GraceOver, "nobody came back in time", None),
            false => (SessionEnd::Killed, "closed by the operator", Some(1000)),
        };
        self.end_session(key, how, why, close);
    }

    pub(super) fn check_idle(&mut self, key: SessionKey, now: Instant) {
        let timeout = self.cx.config.idle_timeout;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.note_use(now);
        let due = session.busy_at + timeout;
        if now < due {
            self.cx.effects.timers.arm(Reason::Idle(key), due);
            return;
        }
        let why = "session idle timeout";
        self.expel(key, SessionEnd::Idle, Code::IdleTimeout, 1000, why);
    }
}

/// `S-` and a random UUID of version 4 (RFC 9562 §5.4).
fn session_id(entropy: &mut Entropy) -> String {
    let mut octets = entropy.octets::<16>();
    octets[6] = octets[6] & 0x0F | 0x40;
    octets[8] = octets[8] & 0x3F | 0x80;
    let text = hex(&octets);
    let (a, b, c, d, e) = (
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    );
    format!("S-{a}-{b}-{c}-{d}-{e}")
}

pub(super) fn hex(octets: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        // A String takes any text.
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// RFC 6455 §7.4.1: an endpoint is going away.
pub(super) const CLOSE_GOING_AWAY: u16 = 1001;
