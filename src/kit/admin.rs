//! The JSON that the kit's endpoints answer with (PROTOCOL §10), written from plain rows.
//!
//! `openapi.json` beside this file documents it; a test holds the two together. Session ids are
//! whole here and nowhere else: whoever may ask may end any session anyway.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::kit::config::{About, Usage};
use crate::wire::control::{BindMode, BindingKind, SessionId};
use crate::wire::service::Service;

/// A session as the operator sees it.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// The whole id.
    pub session_id: SessionId,
    /// Where its primary socket comes or came from.
    pub peer_addr: SocketAddr,
    /// It speaks `hoody-tunnel.v2`.
    pub is_v2: bool,
    /// Sockets it may have.
    pub connections_granted: usize,
    /// Open streams.
    pub active_streams: usize,
    /// Streams it may have open.
    pub max_streams: usize,
    /// It has no socket and waits for its client.
    pub parked: bool,
    /// What it has bound.
    pub bindings: Vec<BindingRow>,
    /// Whom it has the kit connect to.
    pub forwards: Vec<ForwardRow>,
}

/// A connection that a client asked for, as the operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct ForwardRow {
    /// What the client asked for.
    pub target: String,
    /// It stands.
    pub connected: bool,
}

/// A binding as the operator sees it.
#[derive(Debug, Clone, Copy)]
pub struct BindingRow {
    /// Its id in its session.
    pub bind_id: u64,
    /// The port.
    pub port: u16,
    /// What it carries, and which way.
    pub service: Service,
    /// The address that it listens on.
    pub addr: IpAddr,
}

/// `GET /api/v1/tunnel/openapi.json`
pub const OPENAPI: &str = include_str!("openapi.json");

/// `GET /api/v1/tunnel/health`
pub fn health(about: &About, usage: Usage) -> Vec<u8> {
    let user_agent = format!("hoody-tunnel/{}", about.version);
    json(&Health {
        status: "ok",
        service: "hoody-tunnel",
        built: about.built,
        started: &about.started,
        memory: Memory {
            rss: usage.rss,
            heap: None,
        },
        fds: usage.fds,
        pid: about.pid,
        ip: about.ip,
        user_agent: &user_agent,
    })
}

/// `GET /api/v1/tunnel/sessions`, in order of ids.
pub fn sessions(mut rows: Vec<SessionRow>) -> Vec<u8> {
    sort(&mut rows);
    let sessions: Vec<_> = rows.iter().map(Session::of).collect();
    json(&Sessions {
        total: sessions.len(),
        sessions,
    })
}

/// `GET /api/v1/tunnel/bindings`, in order of sessions and bind ids.
pub fn bindings(mut rows: Vec<SessionRow>) -> Vec<u8> {
    sort(&mut rows);
    let bindings: Vec<_> = rows.iter().flat_map(OwnedBinding::of_session).collect();
    json(&Bindings {
        total: bindings.len(),
        bindings,
    })
}

/// `GET /api/v1/tunnel/tunnels`, in order of ids.
pub fn tunnels(mut rows: Vec<SessionRow>, fd_permits_available: usize) -> Vec<u8> {
    sort(&mut rows);
    json(&Tunnels {
        orphaned_sessions: rows.iter().filter(|row| row.parked).count(),
        total_streams: rows.iter().map(|row| row.active_streams).sum(),
        total_bindings: rows.iter().map(|row| row.bindings.len()).sum(),
        fd_permits_available,
        sessions: rows.iter().map(Tunnel::of).collect(),
    })
}

/// `DELETE /api/v1/tunnel/sessions/{id}` of a session that was there; the status is 202.
pub fn closing(session_id: &str) -> Vec<u8> {
    json(&Closing {
        session_id,
        status: "closing",
    })
}

