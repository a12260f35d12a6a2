//! Lines on their way to somebody who may stop reading: a log collector, a pager, a program.
//!
//! What it is for: to print without ever waiting. Standard streams block, and to change that would
//! change it for whoever else holds them, so a small thread writes and the others only queue. The
//! queue is bounded: when nobody reads, lines are dropped and counted, and a line that says how
//! many takes their place.

use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::limits::{
    OUTLET_LAST_WORDS, OUTLET_PATIENCE, OUTLET_PIECE, OUTLET_STACK, SPARE_LINES, VITAL_SHARE,
};

use super::signal;

/// How an outlet behaves.
pub struct Manner {
    /// The name of its thread.
    pub name: &'static str,
    /// Bytes of lines that may wait.
    pub waiting: usize,
    /// Makes the line that stands for so many dropped ones, line end included.
    pub dropped: fn(u64) -> String,
    /// Told once, from the outlet's thread, when what is written cannot be: nobody reads any more,
    /// or a disk is full.
    pub failed: Box<dyn Fn(&io::Error) + Send + Sync>,
}

/// See the module. Dropping it lets its thread go when that has written what waits.
pub struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Lines came, lines were written, or nobody will add any.
    news: Condvar,
    /// All lines that were ever dropped.
    dropped: AtomicU64,
    manner: Manner,
}

struct State {
    queue: Queue,
    /// The thread has lines in its hands.
    writing: bool,
    /// Pieces that were written: whoever waits for the end sees by them that somebody reads.
    pieces: u64,
    /// A write failed, and that was told.
    told: bool,
    /// Nobody reads any more.
    gone: bool,
    /// No line will come.
    closed: bool,
    /// There is no thread: whoever brings a line writes it.
    direct: Option<Box<dyn Write + Send>>,
}

/// Lines that wait.
struct Queue {
    bytes: Vec<u8>,
    most: usize,
    /// Dropped since the lines here were taken last.
    dropped: u64,
}

impl Queue {
    fn new(most: usize) -> Queue {
        Queue {
            bytes: Vec::new(),
            most,
            dropped: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0
    }

    /// Adds a line if there is room; a vital one may use what others must leave. Once a line was
    /// dropped all others follow it until there is room again, so that the gap is in one place.
    fn push(&mut self, line: &[u8], vital: bool) -> bool {
        let most = match vital {
            true => self.most,
            false if self.dropped > 0 => 0,
            false => self.most - self.most / VITAL_SHARE,
        };
        if self.bytes.len() + line.len() > most {
            self.dropped += 1;
            return false;
        }
        self.bytes.extend_from_slice(line);
        true
    }

    /// Moves all lines into `batch`, which is empty, with a line for those that were dropped.
    fn take(&mut self, batch: &mut Vec<u8>, note: impl FnOnce(u64) -> String) {
        std::mem::swap(&mut self.bytes, batch);
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            batch.extend_from_slice(note(dropped).as_bytes());
        }
    }
}

impl Outlet {
    /// Starts to write to `sink`. Where no thread can be made lines are written by those who bring
    /// them, which may then wait.
    pub fn start(sink: impl Write + AsRawFd + Send + 'static, manner: Manner) -> Outlet {
        let builder = thread::Builder::new().name(manner.name.into());
        Outlet::start_with(sink, manner, |body| {
            let builder = builder.stack_size(OUTLET_STACK);
            signal::with_all_blocked(|| builder.spawn(body).is_ok())
        })
    }

