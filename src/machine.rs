//! THE SEAM between logic and the world: bytes, connections, deadlines.
//!
//! A *machine* is pure: it does no I/O, reads no clock, draws no random number by itself. A *host*
//! carries bytes between machines and the world and decides nothing. Three hosts run the same
//! machines: the reactor (mio), the simulator in `tests/sim`, and the fuzz bodies.
//!
//! Laws, kept by every host and asserted by the simulator:
//!
//! 1. After anything told (`handle`, `accepted`, `received`, `transmitted`, `order`) the host
//!    drains [`Machine::poll_command`] before it tells the next thing.
//! 2. `now` never goes back.
//! 3. The machine names connections and listeners; the host only carries the name. After
//!    [`Command::Close`] or [`Event::Ended`] a key is dead, and whatever is said about a dead key
//!    is ignored (keys carry a generation). [`Machine::accepted`] never gives the index of a
//!    connection whose Close the host has yet to obey.
//! 4. [`Command::Finish`] is half-close and never confused with [`Command::Close`]. A machine says
//!    it only when it has nothing left to transmit on that connection.
//! 5. `read_space` is followed at once by `received` on the same connection, or by nothing at all
//!    (the socket had no bytes); nothing is told in between. An empty space means "not now": the
//!    host stops reading that connection until [`Command::Wake`] names it.
//! 6. `transmit` is followed at once by `transmitted`, or by nothing (the socket took nothing). A
//!    host goes on until `transmit` is empty or the socket is full.
//! 7. Connections that [`Command::Wake`] named are flushed (`transmit`) before any connection is
//!    read again, so that a machine may lend received bytes straight to `transmit`. The next
//!    `read_space` on the lending connection ends the loan.
//! 8. [`Command::Wake`] re-arms both directions: the host tries to transmit, and if there were
//!    bytes to read when reading stopped it reads again.
//! 9. [`Event::PeerFinished`] is told at most once of a connection, and only while its reading is
//!    stopped by an empty space. The bytes in front of the FIN still come, and `received` with zero
//!    behind them. A reset ([`Event::Ended`]) waits for nobody to read.
//!
//! Datagrams come and go whole, one at a time, on sockets that the machine names like connections.
//! They are lent for the moment of the call, since a host knows whose one is only once it has it,
//! and need no law but the first three: one that the system does not take at once is lost.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::table::Key;

/// Marks keys that name connections.
#[derive(Debug)]
pub enum Conn {}
/// Marks keys that name listeners.
#[derive(Debug)]
pub enum Listener {}
/// The machine's name for a connection.
pub type ConnKey = Key<Conn>;
/// The machine's name for a listening socket.
pub type ListenerKey = Key<Listener>;

/// Marks keys that name sockets of datagrams.
#[derive(Debug)]
pub enum Socket {}
/// The machine's name for a socket of datagrams.
pub type SocketKey = Key<Socket>;

/// Pure logic that a host runs. The laws are above.
pub trait Machine {
    /// What the program around the machine asks of it (a user's call, an operator's wish).
    type Order;
    /// What the machine tells the program around it.
    type Notice;

    /// Told: something happened.
    fn handle(&mut self, event: Event, now: Instant);

    /// Told: `listener` accepted a connection. Gives it a name; `None` has the host close it at
    /// once.
    fn accepted(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey>;

    /// Told: a datagram has come to a socket.
    fn datagram(&mut self, socket: SocketKey, peer: SocketAddr, datagram: &[u8], now: Instant) {
        let _ = (socket, peer, datagram, now);
    }

    /// Told: the program around the machine wants something.
    fn order(&mut self, order: Self::Order, now: Instant);

    /// Asked: where the next received bytes go. Empty means "not now" (back-pressure).
    fn read_space(&mut self, conn: ConnKey) -> &mut [u8];

    /// Told: `count` bytes lie in the space that was asked for last. Zero is the peer's FIN: it
    /// will send nothing more, but still reads.
    fn received(&mut self, conn: ConnKey, count: usize, now: Instant);

    /// Asked: what to send next, made at the last moment. Empty means nothing for now.
    fn transmit(&mut self, conn: ConnKey, now: Instant) -> &[u8];

    /// Told: the first `count` bytes of the last `transmit` were taken by the socket.
    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant);

    /// Asked until silent: what the host should do.
    fn poll_command(&mut self) -> Option<Command<Self::Notice>>;

    /// The next deadline. When it has come the host tells [`Event::Timeout`].
    fn poll_timeout(&self) -> Option<Instant>;

    /// Told where the host has a wall clock, whenever its second is another: so many passed since
    /// 1970, and it may go back. No command may follow from it.
    fn dated(&mut self, unix_seconds: u64) {
        let _ = unix_seconds;
    }

    /// Told, for metrics only: a turn of the host's loop took `busy` without the waiting, and
    /// `conns` connections are open. No command may follow from it.
    fn turn_ended(&mut self, busy: Duration, conns: usize) {
        let _ = (busy, conns);
    }
}

