//! A standing socket, or what stands for one in this process, and the options we set on it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use crate::limits::CLOSE_DRAIN;
use crate::machine::{Ended, Inside, IoFailure};

/// A stream of bytes with two directions.
#[derive(Debug)]
pub(super) enum Socket {
    /// From a listener or a dial.
    Tcp(TcpStream),
    /// From a dial. A kit dials none, and carries no code for it.
    Unix(UnixStream),
    /// To a handler of this process, which stirs us by itself.
    Inside(Box<dyn Inside>),
}

/// What one read came to.
pub(super) struct Got {
    /// How many bytes. Zero is the peer's FIN; or, with `more`, a piece of TLS without content.
    pub count: usize,
    /// Whether there may be more to read right now.
    pub more: bool,
}

impl Socket {
    /// Reads once.
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        retry(|| match self {
            Socket::Tcp(stream) => stream.read(space),
            Socket::Unix(stream) => stream.read(space),
            Socket::Inside(inside) => inside.read(space),
        })
    }

    /// Writes once.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Inside(inside) => inside.write(bytes),
        })
    }

    /// Sends FIN. A socket whose peer is gone already says so when it is used next.
    pub(super) fn finish(&mut self) {
        match self {
            Socket::Tcp(stream) => drop(stream.shutdown(Shutdown::Write)),
            Socket::Unix(stream) => drop(stream.shutdown(Shutdown::Write)),
            Socket::Inside(inside) => inside.finish(),
        }
    }

    /// Tells a handler of this process for whom it works next.
    pub(super) fn introduce(&mut self, visitor: Option<IpAddr>) {
        if let Socket::Inside(inside) = self {
            inside.introduce(visitor);
        }
    }

    /// The error that the system holds for this socket; asking takes it.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        match self {
            Socket::Tcp(stream) => stream.take_error().unwrap_or_else(Some),
            Socket::Unix(stream) => stream.take_error().unwrap_or_else(Some),
            Socket::Inside(_) => None,
        }
    }

    /// Whether a reset by the peer shall be told even while nobody reads.
    pub(super) fn resets_at_once(&self) -> bool {
        !matches!(self, Socket::Inside(_))
    }

    /// Bytes that the system took of ours and that the peer's has not acknowledged, sent or not;
    /// none where it does not tell.
    pub(super) fn held(&self) -> Option<usize> {
        match self {
            Socket::Tcp(stream) => unacknowledged(stream),
            _ => None,
        }
    }

    /// Makes the coming close a RST, also that of a process which is killed; says whether it is one
    /// now. (Unix sockets have none: there a close is a close.)
    pub(super) fn reset_on_close(&self) -> bool {
        let is_tcp = matches!(self, Socket::Tcp(_));
        if let Socket::Tcp(stream) = self {
            reset_on_close(stream);
        }
        is_tcp
    }

    /// Takes that back.
    pub(super) fn close_in_order(&self) {
        if let Socket::Tcp(stream) = self {
            linger(stream, 0);
        }
    }

    /// Throws away what waits to be read, within a bound: the kernel answers a close over unread
    /// bytes with RST, and that could overtake the end of what we sent.
    pub(super) fn drain(&mut self) {
        let mut scratch = [0; 4096];
        let mut drained = 0;
        while drained < CLOSE_DRAIN {
            match self.read(&mut scratch) {
                Ok(0) | Err(_) => return,
                Ok(count) => drained += count,
            }
        }
    }

    /// Moves an existing registration to `token`.
    pub(super) fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(registry, token, interest()),
            Socket::Unix(stream) => stream.reregister(registry, token, interest()),
            Socket::Inside(_) => Ok(()),
        }
    }

    /// Registers once, edge-triggered, both directions.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(registry, token, interest()),
            Socket::Unix(stream) => stream.register(registry, token, interest()),
            Socket::Inside(_) => Ok(()),
        }
    }
}

/// See [`Socket::held`]; tcp(7) has it as `SIOCOUTQ`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn unacknowledged(stream: &TcpStream) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes one int to where the pointer says, and `bytes` is one.
    let outcome = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if outcome < 0 {
        return None;
    }
    usize::try_from(bytes).ok()
}

/// Other systems have no such request, or each its own.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unacknowledged(_: &TcpStream) -> Option<usize> {
    None
}

/// Makes the coming close of `stream` a RST.
pub(super) fn reset_on_close(stream: &TcpStream) {
    linger(stream, 1);
}

/// Whether a close throws away what was not sent, and resets. A close never waits.
fn linger(stream: &TcpStream, on: libc::c_int) {
    let linger = libc::linger {
        l_onoff: on,
        l_linger: 0,
    };
    let _ = set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

/// Both directions; and urgent data, because a read stops short before it (see `conn.rs`).
pub(super) fn interest() -> Interest {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return Interest::READABLE | Interest::WRITABLE;
}

/// Small replies leave at once. (An accepted connection has this from its listener.)
pub(super) fn set_nodelay(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &on())
}

/// The kernel takes no more unsent bytes than keep the line busy. (The same.)
pub(super) fn set_notsent_lowat(socket: &impl AsRawFd) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let bytes = crate::limits::NOTSENT_LOWAT;
        // Some sandboxes do not know it, and do without.
        let _ = set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

/// Has the kernel give a connection up when what we sent stays unacknowledged for `span`.
pub(super) fn set_user_timeout(socket: &impl AsRawFd, span: Duration) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let millis = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let _ = set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, span);
}

/// The value of a switch that is on.
pub(super) const fn on() -> libc::c_int {
    1
}

/// `setsockopt` with a value of the type that the option wants.
pub(super) fn set_option<T>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let fd: RawFd = socket.as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let outcome = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The plain address behind an IPv4 peer of a listener that takes both families.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Runs `call` again as long as a signal cut it short.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// How `error` ended a connection that stood.
pub(super) fn ended_by(error: &io::Error) -> Ended {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => Ended::Reset,
        _ => Ended::Failed(failure(error)),
    }
}

/// `error` as a machine needs to know it.
pub(super) fn failure(error: &io::Error) -> IoFailure {
    IoFailure {
        kind: kind(error),
        text: sentence(error),
    }
}

/// The kind of `error`; std has no name for want of descriptors.
pub(super) fn kind(error: &io::Error) -> io::ErrorKind {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => io::ErrorKind::QuotaExceeded,
        _ => error.kind(),
    }
}

/// The text of `error` without the number that std adds.
pub(super) fn sentence(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.rfind(" (os error ") {
        text.truncate(at);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_is_told_from_every_other_failure() {
        for number in [libc::EMFILE, libc::ENFILE] {
            assert!(failure(&io::Error::from_raw_os_error(number)).is_shortage());
        }
        for number in [libc::ECONNREFUSED, libc::EADDRNOTAVAIL, libc::EHOSTUNREACH] {
            assert!(!failure(&io::Error::from_raw_os_error(number)).is_shortage());
        }
    }
}
