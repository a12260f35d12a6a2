//! Listening sockets, and who owns which port (PROTOCOL §3).
//!
//! [`Ports`] owns the kit's own listener and those of bindings, the bindings themselves, and
//! whether anybody is accepted on them. A listener knows the key of the binding that it is for, and
//! a session those of the bindings that it owns.
//!
//! The room accepts nobody and breaks no stream: a takeover that is due is answered to whoever
//! asked for the BIND, and carried out with [`Ports::take_over`].
//!
//! Invariants: a port has one owner; what a session lists names it as the owner, and nothing else
//! does; a listener's permit goes home when its entry does.

mod bindings;
mod inherited;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use log::{info, warn};

use crate::kit::budget::{Class, FdBudget, FdPermit};
use crate::kit::config::Config;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::keys::{BindingKey, BindingMark, Mode, Protocol};
use crate::kit::repeats::Complaint;
use crate::kit::session::Sessions;
use crate::limits::{ACCEPT_RETRY, LOOK_AGAIN_AFTER, MAX_LISTENERS};
use crate::machine::{Command, IoFailure, Listener, ListenerKey, SocketAt, SocketKey};
use crate::table::Table;
use crate::wire::control::{Bind, BindErrCode, Capabilities};
use crate::wire::service::Service;

use super::{KitNotice, Reason};
pub(super) use bindings::Binding;
use bindings::NotBound;

/// What a port is known by: EXPOSE and PULL of one number may listen on different addresses, and
/// TCP and UDP have nothing to do with each other.
type PortName = (Protocol, Mode, u16);

/// A listening socket.
#[derive(Debug)]
struct ListenerEntry {
    protocol: Protocol,
    purpose: Purpose,
    permit: FdPermit,
    socket: Socket,
}

impl ListenerEntry {
    /// Whether anybody is accepted there: datagrams just come.
    fn accepts(&self) -> bool {
        self.protocol == Protocol::Tcp
    }
}

/// How a listener's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    /// Whoever comes is accepted, where anybody is.
    Open,
    /// Its owner was handed over and is not back yet: whoever comes waits in the kernel.
    Waits,
    /// A successor of the kit has it; who came before is served.
    Given,
}

/// What a listener is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The kit's own.
    Front,
    /// A BIND that waits for the socket.
    Opening(Opening),
    /// A binding's.
    Bound(BindingKey),
    /// An EXPOSE port of a session that has ended while the kit drains: whoever comes is told to
    /// come again.
    Vacant,
}

/// A BIND that waits for its socket.
#[derive(Debug)]
pub(super) struct Opening {
    session: SessionKey,
    bind: Bind,
    service: Service,
    addr: SocketAddr,
    /// How many more ports may be tried when the kit picks.
    tries: u32,
}

