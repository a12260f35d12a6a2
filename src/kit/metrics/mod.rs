//! What the kit counts, and how Prometheus reads it (text format 0.0.4).
//!
//! Counting allocates nothing and looks nothing up but the port of a binding. Labels have few
//! values, all known here: words of ours, codes of the protocol, and at most
//! `MAX_LABELLED_BINDINGS` ports.

mod bindings_seen;
mod exposition;

use crate::kit::config::{About, Usage};
use crate::mux::Traffic;
use crate::wire::code::Code;
use crate::wire::control::{BindErrCode, JoinErrCode};
use crate::wire::service::Service;

use bindings_seen::BindingsSeen;
pub use dials::{DialOutcome, Dials};
use exposition::Exposition;
pub use exposition::Histogram;

/// Declares an enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in the order of the enum.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The label's value.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

mod datagrams;
pub use datagrams::{DatagramDrop, Datagrams};
label! {
    /// Why somebody who wanted to connect or to ask was sent away.
    RefusalReason {
        /// A page of a foreign Origin.
        Origin = "origin",
        /// A Host that is not ours.
        Host = "host",
        /// Not a WebSocket upgrade as it should be.
        Upgrade = "upgrade",
        /// Neither of our subprotocols.
        Subprotocol = "subprotocol",
        /// The token was missing or wrong.
        Auth = "auth",
        /// HELLO named another version than the subprotocol.
        Version = "version",
        /// The first frames broke the protocol, or HELLO did not come in time.
        Protocol = "protocol",
        /// As many sessions as may be.
        SessionLimit = "session_limit",
        /// No descriptor was left for another lane.
        Descriptors = "descriptors",
        /// As many connections that have proven nothing as may be.
        PreAuthLimit = "pre_auth_limit",
        /// It was silent, and made room for another one there.
        PreAuthDisplaced = "pre_auth_displaced",
        /// An operator keeps its address away.
        Banned = "banned",
        /// An operator has ended the session that it wants back.
        Killed = "killed",
        /// A JOIN that fits no session.
        Join = "join",
    }
}

label! {
    /// Why a visitor or caller got no stream.
    StreamRefusal {
        /// The port's owner is parked or about to go.
        Away = "away",
        /// The kit drains: it opens nothing new.
        Draining = "draining",
        /// As many streams of the session as may be.
        MaxStreams = "max_streams",
        /// Few streams or descriptors are left, and its address has many.
        Share = "share",
        /// Too many requests wait for the client.
        Congested = "congested",
        /// Others hold all the memory that there is for answers.
        Memory = "memory",
        /// Heads that are not whole take all the memory that there is for them.
        Heads = "heads",
        /// No descriptor was left.
        Descriptors = "descriptors",
        /// The client answered REFUSED_STREAM.
        Client = "client",
    }
}

label! {
    /// What became of a visitor or a caller who came while the port's owner was away, where such
    /// may wait.
    HeldEnd {
        /// It was served.
        Served = "served",
        /// Nobody came back in time.
        Expired = "expired",
        /// It hung up.
        Gone = "gone",
        /// The session or the kit ended, or there was no room for it at last.
        TurnedAway = "turned_away",
        /// There was no place for it to wait.
        Full = "full",
    }
}

label! {
    /// How a stream ended.
    StreamOutcome {
        /// Both sides sent EOF.
        Finished = "finished",
        /// The client reset it.
        ResetByClient = "reset_by_client",
        /// The visitor or caller went away.
        ResetByPeer = "reset_by_peer",
        /// It was refused before anything was done for it.
        Refused = "refused",
        /// No head came within the response timeout, or it was silent after a half-close.
        TimedOut = "timed_out",
        /// Its binding was taken over.
        TakenOver = "taken_over",
        /// Its session or lane ended.
        Lost = "lost",
        /// The client broke the protocol on it.
        Violated = "violated",
        /// The visitor or caller took nothing of it, for too long or while memory was short.
        Stalled = "stalled",
    }
}

mod dials;

label! {
    /// How a session ended.
    SessionEnd {
        /// The client said goodbye.
        Client = "client",
        /// Nothing happened for the idle timeout.
        Idle = "idle",
        /// It was parked and nobody came back.
        GraceOver = "grace_over",
        /// The operator killed it.
        Killed = "killed",
        /// The client broke the protocol.
        Violation = "violation",
        /// The connection was lost, and there was nothing to park.
        Lost = "lost",
        /// The kit shut down.
        Shutdown = "shutdown",
    }
}

