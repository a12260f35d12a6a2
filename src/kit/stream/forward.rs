//! *Forward*: a client has the kit connect to something it reaches, raw TCP from there on (PROTOCOL
//! §8).
//!
//! ```text
//!   STREAM_OPEN -> look-up -> policy -> dial -> STREAM_CONNECTED -> a raw stream as a caller's is
//! ```
//!
//! A connection has its stream, its descriptor and its share from the first moment, and DATA waits
//! for it within the stream's credit. Whatever goes wrong before it stands is told by RESET with a
//! reason that begins with a word of the protocol's.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::kit::Reason;
use crate::kit::conns::LaneName;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::{DialOutcome, StreamOutcome};
use crate::kit::policy::{Denied, literal};
use crate::kit::session::{End, Sessions};
use crate::kit::stopping::Stopping;
use crate::limits::{FORWARD_WITHIN, MAX_HOST};
use crate::machine::{CloseHow, Command, Conn, ConnKey, DialTarget, Ended, Found};
use crate::shares::{Shares, may_hold};
use crate::table::Side;
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::open::{OpenForward, StreamOpen, write_connected};

use super::raw::Raw;
use super::{Below, StreamName};

/// A connection that a client asked for, and its stream.
#[derive(Debug)]
struct Forward {
    name: StreamName,
    target: Target,
    stage: Stage,
    /// One of the addresses that are dialled is this machine's.
    is_local: bool,
    /// The client said EOF before the connection stood.
    ended: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    LooksUp,
    Dials,
    Stands,
}

/// Whom a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Port { host: String, port: u16 },
    Unix(String),
}

impl Target {
    fn of(open: &OpenForward<'_>) -> Target {
        match open {
            OpenForward::Port { host, port } => Target::Port {
                host: literal(host).map_or_else(|| host.to_string(), |ip| ip.to_string()),
                port: *port,
            },
            OpenForward::Unix(path) => Target::Unix(path.to_string()),
        }
    }

    /// As a person writes it.
    fn shown(&self) -> String {
        said(&match self {
            Target::Port { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Port { host, port } => format!("{host}:{port}"),
            Target::Unix(path) => format!("unix:{path}"),
        })
    }
}

/// Why a client does not get what it wants: what is counted, the code, and the sentence for it.
#[derive(Debug)]
pub(super) struct Failed {
    outcome: DialOutcome,
    code: Code,
    why: String,
}

impl Failed {
    fn refused(outcome: DialOutcome, why: impl Into<String>) -> Failed {
        Failed {
            outcome,
            code: Code::RefusedStream,
            why: why.into(),
        }
    }

    fn denied(target: &Target, why: &Denied) -> Failed {
        let why = format!("{}: {why}", target.shown());
        Failed::refused(DialOutcome::Policy, why)
    }

    /// No descriptor was left for it.
    pub(super) fn descriptors() -> Failed {
        Failed::refused(DialOutcome::Descriptors, "no file descriptors left")
    }

    fn own_port(target: &Target) -> Failed {
        let why = format!("{}: the port is the tunnel's own", target.shown());
        Failed::refused(DialOutcome::OwnPort, why)
    }

    /// The world did it: the words are the protocol's.
    fn world(how: &Ended, stage: Stage) -> Failed {
        let (kind, text) = match how {
            Ended::Reset => (std::io::ErrorKind::ConnectionReset, "the peer reset it"),
            Ended::Failed(failure) if failure.is_shortage() => return Failed::descriptors(),
            Ended::Failed(failure) => (failure.kind, failure.text.as_str()),
        };
        let outcome = match kind {
            _ if stage == Stage::LooksUp => DialOutcome::Dns,
            std::io::ErrorKind::TimedOut => DialOutcome::Timeout,
            std::io::ErrorKind::ConnectionRefused => DialOutcome::Refused,
            _ => DialOutcome::Unreachable,
        };
        Failed::cancelled(outcome, text)
    }

