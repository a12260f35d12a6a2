//! One session as the kit keeps it.

use std::net::SocketAddr;
use std::time::Duration;

use log::info;

use crate::clock::Instant;
use crate::kit::config::Config;
use crate::kit::handover::{HandedBinding, HandedSession};
use crate::kit::keys::BindingKey;
use crate::limits::{EPOCHS_AHEAD, MAX_LANES, PROMISE_SLACK};
use crate::machine::ConnKey;
use crate::mux::{Session, Terms, Traffic, Transport};
use crate::text::said;
use crate::wire::control::{Capabilities, SessionId, Shard, ShardMap};
use crate::ws::Subprotocol;

use super::tickets::Tickets;

/// A session's lanes and streams; a stream is named by its visitor's or caller's connection.
pub(in crate::kit) type Mux = Session<ConnKey>;

/// A tunnel session as the kit keeps it: it outlives its lanes.
#[derive(Debug)]
pub(in crate::kit) struct KitSession {
    id: String,
    /// Used only while it is attached; what it counted is asked for any time.
    mux: Box<Mux>,
    state: State,
    pub(in crate::kit) bindings: Vec<BindingKey>,
    next_bind_id: u64,
    /// The last one that its client was told of by HELLO_OK: of the others BIND_OK tells, in order.
    first_bind_ids: u64,
    pub(in crate::kit) peer: SocketAddr,
    pub(in crate::kit) subprotocol: Subprotocol,
    pub(in crate::kit) granted: usize,
    pub(super) tickets: Tickets,
    /// How often its client sends something at least, if it said so.
    pub(super) promise: Option<Duration>,
    since: Instant,
    /// When it was last seen with a stream or a binding.
    pub(super) busy_at: Instant,
    /// Whether it had a stream or a binding when it was last looked at.
    was_busy: bool,
    /// Whether it was told to go, and lets its streams finish.
    pub(super) closing: Closing,
    /// It is among the touched.
    pub(super) touched: bool,
    /// What the memory pool knows it to hold beyond its first window.
    pub(super) beyond: u32,
    /// What was granted of the client's capabilities.
    pub(super) capabilities: Capabilities,
    /// New whenever it is resumed without its streams (PROTOCOL §9).
    pub(super) epoch: u64,
    /// Of the HELLO that opened or resumed it last; each of a client has a higher one.
    pub(super) attempt: Option<u64>,
}

/// What a session was told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Nothing.
    No,
    /// That its client may come back.
    ForNow,
    /// That it is not wanted back.
    ForGood,
}

/// How a session is; its mux lasts in either state.
#[derive(Debug)]
enum State {
    /// Its primary lane stands, or others do and the primary is waited for (PROTOCOL §9).
    Attached,
    /// It has no lanes, and waits for its client with its streams (PROTOCOL §9).
    Waiting { until: Instant },
    /// It has no lanes, and waits for its client without any stream.
    Parked { until: Instant },
}

impl KitSession {
    /// A session that nothing is attached to yet.
    pub(super) fn new(id: String, peer: SocketAddr, terms: Terms, now: Instant) -> KitSession {
        KitSession {
            id,
            mux: Box::new(Session::new(terms, now)),
            state: State::Parked { until: now },
            bindings: Vec::new(),
            next_bind_id: 0,
            first_bind_ids: 0,
            peer,
            subprotocol: Subprotocol::V1,
            granted: 1,
            tickets: Tickets::default(),
            promise: None,
            since: now,
            busy_at: now,
            was_busy: false,
            closing: Closing::No,
            touched: false,
            beyond: 0,
            capabilities: Capabilities::NONE,
            epoch: 0,
            attempt: None,
        }
    }

    pub(in crate::kit) fn id(&self) -> &str {
        &self.id
    }

    /// The id as logs may show it: it is a capability.
    pub(in crate::kit) fn short_id(&self) -> &str {
        self.id.get(..SHORT_ID).unwrap_or("S-?")
    }

    /// Its lanes and streams, unless it is parked without any.
    pub(in crate::kit) fn mux(&self) -> Option<&Mux> {
        (!matches!(self.state, State::Parked { .. })).then_some(&*self.mux)
    }

    /// Only for [`Sessions`](super::Sessions), which keep note of whose mux may have something to
    /// tell.
    pub(super) fn mux_mut(&mut self) -> Option<&mut Mux> {
        (!matches!(self.state, State::Parked { .. })).then_some(&mut *self.mux)
    }

    /// Its client is there, or there again, and what they agreed on.
    pub(super) fn attach(&mut self, primary: Transport, terms: Terms, now: Instant) {
        self.mux.restart(terms, now);
        self.mux.attach(0, primary);
        self.first_bind_ids = self.next_bind_id;
        self.state = State::Attached;
    }

    /// Its client is there again, and has taken so many frames of the primary lane: its streams go
    /// on.
    pub(super) fn go_on(&mut self, primary: Transport, received: u64, now: Instant) {
        self.mux.resume(0, primary, received, now);
        self.state = State::Attached;
    }

    /// A lane has lost its connection, and its streams wait for the next one. With its last lane
    /// the session waits too.
    pub(super) fn lose_lane(
        &mut self,
        index: usize,
        now: Instant,
        until: Instant,
    ) -> Option<Transport> {
        let lane = self.mux.suspend(index, now);
        if self.mux.lanes().is_empty() {
            self.state = State::Waiting { until };
        }
        lane
    }

    /// Whether its streams wait for their lanes, where lanes are lost (PROTOCOL §9).
    pub(super) fn keeps_streams(&self) -> bool {
        self.mux().is_some_and(|mux| mux.lanes().keeps_streams())
    }

