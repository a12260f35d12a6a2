//! One request to the kit's HTTP endpoints (PROTOCOL §10), over the way that a session would take.

use std::time::Duration;

use crate::client::{Error, TunnelOptions};

/// What to ask of a kit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// Is it there, and how is it?
    Health,
    /// Its metrics, as text for Prometheus.
    Metrics,
    /// Sessions with their bindings, and totals.
    Tunnels,
    /// Its sessions.
    Sessions,
    /// Its bindings.
    Bindings,
    /// End a session.
    Kill {
        /// The session's whole id.
        session_id: String,
        /// Milliseconds that its streams get to finish; the kit's own default when `None`.
        grace_ms: Option<u32>,
    },
}

/// What a kit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminReply {
    /// The HTTP status; [`AdminReply::is_ok`] is what one wants to know first.
    pub status: u16,
    /// The type of the body.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl AdminReply {
    /// Whether the kit did what was asked.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Asks once and waits for the whole answer, at most for `timeout`. A refusal by the kit is a reply;
/// an error is when there was none.
pub fn fetch(
    options: &TunnelOptions,
    request: &AdminRequest,
    timeout: Duration,
) -> Result<AdminReply, Error> {
    let _ = (request, timeout);
    options.check()?;
    Err(Error::Io("not built yet".into()))
}
