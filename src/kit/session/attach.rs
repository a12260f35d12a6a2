//! HELLO opens or resumes a session, JOIN adds a lane (PROTOCOL §2, §6, §7).

use std::net::SocketAddr;
use std::time::Duration;

use log::info;

use crate::entropy::Entropy;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::greeter::{Dismissal, Greeter};
use crate::kit::handover::HandedSession;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::RefusalReason;
use crate::kit::{Reason, Stopping};
use crate::limits::{HANDED_WAITS, PROMISE_MAX, PROMISE_MIN};
use crate::machine::{CloseHow, ConnKey};
use crate::mux::Terms;
use crate::wire::code::Code;
use crate::wire::control::{
    Capabilities, Hello, HelloOk, JoinOk, JoinTicket, ReissueAnswer, ReissueRequest, ResumedBind,
    SessionId,
};
use crate::ws::Subprotocol;

use super::end::{CLOSE_GOING_AWAY, RESTARTING};
use super::returning::{Joining, agree, capabilities, services};
use super::{KitSession, Sessions};

/// The session that a HELLO has opened or resumed, and what they agreed on: nothing is attached to
/// it yet.
#[derive(Debug)]
pub(in crate::kit) struct Welcome {
    pub(in crate::kit) key: SessionKey,
    resumed: bool,
    /// What the client has taken of the primary lane, where all streams go on (PROTOCOL §9).
    goes_on: Option<u64>,
    /// The other lanes that stay.
    kept: Vec<u32>,
    terms: Terms,
    peer: SocketAddr,
    /// How many lanes it gets.
    lanes: usize,
    /// What it may bind beyond what all may.
    services: Capabilities,
    /// How often something comes from it at least.
    promise: Option<Duration>,
}

