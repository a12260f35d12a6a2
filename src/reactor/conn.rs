//! What the host keeps of a connection: its link to the world and the readiness that was latched.
//!
//! Edge-triggered readiness comes once, so every edge is kept as a bit until a read or a write has
//! denied it. Two things spare system calls. A read that came back short has drained the socket
//! (epoll(7)), and so has a write that was taken in part filled it: neither is tried again until
//! the next edge. The exceptions are remembered: a FIN that the event announced (`read_closed`),
//! and a peer that uses urgent data, before which reads stop short (`greedy`).

use std::io;

use mio::Token;

use crate::machine::{ConnKey, Ended};

use super::dial::Dial;
use super::secure::Secured;
use super::socket::{Got, Socket};
use super::token;

/// How a connection reaches the world.
pub(super) enum Link {
    /// Its name is being resolved.
    Resolving,
    /// Its name is being resolved for the machine to see, which then dials.
    Seeking,
    /// It is being connected.
    Dialing(Box<Dial>),
    /// A Unix socket is being tried.
    Knocking(Box<super::unix::Knock>),
    /// It stands.
    Plain(Socket),
    /// It stands, and TLS does or soon will.
    Tls(Box<dyn Secured>),
}

impl Link {
    /// Reads once into `space`, which is not empty.
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<Got> {
        match self {
            Link::Plain(socket) => socket.read(space).map(|count| Got {
                count,
                more: count == space.len(),
            }),
            Link::Tls(tls) => tls.read(space),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes once. The rest of what it took must be out ([`Link::flush`]) before the next write.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.write(bytes),
            Link::Tls(tls) => tls.write(bytes),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends what TLS holds back; true when nothing is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Link::Tls(tls) => tls.flush(),
            _ => Ok(true),
        }
    }

    /// Whether a write that was taken in part means that the socket is full.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Link::Plain(_))
    }

    /// Half-closes. False when the goodbye of TLS did not fit into the socket yet.
    pub(super) fn finish(&mut self) -> io::Result<bool> {
        match self {
            Link::Plain(socket) => socket.finish(),
            Link::Tls(tls) => return tls.finish(),
            _ => {}
        }
        Ok(true)
    }

    /// The socket of a connection that stands.
    pub(super) fn socket(&self) -> Option<&Socket> {
        match self {
            Link::Plain(socket) => Some(socket),
            Link::Tls(tls) => Some(tls.socket()),
            _ => None,
        }
    }
}

/// One connection of the machine.
pub(super) struct Conn {
    pub key: ConnKey,
    pub link: Link,
    /// There may be bytes (or an end) to read.
    pub readable: bool,
    /// The socket may take bytes.
    pub writable: bool,
    /// The peer's FIN is in the receive queue: read on after a short read.
    pub read_closed: bool,
    /// A short read proves nothing here.
    pub greedy: bool,
    /// The system announced an error, which a read or a write has not met yet.
    pub errored: bool,
    /// The machine had no space; it will say Wake.
    pub paused: bool,
    /// The machine was told of the peer's FIN.
    pub ended: bool,
    /// It was told that a FIN lies behind bytes for which it has no space.
    pub fin_announced: bool,
    /// It is in the queue of conns to serve.
    pub posted: bool,
    /// It is in the queue of conns to flush.
    pub woken: bool,
    /// It is in the queue of conns to flush before the host waits.
    pub woken_last: bool,
    /// The socket became writable, or a quantum ran out: ask the machine for bytes when served.
    pub flush_due: bool,
    /// The machine wants the half-close, after what it has to transmit.
    pub finishing: bool,
    /// Our FIN is out.
    pub finished: bool,
    /// The system resets it if this process is killed.
    pub resets_if_killed: bool,
    /// TLS is being negotiated: the machine's bytes wait.
    pub securing: bool,
    /// Writing failed in this way. What the peer sent before it may still be read.
    pub broken: Option<Ended>,
    /// Bytes written in turn `spent_in`.
    pub spent: usize,
    pub spent_in: u64,
}

