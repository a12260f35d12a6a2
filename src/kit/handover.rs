//! What a kit tells its successor: which sessions there are and what ports they hold, and nothing
//! of their streams (PROTOCOL §6); and whom the operator keeps away.
//!
//! It is written as JSON by one program and read by the next, which may be newer or older: keys
//! that are not known are ignored. The ids in it are capabilities, so it travels where only these
//! two can read.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::wire::control::{BindMode, BindingKind, SessionId};
use crate::wire::service::Service;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handover {
    /// Where the kit's own listener is.
    pub listen: SocketAddr,
    /// The sessions whose clients may come back.
    pub sessions: Vec<HandedSession>,
    /// The sessions that the operator has ended, oldest first.
    #[serde(default)]
    pub(super) killed: Vec<SessionId>,
    /// The addresses that the operator keeps away.
    #[serde(default)]
    pub(super) bans: Vec<HandedBan>,
}

/// An address that is kept away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HandedBan {
    /// In IPv6 any of its /64.
    pub(super) peer: IpAddr,
    /// For how many milliseconds more.
    pub(super) left_ms: u64,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedSession {
    /// Its id.
    pub(super) session_id: SessionId,
    /// Where its client was last.
    pub(super) peer: SocketAddr,
    /// Of its counts and of the last HELLO that was heard (PROTOCOL §9): what a client says of them
    /// is old news by these.
    #[serde(default)]
    pub(super) epoch: u64,
    #[serde(default)]
    pub(super) attempt: Option<u64>,
    /// The last id that it gave to a binding.
    pub(super) last_bind_id: u64,
    /// Its ports.
    pub(super) bindings: Vec<HandedBinding>,
}

/// One port that a session holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HandedBinding {
    pub(super) bind_id: u64,
    #[serde(default)]
    pub(super) bind_ref: Option<u64>,
    pub(super) is_expose: bool,
    /// A kit that has but one kind of each mode does not say it.
    #[serde(default)]
    pub(super) kind: Option<BindingKind>,
    pub(super) addr: SocketAddr,
    #[serde(default)]
    pub(super) label: Option<String>,
}

impl HandedBinding {
    /// What it is, if this kit knows such a thing.
    pub(super) fn service(&self) -> Option<Service> {
        let (mode, kind) = match self.is_expose {
            true => (BindMode::Expose, BindingKind::Http),
            false => (BindMode::Pull, BindingKind::Tcp),
        };
        Service::of(self.kind.unwrap_or(kind), mode)
    }
}
