//! Ports of this machine that lead to services of the container (PROTOCOL §8, *forward*).
//!
//! What the part is for: opening these ports, letting callers in or not, and telling the user what
//! came of it. What it never does: carry a caller's bytes; those are exchanges of the local side,
//! as those of PULL are.
//!
//! While the kit is away for a moment, callers wait in the system's queue; when it stays away, or
//! does not forward, they are turned away at once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::client::context::{Context, Timer};
use crate::client::error::Error;
use crate::client::event::SessionEvent;
use crate::client::messages::Notice;
use crate::client::target::Target;
use crate::http::trail::Proxies;
use crate::limits::{CLIENT_FORWARDS, FORWARD_PORTS_TRIED, LISTEN_AGAIN_AFTER};
use crate::machine::{Command, IoFailure, Listener, ListenerKey};
use crate::table::Table;
use crate::wire::open::write_open_forward;

/// What is to be forwarded, checked.
#[derive(Debug, Clone)]
pub(super) struct ForwardSpec {
    pub target: Target,
    /// Where to listen; its port is the one to try first.
    pub local: SocketAddr,
    /// Whether the ports behind that one will do too.
    pub any_port: bool,
    /// Who may call, where that is not only this machine.
    pub allowed: Option<Proxies>,
}

/// A port of this machine that leads to a service of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    pub(super) reference: u64,
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// Where it leads, as the container sees it.
    pub target: String,
}

/// All forwarded ports of a session.
pub(super) struct Forwards {
    all: Table<Listener, Forward>,
    /// Connections that wait for the kit, and their sockets.
    once: Vec<(Admitted, PathBuf)>,
    gate: Gate,
}

struct Forward {
    reference: u64,
    spec: ForwardSpec,
    /// The STREAM_OPEN of each of its callers.
    open: Vec<u8>,
    state: State,
    /// Ports that were tried and taken.
    tried: u16,
    /// The user has had an answer.
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    Listens(SocketAddr),
}

/// Whether callers are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// The kit is about to be reached: they wait.
    Waits,
    /// The session stands.
    Open,
    /// The kit has been away for long.
    Away,
    /// The session stands, and its kit does not forward.
    NotGranted,
}

/// A caller who is let in.
pub(super) struct Admitted {
    pub reference: u64,
    pub port: u16,
    pub open: Vec<u8>,
}

impl Forwards {
    /// None.
    pub(super) fn new() -> Forwards {
        Forwards {
            all: Table::new(CLIENT_FORWARDS),
            once: Vec::new(),
            gate: Gate::Waits,
        }
    }

    /// A user wants one more.
    pub(super) fn forward(&mut self, cx: &mut Context, reference: u64, spec: ForwardSpec) {
        let open = match stream_open(&spec.target) {
            Ok(open) => open,
            Err(error) => return answer(cx, reference, Err(error)),
        };
        let forward = Forward {
            reference,
            spec,
            open,
            state: State::Asked,
            tried: 0,
            answered: false,
        };
        let full = "This session forwards as many ports as a client does.";
        match self.all.insert(forward) {
            Ok(listener) => self.listen(cx, listener),
            Err(_) => answer(cx, reference, Err(Error::Options(full.into()))),
        }
    }

    /// A user wants one connection, with a socket of his.
    pub(super) fn connect(
        &mut self,
        cx: &mut Context,
        reference: u64,
        target: &Target,
        socket: PathBuf,
    ) {
        let open = match stream_open(target) {
            Ok(open) => open,
            Err(error) => return connected(cx, reference, Err(error)),
        };
        if self.once.len() >= CLIENT_FORWARDS {
            let why = Error::Options("Too many connections wait for the kit.".into());
            return connected(cx, reference, Err(why));
        }
        let port = target.port().unwrap_or(0);
        let wanted = Admitted {
            reference,
            port,
            open,
        };
        self.once.push((wanted, socket));
    }

    /// A connection that is to be made now.
    pub(super) fn next_connection(&mut self, cx: &mut Context) -> Option<(Admitted, PathBuf)> {
        while matches!(self.gate, Gate::Open | Gate::NotGranted)
            && let Some((wanted, socket)) = self.once.pop()
        {
            if self.gate == Gate::Open {
                connected(cx, wanted.reference, Ok(()));
                return Some((wanted, socket));
            }
            let why = Error::NotGranted(NOT_GRANTED.to_owned());
            connected(cx, wanted.reference, Err(why));
        }
        None
    }