    /// Whether there is anything to wait for.
    pub(super) fn is_worth_waiting_for(&self) -> bool {
        self.closing == Closing::No && self.is_busy()
    }

    /// Has it wait for its client. Gives its connections and what hung on their streams, if it was
    /// attached until now.
    pub(super) fn park(&mut self, until: Instant) -> Option<(Vec<Transport>, Vec<ConnKey>)> {
        let before = std::mem::replace(&mut self.state, State::Parked { until });
        if matches!(before, State::Parked { .. }) {
            return None;
        }
        let (mut lanes, mut lost) = (Vec::new(), Vec::new());
        for index in 0..MAX_LANES {
            let (lane, tags) = self.mux.detach(index);
            lanes.extend(lane);
            lost.extend(tags);
        }
        self.mux.release_idle();
        Some((lanes, lost))
    }

    /// Frames and DATA bytes so far.
    pub(in crate::kit) fn traffic(&self) -> Traffic {
        self.mux.traffic()
    }

    /// How long it waits for its client, if it does.
    pub(in crate::kit) fn parked_until(&self) -> Option<Instant> {
        match self.state {
            State::Attached => None,
            State::Waiting { until } | State::Parked { until } => Some(until),
        }
    }

    /// Whether it takes new streams.
    pub(in crate::kit) fn is_open(&self) -> bool {
        self.closing == Closing::No && !self.is_parked()
    }

    /// Whether its client may have the kit connect (PROTOCOL §8).
    pub(in crate::kit) fn may_forward(&self) -> bool {
        self.capabilities.have(Capabilities::FORWARD)
    }

    /// Whether its client is away and may come back.
    pub(in crate::kit) fn is_awaited(&self) -> bool {
        self.closing == Closing::No && self.is_parked()
    }

    pub(in crate::kit) fn is_parked(&self) -> bool {
        self.parked_until().is_some()
    }

    /// After how much silence its client is pinged, and how long it then has to answer. One that
    /// promised to be heard is missed sooner (PROTOCOL §6), never later.
    pub(super) fn patience(&self, config: &Config) -> (Duration, Duration) {
        let (quiet, patience) = (config.ping_after, config.pong_timeout);
        let Some(promise) = self.promise else {
            return (quiet, patience);
        };
        let asked = (promise * 3 / 2).min(quiet);
        let rest = (promise * 3 + PROMISE_SLACK).saturating_sub(asked);
        (asked, rest.min(patience))
    }

    fn is_busy(&self) -> bool {
        !self.bindings.is_empty() || self.mux().is_some_and(|mux| !mux.streams().is_empty())
    }

    /// Its idleness begins when the last stream or binding ends, not when it was last looked at.
    pub(super) fn note_use(&mut self, now: Instant) {
        let is_busy = self.is_busy();
        if std::mem::replace(&mut self.was_busy, is_busy) || is_busy {
            self.busy_at = now;
        }
    }

    /// Which BIND_OK told of this binding, since counts began: the 0th is no such frame.
    pub(in crate::kit) fn bind_ok_of(&self, bind_id: u64) -> u64 {
        bind_id.saturating_sub(self.first_bind_ids)
    }

    pub(in crate::kit) fn next_bind_id(&mut self) -> u64 {
        self.next_bind_id += 1;
        self.next_bind_id
    }

    /// What a successor of the kit has to know of it, unless it is about to go.
    pub(in crate::kit) fn handed(&self, bindings: Vec<HandedBinding>) -> Option<HandedSession> {
        (self.closing == Closing::No).then(|| HandedSession {
            session_id: SessionId::new(self.id.as_str()),
            peer: self.peer,
            epoch: self.epoch,
            attempt: self.attempt,
            last_bind_id: self.next_bind_id,
            bindings,
        })
    }

    /// It begins its counts where another kit has ended them.
    pub(super) fn goes_on_after(&mut self, handed: &HandedSession) {
        self.next_bind_id = handed.last_bind_id;
        // It may have given more of them out since it told this.
        self.epoch = handed.epoch + EPOCHS_AHEAD;
        self.attempt = handed.attempt;
    }

    /// The indexes of lanes that it may have and that do not stand, but for the primary and those
    /// that are `kept`.
    pub(super) fn missing_lanes(&self, kept: &[u32]) -> Vec<usize> {
        let stands =
            |index: &usize| self.mux.lanes().stands(*index) || kept.contains(&(*index as u32));
        (1..self.granted).filter(|index| !stands(index)).collect()
    }

    /// Which lanes there are, while it is attached.
    pub(super) fn shard_map(&self) -> Option<ShardMap> {
        let mux = self.mux()?;
        let shard = |index: usize| {
            let stands = mux.lanes().stands(index);
            Shard {
                index: index as u32,
                state: if stands { "open" } else { "missing" }.to_owned(),
            }
        };
        let connections = (0..self.granted).map(shard).collect();
        Some(ShardMap { connections })
    }

    pub(super) fn log_end(&self, why: &str, now: Instant) {
        let (bytes_in, bytes_out) = self.mux.lanes().bytes();
        info!(
            "session {} ended after {:?}: {}; {bytes_in} bytes in, {bytes_out} out",
            self.short_id(),
            now.since(self.since),
            said(why),
        );
    }

    pub(super) fn check_invariants(&self) {
        self.mux.check_invariants();
        let (primary, lanes) = (self.mux.lanes().stands(0), self.mux.lanes().iter().count());
        match self.state {
            State::Attached => {
                let others = lanes > 0 && self.keeps_streams();
                assert!(primary || others, "an attached session without lanes");
            }
            State::Waiting { .. } | State::Parked { .. } => {
                assert!(lanes == 0, "a parked session with lanes");
            }
        }
    }
}

/// How much of an id is shown: `S-` and eight digits.
const SHORT_ID: usize = 10;