fn sort(rows: &mut [SessionRow]) {
    rows.sort_by(|a, b| a.session_id.cmp(&b.session_id));
    for row in rows {
        row.bindings.sort_by_key(|binding| binding.bind_id);
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    // These types have string keys and no values that JSON cannot say, and a Vec takes any bytes.
    let written = serde_json::to_writer(&mut out, answer);
    debug_assert!(written.is_ok(), "an answer is always JSON");
    out
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    status: &'static str,
    service: &'static str,
    built: Option<&'static str>,
    started: &'a str,
    memory: Memory,
    fds: u64,
    pid: u32,
    ip: IpAddr,
    user_agent: &'a str,
}

#[derive(Serialize)]
struct Memory {
    rss: u64,
    /// The system's allocator does not tell.
    heap: Option<u64>,
}

#[derive(Serialize)]
struct Sessions<'a> {
    sessions: Vec<Session<'a>>,
    total: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Session<'a> {
    session_id: &'a str,
    peer_addr: SocketAddr,
    is_v2: bool,
    connections_granted: usize,
    active_streams: usize,
    max_streams: usize,
    bindings: Vec<SessionBinding>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionBinding {
    bind_id: u64,
    container_port: u16,
    kind: BindingKind,
    mode: BindMode,
}

impl Session<'_> {
    fn of(row: &SessionRow) -> Session<'_> {
        let binding = |binding: &BindingRow| SessionBinding {
            bind_id: binding.bind_id,
            container_port: binding.port,
            kind: binding.service.kind(),
            mode: binding.service.mode(),
        };
        Session {
            session_id: row.session_id.as_str(),
            peer_addr: row.peer_addr,
            is_v2: row.is_v2,
            connections_granted: row.connections_granted,
            active_streams: row.active_streams,
            max_streams: row.max_streams,
            bindings: row.bindings.iter().map(binding).collect(),
        }
    }
}

#[derive(Serialize)]
struct Bindings<'a> {
    bindings: Vec<OwnedBinding<'a>>,
    total: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OwnedBinding<'a> {
    session_id: &'a str,
    bind_id: u64,
    port: u16,
    kind: BindingKind,
    mode: BindMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_addr: Option<IpAddr>,
}

impl OwnedBinding<'_> {
    fn of_session(row: &SessionRow) -> impl Iterator<Item = OwnedBinding<'_>> {
        row.bindings.iter().map(|binding| OwnedBinding {
            session_id: row.session_id.as_str(),
            bind_id: binding.bind_id,
            port: binding.port,
            kind: binding.service.kind(),
            mode: binding.service.mode(),
            bind_addr: (binding.service.mode() == BindMode::Pull).then_some(binding.addr),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tunnels<'a> {
    sessions: Vec<Tunnel<'a>>,
    orphaned_sessions: usize,
    total_streams: usize,
    total_bindings: usize,
    fd_permits_available: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tunnel<'a> {
    session_id: &'a str,
    peer_addr: SocketAddr,
    protocol: &'static str,
    connections_granted: usize,
    active_streams: usize,
    expose_bindings: Vec<TunnelBinding>,
    pull_bindings: Vec<TunnelBinding>,
    forwards: &'a [ForwardRow],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TunnelBinding {
    bind_id: u64,
    container_port: u16,
}

impl Tunnel<'_> {
    fn of(row: &SessionRow) -> Tunnel<'_> {
        let of_mode = |mode| {
            let ours = row
                .bindings
                .iter()
                .filter(move |binding| binding.service.mode() == mode);
            ours.map(|binding| TunnelBinding {
                bind_id: binding.bind_id,
                container_port: binding.port,
            })
            .collect()
        };
        Tunnel {
            session_id: row.session_id.as_str(),
            peer_addr: row.peer_addr,
            protocol: if row.is_v2 { "v2" } else { "v1" },
            connections_granted: row.connections_granted,
            active_streams: row.active_streams,
            expose_bindings: of_mode(BindMode::Expose),
            pull_bindings: of_mode(BindMode::Pull),
            forwards: &row.forwards,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Closing<'a> {
    session_id: &'a str,
    status: &'static str,
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