/// What a host tells a machine.
#[derive(Debug)]
pub enum Event {
    /// A dialled connection stands (TCP; and TLS too when it was asked for with the dial).
    Connected {
        /// Which one.
        conn: ConnKey,
        /// Whom it reached.
        peer: SocketAddr,
    },
    /// The answer to [`Command::Resolve`].
    Resolved {
        /// For which connection.
        conn: ConnKey,
        /// Every address of the name, in the order in which to try them.
        found: Vec<Found>,
    },
    /// TLS that was asked for by [`Command::StartTls`] stands.
    Secured {
        /// On which connection.
        conn: ConnKey,
    },
    /// The world ended a connection (or it never came about). Its key is dead now.
    Ended {
        /// Which one.
        conn: ConnKey,
        /// How.
        how: Ended,
    },
    /// The peer has sent FIN, behind bytes for which the machine has no space now: it will send
    /// nothing more, and has perhaps left.
    PeerFinished {
        /// On which connection.
        conn: ConnKey,
    },
    /// The answer to [`Command::Listen`].
    Listening {
        /// Which listener.
        listener: ListenerKey,
        /// The address it got, or why not; after an error the key is dead.
        outcome: Result<SocketAddr, IoFailure>,
    },
    /// The host could not accept, usually for want of descriptors; it has paused this listener, and
    /// goes on after [`Command::Accept`].
    AcceptFailed {
        /// Which listener.
        listener: ListenerKey,
        /// Why.
        why: IoFailure,
    },
    /// The answer to [`Command::Probe`], from hosts that can tell.
    Holds {
        /// Which connection.
        conn: ConnKey,
        /// Bytes that it took of the machine's and that the peer's system has not acknowledged.
        bytes: usize,
    },
    /// The answer to [`Command::OpenSocket`], or the end of a socket.
    Socket {
        /// Which socket.
        socket: SocketKey,
        /// The address it got, or that it sends to; or why not, and then the key is dead.
        outcome: Result<SocketAddr, IoFailure>,
    },
    /// The system did not take a datagram of [`Command::Send`].
    Unsent {
        /// On which socket.
        socket: SocketKey,
    },
    /// The deadline of [`Machine::poll_timeout`] has come.
    Timeout,
    /// The operator wants the program to end: say goodbye, finish what runs, then
    /// [`Command::Stop`]. A second one means at once.
    Shutdown,
    /// The operator wants a successor of the program to take over.
    Upgrade,
    /// The host found that the world may have changed under its connections: the wall clock jumped
    /// (the machine slept), or routes changed. Silence so far proves nothing any more.
    Disturbed,
}

/// How the world ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The peer reset it.
    Reset,
    /// Reading, writing, connecting, resolving or TLS failed.
    Failed(IoFailure),
}

/// An operating system's error (or a resolver's, or TLS's), as far as a machine needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoFailure {
    /// The kind, for decisions.
    pub kind: io::ErrorKind,
    /// The sentence, for people.
    pub text: String,
}

impl IoFailure {
    /// Whether the system had no descriptor left: another try later may do, and nobody else is to
    /// blame. Hosts say it with this kind.
    pub fn is_shortage(&self) -> bool {
        self.kind == io::ErrorKind::QuotaExceeded
    }
}

