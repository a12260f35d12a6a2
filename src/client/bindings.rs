//! What this client wants bound: asked for, given up, and asked for again with each new session.
//!
//! Each binding's own state is in `bound.rs`. Frames for the kit go into the session at hand;
//! whoever asked is told through the context.

use crate::client::bound::{BindSpec, BindState, Bound, OnRefusal};
use crate::client::context::{Context, Timer};
use crate::client::error::Error;
use crate::client::event::SessionEvent;
use crate::client::messages::Notice;
use crate::client::reach::failure;
use crate::clock::Instant;
use crate::limits::{CLAIM_SOON, CLAIM_WITHIN, CLIENT_BINDINGS};
use crate::mux::Session;
use crate::wire::control::{
    self, BindErr, BindErrCode, BindMode, BindOk, BindRevoked, BindingKind, Capabilities,
    ControlError, ResumedBind, SessionId, Unbind, UnbindErr, UnbindOk,
};
use crate::wire::frame::FrameType;
use crate::wire::service::Service;

/// All bindings of a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Bindings {
    all: Vec<Bound>,
    /// Bindings that a session which an earlier process left had; to be claimed by a user's bind.
    unclaimed: Vec<ResumedBind>,
    /// Until when these are to be claimed before anything else is heard of the kit.
    claimed_by: Option<Instant>,
    /// A session that is lost to us, and may hold our ports for a while.
    replaces: Option<SessionId>,
    /// What the kit granted of what may be bound.
    granted: Capabilities,
    /// One was forgotten since this was asked last.
    has_left: bool,
}

impl Bindings {
    /// A user wants one more. `session` is the one that stands and takes binds.
    pub(super) fn bind<T: Copy>(
        &mut self,
        cx: &mut Context,
        session: Option<&mut Session<T>>,
        reference: u64,
        spec: BindSpec,
    ) {
        if self.all.len() >= CLIENT_BINDINGS {
            let text = "This session has as many bindings as a client keeps.".to_owned();
            let outcome = Err(Error::Options(text));
            let notice = Notice::Bound { reference, outcome };
            return cx.effects.notify(notice);
        }
        self.all.push(Bound::new(reference, spec));
        self.ask(cx, session);
    }

    /// A user gives one up.
    pub(super) fn unbind<T: Copy>(
        &mut self,
        cx: &mut Context,
        session: Option<&mut Session<T>>,
        reference: u64,
    ) {
        let Some(bound) = self.get_mut(reference) else {
            let outcome = Err(Error::Closed("There is no such binding any more.".into()));
            return cx.effects.notify(Notice::Unbound { reference, outcome });
        };
        let was = std::mem::replace(&mut bound.state, BindState::Leaving);
        let bind_id = bound.bind_id();
        match (session, was) {
            (Some(session), BindState::Standing) => send_unbind(session, bind_id),
            // Its answer is on its way, and ends it.
            (Some(_), BindState::Asked | BindState::Leaving) if bind_id.is_some() => {}
            // When the kit is back it will be told of what it still has (`session_resumed`).
            _ => self.unbound(cx, reference, Ok(())),
        }
    }

    /// Sends BIND for everything that is wanted, if a session stands that takes binds.
    pub(super) fn ask<T: Copy>(&mut self, cx: &mut Context, session: Option<&mut Session<T>>) {
        let Some(session) = session else { return };
        let (mut adopted, mut refused) = (Vec::new(), Vec::new());
        for bound in &mut self.all {
            if bound.due().is_none_or(|due| due > cx.now) {
                continue;
            }
            if let Some(message) = is_wanting(bound.spec.service, self.granted) {
                bound.state = BindState::Asked;
                refused.push(BindErr {
                    client_bind_ref: bound.reference,
                    code: BindErrCode::InvalidKind,
                    message: message.into(),
                });
                continue;
            }
            let unclaimed = &mut self.unclaimed;
            let ours = unclaimed.iter().position(|one| bound.spec.is_like(one));
            let ours = ours.map(|at| unclaimed.remove(at));
            let is_pull = bound.spec.service.mode() == BindMode::Pull;
            if let Some(one) = &ours
                && let Some(public_url) = one.public_url.clone().or(is_pull.then_some(None))
            {
                adopted.push(BindOk {
                    client_bind_ref: bound.reference,
                    bind_id: one.bind_id,
                    container_port: one.container_port,
                    public_url,
                });
                continue;
            }
            bound.state = BindState::Asked;
            // An EXPOSE that is ours already, and whose address an older kit did not tell, is taken
            // over from ourselves to learn it.
            session.say(&bound.bind(ours.is_some(), self.replaces.as_ref()));
        }
        for ok in adopted {
            self.bind_ok(cx, session, &ok);
        }
        for err in refused {
            self.bind_err(cx, session, &err);
        }
        if let Some(due) = self.all.iter().filter_map(Bound::due).min() {
            cx.effects.timers.arm(Timer::Rebind, due);
        }
    }

