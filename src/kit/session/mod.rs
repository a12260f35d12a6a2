//! Sessions: opened, resumed, parked and ended (PROTOCOL §2, §6), with their lanes (§7).
//!
//! [`Sessions`] owns them and is told what comes on their lanes. What of it is for others comes
//! out: a frame for a stream or about a port as [`Arrived`], who may send again from
//! [`Sessions::next_sender`], and what hung on a session that is gone as [`Fallout`]. The
//! dispatcher asks for all three until there is none.
//!
//! The room knows connections, for its lanes are some, and neither visitors nor listeners: a stream
//! is named by the key of its connection, and a port by that of its binding.
//!
//! | file | part |
//! | --- | --- |
//! | `entry` | one session, and whether it is attached or parked |
//! | `attach`, `tickets` | HELLO and JOIN |
//! | `returning` | who comes back with all its streams (PROTOCOL §9) |
//! | `frames` | what comes on a lane |
//! | `lanes` | lanes that fall silent, streams that stand still |
//! | `end` | park, kill, end |
//! | `killed` | whom the operator has sent away for good |
//!
//! Invariants: a session is found by its id; one that holds no lane is parked or gone; whose mux
//! may have somebody to wake is listed.

mod attach;
mod end;
mod entry;
mod frames;
mod killed;
mod lanes;
mod returning;
mod tickets;

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Instant;
use crate::kit::conns::{LaneName, Lanes};
use crate::kit::context::Context;
use crate::kit::keys::{SessionKey, SessionMark};
use crate::kit::memory::Pool;
use crate::limits::{LANE_SILENT_AFTER, SWEEP_EVERY};
use crate::machine::ConnKey;
use crate::mux::{Channel, Session, Span, Swept, Transport, Wake};
use crate::outflow::Loan;
use crate::table::Table;
use crate::wire::control::{self, SessionId};

use super::Reason;
pub(super) use end::{End, Fallout, Over, RESTARTING};
pub(super) use entry::{KitSession, Mux};
pub(super) use frames::Arrived;
use killed::Killed;

/// All sessions. Whoever changes the mux of one gets it here, so that none is forgotten whose mux
/// then has somebody to wake.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Table<SessionMark, KitSession>,
    by_id: BTreeMap<String, SessionKey>,
    /// Those whose mux may have changed.
    touched: Vec<SessionKey>,
    /// The one among them whose wakes are being told.
    waking: Option<SessionKey>,
    /// What all of them hold beyond their first windows.
    pool: Pool,
    /// What others have to see to.
    fallout: VecDeque<Fallout>,
    /// Those that the operator has ended.
    killed: Killed,
}

