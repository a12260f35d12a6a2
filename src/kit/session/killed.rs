//! Whom the operator has sent away for good: who was not there to hear it hears it when it comes.

use std::collections::VecDeque;

use crate::limits::MAX_KILLED_KEPT;
use crate::wire::control::SessionId;

/// Ids of sessions that the operator has ended, oldest first. Where as many are as may be, the
/// oldest is forgotten: its client, if it ever comes back, gets a new session.
#[derive(Debug, Default)]
pub(super) struct Killed(VecDeque<SessionId>);

impl Killed {
    pub(super) fn note(&mut self, id: SessionId) {
        if self.has(id.as_str()) {
            return;
        }
        if self.0.len() >= MAX_KILLED_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|killed| killed.as_str() == id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &SessionId> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_and_the_oldest_is_forgotten_first() {
        let mut killed = Killed::default();
        let id = |n: usize| format!("S-{n}");
        // One that is killed twice takes one place.
        for n in [0].into_iter().chain(0..=MAX_KILLED_KEPT) {
            killed.note(SessionId::new(id(n)));
        }
        assert_eq!(killed.ids().count(), MAX_KILLED_KEPT);
        assert!(!killed.has(&id(0)));
        assert!(killed.has(&id(1)) && killed.has(&id(MAX_KILLED_KEPT)));
    }
}
