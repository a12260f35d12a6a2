//! Who owns which port (PROTOCOL §3): BIND, UNBIND, takeover.

use std::net::SocketAddr;

use log::info;

use crate::clock::Instant;
use crate::kit::budget::Class;
use crate::kit::listeners::{ListenerEntry, Mode, Opening, Purpose};
use crate::kit::metrics::{SessionEnd, StreamOutcome};
use crate::kit::repeats::Complaint;
use crate::kit::session::{KitSession, SessionKey};
use crate::kit::stream::End;
use crate::limits::{AUTO_PORT_FIRST, AUTO_PORT_LAST, AUTO_PORT_TRIES};
use crate::machine::{Command, ConnKey, IoFailure, ListenerKey};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::{
    Bind, BindErr, BindErrCode, BindMode, BindOk, BindRevoked, BindingKind, UnbindErr, UnbindOk,
};

use super::Kit;

/// A port that a session holds.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) bind_id: u64,
    pub(super) mode: Mode,
    pub(super) port: u16,
    pub(super) addr: SocketAddr,
    pub(super) label: Option<String>,
    pub(super) listener: ListenerKey,
    pub(super) since: Instant,
    /// Visitors' requests, or callers.
    pub(super) served: u64,
}

type Refusal = (BindErrCode, String);

impl Kit {
    pub(super) fn bind(&mut self, key: SessionKey, mut bind: Bind) {
        // A label is kept as long as its port, and a client may send a whole frame of it.
        bind.label = bind.label.as_deref().map(|label| cut(label).to_owned());
        if let Err((code, message)) = self.try_bind(key, &bind) {
            self.refuse_bind(key, bind.client_bind_ref, code, message);
        }
    }

    fn refuse_bind(&mut self, key: SessionKey, bind_ref: u64, code: BindErrCode, message: String) {
        self.cx.metrics.refused_bind(code);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let who = session.short_id().to_string();
        let detail = format!("session {who}: {}", said(&message));
        let answer = BindErr {
            client_bind_ref: bind_ref,
            code,
            message,
        };
        self.sessions.say(key, &answer);
        let complaint = Complaint {
            level: log::Level::Info,
            what: "bind refused:",
            reason: code.name(),
        };
        self.cx.complain(complaint, &detail);
    }

    fn try_bind(&mut self, key: SessionKey, bind: &Bind) -> Result<(), Refusal> {
        let mode = match (bind.kind, bind.mode) {
            (BindingKind::Http, BindMode::Expose) => Mode::Expose,
            (BindingKind::Tcp, BindMode::Pull) => Mode::Pull,
            _ => {
                let text = "kind and mode must be http and expose, or tcp and pull";
                return Err((BindErrCode::InvalidKind, text.into()));
            }
        };
        if mode == Mode::Pull && bind.takeover {
            let text = "a PULL port cannot be taken over";
            return Err((BindErrCode::InvalidKind, text.into()));
        }
        let port = bind.container_port;
        let addr = match mode {
            Mode::Expose => self.expose_addr(port),
            Mode::Pull => Kit::pull_addr(bind.host.as_deref(), port).ok_or_else(|| {
                let text = "PULL listens on loopback: host is 127.0.0.1, ::1 or localhost";
                (BindErrCode::InvalidHost, text.to_owned())
            })?,
        };
        self.check_port(mode, port)?;
        if let Some(listener) = self.ports.get(&(mode, port)).copied() {
            return self.bind_held_port(key, bind, listener);
        }
        self.check_bind_cap(key)?;
        let tries = if port == 0 && mode == Mode::Expose {
            AUTO_PORT_TRIES
        } else {
            0
        };
        self.open_port(Opening {
            session: key,
            bind: bind.clone(),
            mode,
            addr,
            tries,
        })
    }

    fn check_port(&self, mode: Mode, port: u16) -> Result<(), Refusal> {
        if port == 0 {
            return Ok(());
        }
        if port < 80 || self.is_own_port(port) {
            let text = format!("port {port} is reserved");
            return Err((BindErrCode::ReservedPort, text));
        }
        let (allowed, flag) = match mode {
            Mode::Expose => (
                self.cx.config.allow_privileged_expose,
                "--allow-privileged-expose",
            ),
            Mode::Pull => (
                self.cx.config.allow_privileged_pull,
                "--allow-privileged-pull",
            ),
        };
        if port < 1024 && !allowed {
            let text = format!("port {port} is below 1024; the kit allows that with {flag}");
            return Err((BindErrCode::PrivilegedPort, text));
        }
        Ok(())
    }

    fn check_bind_cap(&self, key: SessionKey) -> Result<(), Refusal> {
        let cap = self.cx.config.max_bindings_per_session;
        let opening = self
            .listeners
            .iter()
            .filter(
                |(_, entry)| matches!(&entry.purpose, Purpose::Opening(it) if it.session == key),
            )
            .count();
        let held = self
            .sessions
            .get(key)
            .map_or(0, |session| session.bindings.len());
        if held + opening >= cap {
            let text = format!("a session may hold {cap} bindings");
            return Err((BindErrCode::BindCapExceeded, text));
        }
        Ok(())
    }

