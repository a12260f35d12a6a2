//! The threads that run handlers and read what they answer with.
//!
//! A request waits in line when all threads are busy, and is refused when it has waited for
//! [`HANDLER_WAIT`]: one more thread, the usher, is there for that as long as there is a line.
//! No visitor's address gets more than its share of the threads: the last eighth runs for those
//! who have few. Bodies of responses come first and have a few threads that no handler can take,
//! so that files go on while handlers hang.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::client::handler::messages::Request;
use crate::client::keys::Origin;
use crate::limits::{HANDLER_IDLE, HANDLER_READERS, HANDLER_THREADS, HANDLER_WAIT};
use crate::shares::{Shares, is_plenty, may_hold};

/// What the crew works for: one connection to a handler.
pub(super) trait Job: Send + Sync {
    /// Runs the handler, which may block.
    fn run(self: Arc<Self>, request: Request);
    /// Reads the body of the handler's response, which may block.
    fn read(self: Arc<Self>);
    /// Nobody was free for as long as a request may wait.
    fn refuse(self: Arc<Self>);
}

/// See the module.
pub(in crate::client) struct Crew {
    state: Mutex<State>,
    /// There is something to do, or the crew is dismissed.
    news: Condvar,
    /// The crew is dismissed.
    dismissal: Condvar,
    /// Told for each request that is refused.
    refused: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    asks: VecDeque<(u64, Ask)>,
    /// The number of the next ask.
    next: u64,
    reads: VecDeque<Arc<dyn Job>>,
    threads: usize,
    idle: usize,
    /// Threads that run a handler.
    asking: usize,
    /// For whom they run it.
    shares: Shares<IpAddr>,
    /// The usher is there.
    ushered: bool,
    dismissed: bool,
}

/// A request for a handler.
pub(super) struct Ask {
    job: Arc<dyn Job>,
    request: Request,
    visitor: Origin,
}

impl Ask {
    pub(super) fn new(job: Arc<impl Job + 'static>, request: Request, visitor: Origin) -> Ask {
        Ask {
            job,
            request,
            visitor,
        }
    }
}

impl State {
    /// Takes the first ask out of the line whose visitor may have one more thread.
    fn next_ask(&mut self) -> Option<Ask> {
        let left = HANDLER_THREADS.checked_sub(self.asking + 1)?;
        let may_run = |ask: &Ask| match ask.visitor {
            Some(visitor) => {
                let held = self.shares.of(visitor) + 1;
                may_hold(held, 1, left, HANDLER_THREADS)
            }
            None => true,
        };
        let at = self.asks.iter().position(|(_, ask)| may_run(ask))?;
        let (_, ask) = self.asks.remove(at)?;
        self.asking += 1;
        let visitor = ask.visitor.into_iter();
        visitor.for_each(|visitor| self.shares.take(visitor, 1));
        Some(ask)
    }

    /// A handler has returned.
    fn asked(&mut self, visitor: Origin) {
        self.asking -= 1;
        let visitor = visitor.into_iter();
        visitor.for_each(|visitor| self.shares.give_back(visitor, 1));
    }
}

impl Crew {
    pub(crate) fn new() -> Arc<Crew> {
        Arc::new(Crew {
            state: Mutex::new(State::default()),
            news: Condvar::new(),
            dismissal: Condvar::new(),
            refused: OnceLock::new(),
        })
    }

    /// Whom to tell of refusals.
    pub(crate) fn on_refusal(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.refused.set(Box::new(tell));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // User code never runs under the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a handler run.
    pub(super) fn ask(self: &Arc<Crew>, ask: Ask) {
        let mut state = self.lock();
        if state.dismissed {
            return;
        }
        let number = state.next;
        state.next += 1;
        state.asks.push_back((number, ask));
        self.call(&mut state);
    }

    /// Has the body of a response read. False when there is nobody any more.
    pub(super) fn read(self: &Arc<Crew>, job: Arc<impl Job + 'static>) -> bool {
        let mut state = self.lock();
        if state.dismissed {
            return false;
        }
        state.reads.push_back(job);
        self.call(&mut state);
        true
    }

    /// Threads that wait end now; those in user code end when that returns.
    pub(crate) fn dismiss(&self) {
        let mut state = self.lock();
        state.dismissed = true;
        let left = (
            std::mem::take(&mut state.asks),
            std::mem::take(&mut state.reads),
        );
        drop(state);
        drop(left);
        self.news.notify_all();
        self.dismissal.notify_all();
    }

    /// Finds somebody for what was put into a line.
    fn call(self: &Arc<Crew>, state: &mut State) {
        let may_ask = HANDLER_THREADS.saturating_sub(state.asking);
        let wanted = state.reads.len() + state.asks.len().min(may_ask);
        if state.idle < wanted && state.threads < HANDLER_THREADS + HANDLER_READERS {
            let crew = Arc::clone(self);
            let body = move || crew.work();
            // Without one more the others take it, or the usher refuses it.
            state.threads += usize::from(start("handler", body));
        }
        self.news.notify_one();
        // Each of them can be taken only while plenty is left.
        let plenty = may_ask.checked_sub(state.asks.len());
        let stuck = plenty.is_none_or(|left| !is_plenty(left, HANDLER_THREADS));
        let stuck = stuck || state.threads == 0;
        let busy = state.idle < wanted && state.threads >= HANDLER_THREADS + HANDLER_READERS;
        if !state.asks.is_empty() && (stuck || busy) && !state.ushered {
            let crew = Arc::clone(self);
            state.ushered = start("usher", move || crew.usher());
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.reads.pop_front() {
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(|| job.read()));
                state = self.lock();
                continue;
            }
            if let Some(ask) = state.next_ask() {
                let visitor = ask.visitor;
                drop(state);
                // A panic in user code is caught where it is answered; one of ours costs no thread.
                let run = || ask.job.run(ask.request);
                let _ = catch_unwind(AssertUnwindSafe(run));
                state = self.lock();
                state.asked(visitor);
                continue;
            }
            if state.dismissed {
                break;
            }
            state.idle += 1;
            let (woken, outcome) = self
                .news
                .wait_timeout(state, HANDLER_IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if outcome.timed_out() && state.reads.is_empty() && state.asks.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Refuses those that nobody came for, as long as there is a line.
    fn usher(&self) {
        let mut state = self.lock();
        while !state.asks.is_empty() && !state.dismissed {
            let late = state.next;
            let (woken, _) = self
                .dismissal
                .wait_timeout_while(state, HANDLER_WAIT, |state| !state.dismissed)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            // They stood here when the wait began, so they have waited for all of it.
            while state.asks.front().is_some_and(|(number, _)| *number < late) {
                let Some((_, ask)) = state.asks.pop_front() else {
                    break;
                };
                drop(state);
                ask.job.refuse();
                if let Some(tell) = self.refused.get() {
                    tell();
                }
                state = self.lock();
            }
        }
        state.ushered = false;
    }
}

/// Starts a thread, if the system has one.
fn start(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let spawned = thread::Builder::new().name(name.into()).spawn(body);
    spawned.is_ok()
}