/// Everything that only grows, and histograms.
#[derive(Debug, Default)]
pub struct Metrics {
    traffic: Traffic,
    streams: [u64; StreamOutcome::ALL.len()],
    refused_streams: [u64; StreamRefusal::ALL.len()],
    held: [u64; HeldEnd::ALL.len()],
    refused_binds: [u64; BIND_CODES.len()],
    refused_joins: [u64; JOIN_CODES.len()],
    refusals: [u64; RefusalReason::ALL.len()],
    /// Datagrams of UDP ports.
    pub datagrams: Datagrams,
    violations: [u64; Code::ALL.len()],
    session_ends: [u64; SessionEnd::ALL.len()],
    sessions: u64,
    resumes: u64,
    takeovers: u64,
    pong_timeouts: u64,
    bound: u64,
    parks: u64,
    accept_failures: u64,
    admin: [u64; 5],
    bindings: BindingsSeen,
    /// Connections that clients asked for.
    pub dials: Dials,
    /// From a visitor's request to the final head of the answer.
    pub response_head: Histogram,
    /// From reading bytes on one side to having written them on the other.
    pub relay_wait: Histogram,
    /// One turn of the host's loop, without its waiting.
    pub loop_turn: Histogram,
}

/// What is so right now, filled in for each reading.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Sessions, parked ones counted.
    pub sessions: usize,
    /// Sessions without a socket.
    pub parked: usize,
    /// Bindings, in the order of [`Service::ALL`].
    pub bindings: [usize; Service::ALL.len()],
    /// Peers of UDP ports: a stream each.
    pub peers: usize,
    /// Open streams.
    pub streams: usize,
    /// Connections of visitors.
    pub visitors: usize,
    /// Visitors and callers who wait for a laptop that is away.
    pub held: usize,
    /// Connections of callers.
    pub callers: usize,
    /// Connections that clients asked for.
    pub forwards: usize,
    /// WebSockets of sessions.
    pub lanes: usize,
    /// Connections that have proven nothing yet.
    pub pre_auth: usize,
    /// Permits at home.
    pub fd_permits_available: usize,
    /// What the process uses.
    pub usage: Usage,
    /// What live sessions carried so far, which was not told to [`Metrics::add_traffic`] yet.
    pub live_traffic: Traffic,
}

impl Gauges {
    /// Counts one binding.
    pub fn binding(&mut self, service: Service) {
        let at = Service::ALL.iter().position(|it| *it == service);
        if let Some(count) = at.and_then(|at| self.bindings.get_mut(at)) {
            *count += 1;
        }
    }
}