    fn cancelled(outcome: DialOutcome, text: &str) -> Failed {
        Failed {
            outcome,
            code: Code::Cancel,
            why: format!("{}: {}", outcome.name(), said(text)),
        }
    }
}

/// All connections that clients asked for.
#[derive(Debug, Default)]
pub(in crate::kit) struct Forwards {
    all: Side<Conn, Forward>,
    /// The raw streams of those that stand.
    raw: Side<Conn, Raw>,
    /// How many each session has.
    held: Shares<SessionKey>,
}

/// A stream that a client opens.
#[derive(Debug, Clone, Copy)]
pub(in crate::kit) struct Opened {
    pub(in crate::kit) id: u32,
    /// So many are opened at once that this one is to be refused.
    pub(in crate::kit) hasty: bool,
}

impl Forwards {
    /// Whom a client wants to reach, where it may.
    pub(super) fn wanted(
        &self,
        opened: Opened,
        session: SessionKey,
        payload: &[u8],
        below: &Below<'_>,
    ) -> Result<Target, Failed> {
        let policy = &below.cx.config.allow_forward;
        let owner = below.sessions.get(session);
        if !owner.is_some_and(|it| it.may_forward()) {
            let why = "this kit opens no connections for clients";
            return Err(Failed::refused(DialOutcome::Policy, why));
        }
        if below.cx.stopping != Stopping::No || !owner.is_some_and(|it| it.is_open()) {
            return Err(Failed::refused(DialOutcome::Draining, "the kit restarts"));
        }
        if opened.hasty {
            let why = "streams opened too fast";
            return Err(Failed::refused(DialOutcome::Hasty, why));
        }
        let malformed = |why: String| Failed {
            outcome: DialOutcome::Malformed,
            code: Code::ProtocolError,
            why,
        };
        let target = match StreamOpen::parse(payload) {
            Ok(StreamOpen::Forward(open)) => Target::of(&open),
            Ok(_) => return Err(malformed("a client opens forwarded streams only".into())),
            Err(error) => return Err(malformed(error.to_string())),
        };
        let allowed = match &target {
            Target::Port { host, .. } if host.len() > MAX_HOST => {
                let why = "no name is so long";
                return Err(Failed::cancelled(DialOutcome::Dns, why));
            }
            Target::Port { host, port } => policy.may_look_up(host, *port),
            Target::Unix(path) => policy.allows_unix(path),
        };
        allowed.map_err(|why| Failed::denied(&target, &why))?;
        let budget = &below.conns.budget;
        let (left, most) = (budget.left_for_dials(), budget.for_visits());
        let held = self.held.of(session) + 1;
        if !may_hold(held, 1, left.saturating_sub(1), most) {
            let why = "this session has as many as may be of what others wait for";
            return Err(Failed::refused(DialOutcome::Share, why));
        }
        Ok(target)
    }

    /// Begins to connect; the connection has its place.
    pub(super) fn begin(
        &mut self,
        conn: ConnKey,
        id: u32,
        (session, lane): LaneName,
        target: Target,
        below: &mut Below<'_>,
    ) {
        let now = below.cx.now;
        let mux = below.sessions.mux_mut(session);
        let Some(stream) = mux.and_then(|mux| mux.accept(lane, id, conn, now)) else {
            // The client was told.
            below.cx.metrics.dials.ended(DialOutcome::MaxStreams);
            below.cx.metrics.stream_ended(StreamOutcome::Refused);
            below.conns.drop(conn, below.cx);
            return;
        };
        let (command, stage) = match &target {
            Target::Port { host, port } => {
                let (host, port) = (host.clone(), *port);
                (Command::Resolve { conn, host, port }, Stage::LooksUp)
            }
            Target::Unix(path) => {
                let target = DialTarget::Unix(PathBuf::from(path));
                (Command::Dial { conn, target }, Stage::Dials)
            }
        };
        let forward = Forward {
            name: StreamName { session, stream },
            target,
            stage,
            is_local: false,
            ended: false,
        };
        self.held.take(session, 1);
        self.all.insert(conn, forward);
        below.cx.effects.ask(command);
        below.cx.arm_conn(conn, now + FORWARD_WITHIN);
    }

