//! Handlers that live in this process: user code on threads, behind a socket pair.
//!
//! The machine sees a connection like any other. The handler gets the other end and may block on
//! it, because it runs on a thread of a small pool.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::limits::{HANDLER_IDLE, HANDLER_THREADS};

/// Serves one connection, and closes it by dropping it.
pub type Handler = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// The handlers and their threads.
pub(super) struct Handlers {
    handlers: Vec<Handler>,
    pool: Arc<Pool>,
}

struct Pool {
    state: Mutex<State>,
    /// A job came, or the pool closes.
    news: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Job {
    handler: Handler,
    conn: UnixStream,
}

impl Handlers {
    pub fn new(handlers: Vec<Handler>) -> Handlers {
        Handlers {
            handlers,
            pool: Arc::new(Pool {
                state: Mutex::new(State::default()),
                news: Condvar::new(),
            }),
        }
    }

    /// A new connection to handler `number`: our end of it.
    pub fn dial(&self, number: u32) -> io::Result<UnixStream> {
        let Some(handler) = self.handlers.get(number as usize) else {
            let text = format!("there is no handler {number}");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        self.pool.run(Job {
            handler: Arc::clone(handler),
            conn: theirs,
        })?;
        Ok(ours)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        // Threads that wait end now; those in user code end when that returns.
        let mut state = self.pool.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.pool.news.notify_all();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // User code never runs under the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: &Arc<Pool>, job: Job) -> io::Result<()> {
        let mut state = self.lock();
        if state.idle <= state.jobs.len() && state.threads < HANDLER_THREADS {
            let pool = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name("handler".into())
                .spawn(move || pool.work());
            match spawned {
                Ok(_) => state.threads += 1,
                // With any thread at all the job only waits a little longer.
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A panic in user code costs its connection, which unwinding drops, and no thread.
                let Job { handler, conn } = job;
                let _ = catch_unwind(AssertUnwindSafe(|| handler(conn)));
                drop(handler);
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, outcome) = self
                .news
                .wait_timeout(state, HANDLER_IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if outcome.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}
