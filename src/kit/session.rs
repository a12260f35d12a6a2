//! The sessions that there are, and which of them have something to tell.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::clock::Instant;
use crate::kit::keys::{BindingKey, SessionKey, SessionMark};
use crate::kit::memory::Pool;
use crate::limits::MAX_LANES;
use crate::machine::ConnKey;
use crate::mux::{Channel, Session, Swept, Terms, Traffic, Transport, Wake};
use crate::table::Table;
use crate::wire::control::{self, Secret};
use crate::ws::Subprotocol;

/// A session's lanes and streams; a stream is named by its visitor's or caller's connection.
pub(super) type Mux = Session<ConnKey>;

/// The right to join one lane, once.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) index: usize,
    pub(super) nonce: Secret,
    pub(super) expires: Instant,
}

/// A tunnel session as the kit keeps it: it outlives its lanes.
#[derive(Debug)]
pub(super) struct KitSession {
    id: String,
    /// Used only while it is attached; what it counted is asked for any time.
    mux: Box<Mux>,
    state: State,
    pub(super) bindings: Vec<BindingKey>,
    next_bind_id: u64,
    pub(super) peer: SocketAddr,
    pub(super) subprotocol: Subprotocol,
    pub(super) granted: usize,
    pub(super) tickets: Vec<Ticket>,
    pub(super) since: Instant,
    /// When it was last seen with a stream or a binding.
    pub(super) busy_at: Instant,
    /// Whether it had a stream or a binding when it was last looked at.
    was_busy: bool,
    /// It was told to go, and lets its streams finish.
    pub(super) closing: bool,
    /// It is among the touched.
    touched: bool,
    /// What the memory pool knows it to hold beyond its first window.
    beyond: u32,
}

/// How a session is; its mux lasts in either state.
#[derive(Debug)]
enum State {
    /// Its primary lane stands.
    Attached,
    /// It has no lanes, and waits for its client.
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
            peer,
            subprotocol: Subprotocol::V1,
            granted: 1,
            tickets: Vec::new(),
            since: now,
            busy_at: now,
            was_busy: false,
            closing: false,
            touched: false,
            beyond: 0,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The id as logs may show it: it is a capability.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..SHORT_ID).unwrap_or("S-?")
    }

    pub(super) fn mux(&self) -> Option<&Mux> {
        matches!(self.state, State::Attached).then_some(&*self.mux)
    }

    /// Only of [`Sessions`], which keep note of whose mux may have something to tell.
    fn mux_mut(&mut self) -> Option<&mut Mux> {
        matches!(self.state, State::Attached).then_some(&mut *self.mux)
    }

    /// Its client is there, or there again, and what they agreed on.
    pub(super) fn attach(&mut self, primary: Transport, terms: Terms, now: Instant) {
        self.mux.restart(terms, now);
        self.mux.attach(0, primary);
        self.state = State::Attached;
    }

    /// Has it wait for its client. Gives its connections and what hung on their streams, if it was
    /// attached until now.
    pub(super) fn park(&mut self, until: Instant) -> Option<(Vec<Transport>, Vec<ConnKey>)> {
        let before = std::mem::replace(&mut self.state, State::Parked { until });
        if !matches!(before, State::Attached) {
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
    pub(super) fn traffic(&self) -> Traffic {
        self.mux.traffic()
    }

    /// Bytes from its client and to it.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.mux.bytes()
    }

    /// How long it waits for its client, if it does.
    pub(super) fn parked_until(&self) -> Option<Instant> {
        match self.state {
            State::Attached => None,
            State::Parked { until } => Some(until),
        }
    }

    /// Whether it takes new streams.
    pub(super) fn is_open(&self) -> bool {
        !self.closing && self.mux().is_some()
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked_until().is_some()
    }

    fn is_busy(&self) -> bool {
        !self.bindings.is_empty() || self.mux().is_some_and(|mux| mux.stream_count() > 0)
    }

    /// Its idleness begins when the last stream or binding ends, not when it was last looked at.
    pub(super) fn note_use(&mut self, now: Instant) {
        let is_busy = self.is_busy();
        if std::mem::replace(&mut self.was_busy, is_busy) || is_busy {
            self.busy_at = now;
        }
    }

    pub(super) fn next_bind_id(&mut self) -> u64 {
        self.next_bind_id += 1;
        self.next_bind_id
    }

    pub(super) fn check_invariants(&self) {
        self.mux.check_invariants();
        let (primary, lanes) = (self.mux.lane(0).is_some(), self.mux.lanes().count());
        match self.state {
            State::Attached => assert!(primary, "an attached session without a primary lane"),
            State::Parked { .. } => assert!(lanes == 0, "a parked session with lanes"),
        }
    }
}

