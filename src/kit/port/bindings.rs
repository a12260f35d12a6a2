//! BIND, UNBIND, takeover: whose a port is, and what the client is told of it.

use std::net::SocketAddr;

use log::info;

use crate::clock::Instant;
use crate::kit::Stopping;
use crate::kit::budget::{Class, FdBudget};
use crate::kit::config::Config;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::keys::{BindingKey, Mode, Protocol};
use crate::kit::repeats::Complaint;
use crate::kit::session::{KitSession, Over, Sessions};
use crate::limits::{AUTO_PORT_FIRST, AUTO_PORT_LAST, AUTO_PORT_TRIES};
use crate::machine::{Command, IoFailure, ListenerKey};
use crate::text::said;
use crate::wire::control::{
    Bind, BindErr, BindErrCode, BindMode, BindOk, BindRevoked, ResumedBind, UnbindErr, UnbindOk,
};
use crate::wire::service::Service;

use super::{
    ListenerEntry, Opening, PortName, Ports, Purpose, Socket, is_own_port, name_of, pull_addr,
};

/// A port that a session holds.
#[derive(Debug)]
pub(in crate::kit) struct Binding {
    /// Live or parked.
    pub(in crate::kit) owner: SessionKey,
    /// The owner's name for it.
    pub(in crate::kit) bind_id: u64,
    /// What the owner called it when it asked for it, as far as that is known.
    pub(super) bind_ref: Option<u64>,
    pub(in crate::kit) service: Service,
    pub(in crate::kit) addr: SocketAddr,
    pub(super) label: Option<String>,
    pub(super) listener: ListenerKey,
    pub(super) since: Instant,
    /// Visitors' requests, or callers.
    pub(in crate::kit) served: u64,
}

/// Why a BIND is refused.
pub(super) type NotBound = (BindErrCode, String);

impl Binding {
    pub(in crate::kit) fn port(&self) -> u16 {
        self.addr.port()
    }

    pub(super) fn port_name(&self) -> PortName {
        name_of(self.service, self.port())
    }

    /// Whether whoever comes speaks HTTP, and can be told that nobody serves it.
    pub(super) fn is_http(&self) -> bool {
        self.service == Service::HttpExpose
    }

    /// As a client that has resumed is told of it.
    fn as_resumed(&self, config: &Config) -> ResumedBind {
        ResumedBind {
            bind_id: self.bind_id,
            kind: self.service.kind(),
            mode: self.service.mode(),
            container_port: self.port(),
            public_url: Some(config.public_url_of(self.service, self.port())),
            client_bind_ref: self.bind_ref,
        }
    }

    fn log_end(&self, session: &str, why: &str, now: Instant) {
        info!(
            "session {session}: released {:?} port {} after {:?}, {} served: {}",
            self.service,
            self.port(),
            now.since(self.since),
            self.served,
            said(why)
        );
    }
}

impl Ports {
    /// BIND. Gives the listener of a port that is to be taken over, which follows with
    /// [`Ports::take_over`] once what its owner serves there is broken.
    pub(in crate::kit) fn bind(
        &mut self,
        key: SessionKey,
        bind: &mut Bind,
        conns: &mut Conns,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) -> Option<ListenerKey> {
        // A label is kept as long as its port, and a client may send a whole frame of it.
        bind.label = bind.label.as_deref().map(|label| cut(label).to_owned());
        match self.try_bind(key, bind, conns, sessions, cx) {
            Ok(held) => held,
            Err(refusal) => {
                refuse_bind(key, bind.client_bind_ref, refusal, sessions, cx);
                None
            }
        }
    }

    fn try_bind(
        &mut self,
        key: SessionKey,
        bind: &Bind,
        conns: &mut Conns,
        sessions: &Sessions,
        cx: &mut Context,
    ) -> Result<Option<ListenerKey>, NotBound> {
        if cx.stopping != Stopping::No {
            return Err((BindErrCode::Internal, "the kit is restarting".into()));
        }
        let granted = sessions.get(key).map(KitSession::capabilities);
        let service = super::service(bind, granted.unwrap_or_default(), &cx.config)?;
        let mode = Mode::of(service);
        if mode == Mode::Pull && bind.takeover {
            let text = "a PULL port cannot be taken over";
            return Err((BindErrCode::InvalidKind, text.into()));
        }
        let port = bind.container_port;
        let addr = match mode {
            Mode::Expose => SocketAddr::new(cx.config.expose_host, port),
            Mode::Pull => pull_addr(bind.host.as_deref(), port).ok_or_else(|| {
                let text = "PULL listens on loopback: host is 127.0.0.1, ::1 or localhost";
                (BindErrCode::InvalidHost, text.to_owned())
            })?,
        };
        let name = name_of(service, port);
        self.check_port(name, &cx.config)?;
        if let Some(listener) = self.by_name.get(&name).copied() {
            return self.bind_held_port(key, bind, (listener, addr), sessions, cx);
        }
        self.check_bind_cap(key, sessions, &cx.config)?;
        let tries = if port == 0 && mode == Mode::Expose {
            AUTO_PORT_TRIES
        } else {
            0
        };
        let opening = Opening {
            session: key,
            bind: bind.clone(),
            service,
            addr,
            tries,
        };
        self.open(opening, conns, cx)?;
        Ok(None)
    }