    fn listen(&self, cx: &mut Context, listener: ListenerKey) {
        let addr = self.all.resolve(listener).spec.local;
        cx.effects.ask(Command::Listen { listener, addr });
        let on = self.gate != Gate::Waits;
        cx.effects.ask(Command::Accept { listener, on });
    }

    /// A user gives one up; its callers go on.
    pub(super) fn unforward(&mut self, cx: &mut Context, reference: u64) {
        let is_it = |(_, forward): &(ListenerKey, &Forward)| forward.reference == reference;
        let found = self.all.iter().find(is_it).map(|(key, _)| key);
        let outcome = match found {
            Some(listener) => {
                self.drop(cx, listener);
                Ok(())
            }
            None => Err(Error::Closed("There is no such port any more.".into())),
        };
        cx.effects.notify(Notice::Unbound { reference, outcome });
    }

    fn drop(&mut self, cx: &mut Context, listener: ListenerKey) -> Option<Forward> {
        cx.effects.ask(Command::Unlisten { listener });
        self.all.remove(listener)
    }

    /// The host has opened a port, or could not.
    pub(super) fn listening(
        &mut self,
        cx: &mut Context,
        listener: ListenerKey,
        outcome: Result<SocketAddr, IoFailure>,
    ) {
        let why = match (outcome, self.all.get_mut(listener)) {
            (_, None) => return,
            (Ok(addr), Some(forward)) => {
                forward.state = State::Listens(addr);
                forward.spec.local = addr;
                return self.answer_who_waits(cx);
            }
            (Err(why), Some(_)) => why,
        };
        let Some(mut forward) = self.all.remove(listener) else {
            return;
        };
        let taken = why.kind == std::io::ErrorKind::AddrInUse;
        let port = forward.spec.local.port();
        let next = port.checked_add(1).filter(|_| {
            taken && forward.spec.any_port && port > 0 && forward.tried < FORWARD_PORTS_TRIED
        });
        match next {
            Some(next) if !forward.answered => {
                forward.spec.local.set_port(next);
                forward.tried += 1;
                if let Ok(listener) = self.all.insert(forward) {
                    self.listen(cx, listener);
                }
            }
            // The machine before this one has just let go of it.
            _ if forward.answered && forward.tried < FORWARD_PORTS_TRIED => {
                forward.tried += 1;
                if self.all.insert(forward).is_ok() {
                    let at = cx.now + LISTEN_AGAIN_AFTER;
                    cx.effects.timers.arm_if_unset(Timer::Relisten, at);
                }
            }
            _ => {
                let text = format!("cannot listen on {}: {}", forward.spec.local, why.text);
                match forward.answered {
                    true => cx.notify(SessionEvent::NotForwarded { why: text }),
                    false => answer(cx, forward.reference, Err(Error::Io(text))),
                }
            }
        }
    }

    /// Tries again where another machine's ports were not free yet.
    pub(super) fn relisten(&mut self, cx: &mut Context) {
        let asked = |(key, forward): (ListenerKey, &Forward)| {
            (forward.answered && forward.state == State::Asked).then_some(key)
        };
        let again: Vec<ListenerKey> = self.all.iter().filter_map(asked).collect();
        for listener in again {
            self.listen(cx, listener);
        }
    }

    /// The session stands, or does not, or not any more.
    pub(super) fn follow(&mut self, cx: &mut Context, gate: Gate) {
        if self.gate == gate {
            return;
        }
        let (waited, waits) = (self.gate == Gate::Waits, gate == Gate::Waits);
        self.gate = gate;
        if waited != waits {
            for listener in self.all.keys() {
                let on = !waits;
                cx.effects.ask(Command::Accept { listener, on });
            }
        }
        self.answer_who_waits(cx);
        if gate == Gate::NotGranted && !self.all.is_empty() {
            cx.notify(SessionEvent::NotForwarded {
                why: NOT_GRANTED.to_owned(),
            });
        }
    }

