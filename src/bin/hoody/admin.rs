//! Questions to a kit: health, metrics, who tunnels what, and ending a session. Tables for people,
//! the kit's own JSON for programs.

use std::time::Duration;

use hoody_tunnel::client::{self, AdminReply, AdminRequest, TunnelOptions};
use hoody_tunnel::limits::OUTSIDE_TEXT;
use hoody_tunnel::units::show_duration;
use serde::Deserialize;
use serde_json::Value;

use crate::text;

/// How long a kit may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why nothing came of it, in one sentence.
pub type Failure = String;

/// A way to ask a kit: the library's, or a test's.
pub type Ask<'a> = &'a dyn Fn(&AdminRequest) -> Result<AdminReply, client::Error>;

/// Asks the kit that `options` name.
pub fn run(options: &TunnelOptions, request: &AdminRequest, json: bool) -> Result<(), Failure> {
    let ask = |request: &AdminRequest| client::fetch(options, request, TIMEOUT);
    let answer = answer(&ask, request, json)?;
    crate::print(answer.as_bytes())
}

/// What is printed.
fn answer(ask: Ask<'_>, request: &AdminRequest, json: bool) -> Result<String, Failure> {
    let body = match request {
        AdminRequest::Kill {
            session_id,
            grace_ms,
            ban,
        } => checked(ask(&AdminRequest::Kill {
            session_id: whole_id(ask, session_id)?,
            grace_ms: *grace_ms,
            ban: *ban,
        }))?,
        _ => checked(ask(request))?,
    };
    if json || *request == AdminRequest::Metrics {
        return Ok(text::visible_lines(&body) + "\n");
    }
    match request {
        AdminRequest::Health => read(&body).map(|health: Health| health.render()),
        AdminRequest::Sessions => read(&body).map(|all: Sessions| all.render()),
        AdminRequest::Bindings => read(&body).map(|all: Bindings| all.render()),
        AdminRequest::Tunnels => read(&body).map(|all: Tunnels| all.render()),
        AdminRequest::Kill { ban, .. } => read(&body).map(|closing: Closing| closing.render(*ban)),
        AdminRequest::Metrics => Ok(body),
    }
}

/// The body of a reply that is none of a refusal.
fn checked(reply: Result<AdminReply, client::Error>) -> Result<String, Failure> {
    let reply = reply.map_err(|error| error.to_string())?;
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    if reply.is_ok() {
        return Ok(body);
    }
    let said = serde_json::from_str::<Value>(&body).ok();
    let said = said.and_then(|said| Some(said.get("error")?.as_str()?.to_owned()));
    let reason = text::cut(said.as_deref().unwrap_or(body.trim()), OUTSIDE_TEXT);
    let hint = match reply.status {
        401 => " (give the token: --token-file or HOODY_TUNNEL_TOKEN)",
        _ => "",
    };
    Err(format!(
        "the kit refused: {reason} (HTTP {}){hint}",
        reply.status
    ))
}

fn read<T: for<'a> Deserialize<'a>>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|error| format!("the kit's answer makes no sense: {error}"))
}

/// The id of the one session that `start` is the start of.
fn whole_id(ask: Ask<'_>, start: &str) -> Result<String, Failure> {
    if start.len() >= ID_LEN {
        return Ok(start.to_owned());
    }
    let sessions: Sessions = read(&checked(ask(&AdminRequest::Sessions))?)?;
    // As it stands in our own lines: with the cut shown.
    let start = start.trim_end_matches('…');
    let bare = start.strip_prefix("S-").unwrap_or(start);
    let mut found = sessions.sessions.iter().filter(|session| {
        let id = session.session_id.strip_prefix("S-");
        !bare.is_empty() && id.is_some_and(|id| id.starts_with(bare))
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.session_id.clone()),
        (None, _) => Err(format!("no session's id starts with `{start}`")),
        _ => Err(format!(
            "several sessions' ids start with `{start}`: write more of it"
        )),
    }
}

/// `S-` and a UUID.
const ID_LEN: usize = 2 + 36;

