//! Ports that a kit hands to its successor (PROTOCOL §6).

use log::warn;

use crate::kit::budget::{Class, FdBudget};
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::handover::HandedBinding;
use crate::kit::keys::{Protocol, SessionKey};
use crate::kit::session::{KitSession, Sessions};
use crate::machine::{Command, IoFailure, ListenerKey};
use crate::wire::control::BindMode;
use crate::wire::service::Service;

use super::{Binding, ListenerEntry, Ports, Purpose, Socket, closing, name_of, opening};

impl Ports {
    /// What a successor has to know of a session's ports.
    pub(in crate::kit) fn handed(&self, session: &KitSession) -> Vec<HandedBinding> {
        let bindings = session.bindings.iter();
        let bindings = bindings.map(|key| self.bindings.resolve(*key));
        bindings
            .map(|binding| HandedBinding {
                bind_id: binding.bind_id,
                bind_ref: binding.bind_ref,
                is_expose: binding.service.mode() == BindMode::Expose,
                kind: Some(binding.service.kind()),
                addr: binding.addr,
                label: binding.label.clone(),
            })
            .collect()
    }

    /// A port of the kit before, whose socket the host has. Nobody is accepted there before its
    /// owner is back.
    pub(in crate::kit) fn inherit(
        &mut self,
        owner: SessionKey,
        handed: &HandedBinding,
        conns: &mut Conns,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let addr = handed.addr;
        let Some(service) = handed.service() else {
            return warn!(
                "port {} is given up: this kit does not know it",
                addr.port()
            );
        };
        let protocol = Protocol::of(service);
        let name = name_of(service, addr.port());
        let Some(session) = sessions.get_mut(owner) else {
            return;
        };
        if self.by_name.contains_key(&name) {
            warn!("port {} was handed over twice", addr.port());
            return;
        }
        let Some(permit) = conns.permit_for(Class::Listener, cx) else {
            warn!("port {} is given up: no descriptors left", addr.port());
            return;
        };
        let entry = ListenerEntry {
            protocol,
            purpose: Purpose::Vacant,
            permit,
            socket: Socket::Waits,
        };
        let listener = match self.listeners.insert(entry) {
            Ok(listener) => listener,
            Err(entry) => return conns.budget.give_back(entry.permit),
        };
        let binding = Binding {
            owner,
            bind_id: handed.bind_id,
            bind_ref: handed.bind_ref,
            service,
            addr,
            label: handed.label.clone(),
            listener,
            since: cx.now,
            served: 0,
        };
        let Ok(key) = self.bindings.insert(binding) else {
            return self.close(listener, &mut conns.budget, cx);
        };
        if let Some(entry) = self.listeners.get_mut(listener) {
            entry.purpose = Purpose::Bound(key);
        }
        self.by_name.insert(name, listener);
        session.bindings.push(key);
        if service == Service::HttpExpose {
            cx.metrics.binding_opened(addr.port());
        }
        cx.effects.ask(opening(listener, protocol, addr));
        if protocol == Protocol::Udp {
            return;
        }
        cx.effects.ask(Command::Accept {
            listener,
            on: false,
        });
    }

    /// The socket of a port that was handed over cannot be had: its owner loses it.
    pub(super) fn not_inherited(
        &mut self,
        listener: ListenerKey,
        why: &IoFailure,
        budget: &mut FdBudget,
        sessions: &mut Sessions,
        cx: &mut Context,
    ) {
        let Some(Purpose::Bound(key)) = self.purpose(listener) else {
            return;
        };
        let key = *key;
        let owner = self.bindings.resolve(key).owner;
        if let Some(session) = sessions.get_mut(owner) {
            session.bindings.retain(|it| *it != key);
            let why = format!("its socket was not handed over: {}", why.text);
            self.release(key, session.short_id(), &why, budget, cx);
        }
    }

    /// The client of a session is there: whoever waits at its ports comes in.
    pub(in crate::kit) fn owner_is_back(&mut self, session: &KitSession, cx: &mut Context) {
        for key in &session.bindings {
            let listener = self.bindings.resolve(*key).listener;
            if let Some(entry) = self.listeners.get_mut(listener)
                && entry.socket == Socket::Waits
            {
                entry.socket = Socket::Open;
                if !entry.accepts() {
                    continue;
                }
                let on = self.accepting;
                cx.effects.ask(Command::Accept { listener, on });
            }
        }
    }

    /// Whoever still waits for a session that was handed over is told that its client is away.
    pub(in crate::kit) fn wait_no_longer(&mut self, cx: &mut Context) {
        for (_, entry) in self.listeners.iter_mut() {
            if entry.socket == Socket::Waits {
                entry.socket = Socket::Open;
            }
        }
        self.tell_accepting(cx);
    }

    /// A successor has all sockets. Who came to a port before is served as if nothing were.
    pub(in crate::kit) fn give_away(&mut self, budget: &mut FdBudget, cx: &mut Context) {
        let all: Vec<ListenerKey> = self.listeners.keys().collect();
        for listener in all {
            match self.purpose(listener) {
                Some(Purpose::Bound(_)) => {
                    let entry = self.listeners.resolve_mut(listener);
                    entry.socket = Socket::Given;
                    self.socket_closed |= entry.protocol == Protocol::Udp;
                    cx.effects.ask(closing(listener, entry.protocol));
                }
                _ => self.close(listener, budget, cx),
            }
        }
    }
}
