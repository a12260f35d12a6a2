//! Listening sockets, and sockets of datagrams, that somebody else has opened for us: systemd
//! (`LISTEN_FDS`, sd_listen_fds(3)), or the program that this one succeeds.
//!
//! A machine asks to listen on an address as ever; where a socket for just that address was given,
//! it gets this one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use mio::net::{TcpListener, UdpSocket};

use super::datagrams;
use super::listener::prepare;

/// A listening TCP socket, or a UDP socket at an address.
#[derive(Debug)]
pub struct Inherited {
    addr: SocketAddr,
    socket: OwnedFd,
    of_datagrams: bool,
    stays: bool,
}

impl Inherited {
    /// Takes descriptor `fd`, which must be such a socket, and nobody else's in this process.
    /// `stays`: whoever gave it keeps it open, so that it may be listened on again.
    ///
    /// # Errors
    ///
    /// Where it is something else.
    pub fn take(fd: RawFd, stays: bool) -> io::Result<Inherited> {
        let of_datagrams = option(fd, libc::SO_TYPE) == Some(libc::SOCK_DGRAM);
        let listens = || option(fd, libc::SO_ACCEPTCONN).is_some_and(|on| on != 0);
        // Nobody but the kit before gives one of datagrams.
        if fd < 3 || !(of_datagrams && !stays || listens()) {
            let why = format!("descriptor {fd} is no listening socket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // SAFETY: it is open, as was just seen, and by contract nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: fcntl(2) with numbers on an open descriptor.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok(Inherited {
            addr,
            socket: listener.into(),
            of_datagrams,
            stays,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn shown(&self) -> (SocketAddr, BorrowedFd<'_>, bool) {
        (self.addr, self.socket.as_fd(), self.stays)
    }
}

/// What systemd has opened for this process, in its order; nothing where it has not.
///
/// # Errors
///
/// Where one of them is no listening TCP socket.
pub fn from_systemd() -> io::Result<Vec<Inherited>> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(MOST) as RawFd;
    (FIRST..FIRST + count)
        .map(|fd| Inherited::take(fd, true))
        .collect()
}

/// The socket for an address, if it was given, and whether it may be asked for again.
pub(super) fn take(
    all: &mut Vec<Inherited>,
    addr: SocketAddr,
) -> Option<(io::Result<(TcpListener, SocketAddr)>, bool)> {
    let (socket, stays) = take_of(all, addr, false)?;
    let opened = socket.and_then(|socket| {
        prepare(&socket)?;
        let listener = TcpListener::from_std(std::net::TcpListener::from(socket));
        Ok((listener, addr))
    });
    Some((opened, stays))
}

/// The same for datagrams.
pub(super) fn take_datagrams(
    all: &mut Vec<Inherited>,
    addr: SocketAddr,
) -> Option<(io::Result<UdpSocket>, bool)> {
    let (socket, stays) = take_of(all, addr, true)?;
    let opened = socket.map(|socket| {
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket));
        datagrams::prepare(&socket);
        socket
    });
    Some((opened, stays))
}

fn take_of(
    all: &mut Vec<Inherited>,
    addr: SocketAddr,
    of_datagrams: bool,
) -> Option<(io::Result<OwnedFd>, bool)> {
    let is_it = |it: &Inherited| it.addr == addr && it.of_datagrams == of_datagrams;
    let at = all.iter().position(is_it)?;
    let stays = all[at].stays;
    let socket = match stays {
        true => all[at].socket.try_clone(),
        false => Ok(all.swap_remove(at).socket),
    };
    Some((socket, stays))
}

/// A socket's option that is a number; none where it is no socket.
fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut on: libc::c_int = 0;
    let mut length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointers describe `on` and `length`, which live through the call; a descriptor
    // that is not open is an error.
    let outcome = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut on).cast(),
            &raw mut length,
        )
    };
    (outcome == 0).then_some(on)
}

/// The first descriptor that systemd gives.
const FIRST: RawFd = 3;
/// As many as there may be listeners.
const MOST: u32 = crate::limits::MAX_LISTENERS as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn only_listening_sockets_are_taken_and_for_their_own_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let given = Inherited::take(listener.into_raw_fd(), false).expect("it listens");
        assert_eq!(given.addr(), addr);
        let mut all = vec![given];
        let other = SocketAddr::new([127, 0, 0, 2].into(), addr.port());
        assert!(take(&mut all, other).is_none());
        let (opened, stays) = take(&mut all, addr).expect("it is there");
        assert!(opened.is_ok() && !stays && all.is_empty());
        let (one, _two) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(Inherited::take(one.into_raw_fd(), false).is_err());
        assert!(Inherited::take(1, false).is_err());
        assert!(Inherited::take(9999, false).is_err());
    }

    #[test]
    fn what_somebody_else_keeps_open_can_be_asked_for_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mut all = vec![Inherited::take(listener.into_raw_fd(), true).expect("it listens")];
        for _ in 0..2 {
            let (opened, stays) = take(&mut all, addr).expect("it is there");
            assert!(opened.is_ok() && stays);
        }
    }
}
