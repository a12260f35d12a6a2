//! What a session's thread and its users share: events, answers, the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::bound::Binding;
use crate::client::error::Error;
use crate::client::event::SessionEvent;
use crate::client::forwards::Forwarding;
use crate::client::messages::Notice;
use crate::limits::EVENTS_KEPT;
use crate::wire::control::SessionId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<SessionEvent>,
    missed: u64,
    /// Threads that wait for news. A notice that nobody waits for costs no system call.
    waiters: usize,
    /// The session stood at some time.
    stood: bool,
    id: Option<SessionId>,
    /// It has ended, with this error if it failed.
    ended: Option<Option<Error>>,
    /// Calls that wait, by their binding's reference, and what they wait for once it is there.
    binds: Awaited<Binding>,
    connects: Awaited<()>,
    forwards: Awaited<Forwarding>,
    unbinds: Awaited<()>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of the user's runs under the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine told something.
    pub(super) fn tell(&self, notice: Notice) {
        let mut state = self.lock();
        match notice {
            Notice::Events(events) => events.into_iter().for_each(|event| state.push(event)),
            Notice::Session(id) => state.id = Some(id),
            Notice::Bound { reference, outcome } => {
                answer(&mut state.binds, reference, outcome);
            }
            Notice::Forwarding { reference, outcome } => {
                answer(&mut state.forwards, reference, outcome);
            }
            Notice::Connected { reference, outcome } => {
                answer(&mut state.connects, reference, outcome);
            }
            // These are for the host.
            Notice::Heir(_) | Notice::Passed(_) => {}
            Notice::Unbound { reference, outcome } => {
                answer(&mut state.unbinds, reference, outcome);
            }
        }
        self.wake_waiters(state);
    }

    fn wake_waiters(&self, state: MutexGuard<'_, State>) {
        let waited_for = state.waiters > 0;
        drop(state);
        if waited_for {
            self.news.notify_all();
        }
    }

    /// The thread is done; without a [`SessionEvent::Closed`] before, something went wrong.
    pub(super) fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.push(SessionEvent::Closed { error });
        }
        self.wake_waiters(state);
    }

    pub(super) fn id(&self) -> Option<SessionId> {
        self.lock().id.clone()
    }

    /// Waits until `look` finds something, at most for `timeout`.
    fn wait<R>(
        &self,
        timeout: Option<Duration>,
        mut look: impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        let mut found = None;
        let mut missing = |state: &mut State| {
            found = look(state);
            found.is_none()
        };
        let mut state = self.lock();
        if !missing(&mut state) {
            return found;
        }
        state.waiters += 1;
        let mut state = match timeout {
            None => self
                .news
                .wait_while(state, &mut missing)
                .unwrap_or_else(PoisonError::into_inner),
            Some(span) => {
                let waited = self.news.wait_timeout_while(state, span, &mut missing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.waiters -= 1;
        drop(state);
        found
    }

    pub(super) fn wait_online(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let stands = |state: &mut State| match (&state.ended, state.stood) {
            (Some(error), _) => Some(Err(error.clone().unwrap_or_else(closed))),
            (None, true) => Some(Ok(())),
            (None, false) => None,
        };
        self.wait(timeout, stands).unwrap_or_else(|| {
            Err(Error::Timeout(
                "The session did not come about in time.".into(),
            ))
        })
    }

    pub(super) fn wait_closed(&self) -> Result<(), Error> {
        let ended = |state: &mut State| state.ended.clone();
        match self.wait(None, ended) {
            Some(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Waits for the answer to a call, or for the session's end, of which `over` makes one.
    fn answered<T>(
        &self,
        reference: u64,
        of: impl Fn(&mut State) -> &mut Awaited<T>,
        over: impl Fn(Option<Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let look = |state: &mut State| match of(state).get_mut(&reference)?.take() {
            Some(outcome) => Some(outcome),
            None => state.ended.clone().map(&over),
        };
        let outcome = self.wait(None, look);
        of(&mut self.lock()).remove(&reference);
        outcome.unwrap_or_else(|| over(None))
    }

    /// Someone will wait for this bind; said before it is ordered.
    pub(super) fn await_bind(&self, reference: u64) {
        self.lock().binds.insert(reference, None);
    }

    pub(super) fn bound(&self, reference: u64) -> Result<Binding, Error> {
        self.answered(reference, |state| &mut state.binds, failed)
    }

    /// Someone will wait for this connection; said before it is ordered.
    pub(super) fn await_connect(&self, reference: u64) {
        self.lock().connects.insert(reference, None);
    }

    pub(super) fn connected(&self, reference: u64) -> Result<(), Error> {
        self.answered(reference, |state| &mut state.connects, failed)
    }

    /// Someone will wait for this port; said before it is ordered.
    pub(super) fn await_forward(&self, reference: u64) {
        self.lock().forwards.insert(reference, None);
    }

    pub(super) fn forwarding(&self, reference: u64) -> Result<Forwarding, Error> {
        self.answered(reference, |state| &mut state.forwards, failed)
    }

    /// Someone will wait for this unbind; said before it is ordered.
    pub(super) fn await_unbind(&self, reference: u64) {
        self.lock().unbinds.insert(reference, None);
    }

    pub(super) fn unbound(&self, reference: u64) -> Result<(), Error> {
        // What is over holds no bindings.
        self.answered(reference, |state| &mut state.unbinds, |_| Ok(()))
    }

    /// The next event; `None` when none came in time, or none will come.
    pub(super) fn next_event(&self, timeout: Option<Duration>) -> Option<SessionEvent> {
        let next = |state: &mut State| {
            if state.missed > 0 {
                return Some(Some(SessionEvent::Missed(std::mem::take(
                    &mut state.missed,
                ))));
            }
            match state.events.pop_front() {
                Some(event) => Some(Some(event)),
                None => state.ended.is_some().then_some(None),
            }
        };
        self.wait(timeout, next).flatten()
    }
}

impl State {
    fn push(&mut self, event: SessionEvent) {
        match &event {
            SessionEvent::Online { .. } | SessionEvent::Resumed { .. } => self.stood = true,
            SessionEvent::Closed { error } => self.ended = Some(error.clone()),
            _ => {}
        }
        if self.events.len() >= EVENTS_KEPT {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
    }
}

/// Calls that wait for an answer, by the reference that they gave; it is put here.
type Awaited<T> = BTreeMap<u64, Option<Result<T, Error>>>;

fn answer<T>(awaited: &mut Awaited<T>, reference: u64, outcome: Result<T, Error>) {
    if let Some(slot) = awaited.get_mut(&reference) {
        *slot = Some(outcome);
    }
}

fn failed<T>(error: Option<Error>) -> Result<T, Error> {
    Err(error.unwrap_or_else(closed))
}

fn closed() -> Error {
    Error::Closed("the session was closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_make_room_and_are_counted() {
        let shared = Shared::default();
        for attempt in 0..EVENTS_KEPT as u32 + 3 {
            shared.tell(Notice::Events(vec![SessionEvent::Connecting { attempt }]));
        }
        assert_eq!(shared.next_event(None), Some(SessionEvent::Missed(3)));
        let next = shared.next_event(None);
        assert_eq!(next, Some(SessionEvent::Connecting { attempt: 3 }));
    }

    #[test]
    fn whoever_waits_learns_of_the_end() {
        let shared = Shared::default();
        shared.await_bind(1);
        shared.await_unbind(2);
        shared.end(Some(Error::Auth("no".into())));
        shared.end(None);
        assert_eq!(shared.bound(1), Err(Error::Auth("no".into())));
        assert_eq!(shared.unbound(2), Ok(()));
        assert_eq!(shared.wait_closed(), Err(Error::Auth("no".into())));
        assert_eq!(shared.wait_online(None), Err(Error::Auth("no".into())));
        assert!(matches!(
            shared.next_event(None),
            Some(SessionEvent::Closed { .. })
        ));
        assert_eq!(shared.next_event(None), None);
    }
}