impl Sessions {
    /// A HELLO whose sender has proven itself. A session that is resumed leaves its lanes first;
    /// what this breaks is in [`Sessions::next_fallout`].
    pub(in crate::kit) fn welcome(
        &mut self,
        conn: ConnKey,
        hello: &Hello,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<Welcome, Dismissal> {
        if cx.stopping != Stopping::No {
            return Err(Dismissal {
                reason: RefusalReason::Protocol,
                goaway: Some(Code::NoError),
                is_final: Some(false),
                close: 1001,
                why: RESTARTING.into(),
            });
        }
        let peer = conns.get(conn).map(|entry| entry.from);
        let peer = peer.ok_or_else(|| Dismissal::protocol("the connection is gone"))?;
        let (lanes, terms) = agree(hello, cx);
        let asked_for = self.asked_for(hello)?;
        let goes_on = asked_for.and_then(|key| self.goes_on_from(key, hello));
        let mut kept = Vec::new();
        let key = match asked_for {
            Some(key) => {
                self.place_for_primary(conn, Some(key), conns, cx)?;
                let why = "resumed on another connection";
                match goes_on {
                    Some(_) => kept = self.make_way(key, hello, conns, cx),
                    None => {
                        self.tell_evicted(key);
                        self.leave_lanes(key, CLOSE_GOING_AWAY, why, conns, cx);
                    }
                }
                key
            }
            None => self.open(conn, peer, terms, conns, cx)?,
        };
        Ok(Welcome {
            key,
            resumed: asked_for.is_some(),
            goes_on,
            kept,
            terms,
            peer,
            lanes,
            services: services(hello, &cx.config),
            promise: hello.ping_every_ms.and_then(promise),
        })
    }

    /// A session of the kit before, whose client may come back.
    pub(in crate::kit) fn inherit(
        &mut self,
        handed: &HandedSession,
        cx: &mut Context,
    ) -> Option<SessionKey> {
        let id = handed.session_id.as_str().to_owned();
        if self.with_id(&id).is_some() {
            return None;
        }
        let until = cx.now + cx.config.takeover_grace.max(HANDED_WAITS);
        let mut session = KitSession::new(id, handed.peer, agree(&Hello::default(), cx).1, cx.now);
        session.goes_on_after(handed);
        session.park(until);
        let key = self.insert(session)?;
        cx.metrics.session_parked();
        cx.effects.timers.arm(Reason::Grace(key), until);
        Some(key)
    }

    fn open(
        &mut self,
        conn: ConnKey,
        peer: SocketAddr,
        terms: Terms,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<SessionKey, Dismissal> {
        let session = KitSession::new(session_id(&mut cx.entropy), peer, terms, cx.now);
        if !self.is_full() {
            self.place_for_primary(conn, None, conns, cx)?;
        }
        self.insert(session).ok_or_else(|| {
            let all = cx.config.max_sessions;
            let parked = self.iter().filter(|(_, it)| it.is_parked()).count();
            // A parked session keeps its place as it keeps its ports: its laptop was promised
            // both for the grace (PROTOCOL §6).
            let why = format!("session limit of {all} reached, {parked} of them parked");
            Dismissal {
                reason: RefusalReason::SessionLimit,
                goaway: Some(Code::ResourceExhausted),
                is_final: None,
                close: 1013,
                why: why.into(),
            }
        })
    }

    /// [`Conns::place_for_lane`] for a primary lane. A session that is resumed while it has one
    /// leaves it anyway.
    fn place_for_primary(
        &mut self,
        conn: ConnKey,
        resumed: Option<SessionKey>,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<(), Dismissal> {
        let placed = conns.place_for_lane(conn, cx);
        let mux = resumed.and_then(|key| self.mux(key));
        let placed = match mux.and_then(|mux| mux.lanes().get(0)?.conn()) {
            Some(old) if placed.is_err() => {
                conns.spill(self);
                conns.close(old, CloseHow::Clean, cx);
                conns.place_for_lane(conn, cx)
            }
            _ => placed,
        };
        placed.map_err(|refused| Dismissal {
            goaway: Some(Code::ResourceExhausted),
            ..refused
        })
    }

    /// The connection that said HELLO carries the primary lane from now on.
    pub(in crate::kit) fn attach(
        &mut self,
        mut welcome: Welcome,
        greeter: Greeter,
        bindings: Vec<ResumedBind>,
        cx: &mut Context,
    ) {
        let key = welcome.key;
        let session = self.all.resolve_mut(key);
        let mut lane = greeter.lane;
        session.peer = welcome.peer;
        session.subprotocol = greeter.subprotocol;
        session.tickets.void_all();
        session.promise = welcome.promise;
        session.busy_at = cx.now;
        let (quiet, _) = session.patience(&cx.config);
        // What was agreed on lasts as long as the streams do.
        let terms = session.mux().map(|mux| *mux.terms());
        match terms.filter(|_| welcome.goes_on.is_some()) {
            Some(terms) => welcome.terms = terms,
            None => {
                session.granted = welcome.lanes;
                session.capabilities =
                    capabilities(welcome.lanes, &welcome.terms, welcome.services);
                session.epoch += 1;
            }
        }
        let answer = session.answer(&welcome, bindings, cx);
        lane.say(&answer);
        match welcome.goes_on {
            Some(received) => session.go_on(lane, received, cx.now),
            None => session.attach(lane, welcome.terms, cx.now),
        }
        let word = match (welcome.resumed, welcome.goes_on) {
            (true, Some(_)) => "resumed with its streams",
            (true, None) => "resumed",
            (false, _) => "opened",
        };
        info!(
            "session {} {word} from {}",
            session.short_id(),
            session.peer.ip()
        );
        match welcome.resumed {
            true => cx.metrics.session_resumed(),
            false => cx.metrics.session_opened(),
        }
        let timers = &mut cx.effects.timers;
        timers.disarm(Reason::Grace(key));
        timers.arm(Reason::Lanes(key), cx.now + quiet);
        timers.arm(Reason::Idle(key), cx.now + cx.config.idle_timeout);
        // Somebody has to look whom it wakes.
        self.mux_mut(key);
    }

    /// The connection that said JOIN carries a lane from now on.
    pub(in crate::kit) fn join(&mut self, joining: &Joining, greeter: Greeter, cx: &mut Context) {
        let (key, index) = (joining.session, joining.index);
        let mut lane = greeter.lane;
        if let Some(mux) = self.mux_mut(key) {
            let anew = joining.received.is_none();
            let answer = JoinOk {
                index: index as u32,
                received: joining.received.map(|_| mux.lanes().received(index)),
                data_received: anew.then(|| mux.lanes().data_received(index)),
                credit_received: mux.lanes().credit_received(index).filter(|_| anew),
                instance: mux.lanes().keeps_streams().then(|| cx.instance()),
            };
            lane.say(&answer);
            match joining.received.filter(|_| !mux.lanes().is_unused(index)) {
                Some(received) => mux.resume(index, lane, received, cx.now),
                None => mux.attach(index, lane),
            }
        }
        self.send_shard_map(key);
    }

    /// REISSUE_JOIN_TICKETS (PROTOCOL §7). A lane that the client has given up is over here too:
    /// its end may never come through.
    pub(super) fn reissue_tickets(
        &mut self,
        key: SessionKey,
        request: &ReissueRequest,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        for missing in &request.missing {
            let index = missing.index as usize;
            let mux = self.mux(key);
            let joined = mux.and_then(|mux| mux.lanes().ticket(index));
            let is_it = joined.is_some_and(|nonce| nonce.matches(missing.nonce.expose()));
            if is_it && mux.is_some_and(|mux| mux.lanes().stands(index)) {
                self.lane_ended(key, index, "the client gave the connection up", conns, cx);
            }
        }
        let Some(session) = self.get_mut(key).filter(|it| !it.is_parked()) else {
            return;
        };
        let missing = session.missing_lanes(&[]);
        let answer = ReissueAnswer {
            join_tickets: session.give_tickets(&missing, cx),
        };
        self.say(key, &answer);
    }

    /// Tells which lanes there are.
    pub(super) fn send_shard_map(&mut self, key: SessionKey) {
        if let Some(map) = self.get(key).and_then(KitSession::shard_map) {
            self.say(key, &map);
        }
    }
}

/// What a client promised about its sending, where that can be meant.
fn promise(millis: u64) -> Option<Duration> {
    let span = Duration::from_millis(millis);
    (PROMISE_MIN..=PROMISE_MAX).contains(&span).then_some(span)
}

impl KitSession {
    /// The rights to join lanes that are missing.
    fn give_tickets(&mut self, missing: &[usize], cx: &mut Context) -> Vec<JoinTicket> {
        match self.capabilities.have(Capabilities::REPLAY) {
            true => self.tickets.replace(missing, &mut cx.entropy, cx.now),
            false => self.tickets.renew(missing, &mut cx.entropy, cx.now),
        }
    }

    /// HELLO_OK.
    fn answer(
        &mut self,
        welcome: &Welcome,
        mut bindings: Vec<ResumedBind>,
        cx: &mut Context,
    ) -> HelloOk {
        if welcome.terms.replay.is_none() {
            bindings.iter_mut().for_each(|it| it.client_bind_ref = None);
        }
        let missing = self.missing_lanes(&welcome.kept);
        let join_tickets = self.give_tickets(&missing, cx);
        let is_v2 = self.subprotocol == Subprotocol::V2;
        let keeps = welcome.terms.replay;
        let taken = self.mux().map(|mux| mux.lanes().received(0));
        HelloOk {
            session_id: SessionId::new(self.id().to_owned()),
            resumed: welcome.resumed,
            resumed_binds: bindings,
            stream_window: welcome.terms.stream_window,
            session_window: welcome.terms.session_window,
            connections_granted: is_v2.then_some(self.granted as u32),
            join_tickets,
            capabilities: self.capabilities,
            max_streams: Some(welcome.terms.max_streams as u32),
            replay_buffer: keeps.map(|replay| replay.keeps.into()),
            epoch: self.told_epoch(),
            received: taken.filter(|_| welcome.goes_on.is_some()),
            lanes: welcome.kept.clone(),
            instance: keeps.map(|_| cx.instance()),
        }
    }
}

/// `S-` and a random UUID of version 4 (RFC 9562 §5.4).
fn session_id(entropy: &mut Entropy) -> String {
    let mut octets = entropy.octets::<16>();
    octets[6] = octets[6] & 0x0F | 0x40;
    octets[8] = octets[8] & 0x3F | 0x80;
    let text = super::hex(&octets);
    let (a, b, c, d, e) = (
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    );
    format!("S-{a}-{b}-{c}-{d}-{e}")
}