    /// The kit said something of one binding. Other frames mean nothing.
    pub(super) fn told<T: Copy>(
        &mut self,
        cx: &mut Context,
        session: &mut Session<T>,
        kind: FrameType,
        payload: &[u8],
    ) -> Result<(), ControlError> {
        match kind {
            FrameType::BindOk => self.bind_ok(cx, session, &control::parse(payload)?),
            FrameType::BindErr => self.bind_err(cx, session, &control::parse(payload)?),
            FrameType::UnbindOk => self.unbind_ok(cx, &control::parse(payload)?),
            FrameType::UnbindErr => self.unbind_err(cx, &control::parse(payload)?),
            FrameType::BindRevoked => self.revoked(cx, &control::parse(payload)?),
            // SHARD_MAP is informative; nothing else is the kit's to say.
            _ => {}
        }
        Ok(())
    }

    /// BIND_OK came, or what stands for it.
    fn bind_ok<T: Copy>(&mut self, cx: &mut Context, session: &mut Session<T>, ok: &BindOk) {
        let Some(bound) = self.get_mut(ok.client_bind_ref) else {
            // Given up while the kit was asked.
            return send_unbind(session, Some(ok.bind_id));
        };
        let leaving = bound.state == BindState::Leaving;
        let again = bound.stands(ok);
        if leaving {
            bound.state = BindState::Leaving;
            return send_unbind(session, Some(ok.bind_id));
        }
        let reference = bound.reference;
        let Some(binding) = bound.binding.clone() else {
            return;
        };
        if !again {
            let outcome = Ok(binding.clone());
            cx.effects.notify(Notice::Bound { reference, outcome });
        }
        cx.notify(SessionEvent::Bound { binding, again });
    }

    fn bind_err<T: Copy>(&mut self, cx: &mut Context, session: &mut Session<T>, err: &BindErr) {
        let reference = err.client_bind_ref;
        let Some(bound) = self.get_mut(reference) else {
            return;
        };
        let why = Error::Bind {
            code: err.code,
            message: failure::plain(&err.message),
        };
        if bound.state == BindState::Leaving {
            return self.unbound(cx, reference, Ok(()));
        }
        match bound.refused(err.code, cx.now) {
            OnRefusal::Tell => {
                self.forget(reference);
                let outcome = Err(why);
                cx.effects.notify(Notice::Bound { reference, outcome });
            }
            OnRefusal::AnotherPort => self.ask(cx, Some(session)),
            OnRefusal::Later(binding) => {
                if let Some(binding) = binding {
                    cx.notify(SessionEvent::NotBound { binding, why });
                }
                self.ask(cx, Some(session));
            }
        }
    }

    fn unbind_ok(&mut self, cx: &mut Context, ok: &UnbindOk) {
        if let Some(reference) = self.by_id(ok.bind_id).map(|bound| bound.reference) {
            self.unbound(cx, reference, Ok(()));
        }
    }

    fn unbind_err(&mut self, cx: &mut Context, err: &UnbindErr) {
        let Some(reference) = self.by_id(err.bind_id).map(|bound| bound.reference) else {
            return;
        };
        let outcome = match err.code {
            // What is not there needs no unbinding.
            BindErrCode::NotFound => Ok(()),
            code => Err(Error::Bind {
                code,
                message: failure::plain(&err.message),
            }),
        };
        self.unbound(cx, reference, outcome);
    }

    /// The kit gave a binding of ours to somebody else.
    fn revoked(&mut self, cx: &mut Context, revoked: &BindRevoked) {
        let Some(bound) = self.by_id(revoked.bind_id) else {
            return;
        };
        let (reference, leaving) = (bound.reference, bound.state == BindState::Leaving);
        if leaving {
            return self.unbound(cx, reference, Ok(()));
        }
        let binding = bound.binding.clone();
        self.forget(reference);
        if let Some(binding) = binding {
            let reason = failure::plain(&revoked.reason);
            cx.notify(SessionEvent::TakenOver { binding, reason });
        }
    }

