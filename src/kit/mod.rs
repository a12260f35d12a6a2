//! The daemon in the container: the machine that owns sessions, ports, visitors and callers.
//!
//! The room decides everything the kit does and carries no byte itself. [`Kit`] dispatches: front,
//! connections, ports, streams and sessions are parts that own their tables and are handed what
//! else they need. What follows from one in another is an answer to the dispatcher, or is asked
//! after everything told (`Kit::settle`).
//!
//! | file | part |
//! | --- | --- |
//! | `machine` | the dispatcher |
//! | `context` | what every part uses and none is about: clock, config, effects, metrics |
//! | `conns` | connections: what each is for, how each ends |
//! | `front` | the kit's own listener: operators, and who has not said who it is (PROTOCOL §2) |
//! | `leaving` | those who were answered and linger |
//! | `places` | whose descriptor a newcomer gets, and who goes for it |
//! | `heads` | memory of heads that are not whole |
//! | `session` | attach, park, resume, end (PROTOCOL §2, §6); lanes (§7) and what comes on them |
//! | `port` | listeners, and who owns which port (PROTOCOL §3) |
//! | `stream` (`visitor`, `caller`) | who wants a stream: EXPOSE (PROTOCOL §4, §11) and PULL |
//! | `operator` | what the operator asks for (PROTOCOL §10) |
//! | `stopping`, `handover` | how it ends, and what a successor is told (PROTOCOL §6) |
//! | `repeats` | complaints that are summed in the log |
//! | `ties` | how the tables of the parts must fit each other |
//! | `carried` | what the wire can carry of what may be configured |
//! | `budget`, `memory`, `config`, `metrics`, `admin` | what their names say |
//!
//! It never does I/O, and never imports `client`.
//!
//! Invariants: a port has one owner; a connection's permit goes home when its entry does; a loan
//! ends before its lane reads again; a session that holds no lane is parked or gone.

pub mod admin;
mod binding;
pub mod budget;
mod carried;
pub mod config;
mod conns;
mod context;
mod front;
pub mod handover;
mod heads;
mod keys;
mod leaving;
mod machine;
pub mod memory;
pub mod metrics;
mod operator;
mod places;
pub mod policy;
mod port;
pub mod public_url;
mod repeats;
mod session;
mod stopping;
pub mod stream;
#[cfg(test)]
mod testing;
mod ties;

use std::net::SocketAddr;

use crate::machine::ConnKey;

use handover::Handover;
use keys::SessionKey;
pub use machine::Kit;
use stopping::Stopping;

/// What the program around the kit asks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KitOrder {
    /// A successor listens on all ports: serve what was begun, and go.
    Succeeded,
}

/// What the kit tells the program around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KitNotice {
    /// The kit's own listener stands.
    Listening(SocketAddr),
    /// The kit's own listener could not be opened; the kit stops.
    CannotListen(String),
    /// A successor is wanted, and has to know this.
    HandOver(Handover),
    /// Much of what peers sent is gone: the allocator may give the memory back.
    MemoryFreed,
}

/// Why the machine wants to be told at a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// A visitor's, greeter's, front's or leaving connection's next look.
    Conn(ConnKey),
    /// A session's lanes: PING and pong timeout.
    Lanes(SessionKey),
    /// A session's streams: stalls, half-closed idleness.
    Sweep(SessionKey),
    /// Its client is to be told what was taken of its lanes (PROTOCOL §9).
    Acks(SessionKey),
    /// A session without streams and bindings.
    Idle(SessionKey),
    /// The grace of a parked session, or of one that is closing.
    Grace(SessionKey),
    /// Complaints were counted since they were told last.
    Sums,
    /// Accepting stopped because the host had no descriptors.
    Accept,
    /// Accepting stopped because there was no place, and nobody yielded one.
    Room,
    /// Peers of UDP ports may have been silent for long.
    Peers,
    /// What runs gets this long after a shutdown.
    Shutdown,
    /// A handover: how long visitors wait for laptops, or are served once more.
    Handed,
    /// Memory was freed that the system may have back.
    Freed,
}
