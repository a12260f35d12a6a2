//! The client's machine: what the host tells (`seam`) goes to the part that it concerns.
//!
//! Its parts are `Reach` (connections to the kit, and the session), `Bindings` and
//! `LocalSide` (streams and local connections). None knows another's state: what one wants of the
//! others is done here. Connections to the kit have the low numbers, so the number of one tells
//! whose it is.

use crate::client::bindings::Bindings;
use crate::client::config::Config;
use crate::client::context::{Context, Mux, Timer};
use crate::client::event::SessionEvent;
use crate::client::forwards::Forwards;
use crate::client::keys::ExchangeKey;
use crate::client::local::{Around, LocalSide};
use crate::client::reach::failure::Failure;
use crate::client::reach::retry;
use crate::client::reach::{Reach, Then, malformed};
use crate::client::{Error, TunnelOptions};
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::{CLOSE_WITHIN, HOST_DESCRIPTORS, MAX_LANES};
use crate::machine::Command;
use crate::mux::{Account, Incoming, Session, Span, Wake};
use crate::wire::code::Code;
use crate::wire::control::{self, GoAway, ReissueAnswer};
use crate::wire::frame::FrameType;

/// The laptop's machine.
pub struct Client {
    pub(super) cx: Context,
    pub(super) reach: Reach,
    pub(super) bindings: Bindings,
    pub(super) local: LocalSide,
    pub(super) forwards: Forwards,
    /// Its host runs several machines, see `heir`.
    pub(super) has_heirs: bool,
    /// The host was told to stop.
    stopped: bool,
}

impl Client {
    /// A client that begins to connect with its first timeout. Refuses options that cannot work.
    pub fn new(options: &TunnelOptions, entropy: Entropy, now: Instant) -> Result<Client, Error> {
        Ok(Client::with_config(Config::new(options)?, entropy, now))
    }

    pub(super) fn with_config(config: Config, entropy: Entropy, now: Instant) -> Client {
        let reach = Reach::new(&config, now);
        let mut cx = Context::new(config, entropy, now);
        cx.effects.timers.arm(Timer::Retry, now);
        Client {
            cx,
            reach,
            bindings: Bindings::default(),
            local: LocalSide::new(),
            forwards: Forwards::new(),
            has_heirs: false,
            stopped: false,
        }
    }

    /// Makes do with so many descriptors, if they are fewer than it would take: requests wait for a
    /// moment, and are then refused, where the system would have none for them. Lanes need theirs
    /// first, and those that are saying goodbye while others take their place.
    pub fn with_descriptors(mut self, descriptors: usize) -> Client {
        let lanes = 2 * self.cx.config.connections as usize;
        let rest = descriptors.saturating_sub(HOST_DESCRIPTORS + lanes);
        self.local.fit(rest);
        self
    }

    /// The local side, and what it needs around it.
    pub(super) fn local(&mut self) -> (&mut LocalSide, Around<'_>) {
        let around = Around {
            cx: &mut self.cx,
            mux: self.reach.session.attached_mut(),
            bindings: &self.bindings,
        };
        (&mut self.local, around)
    }

    /// The bindings, and the session that takes more of them: none while it is given up.
    pub(super) fn bindings(&mut self) -> (&mut Bindings, &mut Context, Option<&mut Mux>) {
        let stays = self.reach.stays();
        let session = self.reach.session.attached_mut().filter(|_| stays);
        (&mut self.bindings, &mut self.cx, session)
    }

    pub(super) fn timeout(&mut self) {
        while let Some(timer) = self.cx.effects.timers.pop_due(self.cx.now) {
            match timer {
                Timer::Retry => self.reach.reach(&mut self.cx),
                Timer::Lane(index) => self.look_after_lane(usize::from(index)),
                Timer::Tell => self.cx.tell(),
                Timer::Rebind => {
                    let (bindings, cx, session) = self.bindings();
                    bindings.ask(cx, session);
                }
                Timer::Relisten => self.forwards.relisten(&mut self.cx),
                Timer::Claim if self.bindings.claims_take_long(&mut self.cx) => self.hear_all(),
                Timer::Claim => {
                    let (bindings, _, session) = self.bindings();
                    bindings.give_back_unclaimed(session);
                }
                Timer::Rejoin => {
                    let lost = self.reach.give_up_overdue(self.cx.now);
                    self.streams_lost(lost);
                    self.reach.ask_for_tickets(&mut self.cx);
                }
                Timer::Acks => {
                    if let Some(session) = self.reach.session.attached_mut() {
                        session.lanes_mut().acknowledge_all(self.cx.now);
                    }
                }
                Timer::Waits => self.waits_no_more(),
                Timer::Close => self.say_goodbye(),
                Timer::Goaway => {
                    let then = self.reach.goaway_overdue(&mut self.cx);
                    self.follow(then);
                }
                Timer::Leaving(conn) => self.reach.leave(&mut self.cx, conn),
                Timer::Sweep | Timer::Pool | Timer::Line | Timer::Refusals => {
                    let (local, mut around) = self.local();
                    local.timeout(&mut around, timer);
                }
            }
        }
    }