    /// The port has an owner here: it is taken over, or stays.
    fn bind_held_port(
        &mut self,
        key: SessionKey,
        bind: &Bind,
        listener: ListenerKey,
    ) -> Result<(), Refusal> {
        let held = || {
            let hint = if bind.mode == BindMode::Expose {
                "; takeover moves it"
            } else {
                ""
            };
            let text = format!(
                "port {} is held by a tunnel session{hint}",
                bind.container_port
            );
            (BindErrCode::AlreadyBound, text)
        };
        let entry = self.listeners.get(listener).ok_or_else(held)?;
        let Purpose::Bound {
            session: owner,
            bind_id,
            mode: Mode::Expose,
            ..
        } = entry.purpose
        else {
            return Err(held());
        };
        if !bind.takeover {
            return Err(held());
        }
        if owner != key {
            self.check_bind_cap(key)?;
        }
        self.take_over(owner, bind_id, key, bind);
        Ok(())
    }

    /// Moves the listening socket to its new owner. It is never closed, so nobody is refused.
    fn take_over(&mut self, owner: SessionKey, old_id: u64, key: SessionKey, bind: &Bind) {
        let Some(session) = self.sessions.get_mut(owner) else {
            return;
        };
        let Some(at) = session.bindings.iter().position(|it| it.bind_id == old_id) else {
            return;
        };
        let mut binding = session.bindings.remove(at);
        self.break_streams_of(owner, binding.listener);
        if let Some(session) = self.sessions.get_mut(owner) {
            let reason = "the port was taken over by another session";
            let revoked = BindRevoked {
                bind_id: old_id,
                reason: reason.into(),
            };
            info!(
                "session {}: port {} was taken over",
                session.short_id(),
                binding.port
            );
            self.sessions.say(owner, &revoked);
        }
        self.cx.metrics.taken_over();
        binding.label = bind.label.clone();
        binding.since = self.cx.now;
        binding.served = 0;
        self.give_binding(key, binding, bind.client_bind_ref);
        self.end_if_empty_and_parked(owner);
    }

    /// A parked session that has lost its last port has nothing left to come back for.
    fn end_if_empty_and_parked(&mut self, key: SessionKey) {
        let empty = |session: &KitSession| session.is_parked() && session.bindings.is_empty();
        if self.sessions.get(key).is_some_and(empty) {
            let why = "its last port was taken over";
            self.end_session(key, SessionEnd::Lost, why, None);
        }
    }

    /// RESETs every stream of a binding; its visitors see 502, or a broken connection.
    fn break_streams_of(&mut self, key: SessionKey, listener: ListenerKey) {
        let Some(mux) = self.sessions.mux(key) else {
            return;
        };
        let conns: Vec<ConnKey> = mux.tags().collect();
        for conn in conns {
            let (streams, mut below) = self.streams();
            let visitor = streams.visitors.get(conn);
            if visitor.is_some_and(|visitor| visitor.listener() == listener) {
                let end = End {
                    outcome: StreamOutcome::TakenOver,
                    code: Code::BindTakeover,
                    why: "the port was taken over",
                };
                streams.visitors.break_stream(conn, end, &mut below);
            }
        }
    }

    fn open_port(&mut self, mut opening: Opening) -> Result<(), Refusal> {
        if opening.addr.port() == 0 && opening.mode == Mode::Expose {
            let span = u32::from(AUTO_PORT_LAST - AUTO_PORT_FIRST) + 1;
            opening
                .addr
                .set_port(AUTO_PORT_FIRST + self.cx.entropy.below(span) as u16);
        }
        let addr = opening.addr;
        let Some(permit) = self.conns.permit_for(Class::Listener, &mut self.cx) else {
            return Err((
                BindErrCode::Internal,
                "the kit has no descriptors left".into(),
            ));
        };
        let entry = ListenerEntry {
            purpose: Purpose::Opening(opening),
            permit,
        };
        let name = entry.port_name();
        match self.listeners.insert(entry) {
            Ok(listener) => {
                if let Some(name) = name {
                    // A picked port that is held here fails at the system, which picks another.
                    self.ports.entry(name).or_insert(listener);
                }
                self.cx.effects.ask(Command::Listen { listener, addr });
                Ok(())
            }
            Err(entry) => {
                self.conns.budget.give_back(entry.permit);
                Err((
                    BindErrCode::Internal,
                    "the kit has too many listeners".into(),
                ))
            }
        }
    }