    /// A session stands, which was `granted` so much. `resumed` says what it had when it is the one
    /// from before, and `lost` is the one before when it is another.
    pub(super) fn session_stands<T: Copy>(
        &mut self,
        cx: &mut Context,
        session: &mut Session<T>,
        (resumed, granted): (Option<Vec<ResumedBind>>, Capabilities),
        lost: Option<SessionId>,
    ) {
        self.replaces = lost;
        self.granted = granted;
        self.unclaimed.clear();
        self.claimed_by = None;
        if let Some(binds) = resumed {
            let first = self.all.iter().all(|bound| bound.binding.is_none());
            for unknown in self.session_resumed(binds) {
                let mut wanted = self.all.iter();
                let wanted = wanted
                    .any(|bound| bound.state == BindState::Wanted && bound.spec.is_like(&unknown));
                if first || wanted {
                    // Left by an earlier process, or bound just when the connection was lost.
                    self.unclaimed.push(unknown);
                } else {
                    send_unbind(session, Some(unknown.bind_id));
                }
            }
        } else {
            // Ids of the one before mean nothing any more.
            for bound in &mut self.all {
                bound.current = false;
            }
        }
        for bound in &mut self.all {
            bound.hope();
        }
        self.ask(cx, Some(session));
        if !self.unclaimed.is_empty() {
            let soon = cx.now + CLAIM_SOON;
            self.claimed_by = Some(soon);
            cx.effects.timers.arm(Timer::Claim, soon);
        }
    }

    /// Whether visitors may come whose bindings a user is about to claim.
    pub(super) fn awaits_claims(&self, now: Instant) -> bool {
        !self.unclaimed.is_empty() && self.claimed_by.is_some_and(|at| now < at)
    }

    /// What an earlier process left was not claimed in time: at first it is waited for without
    /// keeping others from anything. Says whether that is so.
    pub(super) fn claims_take_long(&mut self, cx: &mut Context) -> bool {
        let soon = self.claimed_by.take().is_some();
        if soon {
            let at = cx.now + CLAIM_WITHIN.saturating_sub(CLAIM_SOON);
            cx.effects.timers.arm(Timer::Claim, at);
        }
        soon
    }

    /// What an earlier process left had its time to be claimed.
    pub(super) fn give_back_unclaimed<T: Copy>(&mut self, session: Option<&mut Session<T>>) {
        let Some(session) = session else { return };
        for one in self.unclaimed.drain(..) {
            send_unbind(session, Some(one.bind_id));
        }
    }

    /// The session came back with these. What it still has stands again; gives those that nobody
    /// here knows.
    fn session_resumed(&mut self, resumed: Vec<ResumedBind>) -> Vec<ResumedBind> {
        let mut unknown = Vec::new();
        for one in resumed {
            match self.by_id(one.bind_id) {
                Some(bound) if bound.state == BindState::Wanted => {
                    bound.still_stands();
                }
                Some(_) => {}
                None => unknown.push(one),
            }
        }
        unknown
    }

    /// The session is gone: what stood or was asked for is wanted again, and whoever waits for an
    /// unbind has it, for a resumed session is told of what it should not have.
    pub(super) fn session_lost(&mut self, cx: &mut Context) {
        let mut leaving = Vec::new();
        for bound in &mut self.all {
            match bound.state {
                BindState::Leaving => leaving.push(bound.reference),
                _ => bound.state = BindState::Wanted,
            }
        }
        for reference in leaving {
            self.unbound(cx, reference, Ok(()));
        }
    }

    /// The user wants the end: all are given up.
    pub(super) fn leave<T: Copy>(&mut self, session: &mut Session<T>) {
        for bound in &mut self.all {
            if bound.state == BindState::Standing {
                send_unbind(session, bound.bind_id());
            }
        }
        // What the kit refuses needs no unbinding.
        let is_out = |bound: &Bound| bound.state != BindState::Wanted || bound.binding.is_none();
        self.all.retain(is_out);
        for bound in &mut self.all {
            bound.state = BindState::Leaving;
        }
    }

    /// Nothing follows: whoever waits for a binding learns that there will be none.
    pub(super) fn over(&mut self, cx: &mut Context, error: Option<&Error>) {
        let closed = || Error::Closed("the session was closed".into());
        for bound in std::mem::take(&mut self.all) {
            if bound.binding.is_none() {
                let notice = Notice::Bound {
                    reference: bound.reference,
                    outcome: Err(error.cloned().unwrap_or_else(closed)),
                };
                cx.effects.notify(notice);
            }
        }
    }

    /// An unbind came to its end.
    fn unbound(&mut self, cx: &mut Context, reference: u64, outcome: Result<(), Error>) {
        self.forget(reference);
        cx.effects.notify(Notice::Unbound { reference, outcome });
    }

    fn forget(&mut self, reference: u64) {
        self.all.retain(|bound| bound.reference != reference);
        self.has_left = true;
    }

    /// Whether one was forgotten since this was asked last, so that connections for it are idle for
    /// nothing.
    pub(super) fn one_has_left(&mut self) -> bool {
        std::mem::take(&mut self.has_left)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, reference: u64) -> Option<&Bound> {
        self.all.iter().find(|bound| bound.reference == reference)
    }