/// The type of the rendered text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// All frames and DATA bytes that a session carried, once it carries no more.
    pub fn add_traffic(&mut self, more: &Traffic) {
        self.traffic.frames_in += more.frames_in;
        self.traffic.frames_out += more.frames_out;
        self.traffic.data_in += more.data_in;
        self.traffic.data_out += more.data_out;
    }

    /// A stream ended.
    pub fn stream_ended(&mut self, outcome: StreamOutcome) {
        self.streams[outcome as usize] += 1;
    }

    /// A visitor or caller got no stream.
    pub fn stream_refused(&mut self, reason: StreamRefusal) {
        self.refused_streams[reason as usize] += 1;
    }

    /// A visitor or a caller waits no longer, or could not wait.
    pub fn held(&mut self, end: HeldEnd) {
        self.held[end as usize] += 1;
    }

    /// Somebody was sent away before there was a session.
    pub fn refused(&mut self, reason: RefusalReason) {
        self.refusals[reason as usize] += 1;
    }

    /// A JOIN was refused.
    pub fn refused_join(&mut self, code: JoinErrCode) {
        self.refused(RefusalReason::Join);
        if let Some(at) = JOIN_CODES.iter().position(|known| *known == code) {
            self.refused_joins[at] += 1;
        }
    }

    /// A BIND was refused.
    pub fn refused_bind(&mut self, code: BindErrCode) {
        if let Some(at) = BIND_CODES.iter().position(|known| *known == code) {
            self.refused_binds[at] += 1;
        }
    }

    /// A BIND was granted.
    pub fn bound(&mut self) {
        self.bound += 1;
    }

    /// A lane was given up for its silence.
    pub fn pong_timeout(&mut self) {
        self.pong_timeouts += 1;
    }

    /// The peer broke the protocol.
    pub fn violation(&mut self, code: Code) {
        self.violations[usize::from(code.as_u16())] += 1;
    }

    /// A fresh session.
    pub fn session_opened(&mut self) {
        self.sessions += 1;
    }

    /// A session came back under its id.
    pub fn session_resumed(&mut self) {
        self.resumes += 1;
    }

    /// A session lost its socket and is kept.
    pub fn session_parked(&mut self) {
        self.parks += 1;
    }

    /// A session is gone for good.
    pub fn session_ended(&mut self, how: SessionEnd) {
        self.session_ends[how as usize] += 1;
    }

    /// An EXPOSE port changed its owner.
    pub fn taken_over(&mut self) {
        self.takeovers += 1;
    }

    /// The host could not accept.
    pub fn accept_failed(&mut self) {
        self.accept_failures += 1;
    }

    /// A request to the kit itself was answered.
    pub fn admin_answered(&mut self, status: u16) {
        if let Some(count) = self.admin.get_mut(class(status)) {
            *count += 1;
        }
    }

    /// An EXPOSE port has an owner: from now on its requests are counted under its own label, if
    /// there is room for one more.
    pub fn binding_opened(&mut self, port: u16) {
        self.bindings.opened(port);
    }

    /// An EXPOSE port is free again. Its label stays until another port needs the room.
    pub fn binding_closed(&mut self, port: u16) {
        self.bindings.closed(port);
    }

    /// A visitor of an EXPOSE port got this status, from the client or from us.
    pub fn request(&mut self, port: u16, status: u16) {
        self.bindings.request(port, class(status));
    }

    /// Appends everything in the text format 0.0.4.
    pub fn render(&self, now: &Gauges, about: &About, out: &mut Vec<u8>) {
        let mut page = Exposition::new(out);
        render_gauges(&mut page, now, about);
        self.render_sessions(&mut page);
        self.render_traffic(&mut page, &now.live_traffic);
        page.histogram(
            "hoody_tunnel_response_head_seconds",
            "Time from a visitor's request to the final head of its answer.",
            &self.response_head,
        );
        page.histogram(
            "hoody_tunnel_relay_wait_seconds",
            "Time that bytes waited in the kit between reading and writing them.",
            &self.relay_wait,
        );
        page.histogram(
            "hoody_tunnel_loop_turn_seconds",
            "Time that one turn of the event loop took, without its waiting for events.",
            &self.loop_turn,
        );
    }

    fn render_sessions(&self, page: &mut Exposition<'_>) {
        for (name, help, count) in [
            (
                "sessions_opened_total",
                "Sessions opened, resumed ones not counted.",
                self.sessions,
            ),
            (
                "session_resumes_total",
                "Sessions that came back under their id.",
                self.resumes,
            ),
            (
                "session_parks_total",
                "Sessions that lost their socket and were kept.",
                self.parks,
            ),
            (
                "pong_timeouts_total",
                "Sockets given up for their silence.",
                self.pong_timeouts,
            ),
            ("binds_total", "Bindings granted.", self.bound),
            (
                "takeovers_total",
                "EXPOSE ports that changed their owner.",
                self.takeovers,
            ),
            (
                "accept_failures_total",
                "Failures to accept, usually for want of descriptors.",
                self.accept_failures,
            ),
        ] {
            page.family(name, "counter", help);
            page.sample(&[], count);
        }
        self.render_reasons(page);
    }

    /// What ended or was refused, by reason.
    fn render_reasons(&self, page: &mut Exposition<'_>) {
        let ends = SessionEnd::ALL
            .iter()
            .map(|end| end.name())
            .zip(self.session_ends);
        page.labelled(
            "sessions_ended_total",
            "Sessions that ended, by reason.",
            "reason",
            ends,
        );
        let binds = BIND_CODES
            .iter()
            .map(|code| code.name())
            .zip(self.refused_binds);
        page.labelled(
            "bind_refusals_total",
            "Bindings refused, by code.",
            "code",
            binds,
        );
        let joins = JOIN_CODES
            .iter()
            .map(|code| code.name())
            .zip(self.refused_joins);
        page.labelled(
            "join_refusals_total",
            "Joins refused, by code.",
            "code",
            joins,
        );
        let reasons = RefusalReason::ALL
            .iter()
            .map(|reason| reason.name())
            .zip(self.refusals);
        let help = "Connections and requests refused, by reason.";
        page.labelled("handshake_refusals_total", help, "reason", reasons);
        let codes = Code::ALL
            .iter()
            .map(|code| code.name())
            .zip(self.violations);
        let help = "Times that a client broke the protocol, by code.";
        page.labelled("protocol_violations_total", help, "code", codes);
    }

    fn render_traffic(&self, page: &mut Exposition<'_>, live: &Traffic) {
        let past = &self.traffic;
        let bytes = [
            ("in", past.data_in + live.data_in),
            ("out", past.data_out + live.data_out),
        ];
        let help = "Payload bytes of streams: in from clients, out to clients.";
        page.labelled("data_bytes_total", help, "direction", bytes);
        self.datagrams.render(page);
        let frames = [
            ("in", past.frames_in + live.frames_in),
            ("out", past.frames_out + live.frames_out),
        ];
        let help = "Frames on WebSockets: in from clients, out to clients.";
        page.labelled("frames_total", help, "direction", frames);
        let outcomes = StreamOutcome::ALL
            .iter()
            .map(|outcome| outcome.name())
            .zip(self.streams);
        page.labelled(
            "streams_total",
            "Streams that ended or were refused, by outcome.",
            "outcome",
            outcomes,
        );
        let reasons = StreamRefusal::ALL
            .iter()
            .map(|reason| reason.name())
            .zip(self.refused_streams);
        let help = "Visitors and callers who got no stream, by reason.";
        page.labelled("stream_refusals_total", help, "reason", reasons);
        self.dials.render(page);
        let held = HeldEnd::ALL.iter().map(|end| end.name()).zip(self.held);
        let help = "Visitors and callers who came while a laptop was away and might wait, by what \
                    became of them.";
        page.labelled("held_visitors_total", help, "outcome", held);
        let help =
            "Visitors' requests that got a final status, by EXPOSE port and class of status.";
        page.family("requests_total", "counter", help);
        for (port, counts) in self.bindings.rows() {
            for (class, count) in CLASSES.iter().zip(counts) {
                page.sample(&[("binding", &port), ("status", class)], *count);
            }
        }
        let admin = CLASSES.into_iter().zip(self.admin);
        let help = "Answers of the kit's own endpoints, by class of status.";
        page.labelled("admin_requests_total", help, "status", admin);
    }
}