    pub(super) fn look_after_lane(&mut self, index: usize) {
        self.local.spill(self.reach.session.attached());
        let then = self.reach.look_after_lane(&mut self.cx, index);
        self.follow(then);
    }

    /// Does for the other parts what follows from what happened to a connection to the kit.
    pub(super) fn follow(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Frames(index) => self.poll_lane(index),
            Then::GoesOn(ok) => {
                // What became of bindings meanwhile is told by frames (PROTOCOL §9).
                let (bindings, cx, session) = self.bindings();
                bindings.ask(cx, session);
                self.reach.complete(&mut self.cx, ok.join_tickets);
                self.poll_lane(0);
            }
            Then::Anew(index, lost) => {
                self.streams_lost(lost);
                self.poll_lane(index);
            }
            Then::Stands(ok) => {
                self.lose_streams("the kit did not keep the streams");
                let told = (ok.resumed.then_some(ok.resumed_binds), ok.capabilities);
                if let Some(session) = self.reach.session.attached_mut() {
                    let lost = self.reach.retry.lost.clone();
                    self.bindings
                        .session_stands(&mut self.cx, session, told, lost);
                }
                self.reach.complete(&mut self.cx, ok.join_tickets);
                self.poll_lane(0);
            }
            Then::Departs(grace) => self.depart(grace),
            Then::LaneLost(index) => {
                self.local.spill(self.reach.session.attached());
                let (stood, lost) = self.reach.detach(index, self.cx.now);
                self.streams_lost(lost);
                self.reach.lane_lost(&mut self.cx, index, stood);
            }
            Then::Lost(failure) => self.link_lost(failure),
            Then::Short(then) => {
                let (local, mut around) = self.local();
                local.lane_found_no_descriptor(&mut around);
                self.follow(*then);
            }
        }
    }

    /// Everything that came on any lane and was not heard yet.
    pub(super) fn hear_all(&mut self) {
        for index in 0..MAX_LANES {
            if let Some(conn) = self.reach.lanes.conns[index] {
                self.poll_lane(index);
                self.cx.effects.wake(conn);
            }
        }
    }

    /// Everything that came on a lane, one after the other.
    fn poll_lane(&mut self, index: usize) {
        if self.bindings.awaits_claims(self.cx.now) {
            return;
        }
        loop {
            let Some(session) = self.reach.session.attached_mut() else {
                return;
            };
            match session.poll(index, self.cx.now) {
                Ok(None) => return,
                Ok(Some(incoming)) => self.came(index, incoming),
                Err(violation) => {
                    let goaway = GoAway::new(violation.code, violation.why.clone());
                    self.part(&goaway, violation.close_code());
                    return self.link_lost(Failure::Violation(violation));
                }
            }
        }
    }

    fn came(&mut self, index: usize, incoming: Incoming<ExchangeKey>) {
        let (local, mut around) = self.local();
        match incoming {
            Incoming::Opened { id, payload, .. } => {
                local.stream_opened(&mut around, index, id, &payload);
                self.reach.carries_more(&mut self.cx, index);
            }
            Incoming::Data { tag, payload, .. } => local.data(&mut around, tag, index, payload),
            Incoming::Datagram { tag, payload } => {
                local.datagram_came(&mut around, tag, index, &payload);
            }
            Incoming::Trailers { tag, payload } => local.trailers(&mut around, tag, index, payload),
            // Whoever called cannot be told, and has sent what he wanted to anyway.
            Incoming::Connected { .. } => {}
            Incoming::Eof { tag, .. } => local.remote_eof(&mut around, tag),
            Incoming::Reset {
                tag,
                code: Code::NoError,
                ..
            } if local.carries_datagrams(tag) => local.drop_exchange(&mut around, tag, None),
            Incoming::Reset {
                tag, code, reason, ..
            } => {
                let why = match reason.is_empty() {
                    true => code.name().to_owned(),
                    false => reason,
                };
                local.stream_lost(&mut around, tag, &why);
            }
            Incoming::Head { stream, tag, .. } => {
                if let Some(session) = around.mux.as_deref_mut() {
                    let why = "a kit sends no response heads";
                    session.reset(stream, Code::ProtocolError, why);
                }
                local.stream_lost(&mut around, tag, "the kit sent a response head");
            }
            Incoming::Closed { code } => {
                let failure = Failure::Closed(code);
                let then = self.reach.lane_failed(&mut self.cx, index, failure);
                self.follow(then);
            }
            Incoming::Control { kind, payload } => self.control(index, kind, &payload),
        }
    }

    fn control(&mut self, index: usize, kind: FrameType, payload: &Span) {
        let (reach, cx) = (&mut self.reach, &mut self.cx);
        let Some(session) = reach.session.attached_mut() else {
            return;
        };
        let payload = session.payload(index, payload).to_vec();
        let then = match kind {
            FrameType::ReissueJoinTickets => {
                control::parse(&payload).map(|answer: ReissueAnswer| {
                    reach.join_with(cx, answer.join_tickets);
                    Then::Nothing
                })
            }
            FrameType::GoAway => {
                let idle = self.local.is_idle() && reach.all_has_arrived();
                control::parse(&payload).map(|goaway| reach.kit_goes_away(cx, goaway, !idle))
            }
            _ => {
                let told = self.bindings.told(cx, session, kind, &payload);
                told.map(|()| Then::Nothing)
            }
        };
        let then = then.unwrap_or_else(|error| reach.lane_failed(cx, 0, malformed(&error)));
        self.follow(then);
        self.close_when_idle();
    }

    /// These streams went with their lane.
    fn streams_lost(&mut self, lost: Vec<ExchangeKey>) {
        let (local, mut around) = self.local();
        for key in lost {
            local.stream_lost(&mut around, key, "its connection to the kit was lost");
        }
    }

    /// All streams are gone, and bindings are wanted again.
    fn lose_streams(&mut self, why: &str) {
        let (local, mut around) = self.local();
        local.session_lost(&mut around, why);
        self.bindings.session_lost(&mut self.cx);
    }

    /// The kit was not reached for so long that the streams are given up.
    fn waits_no_more(&mut self) {
        self.local.spill(self.reach.session.attached());
        self.lose_streams("the kit was not reached in time");
        self.reach.waits_no_more(&mut self.cx);
    }

    /// The primary connection is gone, and with it all streams, unless they wait.
    fn link_lost(&mut self, failure: Failure) {
        if self.reach.retry.stage == retry::Stage::Closing {
            self.reach.retry.stage = retry::Stage::Over;
            self.drop_session("closed");
            return self.over(None);
        }
        if self.has_heir() {
            self.reach.retry.stage = retry::Stage::Over;
            self.drop_session("the kit has gone before they were done");
            return self.departed();
        }
        if self.reach.waits_after(&failure) {
            self.local.spill(self.reach.session.attached());
            self.reach.waits(&mut self.cx);
            if let Some(error) = self.reach.retry(&mut self.cx, &failure) {
                self.drop_session("the connection to the kit was lost");
                self.over(Some(error));
            }
            return;
        }
        let failure = self.reach.why(failure);
        self.drop_session("the connection to the kit was lost");
        if let Some(error) = self.reach.retry(&mut self.cx, &failure) {
            self.over(Some(error));
        }
    }

    /// Forgets the session's lanes and streams; bindings are wanted again.
    pub(super) fn drop_session(&mut self, why: &str) {
        let (local, mut around) = self.local();
        local.session_lost(&mut around, why);
        self.reach.drop_session(&mut self.cx);
        self.bindings.session_lost(&mut self.cx);
    }

    /// The user wants the end: unbind, let streams finish, say goodbye.
    pub(super) fn close(&mut self, at_once: bool) {
        match self.reach.retry.stage {
            retry::Stage::Over => {}
            retry::Stage::Departing => self.departs_sooner(at_once),
            retry::Stage::Waiting | retry::Stage::Reaching if self.reach.has_lanes() => {
                // The kit hears it on another lane; the primary is not waited for.
                self.reach.reaches_no_more(&mut self.cx);
                self.close_soon(at_once);
            }
            retry::Stage::Waiting | retry::Stage::Reaching => {
                self.drop_session("closed");
                self.over(None);
            }
            retry::Stage::Closing => self.say_goodbye(),
            retry::Stage::Online(_) => {
                if let Some(session) = self.reach.session.attached_mut().filter(|_| !at_once) {
                    self.bindings.leave(session);
                }
                self.close_soon(at_once);
            }
        }
    }

    /// Lets streams finish for a moment, or not.
    fn close_soon(&mut self, at_once: bool) {
        self.reach.retry.stage = retry::Stage::Closing;
        if at_once {
            return self.say_goodbye();
        }
        let at = self.cx.now + CLOSE_WITHIN;
        self.cx.effects.timers.arm(Timer::Close, at);
        self.close_when_idle();
    }

    /// While closing or departing: goodbye as soon as nothing runs any more.
    fn close_when_idle(&mut self) {
        let done = match self.reach.retry.stage {
            // Without its primary the kit tells nothing of bindings.
            retry::Stage::Closing => self.bindings.is_empty() || !self.reach.has_primary(),
            retry::Stage::Departing => self.reach.is_flushed(),
            _ => false,
        };
        if done && self.local.is_idle() && self.reach.others_have_arrived() {
            self.say_goodbye();
        }
    }

    /// Ends the session without parking it (PROTOCOL §6).
    pub(super) fn say_goodbye(&mut self) {
        let departs = self.has_heir();
        if departs || self.reach.retry.stage == retry::Stage::Closing {
            // From here on no stream that ends brings us here again.
            self.reach.retry.stage = retry::Stage::Over;
            let goaway = GoAway::new(Code::NoError, "closed by the client");
            self.part(&goaway, CLOSE_NORMAL);
            self.drop_session("closed");
            match departs {
                true => self.departed(),
                false => self.over(None),
            }
        }
    }

    fn part(&mut self, goaway: &GoAway, close_code: u16) {
        self.local.spill(self.reach.session.attached());
        self.reach.part(&mut self.cx, goaway, close_code);
    }

    /// Nothing follows.
    fn over(&mut self, error: Option<Error>) {
        self.bindings.over(&mut self.cx, error.as_ref());
        self.forwards.over(&mut self.cx, error.as_ref());
        self.ended();
        self.cx.notify(SessionEvent::Closed { error });
    }

    /// Lets those go on who may, and looks whether everything still fits.
    pub(super) fn settle(&mut self) {
        while let Some(wake) = self
            .reach
            .session
            .attached_mut()
            .and_then(Session::poll_wake)
        {
            match wake {
                Wake::LaneLast(conn) => {
                    self.reach.has_backlog(conn, self.cx.now);
                    self.cx.effects.wake_last(conn);
                }
                Wake::Lane(conn) => {
                    self.reach.has_backlog(conn, self.cx.now);
                    self.cx.effects.wake(conn);
                }
                Wake::Sender(exchange) => {
                    let (local, mut around) = self.local();
                    local.sender_may_go_on(&mut around, exchange);
                }
            }
        }
        let session = self.reach.session.attached();
        if let Some(at) = session.and_then(|session| session.lanes().acknowledges_at()) {
            self.cx.effects.timers.arm_if_unset(Timer::Acks, at);
        }
        let gate = self.reach.gate();
        self.forwards.follow(&mut self.cx, gate);
        while let Some((wanted, socket)) = self.forwards.next_connection(&mut self.cx) {
            let (local, mut around) = self.local();
            local.connect(&mut around, &wanted, socket);
        }
        if self.bindings.one_has_left() {
            self.local.binding_gone(&mut self.cx);
        }
        self.close_when_idle();
        self.stop_if_over();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// After the end the host stops as soon as the last words have left.
    fn stop_if_over(&mut self) {
        let is_over = self.reach.retry.stage == retry::Stage::Over;
        if is_over && self.reach.is_gone() && self.local.is_gone() && !self.stopped {
            self.stopped = true;
            self.cx.effects.ask(Command::Stop);
        }
    }

    /// The account of its session, if it is attached.
    pub fn account(&self) -> Option<Account> {
        Some(self.reach.session.attached()?.account())
    }

    /// Whether the parts fit each other.
    pub fn check_invariants(&self) {
        let session = self.reach.session.attached();
        if let Some(session) = session {
            session.check_invariants();
        }
        self.local.check_invariants(session);
        self.reach.check_invariants();
        let over = self.reach.retry.stage == retry::Stage::Over;
        let nothing = self.local.is_gone() && self.local.is_idle();
        assert!(!over || nothing, "something outlived the end");
    }
}

/// RFC 6455 §7.4.1: the purpose is fulfilled.
const CLOSE_NORMAL: u16 = 1000;