/// All sessions. Whoever changes the mux of one gets it here, so that none is forgotten whose mux
/// then has somebody to wake.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Table<SessionMark, KitSession>,
    by_id: BTreeMap<String, SessionKey>,
    /// Those whose mux may have changed.
    touched: Vec<SessionKey>,
    /// What all of them hold beyond their first windows.
    pool: Pool,
}

impl Sessions {
    /// None yet, and at most so many, which share the pool.
    pub(super) fn new(limit: usize, pool: Pool) -> Sessions {
        Sessions {
            all: Table::new(limit),
            by_id: BTreeMap::new(),
            touched: Vec::new(),
            pool,
        }
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&KitSession> {
        self.all.get(key)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut KitSession> {
        self.all.get_mut(key)
    }

    pub(super) fn with_id(&self, id: &str) -> Option<SessionKey> {
        self.by_id.get(id).copied()
    }

    /// The mux to look at, of a session that is attached.
    pub(super) fn mux(&self, key: SessionKey) -> Option<&Mux> {
        self.all.get(key)?.mux()
    }

    /// The mux to change, of a session that is attached.
    pub(super) fn mux_mut(&mut self, key: SessionKey) -> Option<&mut Mux> {
        let session = self.all.get_mut(key)?;
        if !session.touched && session.mux().is_some() {
            session.touched = true;
            self.touched.push(key);
        }
        session.mux_mut()
    }

    /// A lane to read into or to write from, which wakes nobody: the mux tells what it brought.
    pub(super) fn lane_mut(&mut self, key: SessionKey, index: usize) -> Option<&mut Channel> {
        self.all.get_mut(key)?.mux_mut()?.lane_mut(index)
    }

    /// Sends a session frame on the primary lane, if it has one.
    pub(super) fn say<P: control::ControlPayload>(&mut self, key: SessionKey, payload: &P) {
        if let Some(mux) = self.mux_mut(key) {
            let mut json = Vec::new();
            control::write(payload, &mut json);
            mux.push_control(P::KIND, &json);
        }
    }

    /// One whose mux may have changed since this was last asked.
    pub(super) fn next_touched(&mut self) -> Option<(SessionKey, &mut KitSession)> {
        let key = self.touched.pop()?;
        let session = self.all.resolve_mut(key);
        session.touched = false;
        Some((key, session))
    }

    /// Who may go on in a session that was touched.
    pub(super) fn poll_wake(&mut self, key: SessionKey) -> Option<Wake<ConnKey>> {
        self.all.get_mut(key)?.mux_mut()?.poll_wake()
    }

    /// Tells the pool what a session holds, and the session what it may.
    pub(super) fn reckon(&mut self, key: SessionKey) {
        if let Some(session) = self.all.get_mut(key)
            && matches!(session.state, State::Attached)
        {
            let after = session.mux.beyond_window();
            self.pool.update(session.beyond, after);
            session.mux.set_budget(self.pool.budget(after));
            session.beyond = after;
        }
    }

    /// Has a session's streams make room for each other; false when that does not suffice.
    pub(super) fn relieve_stalled(&mut self, key: SessionKey) -> bool {
        self.reckon(key);
        let mux = self.mux_mut(key);
        let enough = mux.is_none_or(|mux| mux.relieve_stalled());
        self.reckon(key);
        enough
    }

    /// Cuts the stream that has stalled for the longest time: one of the session's own, or where it
    /// has none, of the session that holds most of the pool. None when none has stalled for long
    /// enough.
    pub(super) fn cut_longest_stalled(
        &mut self,
        key: SessionKey,
        now: Instant,
    ) -> Option<(SessionKey, Swept<ConnKey>)> {
        let most = self.iter().max_by_key(|(_, session)| session.beyond);
        let most = most.map(|(key, _)| key);
        let mut from = [Some(key), most].into_iter().flatten();
        from.find_map(|key| Some((key, self.mux_mut(key)?.cut_longest_stalled(now)?)))
    }

    /// Takes a session's lanes, and what hung on their streams, if it was attached until now.
    pub(super) fn leave(
        &mut self,
        key: SessionKey,
        now: Instant,
    ) -> Option<(Vec<Transport>, Vec<ConnKey>)> {
        let session = self.all.get_mut(key)?;
        let left = session.park(now)?;
        self.pool.update(std::mem::take(&mut session.beyond), 0);
        Some(left)
    }

    /// The kit's own clock jumped: silence so far proves nothing, so every lane is asked again.
    pub(super) fn forgive_silence(&mut self, now: Instant) {
        for key in self.keys() {
            if let Some(mux) = self.mux_mut(key) {
                mux.forgive_silence(now);
            }
        }
    }

    /// Gives back what muxes keep for what may come.
    pub(super) fn release_idle(&mut self) {
        for key in self.keys() {
            if let Some(mux) = self.mux_mut(key) {
                mux.release_idle();
            }
        }
    }

    /// Adds one, unless there are as many as may be.
    pub(super) fn insert(&mut self, session: KitSession) -> Option<SessionKey> {
        let id = session.id.clone();
        let key = self.all.insert(session).ok()?;
        self.by_id.insert(id, key);
        Some(key)
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<KitSession> {
        let session = self.all.remove(key)?;
        self.by_id.remove(&session.id);
        if session.touched {
            self.touched.retain(|touched| *touched != key);
        }
        Some(session)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionKey, &KitSession)> {
        self.all.iter()
    }

    pub(super) fn keys(&self) -> Vec<SessionKey> {
        self.all.keys().collect()
    }

    /// Of those that are attached.
    pub(super) fn muxes(&self) -> impl Iterator<Item = &Mux> {
        self.all.iter().filter_map(|(_, session)| session.mux())
    }

    /// Streams of all of them.
    pub(super) fn stream_count(&self) -> usize {
        self.muxes().map(Session::stream_count).sum()
    }

    /// Whether nothing waits in any lane.
    pub(super) fn are_flushed(&self) -> bool {
        self.muxes()
            .all(|mux| mux.lanes().all(|(_, lane)| lane.is_flushed()))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.all.is_full()
    }

    /// Whether every session is found by its id, and nothing else is.
    pub(super) fn check_invariants(&self) {
        for (key, session) in self.all.iter() {
            session.check_invariants();
            assert_eq!(self.by_id.get(&session.id), Some(&key), "found by its id");
            assert_eq!(
                session.touched,
                self.touched.contains(&key),
                "a session whose wakes are forgotten"
            );
        }
        assert_eq!(self.by_id.len(), self.all.len(), "an id's ghost");
        let beyond = |(_, session): (_, &KitSession)| {
            let attached = session.mux();
            let parked = attached.is_none() && session.beyond > 0;
            assert!(!parked, "nothing is held while parked");
            u64::from(attached.map_or(0, |mux| mux.beyond_window()))
        };
        let held: u64 = self.all.iter().map(beyond).sum();
        let most = self.pool.size();
        assert!(held <= most, "sessions hold more than the pool has");
    }
}

/// How much of an id is shown: `S-` and eight digits.
const SHORT_ID: usize = 10;
