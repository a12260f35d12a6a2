//! What comes on a lane of a standing session, and the session's beginning.

use crate::client::context::Timer;
use crate::client::event::SessionEvent;
use crate::client::lanes::malformed;
use crate::client::local::ExchangeKey;
use crate::client::machine::Client;
use crate::client::messages::Notice;
use crate::client::setback::Setback;
use crate::limits::{
    CLIENT_BEYOND_WINDOWS, CLIENT_STREAMS, CLOSE_WITHIN, LANE_QUEUE_OPENS, MAX_LANES,
    MAX_SESSION_WINDOW, MAX_STREAM_WINDOW, POOL_IDLE_FOR,
};
use crate::mux::{Incoming, Session, Side, Span, Terms, Transport};
use crate::wire::code::Code;
use crate::wire::control::{self, Capabilities, GoAway, HelloOk, ReissueAnswer};
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
        let resumed = ok.resumed.then_some(ok.resumed_binds);
        if let Some(session) = &mut self.session {
            self.bindings.session_stands(&mut self.cx, session, resumed);
        }
        self.lanes.rejoin.begin(self.cx.now);
        self.join_with(ok.join_tickets);
        self.plan_rejoin();
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

    fn came(&mut self, index: usize, incoming: Incoming<ExchangeKey>) {
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
                    session.reset(stream, Code::ProtocolError, why);
                }
                let (local, mut around) = self.local();
                local.stream_lost(&mut around, tag, "the kit sent a response head");
            }
            Incoming::Closed { code } => self.lane_setback(index, Setback::Closed(code)),
            Incoming::Control { kind, payload } => self.control(index, kind, &payload),
        }
    }

    fn control(&mut self, index: usize, kind: FrameType, payload: &Span) {
        let Some(session) = &mut self.session else {
            return;
        };
        let payload = session.payload(index, payload).to_vec();
        let read = match kind {
            FrameType::ReissueJoinTickets => control::parse(&payload)
                .map(|answer: ReissueAnswer| self.join_with(answer.join_tickets)),
            FrameType::GoAway => control::parse(&payload).map(|goaway| self.kit_goes_away(goaway)),
            _ => self.bindings.told(&mut self.cx, session, kind, &payload),
        };
        match read {
            Ok(()) => self.close_when_idle(),
            Err(error) => self.lane_setback(0, malformed(&error)),
        }
    }

    /// The kit ends the session. Streams go on until it closes.
    fn kit_goes_away(&mut self, goaway: GoAway) {
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