fn render_gauges(page: &mut Exposition<'_>, now: &Gauges, about: &About) {
    page.family("build_info", "gauge", "The running version; always 1.");
    page.sample(&[("version", about.version)], 1);
    page.family("sessions_active", "gauge", "Sessions, parked ones counted.");
    page.sample(&[], now.sessions as u64);
    page.family(
        "sessions_parked",
        "gauge",
        "Sessions without a socket, kept for the grace.",
    );
    page.sample(&[], now.parked as u64);
    page.family("bindings_active", "gauge", "Bindings, by kind and mode.");
    for (service, count) in Service::ALL.into_iter().zip(now.bindings) {
        let (kind, mode) = (service.kind().name(), service.mode().name());
        page.sample(&[("kind", kind), ("mode", mode)], count as u64);
    }
    datagrams::render_peers(page, now.peers);
    page.family("streams_active", "gauge", "Streams that are open.");
    page.sample(&[], now.streams as u64);
    page.family(
        "connections_active",
        "gauge",
        "Open connections, by what they are for.",
    );
    for (role, count) in [
        ("visitor", now.visitors),
        ("caller", now.callers),
        ("forward", now.forwards),
        ("lane", now.lanes),
        ("pre_auth", now.pre_auth),
    ] {
        page.sample(&[("role", role)], count as u64);
    }
    let help = "Visitors who wait for a laptop that is away.";
    page.family("held_visitors", "gauge", help);
    page.sample(&[], now.held as u64);
    let help = "Descriptors that may still be opened within the budget.";
    page.family("fd_permits_available", "gauge", help);
    page.sample(&[], now.fd_permits_available as u64);
    let help = "Lines of the log that were dropped because nobody read them in time.";
    page.family("log_lines_dropped_total", "counter", help);
    page.sample(&[], now.usage.log_lines_dropped);
    // These three have the names that every Prometheus client library gives them.
    page.process(
        "process_resident_memory_bytes",
        "Resident memory in bytes.",
        now.usage.rss,
    );
    page.process("process_open_fds", "Open descriptors.", now.usage.fds);
    let help = "When the process started, in seconds since 1970.";
    page.process("process_start_time_seconds", help, about.started_unix);
}

/// 0 for 1xx, up to 4 for 5xx and whatever else there may be.
fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

/// The codes of a refused BIND.
const BIND_CODES: [BindErrCode; 8] = [
    BindErrCode::AlreadyBound,
    BindErrCode::PortInUse,
    BindErrCode::ReservedPort,
    BindErrCode::PrivilegedPort,
    BindErrCode::InvalidHost,
    BindErrCode::InvalidKind,
    BindErrCode::BindCapExceeded,
    BindErrCode::Internal,
];
/// The codes of a refused JOIN.
const JOIN_CODES: [JoinErrCode; 4] = [
    JoinErrCode::UnknownSession,
    JoinErrCode::BadTicket,
    JoinErrCode::Expired,
    JoinErrCode::IndexInUse,
];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[cfg(test)]
mod tests;
