//! What a session tells: states, requests, ends.

use std::time::Duration;

use crate::client::{Binding, Error};

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A connection to the kit is being made.
    Connecting {
        /// Which try since it was last online, from 1.
        attempt: u32,
    },
    /// The session stands. It is a new one: what was bound before is bound again now.
    Online {
        /// The session's id, shortened: the whole is a capability.
        session: String,
        /// Connections that the kit granted.
        connections: u32,
    },
    /// The connection was lost or could not be made; another try follows.
    Lost {
        /// Why.
        why: String,
        /// When the next try starts.
        retry_in: Duration,
    },
    /// The session is back after a loss, with all that was bound.
    Resumed {
        /// The session's id, shortened.
        session: String,
    },
    /// A binding was made, or made again in a new session.
    Bound {
        /// The binding as it is now: its `bind_id` may have changed, and where the kit had picked
        /// the port and it was gone, its port and address too.
        binding: Binding,
        /// Whether it had been there before.
        again: bool,
    },
    /// The kit refused to make a binding again after a reconnect. It is asked again with pauses,
    /// and as long as it says no for the same reason this is told once.
    NotBound {
        /// The binding as it was.
        binding: Binding,
        /// Why.
        why: Error,
    },
    /// The session stands, and its kit does not forward; or a forwarded port could not be opened
    /// again.
    NotForwarded {
        /// Why.
        why: String,
    },
    /// Another session took a binding over.
    TakenOver {
        /// The binding as it was.
        binding: Binding,
        /// What the kit said.
        reason: String,
    },
    /// A secondary connection joined or was lost.
    Lanes {
        /// Connections that stand.
        standing: u32,
        /// Connections that the kit granted.
        granted: u32,
    },
    /// One of several URLs leads to another kit than the one that has the session. It is not used.
    AnotherKit {
        /// Its host, and its port where that is not the usual one.
        authority: String,
    },
    /// A request came to an end.
    Request(RequestRecord),
    /// A raw connection came to an end.
    StreamClosed(StreamRecord),
    /// There was no room here for some visitors: their requests were answered with 503, their
    /// connections reset. Told at most once in a few seconds.
    TurnedAway {
        /// How many since this was told last.
        count: u64,
        /// How many since the session began.
        total: u64,
        /// What was missing, for most of them.
        why: Shortage,
    },
    /// So many events were dropped here, because nobody took them.
    Missed(u64),
    /// The session has ended; nothing comes after it.
    Closed {
        /// Why it failed; `None` when it was asked to end.
        error: Option<Error>,
    },
}

/// What a client can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Shortage {
    /// Connections to local servers at once.
    Connections,
    /// Descriptors: the system gave no more of them.
    Descriptors,
    /// Memory for the heads of requests that wait.
    Heads,
    /// Threads that run handlers.
    Handlers,
}

impl Shortage {
    /// A half-sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Shortage::Connections => "all its local connections are taken",
            Shortage::Descriptors => "the system gives it no more file descriptors",
            Shortage::Heads => "too many requests wait in it",
            Shortage::Handlers => "all its handlers are at work",
        }
    }
}

/// A request that came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// The binding's port on the kit.
    pub container_port: u16,
    /// The method.
    pub method: String,
    /// The target, path and query.
    pub target: String,
    /// The status that the visitor got from us; `None` when it got none.
    pub status: Option<u16>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the request's head to the last byte.
    pub duration: Duration,
    /// Who asked, when the kit says so.
    pub remote_addr: Option<String>,
    /// Why it was cut short; `None` when it was complete.
    pub cut: Option<String>,
}

/// A raw connection that came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRecord {
    /// The binding's port on the kit.
    pub container_port: u16,
    /// Bytes from the kit.
    pub bytes_in: u64,
    /// Bytes to the kit.
    pub bytes_out: u64,
    /// From its opening to its end.
    pub duration: Duration,
    /// Who came, when the kit says so.
    pub remote_addr: Option<String>,
    /// Why it was cut short; `None` when both sides closed in order.
    pub cut: Option<String>,
}