impl Conn {
    pub(super) fn new(key: ConnKey, link: Link) -> Conn {
        Conn {
            key,
            link,
            readable: false,
            writable: true,
            read_closed: false,
            greedy: cfg!(not(any(target_os = "linux", target_os = "android"))),
            errored: false,
            paused: false,
            ended: false,
            fin_announced: false,
            posted: false,
            woken: false,
            woken_last: false,
            flush_due: false,
            finishing: false,
            finished: false,
            resets_if_killed: false,
            securing: false,
            broken: None,
            spent: 0,
            spent_in: 0,
        }
    }

    /// The system is to reset it if this process is killed, until it [`Conn::ends_well`].
    pub(super) fn reset_if_killed(&mut self) {
        if let Some(socket) = self.link.socket() {
            self.resets_if_killed = socket.reset_on_close();
        }
    }

    /// It is finished or closed in order: what is under way must arrive.
    pub(super) fn ends_well(&mut self) {
        if std::mem::take(&mut self.resets_if_killed)
            && let Some(socket) = self.link.socket()
        {
            socket.close_in_order();
        }
    }

    /// Whether the machine is to be asked for space.
    pub(super) fn wants_read(&self) -> bool {
        self.readable && !self.paused && !self.ended && !self.securing && self.stands()
    }

    /// Whether the machine is to be asked for bytes.
    pub(super) fn wants_write(&self) -> bool {
        self.writable && !self.finished && !self.securing && self.broken.is_none() && self.stands()
    }

    /// Whether the machine was told that it is connected.
    pub(super) fn stands(&self) -> bool {
        matches!(self.link, Link::Plain(_) | Link::Tls(_))
    }

    /// Whether the machine is to be told of a FIN that lies behind bytes it does not read.
    pub(super) fn owes_fin(&self) -> bool {
        let stopped = self.paused && !self.ended && !self.securing && self.stands();
        stopped && self.read_closed && !self.fin_announced
    }

    /// Whether there is anything to do in a turn.
    pub(super) fn is_busy(&self) -> bool {
        self.wants_read() || self.flush_due
    }

    /// Keeps what the system said, and does nothing yet.
    pub(super) fn latch(&mut self, event: &mio::event::Event) {
        if let Link::Dialing(dial) = &mut self.link {
            dial.latch(token::attempt(event.token()), event);
            return;
        }
        let (closed, error) = (event.is_read_closed(), event.is_error());
        self.readable |= event.is_readable() || closed || error;
        self.read_closed |= closed;
        self.greedy |= event.is_priority();
        self.errored |= error;
        if let Link::Tls(tls) = &mut self.link {
            tls.stirred(self.read_closed || self.greedy);
        }
        if !self.writable && (event.is_writable() || error || event.is_write_closed()) {
            self.writable = true;
            self.flush_due = true;
        }
    }

    /// The other end, in this process, has bytes or room.
    pub(super) fn stirred(&mut self) {
        self.readable = true;
        self.writable = true;
        self.flush_due = true;
    }

    /// Whether the last [`Conn::latch`] left something to do.
    pub(super) fn needs_service(&self) -> bool {
        self.is_busy() || self.errored || self.owes_fin() || self.securing || !self.stands()
    }
}

/// The connections, at the index that the machine's key has.
#[derive(Default)]
pub(super) struct Conns {
    slots: Vec<Option<Conn>>,
    open: usize,
}

impl Conns {
    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn get_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        match self.slots.get_mut(key.index()) {
            Some(Some(conn)) if conn.key == key => Some(conn),
            _ => None,
        }
    }

    /// The connection that `token` was registered for, as far as the token can tell.
    pub(super) fn by_token(&mut self, token: Token) -> Option<&mut Conn> {
        match self.slots.get_mut(token::index(token)) {
            Some(Some(conn)) if token::names(token, conn.key) => Some(conn),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, conn: Conn) {
        let index = conn.key.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(
            self.slots[index].is_none(),
            "a machine gave a connection the name of a living one"
        );
        self.slots[index] = Some(conn);
        self.open += 1;
    }

    pub(super) fn remove(&mut self, key: ConnKey) -> Option<Conn> {
        self.get_mut(key)?;
        let conn = self.slots[key.index()].take();
        self.open -= 1;
        if self.open == 0 && self.slots.capacity() > KEEP_SLOTS {
            // After a storm the table must not hold the memory of the storm.
            self.slots = Vec::new();
        }
        conn
    }
}

/// An empty table keeps its slots up to this many.
const KEEP_SLOTS: usize = 64;
