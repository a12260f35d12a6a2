//! BIND: what follows where a port moves from one session to another (PROTOCOL §3).

use std::time::Duration;

use crate::kit::keys::SessionKey;
use crate::kit::metrics::SessionEnd;
use crate::kit::session::KitSession;
use crate::wire::control::Bind;
use crate::wire::service::Service;

use super::Kit;

impl Kit {
    /// A session wants a port: its own, a free one, or one that moves from another session.
    pub(super) fn bind(&mut self, key: SessionKey, mut bind: Bind) {
        let (conns, sessions) = (&mut self.conns, &mut self.sessions);
        let cx = &mut self.cx;
        let lost = bind.replaces.as_ref();
        if lost.is_some_and(|id| sessions.is_killed(id.as_str())) {
            // It is the client of that session, in another one.
            sessions.kill(key, Duration::ZERO, conns, cx);
            return self.settle_sessions();
        }
        let Some(listener) = self.ports.bind(key, &mut bind, conns, sessions, cx) else {
            return;
        };
        let (streams, mut below) = self.streams();
        streams.taken_over(listener, Service::asked(&bind), &mut below);
        streams.peers.taken_over(listener, &mut below);
        let (sessions, conns, cx) = (&mut self.sessions, &mut self.conns, &mut self.cx);
        let Some(owner) = self.ports.take_over(listener, key, &bind, sessions, cx) else {
            return;
        };
        let empty = |session: &KitSession| session.is_parked() && session.bindings.is_empty();
        if sessions.get(owner).is_some_and(empty) {
            // It has nothing left to come back for.
            let why = "its last port was taken over";
            sessions.end(owner, SessionEnd::Lost, why, None, conns, cx);
        }
    }
}