    fn check_port(
        &self,
        (protocol, mode, port): PortName,
        config: &Config,
    ) -> Result<(), NotBound> {
        if port == 0 {
            return Ok(());
        }
        let is_tcp = protocol == Protocol::Tcp;
        if is_tcp && (port < 80 || is_own_port(self.front, config, port)) {
            let text = format!("port {port} is reserved");
            return Err((BindErrCode::ReservedPort, text));
        }
        let (allowed, flag) = match mode {
            Mode::Expose => (config.allow_privileged_expose, "--allow-privileged-expose"),
            Mode::Pull => (config.allow_privileged_pull, "--allow-privileged-pull"),
        };
        if port < 1024 && !allowed {
            let text = format!("port {port} is below 1024; the kit allows that with {flag}");
            return Err((BindErrCode::PrivilegedPort, text));
        }
        Ok(())
    }

    fn check_bind_cap(
        &self,
        key: SessionKey,
        sessions: &Sessions,
        config: &Config,
    ) -> Result<(), NotBound> {
        let cap = config.max_bindings_per_session;
        let held = sessions.get(key).map_or(0, |it| it.bindings.len());
        if held + self.openings_of(key).count() >= cap {
            let text = format!("a session may hold {cap} bindings");
            return Err((BindErrCode::BindCapExceeded, text));
        }
        Ok(())
    }

    fn openings_of(&self, key: SessionKey) -> impl Iterator<Item = ListenerKey> {
        let theirs = move |purpose: &Purpose| match purpose {
            Purpose::Opening(opening) => opening.session == key,
            Purpose::Front | Purpose::Bound(_) | Purpose::Vacant => false,
        };
        let openings = self.listeners.iter();
        openings
            .filter(move |(_, entry)| theirs(&entry.purpose))
            .map(|(listener, _)| listener)
    }

    /// The port has an owner here: it is taken over, or stays.
    fn bind_held_port(
        &self,
        key: SessionKey,
        bind: &Bind,
        (listener, addr): (ListenerKey, SocketAddr),
        sessions: &Sessions,
        cx: &Context,
    ) -> Result<Option<ListenerKey>, NotBound> {
        let binding = self.bound(listener);
        let owner = binding.and_then(|binding| sessions.get(binding.owner));
        let held = || held_port(bind, owner, cx.now);
        let binding = binding.ok_or_else(held)?;
        let is_taken = binding.service.mode() == BindMode::Expose && bind.takeover;
        // The socket moves as it is, so it must be the one that is asked for.
        let is_replaced = || binding.addr == addr && is_replaced(bind, binding.owner, sessions);
        if !is_taken && !is_replaced() {
            return Err(held());
        }
        if binding.owner != key {
            self.check_bind_cap(key, sessions, &cx.config)?;
        }
        Ok(Some(listener))
    }

    /// Moves a listening socket to its new owner, and gives the old one. It is never closed, so
    /// nobody is refused.
    pub(in crate::kit) fn take_over(
        &mut self,
        listener: ListenerKey,
        key: SessionKey,
        bind: &Bind,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) -> Option<SessionKey> {
        let Purpose::Bound(at) = *self.purpose(listener)? else {
            return None;
        };
        let binding = self.bindings.resolve_mut(at);
        let (owner, bind_id) = (binding.owner, binding.bind_id);
        if binding.is_http() {
            cx.metrics.binding_closed(binding.port());
        }
        binding.service = Service::asked(bind).unwrap_or(binding.service);
        binding.label = bind.label.clone();
        binding.since = cx.now;
        binding.served = 0;
        if let Some(session) = sessions.get_mut(owner) {
            session.bindings.retain(|it| *it != at);
            info!(
                "session {}: port {} was taken over",
                session.short_id(),
                binding.port()
            );
            let reason = "the port was taken over by another session".into();
            sessions.say(owner, &BindRevoked { bind_id, reason });
        }
        cx.metrics.taken_over();
        self.give(at, key, bind.client_bind_ref, sessions, cx);
        Some(owner)
    }