    /// Once a port listens and the kit has said whether it forwards.
    fn answer_who_waits(&mut self, cx: &mut Context) {
        if !matches!(self.gate, Gate::Open | Gate::NotGranted) {
            return;
        }
        let mut refused = Vec::new();
        for (listener, forward) in self.all.iter_mut() {
            let State::Listens(local_addr) = forward.state else {
                continue;
            };
            if std::mem::replace(&mut forward.answered, true) {
                continue;
            }
            forward.tried = 0;
            let reference = forward.reference;
            if self.gate == Gate::NotGranted {
                refused.push(listener);
                let why = Error::NotGranted(NOT_GRANTED.to_owned());
                answer(cx, reference, Err(why));
                continue;
            }
            let forwarding = Forwarding {
                reference,
                local_addr,
                target: forward.spec.target.to_string(),
            };
            answer(cx, reference, Ok(forwarding));
        }
        for listener in refused {
            self.drop(cx, listener);
        }
    }

    /// Somebody has come. Who is let in gets a stream.
    pub(super) fn admits(&self, listener: ListenerKey, peer: IpAddr) -> Option<Admitted> {
        let forward = self.all.get(listener)?;
        let allowed = match &forward.spec.allowed {
            Some(networks) => networks.trust(peer.to_canonical()),
            None => peer.to_canonical().is_loopback(),
        };
        (allowed && self.gate == Gate::Open).then(|| Admitted {
            reference: forward.reference,
            port: forward.spec.target.port().unwrap_or(0),
            open: forward.open.clone(),
        })
    }

    /// The host could not accept, and goes on when it is told to.
    pub(super) fn accept_again(&self, cx: &mut Context, listener: ListenerKey) {
        if self.all.get(listener).is_some() {
            let on = self.gate != Gate::Waits;
            cx.effects.ask(Command::Accept { listener, on });
        }
    }

    /// Closes all ports; gives what another machine needs to open them again.
    pub(super) fn let_go(&mut self, cx: &mut Context) -> Vec<(u64, ForwardSpec)> {
        let all: Vec<ListenerKey> = self.all.keys().collect();
        all.into_iter()
            .filter_map(|listener| self.drop(cx, listener))
            .map(|forward| (forward.reference, forward.spec))
            .collect()
    }

    /// Opens again what another machine has let go.
    pub(super) fn take_on(&mut self, cx: &mut Context, before: Vec<(u64, ForwardSpec)>) {
        for (reference, spec) in before {
            self.forward(cx, reference, spec);
        }
        for (_, forward) in self.all.iter_mut() {
            forward.answered = true;
        }
    }

    /// The session is over: whoever waits is told.
    pub(super) fn over(&mut self, cx: &mut Context, error: Option<&Error>) {
        let closed = || Error::Closed("the session was closed".into());
        for (wanted, _) in std::mem::take(&mut self.once) {
            let why = error.cloned().unwrap_or_else(closed);
            connected(cx, wanted.reference, Err(why));
        }
        let all: Vec<ListenerKey> = self.all.keys().collect();
        for listener in all {
            if let Some(forward) = self.drop(cx, listener).filter(|it| !it.answered) {
                let why = error.cloned().unwrap_or_else(closed);
                answer(cx, forward.reference, Err(why));
            }
        }
    }
}

/// The STREAM_OPEN that has the kit connect to a target.
fn stream_open(target: &Target) -> Result<Vec<u8>, Error> {
    let mut open = Vec::new();
    match write_open_forward(&mut open, &target.beyond()?) {
        Ok(()) => Ok(open),
        Err(_) => Err(Error::Options("The target's name is too long.".into())),
    }
}

fn answer(cx: &mut Context, reference: u64, outcome: Result<Forwarding, Error>) {
    let notice = Notice::Forwarding { reference, outcome };
    cx.effects.notify(notice);
}

fn connected(cx: &mut Context, reference: u64, outcome: Result<(), Error>) {
    let notice = Notice::Connected { reference, outcome };
    cx.effects.notify(notice);
}

/// What is said where the kit did not grant `forward`.
const NOT_GRANTED: &str = "this kit forwards nothing: it is older, or its operator has it so; one \
                           with a token does by default, see its --allow-forward";
