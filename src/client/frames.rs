//! What comes on a lane of a standing session, and the session's beginning.

use crate::client::bindings::{BindState, Refusal};
use crate::client::context::Timer;
use crate::client::event::SessionEvent;
use crate::client::lanes::malformed;
use crate::client::machine::Client;
use crate::client::messages::Notice;
use crate::client::setback::Setback;
use crate::client::{Error, link};
use crate::limits::{
    CLIENT_BEYOND_WINDOWS, CLIENT_STREAMS, CLOSE_WITHIN, LANE_QUEUE_OPENS, MAX_LANES,
    MAX_SESSION_WINDOW, MAX_STREAM_WINDOW, POOL_IDLE_FOR, REBIND_EVERY,
};
use crate::mux::{Incoming, Session, Side, Span, Terms, Transport};
use crate::wire::control::{
    self, BindErr, BindErrCode, BindMode, BindOk, BindRevoked, Capabilities, ControlPayload,
    GoAway, HelloOk, ResumedBind, Unbind, UnbindErr, UnbindOk,
};
use crate::wire::frame::FrameType;

impl Client {
    /// HELLO_OK came: the session stands.
    pub(super) fn established(&mut self, lane: Option<Transport>, ok: HelloOk) {
        let Some(lane) = lane else { return };
        let streams = ok
            .max_streams
            .map_or(CLIENT_STREAMS, |streams| streams as usize);
        let terms = Terms {
            side: Side::Client,
            // What it says binds it, too: no kit makes us keep more than this.
            stream_window: ok.stream_window.min(MAX_STREAM_WINDOW),
            session_window: ok.session_window.min(MAX_SESSION_WINDOW),
            max_streams: streams.clamp(1, CLIENT_STREAMS),
            grow_windows: ok.capabilities.have(Capabilities::GROW_WINDOWS),
            queue_opens: LANE_QUEUE_OPENS,
        };
        let mut session = match self.parked.take() {
            Some(mut session) => {
                session.restart(terms, self.cx.now);
                session
            }
            None => Session::new(terms, self.cx.now),
        };
        session.attach(0, lane);
        session.set_budget(CLIENT_BEYOND_WINDOWS);
        self.session = Some(session);
        let granted = ok.connections_granted.unwrap_or(1);
        self.lanes.granted = granted.clamp(1, self.cx.config.connections.min(MAX_LANES as u32));
        let came_back = self
            .link
            .online(ok.session_id.clone(), ok.resumed, self.cx.now);
        let id = ok.session_id.to_string();
        self.cx.effects.notify(Notice::Session(ok.session_id));
        self.cx.notify(match came_back {
            true => SessionEvent::Resumed { session: id },
            false => SessionEvent::Online {
                session: id,
                connections: self.lanes.granted,
            },
        });
        self.restore_bindings(ok.resumed, ok.resumed_binds);
        self.lanes.rejoin.begin(self.cx.now);
        self.join_with(ok.join_tickets);
        self.plan_rejoin();
    }

    fn restore_bindings(&mut self, resumed: bool, binds: Vec<ResumedBind>) {
        self.bindings.unclaimed.clear();
        if resumed {
            let first = self
                .bindings
                .all
                .iter()
                .all(|bound| bound.binding.is_none());
            for unknown in self.bindings.session_resumed(binds) {
                let wanted =
                    self.bindings.all.iter().any(|bound| {
                        bound.state == BindState::Wanted && bound.spec.is_like(&unknown)
                    });
                if first || wanted {
                    // Left by an earlier process, or bound just when the connection was lost.
                    self.bindings.unclaimed.push(unknown);
                } else {
                    self.send_unbind(Some(unknown.bind_id));
                }
            }
        } else {
            self.bindings.session_is_fresh();
        }
        self.ask_for_bindings();
    }

