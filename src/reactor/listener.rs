//! Listening sockets.
//!
//! Options are set on the listener before it listens, because accepted connections inherit them:
//! an accepted connection costs no `setsockopt`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mio::net::{TcpListener, TcpStream};

use crate::limits::LISTEN_BACKLOG;
use crate::machine::ListenerKey;

use super::socket::{canonical, on, retry, set_nodelay, set_notsent_lowat, set_option};

/// One listening socket of the machine.
#[derive(Debug)]
pub(super) struct Listening {
    pub key: ListenerKey,
    pub socket: TcpListener,
    /// The machine wants connections.
    pub on: bool,
    /// An edge said that connections wait, and `accept` has not denied it since.
    pub ready: bool,
    /// It is in the queue of listeners to accept from.
    pub posted: bool,
    /// Somebody else keeps the socket open too, and we another descriptor of it.
    pub stays: bool,
}

/// What one `accept` came to.
pub(super) enum Accepted {
    Conn(TcpStream, SocketAddr),
    /// Nobody waits.
    None,
    /// That one connection is gone; others may wait.
    Again,
    /// Accepting is impossible for now, usually for want of descriptors.
    Failed(io::Error),
}

impl Listening {
    pub(super) fn accept(&mut self) -> Accepted {
        let error = match retry(|| self.socket.accept()) {
            Ok((stream, peer)) => return Accepted::Conn(stream, canonical(peer)),
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::WouldBlock {
            return Accepted::None;
        }
        match error.raw_os_error() {
            // What is left are errors of the one connection that was to be accepted (accept(2)).
            Some(code) if !NO_MEANS.contains(&code) => Accepted::Again,
            _ => Accepted::Failed(error),
        }
    }
}

/// The errors of `accept` that stay until something changes in this process or system.
const NO_MEANS: [libc::c_int; 8] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::EINVAL,
    libc::EBADF,
    libc::EFAULT,
    libc::ENOTSOCK,
];

/// Opens a listening socket.
pub(super) fn listen(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = bound(addr, libc::SOCK_STREAM)?;
    // SAFETY: listen(2) takes a descriptor, which is open, and a number.
    if unsafe { libc::listen(socket.as_raw_fd(), LISTEN_BACKLOG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let listener = TcpListener::from_std(std::net::TcpListener::from(socket));
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Opens a socket of this kind at an address.
pub(super) fn bound(addr: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    let socket = new_socket(addr, kind)?;
    if addr.is_ipv6() {
        // `[::]` takes both families; any other IPv6 address is only itself.
        let only_v6 = libc::c_int::from(!addr.ip().is_unspecified());
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &only_v6)?;
    }
    if kind == libc::SOCK_STREAM {
        // For datagrams it would let two have one port.
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on())?;
        prepare(&socket)?;
    }
    bind(&socket, addr)?;
    Ok(socket)
}

/// What accepted connections inherit.
pub(super) fn prepare(socket: &OwnedFd) -> io::Result<()> {
    set_nodelay(socket)?;
    set_notsent_lowat(socket);
    keep_alive(socket)
}

/// A visitor whose laptop died sends no FIN: probes find out, and free what it holds.
fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &on())?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use crate::limits::{KEEPALIVE_IDLE_SECS, KEEPALIVE_PROBES, KEEPALIVE_STEP_SECS};
        let tcp = libc::IPPROTO_TCP;
        set_option(socket, tcp, libc::TCP_KEEPIDLE, &KEEPALIVE_IDLE_SECS)?;
        set_option(socket, tcp, libc::TCP_KEEPINTVL, &KEEPALIVE_STEP_SECS)?;
        set_option(socket, tcp, libc::TCP_KEEPCNT, &KEEPALIVE_PROBES)?;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn new_socket(addr: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes numbers only.
    let fd = unsafe { libc::socket(family(addr), kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn new_socket(addr: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes numbers only.
    let fd = unsafe { libc::socket(family(addr), kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: fcntl(2) with numbers on an open descriptor.
    let outcome = unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
            | libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK)
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn family(addr: SocketAddr) -> libc::c_int {
    match addr {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

fn bind(socket: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let outcome = match addr {
        SocketAddr::V4(v4) => {
            // SAFETY: all zeroes is a valid sockaddr_in.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which lives through the call.
            unsafe { libc::bind(fd, (&raw const raw).cast(), length) }
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all zeroes is a valid sockaddr_in6.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which lives through the call.
            unsafe { libc::bind(fd, (&raw const raw).cast(), length) }
        }
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