    /// As [`Outlet::start`], with a way to make the thread that says whether there is one now.
    fn start_with(
        sink: impl Write + AsRawFd + Send + 'static,
        manner: Manner,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> bool,
    ) -> Outlet {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::new(manner.waiting),
                writing: false,
                pieces: 0,
                told: false,
                gone: false,
                closed: false,
                direct: None,
            }),
            news: Condvar::new(),
            dropped: AtomicU64::new(0),
            manner,
        });
        // Handed over through a slot, so that it is still ours when there is no thread.
        let slot = Arc::new(Mutex::new(Some(sink)));
        let (writer, its) = (Arc::clone(&shared), Arc::clone(&slot));
        let body = move || {
            let sink = its.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(sink) = sink {
                writer.write_all_of(sink);
            }
        };
        if !spawn(Box::new(body)) {
            let sink = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            shared.lock().direct = sink.map(|sink| Box::new(sink) as Box<dyn Write + Send>);
        }
        Outlet { shared }
    }

    /// Queues one line, its end included. It never waits; what finds no room is counted.
    pub fn put(&self, line: &str) {
        self.add(line, false);
    }

    /// As [`Outlet::put`], for a line that shall get through where others are dropped.
    pub fn put_vital(&self, line: &str) {
        self.add(line, true);
    }

    fn add(&self, line: &str, vital: bool) {
        let mut state = self.shared.lock();
        if let Some(sink) = &mut state.direct {
            if let Err(error) = sink.write_all(line.as_bytes()) {
                self.shared.failed(state, line.as_bytes(), &error);
            }
            return;
        }
        let taken = !state.gone && state.queue.push(line.as_bytes(), vital);
        let idle = !state.writing;
        drop(state);
        if !taken {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if idle {
            self.shared.news.notify_all();
        }
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, as long as somebody takes them.
    pub fn flush(&self) {
        let until = Instant::now() + OUTLET_LAST_WORDS;
        let mut state = self.shared.lock();
        while !state.is_idle() && Instant::now() < until {
            let seen = state.pieces;
            let waited = self
                .shared
                .news
                .wait_timeout_while(state, OUTLET_PATIENCE, |state| {
                    !state.is_idle() && state.pieces == seen
                });
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.pieces == seen {
                return;
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.news.notify_all();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        !self.writing && (self.queue.is_empty() || self.gone)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic runs under the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn write_all_of(&self, mut sink: impl Write + AsRawFd) {
        let mut batch = Vec::new();
        while self.next_batch(&mut batch) {
            let mut rest = batch.as_slice();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(piece_of(rest));
                rest = behind;
                let outcome = write_waiting(&mut sink, piece);
                let mut state = self.lock();
                state.pieces += 1;
                match outcome {
                    Ok(()) => drop(state),
                    Err(error) => self.failed(state, piece, &error),
                }
                self.news.notify_all();
            }
            batch.clear();
            // A burst's room is not kept.
            batch.shrink_to(SPARE_LINES);
        }
    }

    /// Waits for lines and takes them all; `false` when none will come.
    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        state.writing = false;
        self.news.notify_all();
        let idle = |state: &mut State| state.queue.is_empty() && !state.closed;
        let waited = self.news.wait_while(state, idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.queue.is_empty() {
            return false;
        }
        state.writing = true;
        state.queue.take(batch, self.manner.dropped);
        true
    }

    /// Some lines could not be written: they are counted, and the first time it is told. A reader
    /// that went does not come back; a full disk may get room again.
    fn failed(&self, mut state: MutexGuard<'_, State>, lines: &[u8], error: &io::Error) {
        state.gone |= error.kind() == io::ErrorKind::BrokenPipe;
        let told = std::mem::replace(&mut state.told, true);
        drop(state);
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        if !told {
            (self.manner.failed)(error);
        }
    }
}

/// How many bytes of `lines` to write at once: whole lines, as many as a pipe takes in one piece,
/// and at least one.
fn piece_of(lines: &[u8]) -> usize {
    let end = |part: &[u8]| part.iter().rposition(|byte| *byte == b'\n');
    let most = lines.len().min(OUTLET_PIECE);
    let whole = end(lines.get(..most).unwrap_or_default());
    let first = || lines.iter().position(|byte| *byte == b'\n');
    whole.or_else(first).map_or(lines.len(), |at| at + 1)
}

/// Writes all of `bytes`, also where somebody who shares the stream has made it not wait.
fn write_waiting(sink: &mut (impl Write + AsRawFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_writable(sink.as_raw_fd());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(fd: RawFd) {
    let mut watched = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid entry that lives through the call. When it fails the write is tried again.
    unsafe { libc::poll(&mut watched, 1, -1) };
}

/// Standard output or standard error, borrowed for the life of the process.
pub struct Standard(ManuallyDrop<File>);

impl Standard {
    /// Standard output.
    pub fn output() -> Standard {
        Standard::of(libc::STDOUT_FILENO)
    }

    /// Standard error.
    pub fn error() -> Standard {
        Standard::of(libc::STDERR_FILENO)
    }

    fn of(fd: RawFd) -> Standard {
        // SAFETY: standard streams are open for the life of the process (Rust's start-up sees to
        // it), and this never closes them.
        Standard(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Standard {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
#[path = "outlet_tests.rs"]
mod tests;