/// An id as people see it: the whole is a capability.
fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Health {
    status: String,
    started: Option<String>,
    memory: Memory,
    fds: u64,
    pid: u64,
    ip: String,
    user_agent: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Memory {
    rss: u64,
}

impl Health {
    fn render(&self) -> String {
        let rows = [
            ("status", self.status.clone()),
            ("kit", self.user_agent.clone()),
            (
                "started",
                self.started.clone().unwrap_or_else(|| "unknown".into()),
            ),
            ("memory", text::bytes(self.memory.rss)),
            ("descriptors", self.fds.to_string()),
            ("process", self.pid.to_string()),
            ("address", self.ip.clone()),
        ];
        let line = |(name, value): &(&str, String)| format!("{name:<13}{}\n", text::visible(value));
        rows.iter().map(line).collect()
    }
}

#[derive(Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    session_id: String,
    #[serde(default)]
    peer_addr: Option<String>,
    #[serde(default)]
    connections_granted: u64,
    #[serde(default)]
    active_streams: u64,
    #[serde(default)]
    bindings: Vec<SessionBinding>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionBinding {
    container_port: u16,
    #[serde(default)]
    mode: String,
}

impl Sessions {
    fn render(&self) -> String {
        let mut table = Table::new(&["SESSION", "PEER", "CONNS", "STREAMS", "BINDINGS"]);
        for session in &self.sessions {
            let bindings = session.bindings.iter();
            let bindings: Vec<String> = bindings
                .map(|binding| format!("{} {}", binding.mode, binding.container_port))
                .collect();
            table.row(&[
                short(&session.session_id),
                session.peer_addr.clone().unwrap_or_else(|| "parked".into()),
                session.connections_granted.to_string(),
                session.active_streams.to_string(),
                or_none(bindings.join(", ")),
            ]);
        }
        table.render("no sessions")
    }
}

#[derive(Deserialize)]
struct Bindings {
    bindings: Vec<Binding>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    session_id: String,
    bind_id: u64,
    port: u16,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    bind_addr: Option<String>,
}

impl Bindings {
    fn render(&self) -> String {
        let mut table = Table::new(&["PORT", "MODE", "KIND", "SESSION", "BIND", "ADDRESS"]);
        for binding in &self.bindings {
            table.row(&[
                binding.port.to_string(),
                binding.mode.clone(),
                binding.kind.clone(),
                short(&binding.session_id),
                binding.bind_id.to_string(),
                or_none(binding.bind_addr.clone().unwrap_or_default()),
            ]);
        }
        table.render("no bindings")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tunnels {
    sessions: Vec<Tunnel>,
    #[serde(default)]
    orphaned_sessions: u64,
    #[serde(default)]
    total_streams: u64,
    #[serde(default)]
    total_bindings: u64,
    #[serde(default)]
    fd_permits_available: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tunnel {
    session_id: String,
    #[serde(default)]
    peer_addr: Option<String>,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    connections_granted: u64,
    #[serde(default)]
    active_streams: u64,
    #[serde(default)]
    expose_bindings: Vec<SessionBinding>,
    #[serde(default)]
    pull_bindings: Vec<SessionBinding>,
}

impl Tunnels {
    fn render(&self) -> String {
        let heads = [
            "SESSION", "PEER", "PROTOCOL", "CONNS", "STREAMS", "EXPOSED", "PULLED",
        ];
        let mut table = Table::new(&heads);
        for tunnel in &self.sessions {
            table.row(&[
                short(&tunnel.session_id),
                tunnel.peer_addr.clone().unwrap_or_else(|| "parked".into()),
                tunnel.protocol.clone(),
                tunnel.connections_granted.to_string(),
                tunnel.active_streams.to_string(),
                ports(&tunnel.expose_bindings),
                ports(&tunnel.pull_bindings),
            ]);
        }
        let totals = format!(
            "{} bindings, {} streams, {} parked sessions, {} descriptors free\n",
            self.total_bindings,
            self.total_streams,
            self.orphaned_sessions,
            self.fd_permits_available,
        );
        table.render("no tunnels") + &totals
    }
}

fn ports(bindings: &[SessionBinding]) -> String {
    let ports: Vec<String> = bindings
        .iter()
        .map(|binding| binding.container_port.to_string())
        .collect();
    or_none(ports.join(", "))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Closing {
    session_id: String,
    #[serde(default)]
    status: String,
}

impl Closing {
    /// A kit that has done it has kept the address away too.
    fn render(&self, ban: Option<Duration>) -> String {
        let id = short(&self.session_id);
        let away = ban.map(|span| format!("; its address is kept away for {}", spoken(span)));
        format!(
            "session {} is {}{}\n",
            text::visible(&id),
            text::visible(&self.status),
            away.unwrap_or_default()
        )
    }
}

/// A time as it was asked for: in the largest unit that it is whole in.
fn spoken(span: Duration) -> String {
    let seconds = span.as_secs();
    match span.subsec_millis() {
        0 if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        0 if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => show_duration(span),
    }
}

fn or_none(text: String) -> String {
    match text.is_empty() {
        true => "-".into(),
        false => text,
    }
}

/// Columns as wide as what stands in them.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&str]) -> Table {
        let heads = heads.iter().map(|head| head.to_string()).collect();
        Table { rows: vec![heads] }
    }

    fn row(&mut self, cells: &[String]) {
        self.rows
            .push(cells.iter().map(|cell| text::visible(cell)).collect());
    }

    /// The table, or `nothing` when it has no rows.
    fn render(&self, nothing: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{nothing}\n");
        }
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let widths = self.rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