    fn open(
        &mut self,
        mut opening: Opening,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<(), NotBound> {
        if opening.addr.port() == 0 && opening.service.mode() == BindMode::Expose {
            let span = u32::from(AUTO_PORT_LAST - AUTO_PORT_FIRST) + 1;
            let port = AUTO_PORT_FIRST + cx.entropy.below(span) as u16;
            opening.addr.set_port(port);
        }
        let (addr, name) = (opening.addr, opening.port_name());
        let protocol = Protocol::of(opening.service);
        let Some(permit) = conns.permit_for(Class::Listener, cx) else {
            let text = "the kit has no descriptors left";
            return Err((BindErrCode::Internal, text.into()));
        };
        let entry = ListenerEntry {
            protocol,
            purpose: Purpose::Opening(opening),
            permit,
            socket: Socket::Open,
        };
        match self.listeners.insert(entry) {
            Ok(listener) => {
                if let Some(name) = name {
                    // A picked port that is held here fails at the system, which picks another.
                    self.by_name.entry(name).or_insert(listener);
                }
                cx.effects.ask(super::opening(listener, protocol, addr));
                Ok(())
            }
            Err(entry) => {
                conns.budget.give_back(entry.permit);
                let text = "the kit has too many listeners";
                Err((BindErrCode::Internal, text.into()))
            }
        }
    }

    /// The socket of a BIND listens.
    pub(super) fn opened(
        &mut self,
        listener: ListenerKey,
        addr: SocketAddr,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let entry = self.listeners.resolve_mut(listener);
        let Purpose::Opening(opening) = &entry.purpose else {
            return;
        };
        let (key, service) = (opening.session, opening.service);
        let bind_ref = opening.bind.client_bind_ref;
        let binding = Binding {
            owner: key,
            bind_id: 0,
            bind_ref: Some(bind_ref),
            service,
            addr,
            label: opening.bind.label.clone(),
            listener,
            since: cx.now,
            served: 0,
        };
        let Ok(at) = self.bindings.insert(binding) else {
            unreachable!("there are no more bindings than listeners");
        };
        entry.purpose = Purpose::Bound(at);
        self.by_name.insert(name_of(service, addr.port()), listener);
        if !self.accepting && Protocol::of(service) == Protocol::Tcp {
            let on = false;
            cx.effects.ask(Command::Accept { listener, on });
        }
        self.give(at, key, bind_ref, sessions, cx);
    }

    /// A binding is this session's from now on. It is there: what it was opening goes with it.
    fn give(
        &mut self,
        at: BindingKey,
        key: SessionKey,
        bind_ref: u64,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let Some(session) = sessions.get_mut(key) else {
            return;
        };
        let binding = self.bindings.resolve_mut(at);
        binding.owner = key;
        binding.bind_id = session.next_bind_id();
        binding.bind_ref = Some(bind_ref);
        let (service, port) = (binding.service, binding.port());
        let answer = BindOk {
            client_bind_ref: bind_ref,
            bind_id: binding.bind_id,
            container_port: port,
            public_url: cx.config.public_url_of(service, port),
        };
        let label = binding.label.as_deref().unwrap_or("-");
        info!(
            "session {}: bound {service:?} {} as {} (label {label:?})",
            session.short_id(),
            binding.addr,
            binding.bind_id
        );
        session.bindings.push(at);
        sessions.say(key, &answer);
        cx.metrics.bound();
        if service == Service::HttpExpose {
            cx.metrics.binding_opened(port);
        }
    }

    /// The socket of a BIND could not be had.
    pub(super) fn not_opened(
        &mut self,
        listener: ListenerKey,
        why: &IoFailure,
        conns: &mut Conns,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let dropped = self.drop(listener, &mut conns.budget, cx);
        let Some(Purpose::Opening(mut opening)) = dropped else {
            return;
        };
        let taken = why.kind == std::io::ErrorKind::AddrInUse;
        let (key, bind_ref) = (opening.session, opening.bind.client_bind_ref);
        if taken && opening.tries > 0 {
            opening.tries -= 1;
            opening.addr.set_port(0);
            if let Err(refusal) = self.open(opening, conns, cx) {
                refuse_bind(key, bind_ref, refusal, sessions, cx);
            }
            return;
        }
        let code = match why.kind {
            std::io::ErrorKind::AddrInUse => BindErrCode::PortInUse,
            std::io::ErrorKind::PermissionDenied => BindErrCode::PrivilegedPort,
            _ => BindErrCode::Internal,
        };
        let message = format!("cannot listen on {}: {}", opening.addr, why.text);
        refuse_bind(key, bind_ref, (code, message), sessions, cx);
    }

    /// UNBIND. Streams that run go on; only nobody new comes in.
    pub(in crate::kit) fn unbind(
        &mut self,
        key: SessionKey,
        bind_id: u64,
        budget: &mut FdBudget,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let Some(session) = sessions.get_mut(key) else {
            return;
        };
        let mut held = session.bindings.iter();
        let Some(at) = held.position(|it| self.bindings.resolve(*it).bind_id == bind_id) else {
            let answer = UnbindErr {
                bind_id,
                code: BindErrCode::NotFound,
                message: format!("this session has no binding {bind_id}"),
            };
            return sessions.say(key, &answer);
        };
        let binding = session.bindings.remove(at);
        let why = "unbound by the client";
        self.release(binding, session.short_id(), why, budget, cx);
        sessions.say(key, &UnbindOk { bind_id });
    }

    /// The ports of a session that is over are free.
    pub(in crate::kit) fn release_all(
        &mut self,
        over: &Over,
        why: &str,
        budget: &mut FdBudget,
        cx: &mut Context,
    ) {
        for binding in &over.bindings {
            self.release(*binding, &over.short_id, why, budget, cx);
        }
        let openings: Vec<ListenerKey> = self.openings_of(over.key).collect();
        for listener in openings {
            self.close(listener, budget, cx);
        }
    }

    /// `session` is what logs may show of the owner's id.
    pub(super) fn release(
        &mut self,
        at: BindingKey,
        session: &str,
        why: &str,
        budget: &mut FdBudget,
        cx: &mut Context,
    ) {
        let binding = self.bindings.resolve(at);
        binding.log_end(session, why, cx.now);
        let (is_http, listener) = (binding.is_http(), binding.listener);
        if cx.stopping.is_draining() && is_http {
            self.vacate(listener, cx);
        } else {
            self.close(listener, budget, cx);
        }
        self.bindings.remove(at);
    }

    /// What a session that was resumed still has, as its client is told.
    pub(in crate::kit) fn as_resumed(
        &self,
        session: &KitSession,
        config: &Config,
    ) -> Vec<ResumedBind> {
        let bindings = session.bindings.iter();
        bindings
            .map(|key| self.bindings.resolve(*key).as_resumed(config))
            .collect()
    }
}

/// Whether the owner of a port waits for a client that has lost it and is back without it: whoever
/// knows its id could have resumed it.
fn is_replaced(bind: &Bind, owner: SessionKey, sessions: &Sessions) -> bool {
    let lost = bind.replaces.as_ref();
    let is_it = lost.and_then(|id| sessions.with_id(id.as_str())) == Some(owner);
    is_it && sessions.get(owner).is_some_and(KitSession::is_parked)
}

/// What somebody hears who asks for a port that another one holds.
fn held_port(bind: &Bind, owner: Option<&KitSession>, now: Instant) -> NotBound {
    let until = owner.and_then(KitSession::parked_until);
    let parked = until.map(|until| {
        let left = until.since(now).as_secs() + 1;
        format!(" that lost its connection and is waited for; it ends in {left} s")
    });
    let hint = match bind.mode {
        BindMode::Expose => "; takeover moves it",
        _ => "",
    };
    let port = bind.container_port;
    let parked = parked.unwrap_or_default();
    let text = format!("port {port} is held by a tunnel session{parked}{hint}");
    (BindErrCode::AlreadyBound, text)
}

fn refuse_bind(
    key: SessionKey,
    client_bind_ref: u64,
    (code, message): NotBound,
    sessions: &mut Sessions,
    cx: &mut Context,
) {
    cx.metrics.refused_bind(code);
    let Some(session) = sessions.get(key) else {
        return;
    };
    let detail = format!("session {}: {}", session.short_id(), said(&message));
    let answer = BindErr {
        client_bind_ref,
        code,
        message,
    };
    sessions.say(key, &answer);
    let complaint = Complaint {
        level: log::Level::Info,
        what: "bind refused:",
        reason: code.name(),
    };
    cx.complain(complaint, &detail);
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
