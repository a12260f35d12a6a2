//! The session that a client keeps, and whether connections carry it.

use crate::client::context::Mux;
use crate::clock::Instant;
use crate::limits::MAX_LANES;
use crate::mux::{Session, Terms};

/// See the module. What it knows of streams and credit outlives its connections.
#[derive(Debug)]
pub(in crate::client) enum Kept {
    /// No kit has given us one yet.
    NotYet,
    /// Connections carry it, or its streams wait for the next ones (PROTOCOL §9).
    Attached(Mux),
    /// It waits for the next connections, as it may wait in the kit.
    Parked(Mux),
}

impl Kept {
    /// The session, where connections carry it or its streams wait.
    pub(in crate::client) fn attached(&self) -> Option<&Mux> {
        match self {
            Kept::Attached(session) => Some(session),
            Kept::NotYet | Kept::Parked(_) => None,
        }
    }

    pub(in crate::client) fn attached_mut(&mut self) -> Option<&mut Mux> {
        match self {
            Kept::Attached(session) => Some(session),
            Kept::NotYet | Kept::Parked(_) => None,
        }
    }

    /// The kit agreed to a session on these terms: the one that was kept begins anew.
    pub(super) fn stands(&mut self, terms: Terms, now: Instant) -> &mut Mux {
        *self = Kept::Attached(match std::mem::replace(self, Kept::NotYet) {
            Kept::NotYet => Session::new(terms, now),
            Kept::Attached(mut session) | Kept::Parked(mut session) => {
                session.restart(terms, now);
                session
            }
        });
        match self {
            Kept::Attached(session) => session,
            _ => unreachable!("it was attached just now"),
        }
    }

    /// The session, where its streams wait for lanes that are lost (PROTOCOL §9).
    pub(super) fn keeps_streams(&self) -> Option<&Mux> {
        self.attached()
            .filter(|session| session.lanes().keeps_streams())
    }

    /// No connection carries it any more, and its streams are gone.
    pub(super) fn park(&mut self) {
        *self = match std::mem::replace(self, Kept::NotYet) {
            Kept::Attached(mut session) => {
                for index in 0..MAX_LANES {
                    session.detach(index);
                }
                Kept::Parked(session)
            }
            other => other,
        }
    }
}
