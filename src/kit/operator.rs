//! What the operator asks for, answered from the kit's tables (PROTOCOL §10).

use std::net::IpAddr;

use log::info;

use crate::http::Asked;
use crate::kit::admin::{self, BindingRow, ForwardRow, SessionRow};
use crate::kit::budget::Class;
use crate::kit::config::Config;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::asks::{Denial, Wanted, write_answer};
use crate::kit::keys::{BindingKey, SessionKey};
use crate::kit::metrics::{self, Gauges, RefusalReason};
use crate::kit::port::Ports;
use crate::kit::session::{KitSession, Sessions};
use crate::kit::stream::Streams;
use crate::mux::Traffic;
use crate::wire::control::SessionId;
use crate::ws::Subprotocol;

use super::Kit;

/// What an operator may see.
struct View<'a> {
    config: &'a Config,
    conns: &'a Conns,
    ports: &'a Ports,
    sessions: &'a Sessions,
    streams: &'a Streams,
}

impl View<'_> {
    fn rows(&self) -> Vec<SessionRow> {
        self.sessions
            .iter()
            .map(|(key, session)| self.row(key, session))
            .collect()
    }

    fn row(&self, key: SessionKey, session: &KitSession) -> SessionRow {
        let about = |(conn, _)| self.streams.forwards.about(conn);
        let forwards = self.conns.iter().filter_map(about);
        let forwards = forwards.filter(|about| about.0 == key);
        let forward = |(_, target, connected)| ForwardRow { target, connected };
        let binding = |key: &BindingKey| {
            let binding = self.ports.binding(*key);
            BindingRow {
                bind_id: binding.bind_id,
                port: binding.port(),
                service: binding.service,
                addr: binding.addr.ip(),
            }
        };
        SessionRow {
            session_id: SessionId::new(session.id()),
            peer_addr: session.peer,
            is_v2: session.subprotocol == Subprotocol::V2,
            connections_granted: session.granted,
            active_streams: session.mux().map_or(0, |mux| mux.streams().len()),
            max_streams: self.config.max_streams_per_session,
            parked: session.is_parked(),
            bindings: session.bindings.iter().map(binding).collect(),
            forwards: forwards.map(forward).collect(),
        }
    }

    fn gauges(&self) -> Gauges {
        let mut gauges = Gauges {
            visitors: self.conns.budget.out(Class::Visitor) + self.conns.budget.out(Class::Refusal),
            held: self.streams.held(),
            peers: self.streams.peers.len(),
            callers: self.conns.budget.out(Class::Caller),
            forwards: self.conns.budget.out(Class::Forward),
            lanes: self.conns.budget.out(Class::Lane),
            pre_auth: self.conns.pre_auth(),
            fd_permits_available: self.conns.budget.available(),
            usage: (self.config.about.usage)(),
            ..Gauges::default()
        };
        for (_, session) in self.sessions.iter() {
            gauges.sessions += 1;
            gauges.parked += usize::from(session.is_parked());
            for binding in &session.bindings {
                gauges.binding(self.ports.binding(*binding).service);
            }
            if let Some(mux) = session.mux() {
                gauges.streams += mux.streams().len();
            }
            add(&mut gauges.live_traffic, session.traffic());
        }
        gauges
    }
}

fn refuse(denial: &Denial, peer: IpAddr, out: &mut Vec<u8>, asked: Asked, cx: &mut Context) {
    let Denial { refusal, reason } = denial;
    let name = reason.map_or("request", RefusalReason::name);
    cx.complain_refused(peer, name, refusal.why());
    if let Some(reason) = *reason {
        cx.metrics.refused(reason);
    }
    cx.metrics.admin_answered(refusal.status);
    refusal.write(out, asked, cx.date);
}

impl Kit {
    fn view(&self) -> View<'_> {
        View {
            config: &self.cx.config,
            conns: &self.conns,
            ports: &self.ports,
            sessions: &self.sessions,
            streams: &self.streams,
        }
    }

    /// Appends the answer to one request, and does what it asks.
    pub(super) fn admin(&mut self, route: Wanted, peer: IpAddr, out: &mut Vec<u8>, asked: Asked) {
        let about = &self.cx.config.about;
        let said = (asked, self.cx.date);
        let (status, body) = match route {
            Wanted::Health => (200, admin::health(about, (about.usage)())),
            Wanted::Sessions => (200, admin::sessions(self.view().rows())),
            Wanted::Bindings => (200, admin::bindings(self.view().rows())),
            Wanted::Tunnels => (
                200,
                admin::tunnels(self.view().rows(), self.conns.budget.available()),
            ),
            Wanted::OpenApi => (200, admin::OPENAPI.as_bytes().to_vec()),
            Wanted::Metrics => {
                // The page tells of its own answer too.
                self.cx.metrics.admin_answered(200);
                let (gauges, mut page) = (self.view().gauges(), Vec::new());
                self.cx
                    .metrics
                    .render(&gauges, &self.cx.config.about, &mut page);
                return write_answer(out, said, 200, metrics::CONTENT_TYPE, &page);
            }
            Wanted::Kill {
                session,
                grace,
                ban,
            } => {
                let Some(key) = self.sessions.with_id(session.as_str()) else {
                    let refusal = Denial::json(404, "no such session");
                    return refuse(&refusal, peer, out, asked, &mut self.cx);
                };
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                if let (Some(span), Some(it)) = (ban, self.sessions.get(key)) {
                    let (peer, now) = (it.peer.ip(), cx.now);
                    conns.admission.bans.ban(peer, now + span, now);
                    info!("{peer} is kept away for {span:?} by the operator");
                }
                self.sessions.kill(key, grace, conns, cx);
                self.settle_sessions();
                (202, admin::closing(session.as_str()))
            }
            Wanted::Refuse(refusal) => return refuse(&refusal, peer, out, asked, &mut self.cx),
            // An upgrade is no operator's.
            Wanted::Connect(_) => return,
        };
        self.cx.metrics.admin_answered(status);
        write_answer(out, said, status, "application/json", &body);
    }
}

fn add(sum: &mut Traffic, more: Traffic) {
    sum.frames_in += more.frames_in;
    sum.frames_out += more.frames_out;
    sum.data_in += more.data_in;
    sum.data_out += more.data_out;
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
