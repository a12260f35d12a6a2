//! Connections that were told all they will be told, and linger so that they hear it.
//!
//! A close with unread bytes is a reset, which may destroy the last words on their way; so whoever
//! was answered for good stays until it closes, or a few seconds. It is owed nothing more: the
//! class has a cap, at which the oldest goes, and whoever wants a descriptor gets theirs first.

use std::collections::VecDeque;

use crate::machine::ConnKey;

/// Connections that began to leave, oldest first, and some that are gone by now.
#[derive(Debug, Default)]
pub(super) struct Leaving(VecDeque<ConnKey>);

impl Leaving {
    pub(super) fn add(&mut self, conn: ConnKey) {
        self.0.push_back(conn);
    }

    /// The oldest of those that `stands` says are still there. Those before it are forgotten.
    pub(super) fn oldest(&mut self, stands: impl Fn(ConnKey) -> bool) -> Option<ConnKey> {
        while let Some(conn) = self.0.front().copied() {
            if stands(conn) {
                return Some(conn);
            }
            self.0.pop_front();
        }
        None
    }

    /// Forgets those that are gone once they are many against the `standing`.
    pub(super) fn tidy(&mut self, standing: usize, stands: impl Fn(ConnKey) -> bool) {
        if self.0.len() > 2 * standing + 64 {
            self.0.retain(|conn| stands(*conn));
        }
    }
}