    fn get_mut(&mut self, reference: u64) -> Option<&mut Bound> {
        self.all
            .iter_mut()
            .find(|bound| bound.reference == reference)
    }

    fn by_id(&mut self, bind_id: u64) -> Option<&mut Bound> {
        self.all
            .iter_mut()
            .find(|bound| bound.bind_id() == Some(bind_id))
    }

    /// The binding that a stream belongs to. An older kit names only the port, or nothing when
    /// there can be no doubt (PROTOCOL §4).
    pub(super) fn for_stream(
        &self,
        kind: BindingKind,
        bind_id: Option<u64>,
        port: Option<u16>,
    ) -> Option<&Bound> {
        let mut fitting = self.all.iter().filter(|bound| {
            bound.spec.service.kind() == kind
                && bound.binding.is_some()
                && matches!(bound.state, BindState::Standing | BindState::Leaving)
        });
        if let Some(bind_id) = bind_id {
            return fitting.find(|bound| bound.bind_id() == Some(bind_id));
        }
        if let Some(port) = port {
            return fitting.find(|bound| bound.spec.container_port == port);
        }
        let only = fitting.next()?;
        fitting.next().is_none().then_some(only)
    }
}

/// Why a kit that granted so much is not asked for something at all.
fn is_wanting(service: Service, granted: Capabilities) -> Option<&'static str> {
    match service {
        Service::TcpExpose if !granted.have(Capabilities::TCP_EXPOSE) => Some(
            "This kit exposes no ports of raw TCP: it is an older one, or its operator said \
             --no-tcp-expose. Upgrade it, or use an HTTP port or a pull.",
        ),
        Service::UdpExpose | Service::UdpPull if !granted.have(Capabilities::UDP) => {
            Some("This kit carries no UDP: it is an older one, and has to be upgraded.")
        }
        _ => None,
    }
}

fn send_unbind<T: Copy>(session: &mut Session<T>, bind_id: Option<u64>) {
    if let Some(bind_id) = bind_id {
        session.say(&Unbind { bind_id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::TunnelOptions;
    use crate::client::bound::tests::{bound, ok};
    use crate::client::config::Config;
    use crate::clock::Instant;
    use crate::entropy::Entropy;
    use crate::wire::control::BindMode;

    fn context() -> Context {
        let options = TunnelOptions::new("ws://127.0.0.1:50");
        let config = Config::with_env(&options, |_| None).unwrap();
        Context::new(config, Entropy::from_seed(1), Instant::ZERO)
    }

    #[test]
    fn a_stream_of_an_older_kit_finds_its_binding_by_port_or_by_being_alone() {
        let mut bindings = Bindings::default();
        bindings.all.push(bound(1, Service::HttpExpose, 0));
        bindings.all.push(bound(2, Service::TcpPull, 5432));
        assert!(bindings.for_stream(BindingKind::Http, None, None).is_none());
        bindings.all[0].stands(&ok(1, 1, 3000));
        bindings.all[1].stands(&ok(2, 2, 5432));
        let found = |bindings: &Bindings, kind, id, port| {
            bindings
                .for_stream(kind, id, port)
                .map(|bound| bound.reference)
        };
        assert_eq!(found(&bindings, BindingKind::Http, Some(1), None), Some(1));
        assert_eq!(found(&bindings, BindingKind::Tcp, Some(1), None), None);
        assert_eq!(
            found(&bindings, BindingKind::Tcp, None, Some(5432)),
            Some(2)
        );
        assert_eq!(found(&bindings, BindingKind::Http, None, None), Some(1));
        bindings.all.push(bound(3, Service::HttpExpose, 0));
        bindings.all[2].stands(&ok(3, 3, 3001));
        assert_eq!(found(&bindings, BindingKind::Http, None, None), None);
        assert_eq!(
            found(&bindings, BindingKind::Http, None, Some(3001)),
            Some(3)
        );
    }

    #[test]
    fn a_resumed_session_has_what_it_lists_and_no_more() {
        let mut bindings = Bindings::default();
        for reference in 1..=2 {
            bindings.all.push(bound(reference, Service::HttpExpose, 0));
            bindings.all[reference as usize - 1].stands(&ok(reference, reference, 3000));
        }
        bindings.session_lost(&mut context());
        let listed = |bind_id| ResumedBind {
            bind_id,
            kind: BindingKind::Http,
            mode: BindMode::Expose,
            container_port: 3000,
            public_url: None,
            client_bind_ref: None,
        };
        let unknown = bindings.session_resumed(vec![listed(2), listed(9)]);
        assert_eq!(unknown, vec![listed(9)]);
        assert_eq!(bindings.all[0].state, BindState::Wanted);
        assert_eq!(bindings.all[1].state, BindState::Standing);
    }
}