    /// Sends BIND for everything that is wanted, if there is a session.
    pub(super) fn ask_for_bindings(&mut self) {
        if !matches!(self.link.phase, link::Phase::Online(_)) {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let mut adopted = Vec::new();
        for bound in &mut self.bindings.all {
            if bound.state != BindState::Wanted {
                continue;
            }
            let unclaimed = &mut self.bindings.unclaimed;
            let ours = unclaimed.iter().position(|one| bound.spec.is_like(one));
            let ours = ours.map(|at| unclaimed.remove(at));
            let is_pull = bound.spec.mode == BindMode::Pull;
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
            // An EXPOSE that is ours already, and whose address an older kit did not tell, is taken
            // over from ourselves to learn it.
            let mut json = Vec::new();
            control::write(&bound.bind(ours.is_some()), &mut json);
            session.push_control(FrameType::Bind, &json);
            bound.state = BindState::Asked;
        }
        for ok in adopted {
            self.bind_ok(&ok);
        }
    }

    pub(super) fn send_unbind(&mut self, bind_id: Option<u64>) {
        if let (Some(session), Some(bind_id)) = (&mut self.session, bind_id) {
            let mut json = Vec::new();
            control::write(&Unbind { bind_id }, &mut json);
            session.push_control(FrameType::Unbind, &json);
        }
    }

    pub(super) fn forget_binding(&mut self, reference: u64) {
        self.bindings.remove(reference);
        let (local, mut around) = self.local();
        local.binding_gone(&mut around);
    }

    /// Everything that came on a lane, one after the other.
    pub(super) fn poll_lane(&mut self, index: usize) {
        loop {
            let now = self.cx.now;
            let Some(session) = &mut self.session else {
                return;
            };
            match session.poll(index, now) {
                Ok(None) => return,
                Ok(Some(incoming)) => self.came(index, incoming),
                Err(violation) => {
                    let goaway = GoAway::new(violation.code, violation.why.clone());
                    self.part(&goaway, violation.close_code());
                    return self.link_lost(Setback::Violation(violation));
                }
            }
        }
    }

    fn came(&mut self, index: usize, incoming: Incoming<super::local::ExchangeKey>) {
        match incoming {
            Incoming::Opened { id, payload } => {
                let (local, mut around) = self.local();
                local.stream_opened(&mut around, index, id, &payload);
            }
            Incoming::Data { tag, payload, .. } => {
                let (local, mut around) = self.local();
                local.data(&mut around, tag, index, payload);
            }
            Incoming::Eof { tag, .. } => {
                let (local, mut around) = self.local();
                local.remote_eof(&mut around, tag);
            }
            Incoming::Reset {
                tag, code, reason, ..
            } => {
                let why = match reason.is_empty() {
                    true => code.name().to_owned(),
                    false => reason,
                };
                let (local, mut around) = self.local();
                local.stream_lost(&mut around, tag, &why);
            }
            Incoming::Head { stream, tag, .. } => {
                if let Some(session) = &mut self.session {
                    let why = "a kit sends no response heads";
                    session.reset(stream, crate::wire::code::Code::ProtocolError, why);
                }
                let (local, mut around) = self.local();
                local.stream_lost(&mut around, tag, "the kit sent a response head");
            }
            Incoming::Closed { code } => self.lane_setback(index, Setback::Closed(code)),
            Incoming::Control { kind, payload } => self.control(index, kind, &payload),
        }
    }

    fn control(&mut self, index: usize, kind: FrameType, payload: &Span) {
        let Some(session) = &self.session else { return };
        let payload = session.payload(index, payload).to_vec();
        match kind {
            FrameType::BindOk => self.take(&payload, |client, ok| client.bind_ok(&ok)),
            FrameType::BindErr => self.take(&payload, Client::bind_err),
            FrameType::UnbindOk => self.take(&payload, |client, ok: UnbindOk| {
                client.unbound(ok.bind_id, Ok(()));
            }),
            FrameType::UnbindErr => self.take(&payload, |client, err: UnbindErr| {
                let error = Error::Bind {
                    code: err.code,
                    message: super::setback::plain(&err.message),
                };
                // What is not there needs no unbinding.
                let gone = err.code == BindErrCode::NotFound;
                client.unbound(err.bind_id, if gone { Ok(()) } else { Err(error) });
            }),
            FrameType::BindRevoked => self.take(&payload, Client::revoked),
            FrameType::ReissueJoinTickets => self.take(&payload, Client::tickets_came),
            FrameType::GoAway => self.take(&payload, Client::kit_goes_away),
            // SHARD_MAP is informative; nothing else is the kit's to say.
            _ => {}
        }
    }

    fn take<P: ControlPayload>(&mut self, payload: &[u8], then: impl FnOnce(&mut Client, P)) {
        match control::parse(payload) {
            Ok(payload) => then(self, payload),
            Err(error) => self.lane_setback(0, malformed(&error)),
        }
    }

    fn bind_ok(&mut self, ok: &BindOk) {
        let Some(bound) = self.bindings.get_mut(ok.client_bind_ref) else {
            // Given up while the kit was asked.
            return self.send_unbind(Some(ok.bind_id));
        };
        let leaving = bound.state == BindState::Leaving;
        let again = bound.stands(ok);
        if leaving {
            bound.state = BindState::Leaving;
            return self.send_unbind(Some(ok.bind_id));
        }
        let reference = bound.reference;
        let Some(binding) = bound.binding.clone() else {
            return;
        };
        if !again {
            let outcome = Ok(binding.clone());
            self.cx.effects.notify(Notice::Bound { reference, outcome });
        }
        self.cx.notify(SessionEvent::Bound { binding, again });
    }

    fn bind_err(&mut self, err: BindErr) {
        let now = self.cx.now;
        let reference = err.client_bind_ref;
        let Some(bound) = self.bindings.get_mut(reference) else {
            return;
        };
        let why = Error::Bind {
            code: err.code,
            message: super::setback::plain(&err.message),
        };
        if bound.state == BindState::Leaving {
            self.forget_binding(reference);
            let outcome = Ok(());
            let notice = Notice::Unbound { reference, outcome };
            return self.cx.effects.notify(notice);
        }
        match bound.refused(err.code, now) {
            Refusal::Tell => {
                self.forget_binding(reference);
                let outcome = Err(why);
                self.cx.effects.notify(Notice::Bound { reference, outcome });
            }
            Refusal::TryAgain => self
                .cx
                .effects
                .timers
                .arm_if_unset(Timer::Rebind, now + REBIND_EVERY),
            Refusal::Lost(binding) => {
                self.forget_binding(reference);
                self.cx.notify(SessionEvent::Unbound { binding, why });
            }
        }
    }

    fn unbound(&mut self, bind_id: u64, outcome: Result<(), Error>) {
        let Some(reference) = self.bindings.by_id(bind_id).map(|bound| bound.reference) else {
            return;
        };
        self.forget_binding(reference);
        self.cx
            .effects
            .notify(Notice::Unbound { reference, outcome });
        self.close_when_idle();
    }

    fn revoked(&mut self, revoked: BindRevoked) {
        let Some(bound) = self.bindings.by_id(revoked.bind_id) else {
            return;
        };
        let (reference, leaving) = (bound.reference, bound.state == BindState::Leaving);
        let binding = bound.binding.clone();
        self.forget_binding(reference);
        if leaving {
            let outcome = Ok(());
            self.cx
                .effects
                .notify(Notice::Unbound { reference, outcome });
        } else if let Some(binding) = binding {
            let reason = super::setback::plain(&revoked.reason);
            self.cx.notify(SessionEvent::TakenOver { binding, reason });
        }
    }

    /// The kit ends the session. Streams go on until it closes.
    fn kit_goes_away(&mut self, goaway: GoAway) {
        use crate::wire::code::Code;
        let code = goaway.code();
        let setback = Setback::Goaway {
            code,
            message: goaway.message,
        };
        let busy = !self.local.is_idle();
        if code != Code::NoError || !busy {
            return self.lane_setback(0, setback);
        }
        let grace = std::time::Duration::from_millis(goaway.grace_ms.into());
        let patience = grace.clamp(CLOSE_WITHIN, POOL_IDLE_FOR * 5) + CLOSE_WITHIN / 5;
        self.goaway = Some(setback);
        self.cx
            .effects
            .timers
            .arm(Timer::Goaway, self.cx.now + patience);
    }

    pub(super) fn goaway_overdue(&mut self) {
        if self.goaway.is_some() {
            self.lane_setback(0, Setback::HungUp);
        }
    }
}