    pub(super) fn binding_opened(&mut self, listener: ListenerKey, addr: SocketAddr, now: Instant) {
        let Some(entry) = self.listeners.get_mut(listener) else {
            return;
        };
        let Purpose::Opening(opening) = &entry.purpose else {
            return;
        };
        let (key, mode) = (opening.session, opening.mode);
        let bind_ref = opening.bind.client_bind_ref;
        let binding = Binding {
            bind_id: 0,
            mode,
            port: addr.port(),
            addr,
            label: opening.bind.label.clone(),
            listener,
            since: now,
            served: 0,
        };
        entry.purpose = Purpose::Bound {
            session: key,
            bind_id: 0,
            mode,
            port: addr.port(),
        };
        self.ports.insert((mode, addr.port()), listener);
        if !self.accepting {
            self.cx.effects.ask(Command::Accept {
                listener,
                on: false,
            });
        }
        self.give_binding(key, binding, bind_ref);
    }

    fn give_binding(&mut self, key: SessionKey, mut binding: Binding, bind_ref: u64) {
        let Some(session) = self.sessions.get_mut(key) else {
            return self.close_listener(binding.listener);
        };
        binding.bind_id = session.next_bind_id();
        let (port, mode) = (binding.port, binding.mode);
        if let Some(entry) = self.listeners.get_mut(binding.listener) {
            let bind_id = binding.bind_id;
            entry.purpose = Purpose::Bound {
                session: key,
                bind_id,
                mode,
                port,
            };
        }
        let answer = BindOk {
            client_bind_ref: bind_ref,
            bind_id: binding.bind_id,
            container_port: port,
            public_url: self.cx.config.public_url_of(mode, port),
        };
        let label = binding.label.as_deref().unwrap_or("-");
        info!(
            "session {}: bound {mode:?} {} as {} (label {label:?})",
            session.short_id(),
            binding.addr,
            binding.bind_id
        );
        session.bindings.push(binding);
        self.sessions.say(key, &answer);
        self.cx.metrics.bound();
        if mode == Mode::Expose {
            self.cx.metrics.binding_opened(port);
        }
    }

    pub(super) fn binding_failed(&mut self, listener: ListenerKey, why: &IoFailure, _now: Instant) {
        let Some(Purpose::Opening(mut opening)) = self.drop_listener(listener) else {
            return;
        };
        let taken = why.kind == std::io::ErrorKind::AddrInUse;
        let (key, bind_ref) = (opening.session, opening.bind.client_bind_ref);
        if taken && opening.tries > 0 {
            opening.tries -= 1;
            opening.addr.set_port(0);
            if let Err((code, message)) = self.open_port(opening) {
                self.refuse_bind(key, bind_ref, code, message);
            }
            return;
        }
        let code = match why.kind {
            std::io::ErrorKind::AddrInUse => BindErrCode::PortInUse,
            std::io::ErrorKind::PermissionDenied => BindErrCode::PrivilegedPort,
            _ => BindErrCode::Internal,
        };
        let message = format!("cannot listen on {}: {}", opening.addr, why.text);
        self.refuse_bind(key, bind_ref, code, message);
    }

    pub(super) fn drop_openings_of(&mut self, key: SessionKey) {
        let theirs: Vec<ListenerKey> = self
            .listeners
            .iter()
            .filter(
                |(_, entry)| matches!(&entry.purpose, Purpose::Opening(it) if it.session == key),
            )
            .map(|(listener, _)| listener)
            .collect();
        for listener in theirs {
            self.close_listener(listener);
        }
    }

    pub(super) fn unbind(&mut self, key: SessionKey, bind_id: u64) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(at) = session.bindings.iter().position(|it| it.bind_id == bind_id) else {
            let message = format!("this session has no binding {bind_id}");
            let answer = UnbindErr {
                bind_id,
                code: BindErrCode::NotFound,
                message,
            };
            return self.sessions.say(key, &answer);
        };
        let binding = session.bindings.remove(at);
        self.sessions.say(key, &UnbindOk { bind_id });
        // Streams that run go on; only nobody new comes in.
        self.close_listener(binding.listener);
        if let Some(session) = self.sessions.get(key) {
            self.log_unbound(session, &binding, "unbound by the client");
        }
    }

    pub(super) fn log_unbound(&self, session: &KitSession, binding: &Binding, why: &str) {
        info!(
            "session {}: released {:?} port {} after {:?}, {} served: {}",
            session.short_id(),
            binding.mode,
            binding.port,
            self.cx.now.since(binding.since),
            binding.served,
            said(why)
        );
    }
}

/// As much of a label as a line of the log is for.
fn cut(label: &str) -> &str {
    let end = label.char_indices().nth(LABEL_KEPT);
    end.map_or(label, |(end, _)| label.split_at(end).0)
}

/// Characters of a label that are kept for the log.
const LABEL_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_long_label_is_cut_between_characters() {
        assert_eq!(cut("web"), "web");
        assert_eq!(cut(&"ü".repeat(50_000)), "ü".repeat(64));
    }
}