impl Sessions {
    /// None yet, and at most so many, which share the pool.
    pub(super) fn new(limit: usize, pool: Pool) -> Sessions {
        Sessions {
            all: Table::new(limit),
            by_id: BTreeMap::new(),
            touched: Vec::new(),
            waking: None,
            pool,
            fallout: VecDeque::new(),
            killed: Killed::default(),
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

    /// Whether the operator has ended a session of this id, so that its client is not wanted back.
    pub(super) fn is_killed(&self, id: &str) -> bool {
        self.killed.has(id)
    }

    /// The ids of those, for a successor of the kit.
    pub(super) fn killed(&self) -> impl Iterator<Item = &SessionId> {
        self.killed.ids()
    }

    /// A session that the operator had the kit before end.
    pub(super) fn inherit_killed(&mut self, id: SessionId) {
        self.killed.note(id);
    }

    /// The mux to look at, of a session that is attached.
    pub(super) fn mux(&self, key: SessionKey) -> Option<&Mux> {
        self.all.get(key)?.mux()
    }

    /// Whether its client promised signs of life so often that it is silent where they do not come.
    pub(in crate::kit) fn is_promised_to_be_heard(&self, key: SessionKey) -> bool {
        let session = self.all.get(key);
        let promise = session.and_then(|session| session.promise);
        promise.is_some_and(|often| often < LANE_SILENT_AFTER)
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
        self.all.get_mut(key)?.mux_mut()?.lanes_mut().get_mut(index)
    }

    /// What a lane has to say next.
    pub(super) fn transmit(&mut self, key: SessionKey, index: usize) -> &[u8] {
        let mux = self.mux(key);
        if mux.is_some_and(|mux| mux.lanes().sends_again(index)) {
            // Behind what is sent again there may be room for those who wait.
            self.mux_mut(key);
        }
        let mux = self.all.get_mut(key).and_then(KitSession::mux_mut);
        mux.map_or(&[], |mux| mux.transmit(index))
    }

    /// The system took `count` bytes of what a lane had to say.
    pub(super) fn transmitted(&mut self, key: SessionKey, index: usize, count: usize) {
        if let Some(mux) = self.mux_mut(key) {
            mux.transmitted(index, count);
        }
    }

    /// Sends a session frame on the primary lane, if it has one.
    pub(super) fn say<P: control::ControlPayload>(&mut self, key: SessionKey, payload: &P) {
        if let Some(mux) = self.mux_mut(key) {
            mux.say(payload);
        }
    }

    /// Looks after sessions whose mux may have changed, and wakes their lanes. Gives who else may
    /// go on, one at a time: whose stream found no room or no credit.
    pub(super) fn next_sender(&mut self, cx: &mut Context) -> Option<ConnKey> {
        loop {
            let key = self.waking.or_else(|| self.next_touched(cx))?;
            let mux = self.all.get_mut(key).and_then(KitSession::mux_mut);
            let wake = mux.and_then(Session::poll_wake);
            self.waking = wake.is_some().then_some(key);
            match wake {
                Some(Wake::Lane(conn)) => cx.effects.wake(conn),
                Some(Wake::LaneLast(conn)) => cx.effects.wake_last(conn),
                Some(Wake::Sender(conn)) => return Some(conn),
                None => {}
            }
        }
    }

    fn next_touched(&mut self, cx: &mut Context) -> Option<SessionKey> {
        let key = self.touched.pop()?;
        let session = self.all.resolve_mut(key);
        session.touched = false;
        session.note_use(cx.now);
        if let Some(at) = session.mux().and_then(|mux| mux.lanes().acknowledges_at()) {
            cx.effects.timers.arm_if_unset(Reason::Acks(key), at);
        }
        if session.mux().is_some_and(|mux| !mux.streams().is_empty()) {
            let at = cx.now + SWEEP_EVERY;
            cx.effects.timers.arm_if_unset(Reason::Sweep(key), at);
        }
        self.reckon(key);
        Some(key)
    }

    /// Tells the pool what a session holds, and the session what it may.
    pub(super) fn reckon(&mut self, key: SessionKey) {
        if let Some(session) = self.all.get_mut(key)
            && let Some(mux) = session.mux_mut()
        {
            let after = mux.beyond_window();
            let before = std::mem::replace(&mut session.beyond, after);
            self.pool.update(before, after);
            let budget = self.pool.budget(after);
            if let Some(mux) = session.mux_mut() {
                mux.set_budget(budget);
            }
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
                mux.lanes_mut().forgive_silence(now);
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
        let id = session.id().to_owned();
        let key = self.all.insert(session).ok()?;
        self.by_id.insert(id, key);
        Some(key)
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<KitSession> {
        let session = self.all.remove(key)?;
        self.by_id.remove(session.id());
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
        self.muxes().map(|mux| mux.streams().len()).sum()
    }

    /// Whether nothing waits in any lane.
    pub(super) fn are_flushed(&self) -> bool {
        self.muxes().all(|mux| mux.lanes().are_flushed())
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
            assert_eq!(self.by_id.get(session.id()), Some(&key), "found by its id");
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

impl Lanes for Sessions {
    fn payload(&self, (session, lane): LaneName, span: &Span) -> &[u8] {
        let mux = self.mux(session);
        mux.map_or(&[], |mux| mux.payload(lane, span))
    }

    fn lend(&self, (session, lane): LaneName, span: &Span) -> Option<Loan> {
        let mux = self.mux(session)?;
        Some(mux.lend(lane, span))
    }
}

fn hex(octets: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        // A String takes any text.
        let _ = write!(text, "{octet:02x}");
    }
    text
}