    /// A stream that was not accepted is refused.
    pub(super) fn refuse(id: u32, (session, lane): LaneName, why: &Failed, below: &mut Below<'_>) {
        let Failed { outcome, code, why } = why;
        if let Some(mux) = below.sessions.mux_mut(session) {
            mux.refuse(lane, id, *code, why);
        }
        below.cx.metrics.dials.ended(*outcome);
        below.cx.metrics.stream_ended(StreamOutcome::Refused);
        if let Some(session) = below.sessions.get(session) {
            let peer = session.peer.ip();
            below.cx.complain_refused(peer, outcome.name(), why);
        }
    }

    /// All addresses of a name are known: they are dialled, if all of them are allowed.
    pub(in crate::kit) fn resolved(
        &mut self,
        conn: ConnKey,
        found: &[Found],
        below: &mut Below<'_>,
    ) {
        let Some(it) = self.all.get_mut(conn) else {
            return;
        };
        let Target::Port { host, port } = &it.target else {
            return;
        };
        let (policy, mut addrs) = (&below.cx.config.allow_forward, Vec::new());
        for found in found {
            match policy.judge(host, found.addr) {
                Ok(addr) => {
                    it.is_local |= found.is_local || addr.ip().is_loopback();
                    if !addrs.contains(&addr) {
                        addrs.push(addr);
                    }
                }
                Err(why) => {
                    let failed = Failed::denied(&it.target, &why);
                    return self.fail(conn, &failed, below);
                }
            }
        }
        if it.is_local && below.ports.are_ours(*port, &below.cx.config) {
            let failed = Failed::own_port(&it.target);
            return self.fail(conn, &failed, below);
        }
        if addrs.is_empty() {
            let failed = Failed::cancelled(DialOutcome::Dns, "it has no address");
            return self.fail(conn, &failed, below);
        }
        it.stage = Stage::Dials;
        let target = DialTarget::Addrs(addrs);
        below.cx.effects.ask(Command::Dial { conn, target });
    }

    /// It stands: what waits is sent, and the client told.
    pub(in crate::kit) fn connected(
        &mut self,
        conn: ConnKey,
        peer: SocketAddr,
        below: &mut Below<'_>,
    ) {
        let Some(it) = self.all.get_mut(conn) else {
            return;
        };
        // The port may have become ours meanwhile.
        if let Target::Port { port, .. } = it.target
            && it.is_local
            && below.ports.are_ours(port, &below.cx.config)
        {
            let failed = Failed::own_port(&it.target);
            return self.fail(conn, &failed, below);
        }
        it.stage = Stage::Stands;
        let (name, ended) = (it.name, it.ended);
        let peer = match &it.target {
            Target::Port { .. } => peer.to_string(),
            Target::Unix(_) => it.target.shown(),
        };
        let cx = &mut below.cx;
        cx.effects.timers.disarm(Reason::Conn(conn));
        cx.text.clear();
        write_connected(&mut cx.text, &peer);
        if let Some(mux) = name.mux(below.sessions) {
            mux.send_connected(name.stream, &cx.text, cx.now);
        }
        cx.metrics.dials.ended(DialOutcome::Connected);
        cx.effects.wake(conn);
        cx.effects.reset_if_killed(conn);
        let mut raw = Raw::new(name, LIVED);
        if ended {
            raw.stream_ended(conn, below);
        }
        self.raw.insert(conn, raw);
    }

    /// Nothing came of it.
    fn fail(&mut self, conn: ConnKey, why: &Failed, below: &mut Below<'_>) {
        self.failed(conn, why, below);
        below.conns.close(conn, CloseHow::Reset, below.cx);
    }

