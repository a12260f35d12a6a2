//! Ctrl-C and its kin, taken by a thread that waits for them.
//!
//! The signals are blocked before any other thread is made, so that every thread inherits that and
//! only this one sees them. So there is no handler, and none of a handler's rules.

use std::io;
use std::mem;
use std::thread;
use std::time::Duration;

/// How long the program gets after the second signal to end by itself, for instance to tell the
/// kit.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The signals that ask for the end: SIGINT, SIGTERM, and SIGHUP where it means anything.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Keeps them from this thread and from those that it will make.
    pub fn block() -> io::Result<Signals> {
        // SAFETY: all zeroes is a valid place for a set, and sigemptyset makes it one.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is valid, and so are the signals' numbers.
        unsafe {
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::sigaddset(&mut set, libc::SIGTERM);
            // Under nohup it is ignored, and has to stay so: a blocked signal would be seen.
            if !is_ignored(libc::SIGHUP) {
                libc::sigaddset(&mut set, libc::SIGHUP);
            }
        }
        // SAFETY: `set` is valid; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(Signals(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Calls `told` at the first and at the second of them, from a thread of its own. Soon after
    /// the second the process ends, whatever it is busy with.
    pub fn watch(self, told: impl Fn() + Send + 'static) -> io::Result<()> {
        let watching = move || {
            self.wait();
            told();
            self.wait();
            told();
            thread::sleep(LAST_WORDS);
            std::process::exit(0);
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(watching)?;
        Ok(())
    }

    fn wait(&self) {
        let mut signal = 0;
        // SAFETY: the set and the place for the signal are valid and live through the call.
        while unsafe { libc::sigwait(&self.0, &mut signal) } != 0 {}
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeroes is a valid place for an action.
    let mut current: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: no new action is set; `current` is a valid place for the old one.
    let outcome = unsafe { libc::sigaction(signal, std::ptr::null(), &mut current) };
    outcome == 0 && current.sa_sigaction == libc::SIG_IGN
}
