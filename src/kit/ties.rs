//! How the tables of the kit's parts must fit each other, and what they hold together.
//!
//! What holds inside one part is that part's own to check.

use crate::kit::conns::Role;
use crate::mux::Account;

use super::{Kit, Reason};

impl Kit {
    /// Whether the pieces fit each other; run after every entry in debug builds.
    pub fn check_invariants(&self) {
        self.sessions.check_invariants();
        self.conns.check_invariants();
        self.check_roles();
        self.ports.check_invariants(&self.sessions);
        for (key, session) in self.sessions.iter() {
            let (until, grace) = (session.parked_until(), Reason::Grace(key));
            let waits = until.is_some() && until != self.cx.effects.timers.deadline(grace);
            assert!(!waits, "a parked session that waits for ever");
        }
        for mux in self.sessions.muxes() {
            let peers = &self.streams.peers;
            let serves = |conn| match self.conns.role(conn) {
                Some(role) => role.has_stream(),
                None => peers.knows(conn),
            };
            assert!(mux.streams().tags().all(serves), "a stream of nobody's");
        }
        self.streams.peers.check_invariants(&self.sessions);
        let conns: Vec<_> = self.conns.iter().map(|(key, _)| key).collect();
        let timers = &self.cx.effects.timers;
        let (visitors, callers) = (&self.streams.visitors, &self.streams.callers);
        visitors.check_held(conns.iter(), |reason| timers.deadline(reason));
        callers.check_held(conns.iter(), |reason| timers.deadline(reason));
        let held = self.conns.len() + self.ports.len();
        assert_eq!(
            self.conns.budget.used(),
            held,
            "permits and descriptors differ"
        );
    }

    /// Whether every connection is known to the part that its role names, and to no other.
    fn check_roles(&self) {
        let (mut standing, mut sides) = (0, 0);
        let guarded = self.cx.config.token.is_some();
        for (key, entry) in self.conns.iter() {
            let stands = self.front.standing(key, entry, guarded);
            let noted = self.conns.admission.get(key);
            assert_eq!(noted, stands, "the front has an old standing of {key:?}");
            standing += usize::from(stands.is_some());
            let known = match entry.role {
                Role::Front | Role::Greeter => self.front.knows(key, entry.role),
                Role::Visitor | Role::Caller | Role::Forward => self.streams.knows(key, entry.role),
                Role::Leaving { .. } => continue,
                Role::Lane(session, index) => {
                    let mux = self.sessions.mux(session);
                    let lane = mux.and_then(|mux| mux.lanes().get(index)?.conn());
                    assert_eq!(lane, Some(key), "a lane of nobody's");
                    continue;
                }
            };
            assert!(known, "{key:?} of a part that does not know it");
            sides += 1;
        }
        assert_eq!(
            standing,
            self.conns.admission.len(),
            "a ghost in the admission"
        );
        assert_eq!(
            sides,
            self.front.len() + self.streams.len(),
            "a ghost in a part"
        );
    }

    /// Bytes that are held for peers: what no local side has taken, lanes' buffers, waiting heads.
    pub fn held(&self) -> usize {
        let muxes = self.sessions.muxes();
        let held = muxes.map(|mux| {
            let lanes = mux.lanes().iter().map(|(_, lane)| lane.capacity());
            mux.buffered() + lanes.sum::<usize>()
        });
        self.conns.heads().total() + held.sum::<usize>()
    }

    /// The account of the session with this id, if it is attached.
    pub fn account(&self, id: &str) -> Option<Account> {
        let mut sessions = self.sessions.iter().filter(|it| it.1.id() == id);
        Some(sessions.next()?.1.mux()?.account())
    }

    /// Sessions, streams, connections and timers that are left: all zero after a drain.
    pub fn leftovers(&self) -> [usize; 4] {
        [
            self.sessions.len(),
            self.sessions.stream_count(),
            self.conns.len(),
            self.cx.effects.timers.len(),
        ]
    }
}