    fn failed(&self, conn: ConnKey, why: &Failed, below: &mut Below<'_>) {
        let Some(it) = self.all.get(conn) else {
            return;
        };
        let Failed { outcome, code, why } = why;
        if let Some(mux) = it.name.mux(below.sessions) {
            mux.reset(it.name.stream, *code, why);
        }
        below.cx.metrics.dials.ended(*outcome);
        below.cx.metrics.stream_ended(StreamOutcome::Refused);
        if let Some(entry) = below.conns.get(conn) {
            let peer = entry.from.ip();
            below.cx.complain_refused(peer, outcome.name(), why);
        }
    }

    /// It does not stand, and has had its time.
    pub(in crate::kit) fn timeout(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        if !self.stands(conn) {
            let failed = Failed::cancelled(DialOutcome::Timeout, "nothing came of it in time");
            self.fail(conn, &failed, below);
        }
    }

    fn stands(&self, conn: ConnKey) -> bool {
        let it = self.all.get(conn);
        it.is_some_and(|it| it.stage == Stage::Stands)
    }

    pub(in crate::kit) fn stream(&self, conn: ConnKey) -> Option<StreamName> {
        Some(self.all.get(conn)?.name)
    }

    pub(in crate::kit) fn knows(&self, conn: ConnKey) -> bool {
        self.all.get(conn).is_some()
    }

    /// Where its next bytes go: straight into the lane.
    pub(in crate::kit) fn space<'s>(
        &self,
        conn: ConnKey,
        sessions: &'s mut Sessions,
    ) -> &'s mut [u8] {
        let raw = self.raw.get(conn);
        raw.map_or(&mut [], |raw| raw.space(sessions))
    }

    pub(in crate::kit) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        below.cx.metrics.dials.carried(0, count);
        if let Some(raw) = self.raw.get_mut(conn) {
            raw.received(conn, count, below);
        }
    }

    /// Its FIN lies behind bytes that find no credit.
    pub(in crate::kit) fn ends_ahead(&self, conn: ConnKey, sessions: &mut Sessions) {
        if let Some(raw) = self.raw.get(conn) {
            raw.ends_ahead(sessions);
        }
    }

    /// The client said EOF, which waits for the connection like the bytes before it.
    pub(super) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        match (self.raw.get_mut(conn), self.all.get_mut(conn)) {
            (Some(raw), _) => raw.stream_ended(conn, below),
            (None, Some(it)) => it.ended = true,
            (None, None) => {}
        }
    }

    pub(in crate::kit) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        below.cx.metrics.dials.carried(passed, 0);
        if let Some(raw) = self.raw.get_mut(conn) {
            raw.transmitted(conn, passed, drained, below);
        }
    }

    /// RESET, or the lane is gone.
    pub(super) fn broken(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        if let Some(raw) = self.raw.get(conn) {
            raw.broken(conn, end, below);
            return;
        }
        below.cx.metrics.dials.ended(DialOutcome::Left);
        below.cx.metrics.stream_ended(end.outcome);
        below.conns.close(conn, CloseHow::Reset, below.cx);
    }

    /// The world ended it, or it never came about.
    pub(super) fn gone(&mut self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        let Some(it) = self.all.get(conn) else {
            return;
        };
        if let Some(raw) = self.raw.get(conn) {
            return raw.gone(conn, how, below);
        }
        let failed = Failed::world(how, it.stage);
        self.failed(conn, &failed, below);
    }

    /// Whose it is, whom it reaches, and whether it stands.
    pub(in crate::kit) fn about(&self, conn: ConnKey) -> Option<(SessionKey, String, bool)> {
        let it = self.all.get(conn)?;
        let stands = it.stage == Stage::Stands;
        Some((it.name.session, it.target.shown(), stands))
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        self.raw.remove(conn);
        if let Some(it) = self.all.remove(conn) {
            self.held.give_back(it.name.session, 1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn shrink(&mut self) {
        self.all.shrink();
        self.raw.shrink();
    }
}

const LIVED: &str = "forwarded stream";

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
