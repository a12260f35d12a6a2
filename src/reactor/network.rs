//! Notices that the world may have changed under our connections: a route or an address came or
//! went, or the machine woke up. Read-only, and only as a hint: the machine then looks for itself.

use mio::Registry;

use crate::clock::Instant;
use crate::limits::NETWORK_SETTLE;

/// Watches routes, addresses and the machine's sleep.
#[derive(Debug)]
pub(super) struct Network {
    sources: sources::Sources,
    due: Option<Instant>,
}

impl Network {
    /// Watches what this system lets us watch.
    pub(super) fn watch(registry: &Registry) -> Network {
        Network {
            sources: sources::Sources::open(registry),
            due: None,
        }
    }

    /// Told: one of the sources became readable. One change of network comes as a burst of
    /// messages, so the first arms a deadline and the others fall into it.
    pub(super) fn stirred(&mut self, now: Instant) {
        if self.sources.take() && self.due.is_none() {
            self.due = Some(now + NETWORK_SETTLE);
        }
    }

    /// When the change is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a change is to be told now.
    pub(super) fn changed(&mut self, now: Instant) -> bool {
        let changed = self.due.is_some_and(|due| due <= now);
        if changed {
            self.due = None;
        }
        changed
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sources {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use mio::unix::SourceFd;
    use mio::{Interest, Registry};

    use crate::reactor::token;

    /// A netlink socket that hears of routes and addresses, and a timer that the kernel cancels
    /// when the wall clock is set, as it is on waking up.
    #[derive(Debug)]
    pub(super) struct Sources {
        netlink: Option<OwnedFd>,
        sleep: Option<OwnedFd>,
    }

    impl Sources {
        pub(super) fn open(registry: &Registry) -> Sources {
            let watched = |opened: io::Result<OwnedFd>, token| {
                let outcome = opened.and_then(|fd| {
                    let raw = fd.as_raw_fd();
                    registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
                    Ok(fd)
                });
                // A sandbox may forbid it; then a change is noticed by silence, only later.
                outcome
                    .inspect_err(|error| log::debug!("cannot watch the network: {error}"))
                    .ok()
            };
            Sources {
                netlink: watched(netlink(), token::host(token::NETWORK)),
                sleep: watched(sleep_timer(), token::host(token::SLEEP)),
            }
        }

        /// Reads everything away; true when a route or an address changed. Waking up needs no
        /// word here: the turn it causes compares the clocks.
        pub(super) fn take(&mut self) -> bool {
            if let Some(fd) = &self.sleep {
                while read(fd).is_ok() {}
            }
            let mut changed = false;
            if let Some(fd) = &self.netlink {
                loop {
                    match read(fd) {
                        Ok(0) => break,
                        Ok(_) => changed = true,
                        // Messages were lost for want of room, so something did change.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(_) => break,
                    }
                }
            }
            changed
        }
    }

    fn netlink() -> io::Result<OwnedFd> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes numbers only.
        let fd = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        // SAFETY: all zeroes is a valid sockaddr_nl.
        let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        addr.nl_groups = (libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE) as u32;
        let length = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: the pointer and the length describe `addr`, which lives through the call.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }

    fn sleep_timer() -> io::Result<OwnedFd> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: timerfd_create(2) takes numbers only.
        let fd = owned(unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, flags) })?;
        // SAFETY: all zeroes is a valid itimerspec.
        let mut never: libc::itimerspec = unsafe { std::mem::zeroed() };
        // For musl the name is marked as one that will become wider, which is all the same here.
        #[allow(deprecated)]
        let longest = libc::time_t::MAX;
        never.it_value.tv_sec = longest / 4;
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: `never` lives through the call; the old setting is not asked for.
        let outcome =
            unsafe { libc::timerfd_settime(fd.as_raw_fd(), flags, &never, std::ptr::null_mut()) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }

    fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn read(fd: &OwnedFd) -> io::Result<usize> {
        let mut scratch = [0u8; 4096];
        // SAFETY: the pointer and the length describe `scratch`, which lives through the call.
        let count =
            unsafe { libc::read(fd.as_raw_fd(), scratch.as_mut_ptr().cast(), scratch.len()) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sources {
    /// Nothing to watch with here.
    #[derive(Debug)]
    pub struct Sources;

    impl Sources {
        pub fn open(_: &mio::Registry) -> Sources {
            Sources
        }

        pub fn take(&mut self) -> bool {
            false
        }
    }
}