impl Opening {
    fn port_name(&self) -> Option<PortName> {
        let name = name_of(self.service, self.addr.port());
        Some(name).filter(|(_, _, port)| *port != 0)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ports {
    listeners: Table<Listener, ListenerEntry>,
    bindings: Table<BindingMark, Binding>,
    by_name: BTreeMap<PortName, ListenerKey>,
    front: Option<ListenerKey>,
    /// Whether bindings' listeners accept; not where permits are wanting.
    accepting: bool,
    /// A socket of datagrams was closed since this was asked last.
    socket_closed: bool,
}

impl Ports {
    /// Nothing listens.
    pub(super) fn new() -> Ports {
        Ports {
            listeners: Table::new(MAX_LISTENERS),
            bindings: Table::new(MAX_LISTENERS),
            by_name: BTreeMap::new(),
            front: None,
            accepting: true,
            socket_closed: false,
        }
    }

    /// What a listener is for, while there is one.
    pub(super) fn purpose(&self, listener: ListenerKey) -> Option<&Purpose> {
        Some(&self.listeners.get(listener)?.purpose)
    }

    /// The binding that a listener is for, if it is for one.
    pub(super) fn bound(&self, listener: ListenerKey) -> Option<&Binding> {
        match self.purpose(listener)? {
            Purpose::Bound(key) => self.bindings.get(*key),
            Purpose::Front | Purpose::Opening(_) | Purpose::Vacant => None,
        }
    }

    /// Whether a listener's socket takes datagrams here.
    pub(super) fn takes_datagrams(&self, listener: ListenerKey) -> bool {
        let entry = self.listeners.get(listener);
        entry.is_some_and(|it| it.protocol == Protocol::Udp && it.socket != Socket::Given)
    }

    /// The same, to change.
    pub(super) fn bound_mut(&mut self, listener: ListenerKey) -> Option<&mut Binding> {
        match self.listeners.get(listener)?.purpose {
            Purpose::Bound(key) => self.bindings.get_mut(key),
            Purpose::Front | Purpose::Opening(_) | Purpose::Vacant => None,
        }
    }

    pub(super) fn binding(&self, key: BindingKey) -> &Binding {
        self.bindings.resolve(key)
    }

    /// The port that a listener holds, if it is a binding's (or about to be).
    fn port_name(&self, purpose: &Purpose) -> Option<PortName> {
        match purpose {
            Purpose::Front | Purpose::Vacant => None,
            Purpose::Opening(opening) => opening.port_name(),
            Purpose::Bound(key) => Some(self.bindings.resolve(*key).port_name()),
        }
    }

    /// Whether the kit itself has this port, for its own or for a session.
    pub(super) fn are_ours(&self, port: u16, config: &Config) -> bool {
        let named = self
            .by_name
            .keys()
            .any(|(protocol, _, held)| (*protocol, *held) == (Protocol::Tcp, port));
        named || config.listen.port() == port
    }

    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Opens the kit's own listener.
    pub(super) fn open_front(&mut self, budget: &mut FdBudget, cx: &mut Context) {
        let Some(permit) = budget.take(Class::Listener) else {
            cx.effects.notify(KitNotice::CannotListen(
                "the descriptor budget is too small for a listener".into(),
            ));
            cx.effects.ask(Command::Stop);
            return;
        };
        let entry = ListenerEntry {
            protocol: Protocol::Tcp,
            purpose: Purpose::Front,
            permit,
            socket: Socket::Open,
        };
        if let Ok(listener) = self.listeners.insert(entry) {
            self.front = Some(listener);
            cx.effects.ask(Command::Listen {
                listener,
                addr: cx.config.listen,
            });
        }
    }

    /// A socket listens, or cannot.
    pub(super) fn listening(
        &mut self,
        listener: ListenerKey,
        outcome: Result<SocketAddr, IoFailure>,
        conns: &mut Conns,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        match (self.purpose(listener), outcome) {
            (Some(Purpose::Bound(_)), Err(why)) => {
                self.not_inherited(listener, &why, &mut conns.budget, sessions, cx);
            }
            (None | Some(Purpose::Bound(_) | Purpose::Vacant), _) => {}
            (Some(Purpose::Front), Ok(addr)) => {
                // The port may have been the system's choice; no binding may have it.
                cx.config.listen = addr;
                info!("listening on {addr}");
                if let Some(note) = cx.memory_note() {
                    warn!("{note}");
                }
                cx.effects.notify(KitNotice::Listening(addr));
            }
            (Some(Purpose::Front), Err(why)) => {
                let text = format!("cannot listen on {}: {}", cx.config.listen, why.text);
                self.drop(listener, &mut conns.budget, cx);
                cx.effects.notify(KitNotice::CannotListen(text));
                cx.effects.ask(Command::Stop);
            }
            (Some(Purpose::Opening(_)), Ok(addr)) => self.opened(listener, addr, sessions, cx),
            (Some(Purpose::Opening(_)), Err(why)) => {
                self.not_opened(listener, &why, conns, sessions, cx);
            }
        }
    }

    /// Forgets a listener whose socket is closed, and frees its port and permit.
    fn drop(
        &mut self,
        listener: ListenerKey,
        budget: &mut FdBudget,
        cx: &mut Context,
    ) -> Option<Purpose> {
        let entry = self.listeners.remove(listener)?;
        self.socket_closed |= entry.protocol == Protocol::Udp;
        if let Some(port) = self.port_name(&entry.purpose)
            && self.by_name.get(&port) == Some(&listener)
        {
            self.by_name.remove(&port);
        }
        if self.front == Some(listener) {
            self.front = None;
        }
        if let Purpose::Bound(key) = entry.purpose
            && let binding = self.bindings.resolve(key)
            && binding.is_http()
        {
            cx.metrics.binding_closed(binding.port());
        }
        budget.give_back(entry.permit);
        Some(entry.purpose)
    }

    fn close(&mut self, listener: ListenerKey, budget: &mut FdBudget, cx: &mut Context) {
        let Some(entry) = self.listeners.get(listener) else {
            return;
        };
        if entry.socket != Socket::Given {
            cx.effects.ask(closing(listener, entry.protocol));
        }
        self.drop(listener, budget, cx);
    }

    /// While the kit drains nobody new is served, but those who speak HTTP are told so, at EXPOSE
    /// ports and at the kit's own. Bindings stay their sessions' until those end.
    pub(super) fn drain(&mut self, budget: &mut FdBudget, cx: &mut Context) {
        let goes = |purpose: &Purpose| match purpose {
            Purpose::Front | Purpose::Vacant => false,
            Purpose::Opening(_) => true,
            Purpose::Bound(key) => !self.bindings.resolve(*key).is_http(),
        };
        let all = self.listeners.iter();
        let going = all.filter(|(_, entry)| goes(&entry.purpose));
        let going: Vec<ListenerKey> = going.map(|(listener, _)| listener).collect();
        for listener in going {
            self.close(listener, budget, cx);
        }
    }

    /// A session has ended while the kit drains: its port stays open to say so.
    fn vacate(&mut self, listener: ListenerKey, cx: &mut Context) {
        let Some(entry) = self.listeners.get_mut(listener) else {
            return;
        };
        if let Purpose::Bound(key) = std::mem::replace(&mut entry.purpose, Purpose::Vacant) {
            let name = self.bindings.resolve(key).port_name();
            self.by_name.remove(&name);
            cx.metrics.binding_closed(name.2);
        }
    }

    /// At the end nobody comes in any more.
    pub(super) fn close_all(&mut self, budget: &mut FdBudget, cx: &mut Context) {
        let all: Vec<ListenerKey> = self.listeners.keys().collect();
        for listener in all {
            self.close(listener, budget, cx);
        }
    }

    /// Whether a socket of datagrams was closed since this was asked last.
    pub(super) fn take_closed_sockets(&mut self) -> bool {
        std::mem::take(&mut self.socket_closed)
    }

    /// Whether bindings' listeners accept.
    pub(super) fn are_accepting(&self) -> bool {
        self.accepting
    }

    /// Whoever comes waits in the kernel, where nobody is lost.
    pub(super) fn pause(&mut self, cx: &mut Context) {
        self.accepting = false;
        self.tell_accepting(cx);
    }

    /// Those who wait are accepted.
    pub(super) fn resume(&mut self, cx: &mut Context) {
        if !self.accepting {
            self.accepting = true;
            self.tell_accepting(cx);
        }
    }

    /// It is looked before long whether somebody would yield to those who wait.
    pub(super) fn look_again(&self, cx: &mut Context) {
        let at = cx.now + LOOK_AGAIN_AFTER;
        cx.effects.timers.arm(Reason::Room, at);
    }

    fn tell_accepting(&self, cx: &mut Context) {
        for (listener, entry) in self.listeners.iter() {
            let is_ours = entry.socket != Socket::Given;
            if matches!(entry.purpose, Purpose::Bound(_)) && is_ours && entry.accepts() {
                let on = self.accepting && entry.socket == Socket::Open;
                cx.effects.ask(Command::Accept { listener, on });
            }
        }
    }

    pub(super) fn accept_failed(&self, listener: ListenerKey, why: &IoFailure, cx: &mut Context) {
        let complaint = Complaint {
            level: log::Level::Warn,
            what: "could not accept",
            reason: "host",
        };
        cx.complain(complaint, &format!("({}); trying again shortly", why.text));
        cx.metrics.accept_failed();
        if self.listeners.get(listener).is_some() {
            let at = cx.now + ACCEPT_RETRY;
            cx.effects.timers.arm_if_unset(Reason::Accept, at);
        }
    }

    pub(super) fn accept_again(&self, cx: &mut Context) {
        for (listener, entry) in self.listeners.iter() {
            let open = self.accepting && entry.socket == Socket::Open && entry.accepts();
            if open || self.front == Some(listener) {
                cx.effects.ask(Command::Accept { listener, on: true });
            }
        }
    }

    /// Whether every port is found by its name, and every binding by its owner and its listener.
    pub(super) fn check_invariants(&self, sessions: &Sessions) {
        for (port, listener) in &self.by_name {
            let name = self.purpose(*listener).and_then(|it| self.port_name(it));
            assert_eq!(name, Some(*port), "a port's ghost");
        }
        for (key, binding) in self.bindings.iter() {
            let owner = sessions.get(binding.owner);
            let listed = owner.is_some_and(|owner| owner.bindings.contains(&key));
            assert!(listed, "a binding of a session that does not know it");
            // On shutdown the sockets go first.
            if let Some(purpose) = self.purpose(binding.listener) {
                assert!(matches!(purpose, Purpose::Bound(it) if *it == key));
                let found = self.by_name.get(&binding.port_name());
                assert_eq!(found, Some(&binding.listener), "a port that is not found");
            }
        }
        let listed: usize = sessions.iter().map(|(_, it)| it.bindings.len()).sum();
        assert_eq!(listed, self.bindings.len(), "a binding's ghost");
        let bound = self.listeners.iter();
        let bound = bound.filter(|(_, entry)| matches!(entry.purpose, Purpose::Bound(_)));
        assert!(
            bound.count() <= self.bindings.len(),
            "a listener of no binding"
        );
    }
}

/// What a port is known by.
fn name_of(service: Service, port: u16) -> PortName {
    (Protocol::of(service), Mode::of(service), port)
}

/// What a BIND asks for, if the session may have it.
fn service(bind: &Bind, granted: Capabilities, config: &Config) -> Result<Service, NotBound> {
    let refused = |text: &str| Err((BindErrCode::InvalidKind, text.to_owned()));
    match Service::asked(bind) {
        Some(Service::TcpExpose) if !config.tcp_expose => {
            refused("the kit allows no raw TCP on EXPOSE ports (--no-tcp-expose)")
        }
        Some(Service::TcpExpose) if !granted.have(Capabilities::TCP_EXPOSE) => {
            refused("raw TCP on an EXPOSE port is for clients that say `tcp-expose` in HELLO")
        }
        Some(Service::UdpExpose | Service::UdpPull) if !granted.have(Capabilities::UDP) => {
            refused("UDP is for clients that say `udp` in HELLO")
        }
        Some(Service::UdpExpose) if !config.allow_udp_expose => refused(
            "this kit exposes no UDP ports; its operator allows that with --allow-udp-expose",
        ),
        Some(service) => Ok(service),
        None => refused("this kit knows no such kind, or not of that mode"),
    }
}

/// The name of a listener's socket that takes datagrams.
pub(super) fn socket_of(listener: ListenerKey) -> SocketKey {
    SocketKey::unpack(listener.pack())
}

/// The listener of a socket that takes datagrams.
pub(super) fn listener_of(socket: SocketKey) -> ListenerKey {
    ListenerKey::unpack(socket.pack())
}

/// What opens a listener's socket.
fn opening<N>(listener: ListenerKey, protocol: Protocol, addr: SocketAddr) -> Command<N> {
    match protocol {
        Protocol::Tcp => Command::Listen { listener, addr },
        Protocol::Udp => Command::OpenSocket {
            socket: socket_of(listener),
            at: SocketAt::Bound(addr),
        },
    }
}

/// What closes it.
fn closing<N>(listener: ListenerKey, protocol: Protocol) -> Command<N> {
    match protocol {
        Protocol::Tcp => Command::Unlisten { listener },
        Protocol::Udp => Command::CloseSocket {
            socket: socket_of(listener),
        },
    }
}

/// The loopback address that BIND's `host` names, if it does (PROTOCOL §3).
fn pull_addr(host: Option<&str>, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = match host {
        None | Some("127.0.0.1") | Some("localhost") => [127, 0, 0, 1].into(),
        Some("::1") => std::net::Ipv6Addr::LOCALHOST.into(),
        Some(_) => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a binding may not have this port because the kit itself listens there.
fn is_own_port(front: Option<ListenerKey>, config: &Config, port: u16) -> bool {
    front.is_some() && config.listen.port() == port
}