/// What a machine wants of its host.
#[derive(Debug)]
pub enum Command<N> {
    /// Open a listening socket, which accepts until told otherwise; answered by
    /// [`Event::Listening`].
    Listen {
        /// The machine's name for it.
        listener: ListenerKey,
        /// Where; port 0 is the system's choice.
        addr: SocketAddr,
    },
    /// Close a listening socket.
    Unlisten {
        /// Which one.
        listener: ListenerKey,
    },
    /// Pause or resume accepting; connections meanwhile wait in the kernel's backlog.
    Accept {
        /// Which listener.
        listener: ListenerKey,
        /// Whether to accept.
        on: bool,
    },
    /// Look a name (or an address) up for a connection that is then dialled, or closed; answered by
    /// [`Event::Resolved`] or [`Event::Ended`]. So a machine sees whom it would reach before it
    /// does.
    Resolve {
        /// The machine's name for the connection.
        conn: ConnKey,
        /// The name, or an IP literal without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Open a socket of datagrams; answered by [`Event::Socket`].
    OpenSocket {
        /// The machine's name for it.
        socket: SocketKey,
        /// Where, or for whom.
        at: SocketAt,
    },
    /// Send a datagram. One on a socket whose peer is still looked up waits a little for it.
    Send {
        /// On which socket.
        socket: SocketKey,
        /// Whom to; a socket that has one peer needs none.
        peer: Option<SocketAddr>,
        /// What.
        datagram: Vec<u8>,
    },
    /// Close a socket of datagrams; the key is dead.
    CloseSocket {
        /// Which one.
        socket: SocketKey,
    },
    /// Open a connection; answered by [`Event::Connected`] or [`Event::Ended`].
    Dial {
        /// The machine's name for it.
        conn: ConnKey,
        /// Whom to reach.
        target: DialTarget,
    },
    /// Wrap a standing connection in TLS as a client, verifying `server_name`; answered by
    /// [`Event::Secured`] or [`Event::Ended`].
    StartTls {
        /// Which connection.
        conn: ConnKey,
        /// The name the certificate must carry.
        server_name: String,
        /// Whose certificates count.
        trust: Trust,
    },
    /// Tells a connection that ends in this process ([`DialTarget::Handler`]) for which address the
    /// bytes are that follow, so that it can share what it has; for others it means nothing.
    Introduce {
        /// Which connection.
        conn: ConnKey,
        /// Who asks, as far as that is known.
        visitor: Option<IpAddr>,
    },
    /// There is something to transmit, or room to read again.
    Wake {
        /// Which connection.
        conn: ConnKey,
    },
    /// Like [`Command::Wake`], but the host may serve everybody else that is ready first, and
    /// flushes the connection before it waits: small frames of many connections then share a write.
    WakeLast {
        /// Which connection.
        conn: ConnKey,
    },
    /// If this process is killed, what was sent must not look whole: have the system reset the
    /// connection then, until it is finished or closed. A host that cannot does without.
    ResetIfKilled {
        /// Which connection.
        conn: ConnKey,
    },
    /// Look whether the peer takes anything: try to transmit, although the system has not said that
    /// there is room (it does so only when there is much, and takes less all the same), and tell
    /// how much it holds ([`Event::Holds`]). A host that cannot tell only tries.
    Probe {
        /// Which connection.
        conn: ConnKey,
    },
    /// Half-close: nothing more will be transmitted, reading goes on.
    Finish {
        /// Which connection.
        conn: ConnKey,
    },
    /// Close both directions; the key is dead. What a Wake before it announced is not sent any
    /// more: who wants it out closes when `transmitted` has said so. A clean close while the peer
    /// still sends may reach it as a reset; who minds finishes first and reads to the end.
    Close {
        /// Which connection.
        conn: ConnKey,
        /// Whether the peer is to see an orderly end or a reset.
        how: CloseHow,
    },
    /// Tell the program around the machine.
    Notify(N),
    /// The machine is done; the host's run ends.
    Stop,
}

#[cfg(feature = "client")]
impl<N> Command<N> {
    /// TLS on a connection to a kit of this name.
    pub(crate) fn tls_with_the_kit(conn: ConnKey, server_name: String) -> Command<N> {
        Command::StartTls {
            conn,
            server_name,
            trust: Trust::Kit,
        }
    }
}

/// How a connection is closed from our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseHow {
    /// FIN.
    Clean,
    /// RST: the peer must not take what it got for whole.
    Reset,
}

/// In the text of a failure: TLS was begun, and the answer was none.
#[cfg(feature = "client")]
pub(crate) const NO_TLS: &str = "the answer is no TLS";

/// Whose certificates count for a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The system's, and those that the host was given for the kit.
    Kit,
    /// The system's.
    System,
    /// The system's, and these (PEM).
    Also(Arc<[u8]>),
    /// Anybody's, whatever is wrong with it: nobody is in between.
    Anyone,
}

/// An address that a name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// With the port that was asked for.
    pub addr: SocketAddr,
    /// Whether it is one of this machine's own, or may be.
    pub is_local: bool,
}

/// Where a socket of datagrams is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAt {
    /// At this address, for whoever comes; port 0 is the system's choice.
    Bound(SocketAddr),
    /// Wherever the system says, to exchange datagrams with this one only. It has an address.
    For(DialTarget),
}

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialTarget {
    /// A TCP address.
    Addr(SocketAddr),
    /// TCP addresses, in turn, and no others.
    Addrs(Vec<SocketAddr>),
    /// A host name and port; the host resolves it afresh and tries its addresses in turn.
    Name(String, u16),
    /// A Unix socket, which has no address: it is told as connected to one that names nobody.
    Unix(PathBuf),
    /// The in-process handler that the host was given (`serve`), by its number.
    Handler(u32),
}

/// A connection that ends in this process, for [`DialTarget::Handler`]. The host reads and writes
/// it like a socket that never blocks.
pub trait Inside: Send + std::fmt::Debug {
    /// Takes bytes that are there; 0 is the end, `WouldBlock` means not now.
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize>;

    /// Gives bytes; `WouldBlock` means not now.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Half-close: no more bytes follow.
    fn finish(&mut self);

    /// Tells for which address the bytes are that follow.
    fn introduce(&mut self, visitor: Option<IpAddr>);
}

/// Has the host look at such a connection again; any thread may call it.
pub type Stir = Arc<dyn Fn() + Send + Sync>;

/// Makes such a connection.
pub type Handler = Arc<dyn Fn(Stir) -> Box<dyn Inside> + Send + Sync>;
