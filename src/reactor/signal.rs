//! The operator's signals, as readiness of a socket.
//!
//! The handler does the one thing a handler may do: it writes a byte, and the loop reads it.

use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry};

use super::token;

/// Catches SIGTERM, SIGINT and SIGHUP for one reactor of the process, and SIGUSR2 if that is
/// wanted.
#[derive(Debug)]
pub(super) struct Signals {
    reader: UnixStream,
}

/// What the handler writes for signals that ask the program to end.
const END: u8 = 1;
/// And for those that ask for a successor.
const UPGRADE: u8 = 2;

/// Where the handler writes. It stays open for the life of the process, because a handler may run
/// at any time.
static WRITER: AtomicI32 = AtomicI32::new(-1);

impl Signals {
    /// Installs the handlers.
    pub(super) fn catch(registry: &Registry, upgrades: bool) -> io::Result<Signals> {
        let (mut reader, writer) = UnixStream::pair()?;
        let taken =
            WRITER.compare_exchange(-1, writer.into_raw_fd(), Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_err() {
            let text = "another reactor of this process catches the signals";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        registry.register(&mut reader, token::host(token::SIGNALS), Interest::READABLE)?;
        if upgrades {
            install(libc::SIGUSR2, handler())?;
        }
        install(libc::SIGTERM, handler())?;
        install(libc::SIGINT, handler())?;
        if !is_ignored(libc::SIGHUP)? {
            // Under nohup it is ignored, and has to stay so.
            install(libc::SIGHUP, handler())?;
        }
        Ok(Signals { reader })
    }

    /// What the signals ask for that came since the last call: how often to end, and whether for a
    /// successor.
    pub(super) fn take(&mut self) -> (usize, bool) {
        let mut bytes = [0; 64];
        let (mut ends, mut upgrade) = (0, false);
        while let Ok(taken @ 1..) = self.reader.read(&mut bytes) {
            let upgrades = bytes[..taken].iter().filter(|byte| **byte == UPGRADE);
            let upgrades = upgrades.count();
            ends += taken - upgrades;
            upgrade |= upgrades > 0;
        }
        (ends, upgrade)
    }
}

/// Has a write to a socket without reader fail instead of ending the process. Rust's own start-up
/// code does the same, but a library cannot know that it ran.
pub(super) fn ignore_sigpipe() -> io::Result<()> {
    install(libc::SIGPIPE, libc::SIG_IGN)
}

/// Runs `make` with all signals kept from this thread, and so from a thread that it makes: signals
/// are for the threads that know what to do with them.
pub(super) fn with_all_blocked<R>(make: impl FnOnce() -> R) -> R {
    // SAFETY: all zeroes is a valid place for a set, which sigfillset fills; the masks live through
    // the calls. Where the mask cannot be set nothing changes.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        let outcome = libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        (outcome == 0).then_some(before)
    };
    let made = make();
    if let Some(before) = before {
        // SAFETY: this is the mask that held before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    }
    made
}

fn handler() -> libc::sighandler_t {
    on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t
}

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = if signal == libc::SIGUSR2 {
        UPGRADE
    } else {
        END
    };
    // SAFETY: write(2) is allowed in a handler; the byte lives; a closed or full socket is only an
    // error that nobody needs. errno is put back, because the interrupted code may be reading it.
    unsafe {
        let errno = errno_location();
        let before = *errno;
        libc::write(WRITER.load(Ordering::SeqCst), [byte].as_ptr().cast(), 1);
        *errno = before;
    }
}

#[cfg(target_os = "linux")]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: it has no preconditions.
    unsafe { libc::__errno_location() }
}

#[cfg(not(target_os = "linux"))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: it has no preconditions.
    unsafe { libc::__error() }
}

fn install(signal: libc::c_int, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask.
    let mut wanted: libc::sigaction = unsafe { std::mem::zeroed() };
    wanted.sa_sigaction = action;
    wanted.sa_flags = libc::SA_RESTART;
    // SAFETY: `wanted` is valid and lives through the call; the old action is not asked for.
    let outcome = unsafe { libc::sigaction(signal, &wanted, std::ptr::null_mut()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is set, and `current` is a valid place for the old one.
    let outcome = unsafe { libc::sigaction(signal, std::ptr::null(), &mut current) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(current.sa_sigaction == libc::SIG_IGN)
}
